"""Generated bodies with a known deformation, for benchmarks where no pairs of real ones are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from wavemorph.training.known_deformation import Difference, make_pair

_POINTS = 300
_EXTENT_MM = 300.0


def torso(side: int, generator: np.random.Generator) -> sitk.Image:
    """A CT-like torso in HU: fat and muscle, spine and ribs, lungs with vessels, liver, bowel gas, air around it."""
    shape = (side, side, side)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    values = np.full(shape, -1000.0)
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    values[body] = -90
    values[(x / 0.78) ** 2 + (y / 0.53) ** 2 < 1] = 45
    ribs = body & ((x / 0.78) ** 2 + (y / 0.53) ** 2 > 0.85) & (np.sin(14 * (z + 0.4 * y)) > 0.6) & (z > -0.1)
    values[ribs] = 350
    spine = (x / 0.14) ** 2 + ((y - 0.38) / 0.13) ** 2 < 1
    values[spine] = 250 + 80 * np.sin(16 * z[spine])
    vessels = gaussian_filter(generator.standard_normal(shape), side / 60)
    vessels = vessels > np.percentile(vessels, 93)
    for sign in (-1, 1):
        lung = ((x - 0.4 * sign) / 0.28) ** 2 + ((y + 0.02) / 0.38) ** 2 + ((z - 0.45) / 0.5) ** 2 < 1
        values[lung] = np.where(vessels[lung], 20, -860)
    values[((x + 0.3) / 0.38) ** 2 + (y / 0.36) ** 2 + ((z + 0.3) / 0.27) ** 2 < 1] = 110
    gas = gaussian_filter(generator.standard_normal(shape), side / 40)
    values[(gas > np.percentile(gas, 97)) & ((x / 0.6) ** 2 + (y / 0.35) ** 2 < 1) & (z < -0.55)] = -900
    values = gaussian_filter(values, side / 160) + generator.normal(0, 12, shape)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing([_EXTENT_MM / side] * 3)
    image.SetOrigin([-_EXTENT_MM / 2] * 3)
    return image


def write_bodies(folder: Path, side: int) -> Path:
    """Pairs of a torso and of the same at a fifteenth of its size, with landmarks; returns the folder."""
    fixed, moving, points = torso_pair(side)
    for name, scale in (("torso", 1.0), ("small_animal", 1 / 15)):
        target = folder / name
        target.mkdir(parents=True)
        for which, image in (("fixed", fixed), ("moving", moving)):
            scaled = sitk.Image(image)
            scaled.SetSpacing([scale * step for step in image.GetSpacing()])
            scaled.SetOrigin([scale * value for value in image.GetOrigin()])
            sitk.WriteImage(scaled, str(target / f"{which}.nii.gz"))
        header = "fixed x, fixed y, fixed z, moving x, moving y, moving z"
        np.savetxt(target / "points.csv", scale * points, delimiter=",", header=header, comments="")
    return folder


def torso_pair(side: int) -> tuple[sitk.Image, sitk.Image, np.ndarray]:
    """(fixed, moving, landmarks (N, 6) in LPS mm: fixed x, y, z, moving x, y, z) of a torso of `side`^3 voxels."""
    generator = np.random.default_rng(3)
    fixed = torso(side, generator)
    difference = Difference(
        deformation_mm=6.0,
        scales_mm=(90.0, 45.0),
        rotation=3.0,
        translation_mm=4.0,
        scale=0.0,
        spacing_mm=fixed.GetSpacing(),
        obliqueness=0.0,
    )
    pair = make_pair(fixed, difference)
    moving = sitk.Resample(fixed, pair.moving, pair.inverse_truth, sitk.sitkLinear, -1000.0)
    inside = np.argwhere(sitk.GetArrayViewFromImage(pair.foreground) > 0)[:, ::-1]
    chosen = inside[generator.integers(len(inside), size=_POINTS)]
    points = [fixed.TransformIndexToPhysicalPoint(index.tolist()) for index in chosen]
    return fixed, moving, np.array([(*point, *pair.truth.TransformPoint(point)) for point in points])
