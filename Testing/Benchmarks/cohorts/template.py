"""Measure a template of the synthetic population against the known maps.

wavemorph population --output POPULATION [--subjects N] [--spacing MM]
wavemorph template --volumes POPULATION/sub-*/anat/*_T1w.nii.gz --output TEMPLATE
python Testing/Benchmarks/cohorts/template.py POPULATION TEMPLATE [--pairs 12] [--output FILE.json]

1. True error between subjects through the template, and by direct registration of the same pairs.
2. Distance of the template's mean shape from the true one, after rigid alignment.
3. Gradient energy of the template relative to that of the subjects without noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph import Settings, register
from wavemorph.cohort.population import SUBJECT, make_population
from wavemorph.cohort.template.jobs import intensity_range
from wavemorph.cohort.template.shape import procrustes_alignment, rigid_fit

POINTS = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("template", type=Path)
    parser.add_argument("--pairs", type=int, default=12, help="registered directly; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of the population")
    parser.add_argument("--preset", default="Balanced", help="of the direct registrations")
    parser.add_argument("--output", type=Path, help="a JSON file")
    options = parser.parse_args()
    names = sorted(
        path.name for path in options.population.glob("sub-*") if (options.template / f"{path.name}_T1w").is_dir()
    )
    study = Study(options.population, options.template, names)
    results = {"subjects": len(names), **study.shape_error(), **study.sharpness(options.seed)}
    print(json.dumps(results, indent=1), flush=True)
    results.update(study.pair_errors(options.pairs, options.preset))
    print(json.dumps(results, indent=1))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


class Study:
    """A population with known maps, and a template of it. Points are LPS mm."""

    def __init__(self, population: Path, template: Path, names: list[str]):
        self.population, self.template, self.names = population, template, names
        truth = population / "derivatives" / "truth"
        self.source = sitk.ReadImage(str(truth / "template.nii.gz"))
        brain = sitk.GetArrayViewFromImage(self.source) > 0
        nodes = np.argwhere(brain)[:, ::-1]
        chosen = nodes[np.random.default_rng(0).choice(len(nodes), POINTS, replace=False)]
        points = [self.source.TransformIndexToPhysicalPoint(index.tolist()) for index in chosen]
        file = "{0}/anat/{0}_from-template_to-T1w_mode-image_xfm.h5"
        self.true = [moved(sitk.ReadTransform(str(truth / file.format(name))), points) for name in names]
        self.in_template = [moved(self.map(name, "subject_to_template"), true) for name, true in zip(names, self.true)]

    def map(self, name: str, which: str) -> sitk.Transform:
        """A map of a subject that the template wrote."""
        return sitk.ReadTransform(str(self.template / f"{name}_T1w" / f"{which}.h5"))

    def volume(self, name: str) -> Path:
        """The volume of a subject."""
        return self.population / name / "anat" / f"{name}_T1w.nii.gz"

    def shape_error(self) -> dict:
        """The template's mean shape against the generalized Procrustes mean of the true positions."""
        estimated = np.mean(self.in_template, axis=0)
        alignments = procrustes_alignment(self.true, self.true[0])
        mean = np.mean([motion(shape) for motion, shape in zip(alignments, self.true)], axis=0)
        errors = np.linalg.norm(rigid_fit(estimated, mean)(estimated) - mean, axis=1)
        one = [np.linalg.norm(rigid_fit(shape, mean)(shape) - mean, axis=1).mean() for shape in self.true]
        spread = np.linalg.norm(self.in_template - estimated, axis=-1)
        return {
            "shape_error_mm": stated(errors),
            "subject_to_mean_mm": float(np.mean(one)),
            "spread_in_template_mm": stated(spread),
        }

    def sharpness(self, seed: int) -> dict:
        """Gradient energy of the template over the mean of the subjects made again without noise."""
        spacing = sitk.ReadImage(str(self.volume(self.names[0]))).GetSpacing()
        noiseless = dataclasses.replace(SUBJECT, noise=0.0, spacing_mm=spacing)
        energies, inside = [], None
        for name, pair in zip(self.names, make_population(self.source, len(self.names), seed, noiseless)):
            low, high = intensity_range(sitk.ReadImage(str(self.volume(name))))  # as the template's mean has it
            clean = sitk.Clamp(
                (sitk.Cast(pair.moving, sitk.sitkFloat32) - low) / (high - low), sitk.sitkFloat32, 0, 1.2
            )
            mask = sitk.Resample(pair.foreground, clean, pair.inverse_truth, sitk.sitkNearestNeighbor)
            energies.append(energy(clean, mask))
            if inside is None:  # the brain in the template, by the true map of one subject
                template = sitk.ReadImage(str(self.template / "template.nii.gz"), sitk.sitkFloat32) / 1000
                to_source = sitk.CompositeTransform([pair.inverse_truth, self.map(name, "template_to_subject")])
                to_source.FlattenTransform()
                inside = sitk.Resample(pair.foreground, template, to_source, sitk.sitkNearestNeighbor)
        own = energy(template, inside)
        return {"sharpness": {where: own[where] / float(np.mean([each[where] for each in energies])) for where in own}}

    def pair_errors(self, count: int, preset: str) -> dict:
        """True error of the maps between subjects, through the template and directly."""
        through, direct, same = [], [], []
        pairs = [(n, (n + 1 + n // len(self.names)) % len(self.names)) for n in range(count)]
        for first in range(len(self.names)):
            for second in range(len(self.names)):
                if first != second:
                    through.append(self.through_template(first, second))
        for first, second in pairs:
            first %= len(self.names)
            result = register(self.volume(self.names[first]), self.volume(self.names[second]), Settings(preset=preset))
            arrived = np.array(moved(result.transform, self.true[first]))
            direct.append(np.linalg.norm(arrived - self.true[second], axis=1))
            same.append(self.through_template(first, second))
            print(self.names[first], self.names[second], direct[-1].mean(), same[-1].mean(), flush=True)
        results = {"through_template_all_pairs_mm": stated(np.array(through))}
        if direct:
            results |= {"direct_mm": stated(np.array(direct)), "through_template_mm": stated(np.array(same))}
        return results

    def through_template(self, first: int, second: int) -> np.ndarray:
        """Errors (mm) of the map from one subject to another at the points of the brain."""
        arrived = moved(self.map(self.names[second], "template_to_subject"), self.in_template[first])
        return np.linalg.norm(arrived - self.true[second], axis=1)


def moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """(N, 3): where a transform maps points (N, 3)."""
    return np.array([transform.TransformPoint(point) for point in np.asarray(points).tolist()])


def energy(image: sitk.Image, mask: sitk.Image) -> dict[str, float]:
    """Mean squared gradient in the brain ("brain") and 3 mm or more inside it ("interior")."""
    values, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()
    total = sum(np.gradient(values, side, axis=axis) ** 2 for axis, side in enumerate(spacing[::-1]))
    depth = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(sitk.BinaryFillhole(mask), True, False, True))
    inside = sitk.GetArrayFromImage(mask) > 0
    return {"brain": float(total[inside].mean()), "interior": float(total[inside & (depth >= 3)].mean())}


def stated(errors: np.ndarray) -> dict[str, float]:
    """Mean, 95th percentile and maximum."""
    return {"mean": float(errors.mean()), "p95": float(np.percentile(errors, 95)), "max": float(errors.max())}


if __name__ == "__main__":
    main()
