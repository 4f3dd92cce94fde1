"""The command `wavemorph scene`, from files to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from wavemorph.cli.main import main
from wavemorph.io.outputs import write_image
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene


@pytest.fixture
def folder(tmp_path, tiny_pair):
    for name, image in zip(("fixed", "moving"), tiny_pair):
        write_image(image, tmp_path / f"{name}.nii.gz")
    return tmp_path


def test_scene_writes_a_bundle_a_picture_and_all_that_is_asked_for(folder):
    out = folder / "out"
    out.mkdir()
    arguments = ["scene", "--fixed", folder / "fixed.nii.gz", "--moving", folder / "moving.nii.gz"]
    arguments += ["--output", out / "case.mrb", "--with-inverse", "--spacing", "4", "--quiet"]
    for name in ("transform.h5", "inverse.h5", "warped.nii.gz", "jacobian.nii.gz", "report.json"):
        arguments += [f"--{name.split('.')[0]}", out / name]
    assert main([str(argument) for argument in arguments]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "case.mrb", "case.png", "transform.h5", "inverse.h5", "warped.nii.gz", "jacobian.nii.gz", "report.json",
    }  # fmt: skip
    transform = sitk.ReadTransform(str(out / "transform.h5"))
    assert np.linalg.norm(np.subtract(transform.TransformPoint((5.0, 4.0, -3.0)), (9.0, 4.0, 0.0))) < 1.0
    assert json.loads((out / "report.json").read_text())["folding"]["strict_voxels"] == 0
    assert Image.open(out / "case.png").size[0] > 1000

    scene = HeadlessScene()
    try:
        scene.loadBundle(out / "case.mrb")
        count = scene.scene.GetNumberOfNodesByClass
        assert count("vtkMRMLScalarVolumeNode") == 5  # fixed, moving, registered, Jacobian, folding
        assert count("vtkMRMLTransformNode") == 3  # the whole, its affine, the inverse
    finally:
        scene.close()


def test_a_registration_that_fails_leaves_no_file(folder, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("midway")

    monkeypatch.setattr("wavemorph.registration.pipeline.register", fail)
    out = folder / "out"
    out.mkdir()
    pair = ["--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz")]
    assert main(["scene", *pair, "--output", str(out / "case.mrb"), "--quiet"]) == 1
    assert "midway" in capsys.readouterr().err
    assert list(out.iterdir()) == []
