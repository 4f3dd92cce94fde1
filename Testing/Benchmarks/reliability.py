"""Does `wavemorph register` give the right map, or a sentence, for volumes as they really are? Prints Markdown tables.

    reliability.py FOLDER              every case
    reliability.py FOLDER --only tilt  those whose name holds a text

FOLDER holds F.nii.gz and I.nii.gz, a fixed and a moving head; truth.h5, the map from fixed to moving points (LPS); and
dcm, with a folder of DICOM files for each case, made from I. The error is the mean of |map - truth| in mm, over those
of 5000 random voxels of the fixed head that the moving files show; the part of the head that they do not show, and the
error over the whole head, are in the next columns. Each registration runs in a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

_POINTS = 5000
_COLUMNS = ("case", "error mm", "not shown", "whole head mm", "s", "what it says")


@dataclass(frozen=True)
class Case:
    """What is given as the moving volume, in FOLDER, and options beside it."""

    name: str
    moving: str
    options: tuple[str, ...] = ()


DICOM = (
    Case("the volume itself, as NIfTI", "I.nii.gz"),
    Case("a plain series", "dcm/plain"),
    Case("gantry tilted by 20 degrees", "dcm/tilt20"),
    Case("no extensions; DICOMDIR, text and hidden files beside the slices", "dcm/noext"),
    Case("one series in nested folders, as on a disc", "dcm/nested"),
    Case("a sagittal localizer in the series", "dcm/localizer"),
    Case("two acquisitions in one series", "dcm/twoacq"),
    Case("the same, one of them chosen", "dcm/twoacq", ("--moving-series", "study 2 of 2")),
    Case("positions with five decimals", "dcm/float_pos"),
    Case("slices without positions", "dcm/noipp"),
    Case("positions that jitter by 0.3 mm", "dcm/jitter"),
    Case("positions that jitter by 0.08 mm", "dcm/jitter008"),
    Case("a slope for each slice", "dcm/pet_slopes"),
    Case("the same InstanceNumber in all slices", "dcm/same_instance"),
    Case("one slice of another orientation", "dcm/oneflip"),
    Case("a folder with one enhanced (multi-frame) file", "dcm/enh43"),
    Case("a single file of the plain series", "dcm/plain/IM0000.dcm"),
)


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name or path holds this text")
    options = parser.parse_args()
    fixed = options.folder / "F.nii.gz"
    points = head_points(sitk.ReadImage(str(fixed)))
    truth = moved(sitk.ReadTransform(str(options.folder / "truth.h5")), points)
    print(table_row(_COLUMNS))
    print("|---" * len(_COLUMNS) + "|", flush=True)
    for case in DICOM:
        if options.only in case.name or options.only in case.moving:
            print(table_row(run(case, fixed, options.folder, points, truth)), flush=True)


def run(case: Case, fixed: Path, folder: Path, points: np.ndarray, truth: np.ndarray) -> tuple[str, ...]:
    """The row of a case: name, error, seconds, and its notes and warnings, or the sentence that refuses it."""
    with tempfile.TemporaryDirectory() as output:
        transform, report = Path(output) / "t.h5", Path(output) / "r.json"
        command = [sys.executable, "-m", "wavemorph.cli", "register", "--quiet", "--threads", "1", *case.options]
        command += ["--fixed", str(fixed), "--moving", str(folder / case.moving)]
        command += ["--transform", str(transform), "--report", str(report)]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = f"{time.perf_counter() - began:.0f}"
        if done.returncode != 0:
            sentence = done.stderr.strip().removeprefix("wavemorph: ").replace(str(folder), "FOLDER")
            return case.name, "", "", "", seconds, sentence
        error = np.linalg.norm(moved(sitk.ReadTransform(str(transform)), points) - truth, axis=1)
        shown = shown_by(folder / case.moving, truth)
        numbers = json.loads(report.read_text(encoding="utf-8"))
        said = [f"warning: {sentence}" for sentence in numbers["warnings"]] + numbers["notes"]
    missing = f"{100 * (~shown).mean():.0f} %"
    return case.name, f"{error[shown].mean():.2f}", missing, f"{error.mean():.2f}", seconds, " ".join(said)


def shown_by(path: Path, points: np.ndarray) -> np.ndarray:
    """(N,), whether points (N, 3), LPS mm, lie within the slices of a folder, by their own headers; else all do."""
    headers = [pydicom.dcmread(file) for file in sorted(path.glob("IM*"))] if path.is_dir() else []
    if len(headers) < 2:
        return np.ones(len(points), bool)
    row, column = np.reshape(np.array(headers[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(row, column)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    apart = np.abs(points @ normal - (positions @ normal)[:, None])  # (slices, N)
    from_corner = points - positions[apart.argmin(axis=0)]
    between_rows, between_columns = (float(value) for value in headers[0].PixelSpacing)
    i, j = from_corner @ row / between_columns, from_corner @ column / between_rows
    beside = apart.min(axis=0) > 0.6 * np.diff(np.sort(positions @ normal)).max()
    return ~beside & (i > 0) & (j > 0) & (i < headers[0].Columns - 1) & (j < headers[0].Rows - 1)


def head_points(image: sitk.Image) -> np.ndarray:
    """Random voxels of the head, (N, 3) in LPS mm: brighter than Otsu's threshold, closed and filled."""
    mask = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(sitk.OtsuThreshold(image, 0, 1), [6] * 3))
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(mask)) == 1
    indices = np.argwhere(sitk.GetArrayViewFromImage(largest))[:, ::-1]
    chosen = indices[np.random.default_rng(0).integers(len(indices), size=_POINTS)]
    return np.array([image.TransformIndexToPhysicalPoint(index.tolist()) for index in chosen])


def moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N, 3), LPS mm."""
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def table_row(cells: tuple[str, ...]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    main()
