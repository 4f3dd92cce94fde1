"""The command `wavemorph scene`, from files to files."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from dicom_files import SAGITTAL, write_slice, write_stack
from PIL import Image
from wavemorph.cli.main import main
from wavemorph.io.outputs import write_image
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode


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

    with zipfile.ZipFile(out / "case.mrb") as archive:
        entries = {name.rsplit("/", 1)[1] for name in archive.namelist()}
    assert {"moving to fixed.nii.gz", "fixed to moving.nii.gz"} < entries  # the inverse as one field too
    scene = HeadlessScene()
    try:
        scene.loadBundle(out / "case.mrb")
        count = scene.scene.GetNumberOfNodesByClass
        assert count("vtkMRMLScalarVolumeNode") == 5  # fixed, moving, registered, Jacobian, folding
        assert count("vtkMRMLTransformNode") == 3  # the whole, its affine, the inverse
    finally:
        scene.close()


def test_an_expected_error_is_a_file_and_a_node_of_the_scene_and_a_column_of_the_picture(
    tmp_path, monkeypatch, random_registration
):
    registration, asked = phantoms.with_expected_error(random_registration(1)), []

    def register(fixed, moving, settings, *_, **__):
        asked.append(settings.error_map)
        return registration

    monkeypatch.setattr("wavemorph.registration.pipeline.register", register)
    for name, image in (("fixed", registration.fixed), ("moving", registration.moving)):
        write_image(image, tmp_path / f"{name}.nrrd")
    pair = ["--fixed", tmp_path / "fixed.nrrd", "--moving", tmp_path / "moving.nrrd", "--quiet"]
    output = ["--output", tmp_path / "case.mrb", "--error-map", tmp_path / "error.nrrd"]
    assert main(["scene", *map(str, [*pair, *output])]) == 0
    assert asked == [True]
    written = sitk.ReadImage(str(tmp_path / "error.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(registration.expected_error))
    assert Image.open(tmp_path / "case.png").size[0] > 7 * 300
    scene = HeadlessScene()
    try:
        scene.loadBundle(tmp_path / "case.mrb")
        node = scene.scene.GetFirstNodeByName("moving to fixed expected error")
        assert node.GetAttribute("WaveMorph.output") == "expectedError"
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


def test_a_scene_of_a_dicom_folder_is_what_register_reads_and_quiet(tmp_path, tiny_pair, capfd):
    fixed, moving = tiny_pair
    planes = np.clip(sitk.GetArrayFromImage(fixed), 0, None).astype(np.uint16)
    places = [fixed.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(fixed.GetSize()[2])]
    orientation = np.reshape(fixed.GetDirection(), (3, 3)).T[:2].ravel()
    write_stack(tmp_path / "PAT" / "1.2.3", planes, places, orientation, fixed.GetSpacing()[:2])
    write_slice(tmp_path / "PAT" / "1.2.3" / "LOC.dcm", planes[0], places[0], SAGITTAL)
    write_image(moving, tmp_path / "moving.nii.gz")
    pair = ["--fixed", tmp_path / "PAT", "--moving", tmp_path / "moving.nii.gz", "--aligned", "--weights", "none"]
    output = ["--output", tmp_path / "case.mrb", "--report", tmp_path / "r.json", "--spacing", "4", "--quiet"]
    capfd.readouterr()
    assert main(["scene", *map(str, [*pair, *output])]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert "(a localizer) was left out" in json.loads((tmp_path / "r.json").read_text())["notes"][0]
    scene = HeadlessScene()
    try:
        scene.loadBundle(tmp_path / "case.mrb")
        node = scene.scene.GetFirstNodeByName("PAT")
        read = imageFromVolumeNode(node)
        assert np.array_equal(sitk.GetArrayFromImage(read), planes)
        assert np.allclose(read.GetOrigin(), places[0], atol=1e-4)
    finally:
        scene.close()
