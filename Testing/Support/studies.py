"""A finished study as a command would have left it: volumes in folders, and subjects.tsv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

COLUMNS = (
    "subject",
    "status",
    "error",
    "verdict",
    "reasons",
    "similarity_before",
    "similarity_after",
    "folded_voxels_central",
    "folded_voxels_strict",
    "jacobian_min",
    "jacobian_max",
    "jacobian_sd_log",
    "displacement_mean_mm",
    "displacement_max_mm",
    "expected_error_median_mm",
    "expected_error_p95_mm",
    "unseen_percent",
    "structures_before",
    "structures_after",
    "seconds",
    "peak_memory_mb",
    "transform",
    "inverse",
    "warped",
    "jacobian",
    "error_map",
    "report",
)


def write_table(folder: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """subjects.tsv; what a row does not have is "n/a", and other keys become columns of covariates."""
    rows = list(rows)
    columns = [*COLUMNS, *dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "subjects.tsv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="n/a", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def done(folder: Path, name: str, lattice: sitk.Image, **volumes_and_numbers: object) -> dict[str, object]:
    """The row of a subject that is done. Arrays among the values become volumes on the lattice."""
    row: dict[str, object] = {"subject": name, "status": "done", "verdict": "good"}
    for key, value in volumes_and_numbers.items():
        if not isinstance(value, np.ndarray):
            row[key] = value
            continue
        image = sitk.GetImageFromArray(value)
        image.CopyInformation(lattice)
        (folder / name).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / name / f"{key}.nii.gz"))
        row[key] = f"{name}/{key}.nii.gz"
    return row
