"""Small volumes and geometries for the tests: anatomy-like, smooth, different in each octant so that no flip hides."""

from __future__ import annotations

import dataclasses

import numpy as np
import SimpleITK as sitk

OFFSET = (3.0, -2.0, 1.0)  # LPS mm between the moving head of a random pair and the fixed head mapped by the affine


def rotation(angles_degrees) -> np.ndarray:
    """A 3x3 rotation about x, then y, then z."""
    x, y, z = np.radians(angles_degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def random_geometry(seed: int, size=(40, 36, 30), extent_mm=90.0) -> sitk.Image:
    """An empty lattice: oblique, anisotropic, axes permuted and flipped at random (half of them left-handed)."""
    generator = np.random.default_rng(seed)
    axes = rotation(generator.uniform(-25, 25, 3))[:, generator.permutation(3)] * generator.choice([-1.0, 1.0], 3)
    spacing = extent_mm / np.array(size) * generator.uniform(0.85, 1.2, 3)
    lattice = sitk.Image([int(n) for n in size], sitk.sitkUInt8)
    lattice.SetSpacing(spacing.tolist())
    lattice.SetDirection(axes.ravel().tolist())
    center = generator.uniform(-40, 40, 3)
    lattice.SetOrigin((center - axes @ (spacing * (np.array(size) - 1) / 2)).tolist())
    return lattice


def center_of(image: sitk.Image) -> np.ndarray:
    """LPS mm of the center of an image."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def physical_points(lattice: sitk.Image) -> np.ndarray:
    """LPS mm of every voxel, (D, H, W, 3)."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in lattice.GetSize()[::-1]], indexing="ij")
    axes = np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing())
    return np.stack([i, j, k], -1) @ axes.T + np.array(lattice.GetOrigin())


def head(lattice: sitk.Image, center=None, noise: float = 0.0, seed: int = 0) -> sitk.Image:
    """A head-like volume, float32 0 to 1000: a skull, a brain with blobs inside, one dark cyst; air around it is 0.

    It is a function of physical position about `center` (LPS mm, by default the center of the lattice), so that
    two lattices show the same anatomy.
    """
    points = physical_points(lattice) - (center_of(lattice) if center is None else np.asarray(center))
    radius = np.sqrt(((points / (30.0, 36.0, 28.0)) ** 2).sum(-1))
    edge = 1 / (1 + np.exp((radius - 1) * 25))
    values = edge * 0.45
    blobs = np.random.default_rng(7)
    for _ in range(40):
        at = blobs.uniform(-0.75, 0.75, 3) * (30.0, 36.0, 28.0)
        width = blobs.uniform(3.0, 7.0)
        values += edge * blobs.uniform(-0.25, 0.35) * np.exp(-((points - at) ** 2).sum(-1) / (2 * width**2))
    values -= edge * 0.4 * np.exp(-((points - (10.0, -9.0, 7.0)) ** 2).sum(-1) / (2 * 4.0**2))
    values = np.clip(values, 0, None) + noise * np.random.default_rng(seed).standard_normal(values.shape)
    image = sitk.GetImageFromArray((1000 * values).astype(np.float32))
    image.CopyInformation(lattice)
    return image


def expected_error(image: sitk.Image) -> sitk.Image:
    """An expected error in a head, mm: 0 outside it, 0.5 at its center, 0.05 more each mm from there."""
    points = physical_points(image)
    inside = sitk.GetArrayViewFromImage(image) > 100
    distance = np.linalg.norm(points - points[inside].mean(axis=0), axis=-1)
    error = sitk.GetImageFromArray(np.where(inside, 0.5 + 0.05 * distance, 0.0).astype(np.float32))
    error.CopyInformation(image)
    return error


def expected_error_entry(error: sitk.Image) -> dict:
    """The entry of a report on an expected error."""
    known = sitk.GetArrayViewFromImage(error)
    median, p95 = np.percentile(known[known > 0], (50, 95))
    return {"median_mm": float(median), "p95_mm": float(p95), "probability_percent": 90}


def with_expected_error(registration):
    """The registration of a head as if it had estimated its error."""
    error = expected_error(registration.fixed)
    report = {**registration.report, "expected_error": expected_error_entry(error)}
    return dataclasses.replace(registration, expected_error=error, report=report)


def ct(seed: int, size=(41, 38, 53), extent_mm=90.0) -> sitk.Image:
    """int16 on an oblique lattice, half of the seeds left-handed: a head in air, with noise."""
    lattice = random_geometry(seed, size=size, extent_mm=extent_mm)
    values = sitk.GetArrayFromImage(head(lattice, noise=0.02, seed=seed))
    image = sitk.GetImageFromArray(np.rint(values * 1.5 - 1000).astype(np.int16))
    image.CopyInformation(lattice)
    return image


