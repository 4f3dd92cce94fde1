"""The command line from end to end."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.cli.main import main
from wavemorph.io.transforms import read_transform

QUICK = ("--spacing", "4", "--weights", "none", "--quiet")


@pytest.fixture
def pair(pair_folder):
    return ["--fixed", str(pair_folder / "fixed.nii.gz"), "--moving", str(pair_folder / "moving.nii.gz"), *QUICK]


def test_register_writes_all_that_is_asked_for(pair, pair_folder, tmp_path, capsys):
    out = {name: tmp_path / "new" / file for name, file in {
        "transform": "t.h5", "inverse": "i.h5", "warped": "w.nii.gz", "jacobian": "j.nrrd", "report": "r.json",
    }.items()}  # fmt: skip
    arguments = ["register", *pair, "--preset", "bALANCED"]
    for name, path in out.items():
        arguments += [f"--{name}", str(path)]
    for name in ("fixed-labels", "moving-labels", "fixed-mask"):
        arguments += [f"--{name}", str(pair_folder / f"{name.replace('-', '_')}.nii.gz")]
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
    fixed = sitk.ReadImage(str(pair_folder / "fixed.nii.gz"))
    for name in ("warped", "jacobian"):
        image = sitk.ReadImage(str(out[name]))
        assert image.GetSize() == fixed.GetSize()
        assert np.allclose(image.GetOrigin(), fixed.GetOrigin(), atol=1e-4)


def test_transforms_stored_at_a_coarser_spacing_are_small_and_the_error_is_printed(pair, tmp_path, capsys):
    sizes = []
    for spacing in (4, 8):
        path = tmp_path / f"{spacing}.h5"
        arguments = ["register", *pair, "--transform", str(path), "--report", str(tmp_path / f"{spacing}.json")]
        assert main([*arguments, "--store-spacing", str(spacing)]) == 0
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.25 * sizes[0]
    stored = json.loads((tmp_path / "8.json").read_text())["stored"]
    assert f"off by {stored['error_mm']['mean']:.3f} mm on average" in capsys.readouterr().out
    point = (5.0, -6.0, 3.0)
    ends = [read_transform(tmp_path / f"{spacing}.h5").TransformPoint(point) for spacing in (4, 8)]
    assert np.linalg.norm(np.subtract(*ends)) < stored["error_mm"]["max"] + 0.1
