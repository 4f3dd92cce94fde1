"""Does `wavemorph register` give the right map, or a sentence, for volumes as they really are? Prints Markdown tables.

    reliability.py FOLDER              every case
    reliability.py FOLDER --only tilt  those whose name holds a text
    reliability.py FOLDER --table heads

FOLDER holds F.nii.gz and I.nii.gz, a fixed and a moving head; truth.h5, the map from fixed to moving points (LPS); the
files of HEADS, the same two heads with one thing changed; and dcm, with a folder of DICOM files for each case, made
from I. The error is the mean of |map - truth| in mm, over those
of 5000 random voxels of the fixed head that the moving files show; the part of the head that they do not show, and the
error over the whole head, are in the next columns. Each registration runs in a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

_POINTS = 5000
_COLUMNS = ("case", "error mm", "not shown", "whole head mm", "CPU s", "verdict", "what it says")


@dataclass(frozen=True)
class Case:
    """What is given as the volumes, in FOLDER, and options beside them.

    scale: of all lengths, against the pair with the known answer. turned: the header of the moving volume is turned by
    180 degrees about the body axis.
    """

    name: str
    moving: str
    options: tuple[str, ...] = ()
    fixed: str = "F.nii.gz"
    scale: float = 1.0
    turned: bool = False


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

HEADS = (
    Case("the plain pair", "I.nii.gz"),
    Case("CT padded with -1000 outside a circle", "ct1000_I.nii.gz", fixed="ct1000_F.nii.gz"),
    Case("CT padded with -3024 outside a circle", "ct3024_I.nii.gz", fixed="ct3024_F.nii.gz"),
    Case("the moving one padded with -3024, the fixed one with -1000", "ct3024_I.nii.gz", fixed="ct1000_F.nii.gz"),
    Case("the header turned by 180 degrees about the body axis", "rot180z_I.nii.gz", turned=True),
    Case("intensities of 1e-12", "tiny_I.nii.gz", fixed="tiny_F.nii.gz"),
    Case("17 slices of 5.2 mm", "slab17_I.nii.gz"),
    Case("14 slices of 5.2 mm", "slab14_I.nii.gz"),
    Case("60 % in view", "left_I.nii.gz"),
    Case("lower third and top without data", "trunc_I.nii.gz"),
    Case("a resection cavity", "cav_I.nii.gz"),
    Case("a background of uniform noise (MP2RAGE)", "mp2_I.nii.gz", fixed="mp2_F.nii.gz"),
    Case("strong bias fields", "bias_I.nii.gz", fixed="bias_F.nii.gz"),
    Case("reversed contrast in both", "inv_I.nii.gz", fixed="inv_F.nii.gz"),
    Case("z-scores", "z_I.nii.gz", fixed="z_F.nii.gz"),
    Case("all lengths divided by 15", "small_I.nii.gz", fixed="small_F.nii.gz", scale=1 / 15),
    Case("masks of the heads alone", "bin_I.nii.gz", fixed="bin_F.nii.gz"),
)
TABLES = {"dicom": DICOM, "heads": HEADS}


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name or path holds this text")
    parser.add_argument("--table", choices=TABLES, help="one of the tables (default: all)")
    options = parser.parse_args()
    points = head_points(sitk.ReadImage(str(options.folder / "F.nii.gz")))
    truth = moved(sitk.ReadTransform(str(options.folder / "truth.h5")), points)
    for cases in [TABLES[options.table]] if options.table else TABLES.values():
        print(f"\n{table_row(_COLUMNS)}\n{'|---' * len(_COLUMNS)}|", flush=True)
        for case in cases:
            if options.only in case.name or options.only in case.moving:
                print(table_row(run(case, options.folder, points, truth)), flush=True)


def run(case: Case, folder: Path, points: np.ndarray, truth: np.ndarray) -> tuple[str, ...]:
    """The row of a case: name, error, seconds, verdict, and its notes and warnings, or the sentence that refuses it."""
    if case.turned:
        truth = truth * (-1, -1, 1)
    points, truth = points * case.scale, truth * case.scale
    with tempfile.TemporaryDirectory() as output:
        transform, report = Path(output) / "t.h5", Path(output) / "r.json"
        command = [sys.executable, "-m", "wavemorph.cli", "register", "--quiet", "--threads", "1", *case.options]
        command += ["--fixed", str(folder / case.fixed), "--moving", str(folder / case.moving)]
        command += ["--transform", str(transform), "--report", str(report)]
        before = cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = f"{cpu_seconds() - before:.0f}"
        if done.returncode != 0:
            sentence = done.stderr.strip().removeprefix("wavemorph: ").replace(str(folder), "FOLDER")
            return case.name, "", "", "", seconds, "refused", sentence
        error = np.linalg.norm(moved(sitk.ReadTransform(str(transform)), points) - truth, axis=1) / case.scale
        shown = shown_by(folder / case.moving, truth)
        numbers = json.loads(report.read_text(encoding="utf-8"))
        said = [f"warning: {sentence}" for sentence in numbers["warnings"]] + numbers["notes"]
    missing = f"{100 * (~shown).mean():.0f} %"
    errors = f"{error[shown].mean():.2f}", missing, f"{error.mean():.2f}"
    return case.name, *errors, seconds, numbers["verdict"]["level"], " ".join(said)


def cpu_seconds() -> float:
    """Of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def shown_by(path: Path, points: np.ndarray) -> np.ndarray:
    """(N,), whether points (N, 3), LPS mm, lie within a volume, or the slices of a folder, by their own headers."""
    if path.is_file() and path.suffix != ".dcm":
        return within(sitk.ReadImage(str(path)), points)
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


def within(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    """(N,), whether points (N, 3), LPS mm, lie between the centers of the outermost voxels of an image."""
    indices = np.array([image.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in points])
    return np.all((indices >= 0) & (indices <= np.array(image.GetSize()) - 1), axis=1)


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
