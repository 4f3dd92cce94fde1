"""The expected error of real pairs beside what is known of them: landmarks, or the overlap of structures.

    python Testing/Benchmarks/calibration/error_of_real_pairs.py FOLDER [FOLDER ...]

Each FOLDER holds fixed.nii.gz, moving.nii.gz, and what is there of fixed_labels.nii.gz with moving_labels.nii.gz, and
points*.csv (LPS mm: fixed x, y, z, moving x, y, z).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import wavemorph
from scipy.stats import spearmanr
from wavemorph.evaluation.metrics import label_report

_MIN_STRUCTURES = 4  # for a rank correlation


def landmarks(result: wavemorph.Registration, path: Path) -> str:
    """Mean error at landmarks, its rank correlation with the bound, and the share of landmarks below the bound."""
    assert result.expected_error is not None
    points = np.loadtxt(path, delimiter=",", comments="#")
    transform = result.transform
    error = np.array([np.subtract(transform.TransformPoint(row[:3].tolist()), row[3:]) for row in points])
    error = np.linalg.norm(error, axis=1)
    indices = [result.expected_error.TransformPhysicalPointToIndex(row[:3].tolist()) for row in points]
    size = result.expected_error.GetSize()
    shown = [all(0 <= i < n for i, n in zip(index, size)) for index in indices]
    bound = np.array([result.expected_error[index] if inside else 0.0 for index, inside in zip(indices, shown)])
    known = bound > 0
    return (
        f"{known.sum()} of {len(points)} points in {path.name}, error {error.mean():.2f} mm: "
        f"{100 * np.mean(error[known] < bound[known]):.0f} % below the bound (median "
        f"{np.median(bound[known]):.2f} mm), rank correlation {spearmanr(bound[known], error[known])[0]:.2f}"
    )


def structures(result: wavemorph.Registration, folder: Path) -> str:
    """The rank correlation of Dice and expected error over the structures."""
    maps = [sitk.ReadImage(str(folder / f"{which}_labels.nii.gz")) for which in ("fixed", "moving")]
    report = label_report(*maps, result.transform, distances=False, expected_error=result.expected_error)
    rows = [row for row in report["labels"].values() if row["expected_error_mm"] is not None and row["dice_after"] > 0]
    dice, error = (np.array([row[name] for row in rows]) for name in ("dice_after", "expected_error_mm"))
    told = f"{len(rows)} structures, mean Dice {dice.mean():.3f}, {error.min():.2f} to {error.max():.2f} mm expected"
    if len(rows) < _MIN_STRUCTURES:
        return told
    return f"{told}, rank correlation with Dice {spearmanr(dice, error)[0]:.2f}"


def main() -> None:
    """Register each pair and print what is known of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="+", metavar="PAIR", help="folder of a pair")
    for folder in parser.parse_args().pairs:
        fixed, moving = (sitk.ReadImage(str(folder / f"{which}.nii.gz")) for which in ("fixed", "moving"))
        result = wavemorph.register(fixed, moving, wavemorph.Settings(threads=1, error_map=True))
        seconds = result.report["seconds"]
        share = seconds["Expected error"] / seconds["total"]
        print(f"{folder.name}: verdict {result.report['verdict']['level']}, {100 * share:.0f} % of the time")
        for path in sorted(folder.glob("points*.csv")):
            print("  " + landmarks(result, path))
        if (folder / "fixed_labels.nii.gz").exists():
            print("  " + structures(result, folder), flush=True)


if __name__ == "__main__":
    main()
