"""Two groups of synthetic subjects; in one of them a region of known place has lost a known part of its volume.

As a command it writes the volumes, a table of subjects, a design and the true log-Jacobian of the loss:

    python Testing/Support/atrophy.py FOLDER --subjects 24 --spacing 3

and it compares the results of `wavemorph morphometry` with the truth:

    python Testing/Support/atrophy.py FOLDER --results RESULTS
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph.cohort.population import SUBJECT, make_population
from wavemorph.training.known_deformation import Difference


@dataclass(frozen=True)
class Loss:
    """A ball in which the volume becomes `ratio` of what it was; around it, up to `reach_mm`, tissue makes up for it.

    center: LPS mm.
    """

    center: tuple[float, float, float] = (28.0, 15.0, 12.0)
    ratio: float = 0.5
    radius_mm: float = 14.0
    reach_mm: float = 30.0

    def applied(self, image: sitk.Image) -> sitk.Image:
        """The image after the loss, on its lattice."""
        radii = np.linspace(0, self.reach_mm, 3001)
        new_radii = radii * self._factor(radii)
        offsets = self.offsets(image)
        distance = np.linalg.norm(offsets, axis=-1)
        source = np.where(distance < self.reach_mm, np.interp(distance, new_radii, radii), distance)
        vectors = offsets * (source / np.maximum(distance, 1e-6) - 1)[..., None]
        field = sitk.GetImageFromArray(vectors, isVector=True)
        field.CopyInformation(image)
        return sitk.Resample(image, image, sitk.DisplacementFieldTransform(field), sitk.sitkLinear)

    def log_jacobian(self, lattice: sitk.Image) -> np.ndarray:
        """The natural logarithm of the Jacobian of the loss, fixed -> moving, (D, H, W) at the voxels of a lattice."""
        distance = np.linalg.norm(self.offsets(lattice), axis=-1)
        step = 1e-3
        factor = self._factor(distance)
        slope = (self._factor(distance + step) - factor) / step
        return np.log(factor**2 * (factor + distance * slope))

    def offsets(self, lattice: sitk.Image) -> np.ndarray:
        """From the center, LPS mm, (D, H, W, 3)."""
        k, j, i = np.meshgrid(*[np.arange(n) for n in lattice.GetSize()[::-1]], indexing="ij")
        axes = np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing())
        return np.stack([i, j, k], -1) @ axes.T + np.array(lattice.GetOrigin()) - np.array(self.center)

    def _factor(self, radius: np.ndarray) -> np.ndarray:
        """What a radius is multiplied with."""
        part = np.clip((radius - self.radius_mm) / (self.reach_mm - self.radius_mm), 0, 1)
        inner = self.ratio ** (1 / 3)
        return inner + (1 - inner) * (1 - np.cos(np.pi * part)) / 2


def groups(
    template: sitk.Image, count: int, difference: Difference, loss: Loss
) -> Iterator[tuple[str, int, sitk.Image]]:
    """(name, 1 for a patient or 0 for a control, volume) of `count` subjects, by turns."""
    both = [
        make_population(image, (count + 1 - group) // 2, seed=group, difference=difference)
        for group, image in enumerate((template, loss.applied(template)))
    ]
    for number in range(count):
        yield f"sub-{number + 1:02}", number % 2, next(both[number % 2]).moving


def compare(results: Path, loss: Loss) -> None:
    """Print where the significant voxels are, and the effect near the center with the true one."""
    t, effect, log_p, mask = (
        sitk.ReadImage(str(results / f"{name}.nii.gz")) for name in ("t", "effect", "minus_log10_p_fwe", "mask")
    )
    distance = np.linalg.norm(loss.offsets(t), axis=-1)
    inside = sitk.GetArrayFromImage(mask) > 0
    values, core = sitk.GetArrayFromImage(t), inside & (distance < 10)
    significant = sitk.GetArrayFromImage(log_p) >= -np.log10(0.05)
    print(f"significant voxels   {significant.sum()}, with less tissue {(significant & (values < 0)).sum()}")
    print(
        f"of them              {(significant & (distance < loss.radius_mm)).sum()} within {loss.radius_mm:g} mm, ",
        end="",
    )
    print(f"{(significant & (distance < loss.reach_mm)).sum()} within {loss.reach_mm:g} mm")
    print(f"smallest t           {values.min():.2f}, {distance.flat[values.argmin()]:.1f} mm from the center")
    print(f"effect within 10 mm  {sitk.GetArrayFromImage(effect)[core].mean():.2f}, ", end="")
    print(f"in truth {loss.log_jacobian(effect)[core].mean():.2f}")


def main() -> None:
    from wavemorph.cli.demo import template_path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--spacing", type=float, default=3.0)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    if options.results:
        compare(options.results, Loss())
        return
    options.folder.mkdir(parents=True)
    template = sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)
    loss, difference = Loss(), replace(SUBJECT, spacing_mm=(options.spacing,) * 3, deformation_mm=2.0)
    truth = sitk.GetImageFromArray(loss.log_jacobian(template).astype(np.float32))
    truth.CopyInformation(template)
    sitk.WriteImage(template, str(options.folder / "template.nii.gz"))
    sitk.WriteImage(truth, str(options.folder / "true_log_jacobian.nii.gz"))
    rows = []
    for name, group, volume in groups(template, options.subjects, difference, loss):
        sitk.WriteImage(volume, str(options.folder / f"{name}.nii.gz"))
        rows.append((name, f"{name}.nii.gz", group))
    with open(options.folder / "subjects.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("subject", "volume", "patient"), *rows])
    with open(options.folder / "design.tsv", "w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([("subject", "patient"), *((row[0], row[2]) for row in rows)])


if __name__ == "__main__":
    main()
