"""The command line from end to end."""

from __future__ import annotations

import json
import os

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.cli.main import main
from wavemorph.io.images import read_transform

QUICK = ("--spacing", "4", "--weights", "none", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_pair):
    """fixed, moving, their label maps (two halves of the head) and a fixed mask, as files."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, image, shift in zip(("fixed", "moving"), tiny_pair, (np.zeros(3), np.array([4.0, 0.0, 3.0]))):
        sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(folder / f"{name}.nii.gz"))
        points = phantoms.physical_points(image) - shift
        inside = ((points / (22.0, 26.0, 20.0)) ** 2).sum(-1) < 1
        labels = sitk.GetImageFromArray((inside * np.where(points[..., 0] > 0, 1, 2)).astype(np.uint8))
        labels.CopyInformation(image)
        sitk.WriteImage(labels, str(folder / f"{name}_labels.nii.gz"))
        sitk.WriteImage(labels != 0, str(folder / f"{name}_mask.nii.gz"))
    return folder


@pytest.fixture
def pair(folder):
    return ["--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz"), *QUICK]


def test_register_writes_all_that_is_asked_for(pair, folder, tmp_path, capsys):
    out = {name: tmp_path / "new" / file for name, file in {
        "transform": "t.h5", "inverse": "i.h5", "warped": "w.nii.gz", "jacobian": "j.nrrd", "report": "r.json",
    }.items()}  # fmt: skip
    arguments = ["register", *pair, "--preset", "bALANCED"]
    for name, path in out.items():
        arguments += [f"--{name}", str(path)]
    for name in ("fixed-labels", "moving-labels", "fixed-mask"):
        arguments += [f"--{name}", str(folder / f"{name.replace('-', '_')}.nii.gz")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "folded voxels        0 central, 0 strict" in printed
    assert all(f"written: {path}" in printed for path in out.values())
    assert sorted(os.listdir(tmp_path / "new")) == sorted(path.name for path in out.values())
    report = json.loads(out["report"].read_text())
    assert report["labels"]["mean"]["dice_after"] > 0.9
    assert report["settings"]["preset"] == "Balanced"
    assert report["folding"]["central_voxels"] == 0
    transform, inverse = read_transform(out["transform"]), read_transform(out["inverse"])
    point = (5.0, -6.0, 3.0)
    assert np.linalg.norm(np.subtract(transform.TransformPoint(point), (9.0, -6.0, 6.0))) < 1.5
    assert np.linalg.norm(np.subtract(inverse.TransformPoint(transform.TransformPoint(point)), point)) < 0.1
    fixed = sitk.ReadImage(str(folder / "fixed.nii.gz"))
    for name in ("warped", "jacobian"):
        image = sitk.ReadImage(str(out[name]))
        assert image.GetSize() == fixed.GetSize()
        assert np.allclose(image.GetOrigin(), fixed.GetOrigin(), atol=1e-4)
