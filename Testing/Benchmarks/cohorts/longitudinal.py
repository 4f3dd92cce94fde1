"""Measure a known atrophy of one structure in several scans of one head.

python Testing/Benchmarks/cohorts/longitudinal.py FOLDER [--spacing MM] [--structure thalamus] [--percents 0 1.5 3]

The MNI template of nilearn, with the structure (of the brain segmentation) smaller by the percentages, in other poses,
with other bias fields and noise of 2 %. Compared in the order of the times and in the reverse order. The truth is the
mean of the contraction's Jacobian over each structure, at 1 mm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph import Settings
from wavemorph.cli.demo import template_path
from wavemorph.cohort import compare_times
from wavemorph.cohort.longitudinal.structures import brain_structures
from wavemorph.cohort.longitudinal.synthetic import make_times
from wavemorph.cohort.template.shape import node_points
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.preprocessing import bounding_box, foreground

MEASURED = ("thalamus", "hippocampus", "putamen", "caudate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spacing", type=float, default=1.0, help="of the scans, mm")
    parser.add_argument("--structure", default="thalamus", choices=MEASURED)
    parser.add_argument("--percents", type=float, nargs="+", default=[0.0, 1.5, 3.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="auto", help="of the rigid registrations")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    head = sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)
    grid = make_working_grid(head, bounding_box(foreground(head)), 1.0, 10.0)
    found = brain_structures(head, grid, "cpu")
    fractions = {name: (found[name] > 0.5).astype(np.uint8) for name in MEASURED}
    labels = image_of(sum(number * fractions[name] for number, name in enumerate(MEASURED, 1)), grid)
    region = image_of(fractions[options.structure], grid)
    truth, files = {}, []
    for number, scan in enumerate(make_times(head, region, options.percents, options.seed, options.spacing)):
        files.append(options.folder / f"t{number}.nii.gz")
        sitk.WriteImage(scan.image, str(files[-1]))
        jacobian = scan.contraction.jacobian(node_points(grid))
        truth[f"t{number}"] = {name: float(np.mean(jacobian[fractions[name] > 0])) for name in MEASURED}
        if number == 0:
            back = sitk.Transform(scan.motion.GetInverse())
            labels = sitk.Resample(labels, scan.image, back, sitk.sitkNearestNeighbor, 0)
            sitk.WriteImage(labels, str(options.folder / "labels.nii.gz"))
    settings = Settings(weights=options.weights)
    results = {}
    for order, times in (("in order", files), ("reversed", files[::-1])):
        made = compare_times(
            times,
            options.folder / order.replace(" ", "-"),
            options.folder / "labels.nii.gz",
            "t0",
            settings,
            report=lambda sentence: print(sentence, flush=True),
        )
        results[order] = {(each.structure, each.time): each.volume_ml for each in made.volumes}
    rows = []
    for number, name in enumerate(MEASURED, 1):
        for time in truth:
            true = 100 * (truth[time][name] / truth["t0"][name] - 1)
            forward, backward = (
                100 * (of[f"label {number}", time] / of[f"label {number}", "t0"] - 1) for of in results.values()
            )
            rows.append({"structure": name, "time": time, "true": true, "found": forward, "reversed": backward})
            print(f"{name:12} {time} true {true:+.3f} % found {forward:+.3f} % reversed {backward:+.3f} %")
    (options.folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def image_of(values: np.ndarray, grid) -> sitk.Image:
    """A uint8 image on the grid."""
    image = sitk.GetImageFromArray(np.asarray(values, np.uint8))
    image.SetOrigin(grid.origin)
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction.ravel().tolist())
    return image


if __name__ == "__main__":
    main()