def regular(size=(48, 52, 44), spacing=(1.8, 1.8, 1.8)) -> sitk.Image:
    """An empty axis-aligned lattice centered on the origin."""
    lattice = sitk.Image([int(n) for n in size], sitk.sitkUInt8)
    lattice.SetSpacing([float(s) for s in spacing])
    lattice.SetOrigin([-(n - 1) * s / 2 for n, s in zip(size, spacing)])
    return lattice


TORSO_RADII = (70.0, 50.0, 80.0)  # mm, along x, y, z
_LUNG_RADII = (18.0, 22.0, 30.0)


def breathing(points: np.ndarray) -> np.ndarray:
    """A smooth displacement of points (..., 3), LPS mm, of up to 8 mm, which moves the middle of the torso most."""
    x, y, z = np.moveaxis(points, -1, 0)
    falloff = np.exp(-((points / TORSO_RADII) ** 2).sum(-1))
    along = np.stack([2.5 * np.sin(z / 25), 3 * np.cos(x / 30), 7 * np.cos(y / 40)], -1)
    return along * falloff[..., None]


def torso(lattice: sitk.Image, deformation=None, noise: float = 0.0, seed: int = 0) -> sitk.Image:
    """A torso as in CT, float32 of whole HU: an ellipsoid about the origin with lungs, organs and bones, in air.

    deformation: displacement of points (..., 3), LPS mm; the torso at x is then the plain one at x + deformation(x).
    noise: standard deviation in HU.
    """
    points = physical_points(lattice)
    if deformation is not None:
        points = points + deformation(points)

    def inside(center, radii, width=2.5):
        """1 inside an ellipsoid, 0 outside, with an edge of about `width` mm."""
        radius = np.sqrt((((points - center) / radii) ** 2).sum(-1))
        return 1 / (1 + np.exp(np.clip((radius - 1) * min(radii) / width * 2, -50, 50)))

    values = np.full(points.shape[:-1], -1000.0)
    values += 1030 * inside((0.0, 0.0, 0.0), TORSO_RADII)
    organs = np.random.default_rng(11)
    for _ in range(30):  # organs, vessels and bones
        at = organs.uniform(-0.6, 0.6, 3) * TORSO_RADII
        values += organs.choice([-130.0, 120.0, 160.0, 400.0]) * inside(at, organs.uniform(5, 14, 3))
    for side in (-1, 1):
        lung = inside((30.0 * side, -4.0 + 3 * side, 22.0), _LUNG_RADII)
        values = values * (1 - lung) - 850 * lung
        for _ in range(12):  # vessels
            at = (30.0 * side, -4.0 + 3 * side, 22.0) + organs.uniform(-0.6, 0.6, 3) * _LUNG_RADII
            values += 700 * inside(at, organs.uniform(3, 6, 3)) * lung
    values = values + noise * np.random.default_rng(seed).standard_normal(values.shape)
    image = sitk.GetImageFromArray(np.rint(values).astype(np.float32))
    image.CopyInformation(lattice)
    return image


def in_lungs(points: np.ndarray) -> np.ndarray:
    """Whether points (..., 3), LPS mm, are well inside the lungs of the plain torso."""
    centers = [(30.0 * side, -4.0 + 3 * side, 22.0) for side in (-1, 1)]
    return np.any([(((points - center) / _LUNG_RADII) ** 2).sum(-1) < 0.8 for center in centers], axis=0)


def in_torso(points: np.ndarray, within: float = 1.0) -> np.ndarray:
    """Whether points (..., 3), LPS mm, are inside the plain torso, its radii times `within`."""
    return ((points / np.multiply(TORSO_RADII, within)) ** 2).sum(-1) < 1


def scaled(image: sitk.Image, factor: float) -> sitk.Image:
    """The image with its spacing and its origin times `factor`."""
    result = sitk.Image(image)
    result.SetSpacing([factor * side for side in image.GetSpacing()])
    result.SetOrigin([factor * side for side in image.GetOrigin()])
    return result


def turned(image: sitk.Image, turn: np.ndarray) -> sitk.Image:
    """The image as if its file stated another orientation: its header turned by a rotation (3x3, LPS)."""
    result = sitk.Image(image)
    result.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    result.SetOrigin((turn @ np.array(image.GetOrigin())).tolist())
    return result
