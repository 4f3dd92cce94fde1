"""The table of what becomes of DICOM files: a tilted series with its error, and one that is refused with its reason."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import reliability
import SimpleITK as sitk
from dicom_files import write_stack
from pointsets import SHIFT


@pytest.fixture
def folder(tmp_path, tiny_pair):
    """F, I and truth as the script wants them; in dcm the moving head by a gantry tilted by 20 degrees."""
    fixed, moving = tiny_pair
    sitk.WriteImage(fixed, str(tmp_path / "F.nii.gz"))
    sitk.WriteImage(moving, str(tmp_path / "I.nii.gz"))
    sitk.WriteTransform(sitk.TranslationTransform(3, SHIFT.tolist()), str(tmp_path / "truth.h5"))
    axes = np.reshape(moving.GetDirection(), (3, 3))
    tilt = np.radians(20)
    row, column = axes[:, 0], np.cos(tilt) * axes[:, 1] + np.sin(tilt) * axes[:, 2]
    direction = np.column_stack([row, column, np.cross(row, column)]).ravel().tolist()
    size, step = moving.GetSize(), 1.8
    first = np.array(moving.GetOrigin()) - 20 * axes[:, 2]  # lower, so that the far edge of the head is in it
    positions = [first + step * n * axes[:, 2] for n in range(size[2] + 22)]
    spacing = (*moving.GetSpacing()[:2], 1.0)
    one = (*size[:2], 1)
    planes = [
        sitk.Resample(moving, one, sitk.Transform(), sitk.sitkLinear, place.tolist(), spacing, direction)
        for place in positions
    ]
    stored = [np.clip(sitk.GetArrayFromImage(plane)[0], 0, None).astype(np.uint16) for plane in planes]
    write_stack(tmp_path / "dcm" / "tilt20", stored, positions, [*row, *column], spacing[:2])
    write_stack(tmp_path / "dcm" / "noipp", stored, [None] * len(stored))
    return tmp_path


def test_a_tilted_series_is_registered_as_well_as_the_volume_and_one_without_positions_has_its_reason(
    folder, monkeypatch, capsys
):
    rows = {}
    for name in ("I.nii.gz", "tilt20", "noipp"):
        monkeypatch.setattr(sys, "argv", ["reliability.py", str(folder), "--only", name])
        reliability.main()
        *_, row = capsys.readouterr().out.strip().splitlines()
        rows[name] = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(rows["I.nii.gz"][1]) < 0.5
    assert float(rows["tilt20"][1]) < 0.8
    assert "tilted by 20.0 degrees" in rows["tilt20"][5] and "warning" not in rows["tilt20"][5]
    assert rows["noipp"][1] == "" and "do not say where they lie" in rows["noipp"][5]
