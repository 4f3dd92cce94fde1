"""Two head-like volumes whose true correspondence is known, made in a second without any download."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

_RADII_MM = (62.0, 76.0, 58.0)


class SyntheticPair:
    """`fixed` and `moving` (SimpleITK, LPS mm). `truth` carries fixed points to moving points, (N, 3) LPS mm.

    oblique turns the moving volume's axes and makes its voxels anisotropic; the anatomy stays where it is.
    """

    def __init__(self, spacingMm: float = 3.0, oblique: bool = False):
        size = [int(2.5 * radius / spacingMm) for radius in _RADII_MM]
        fixedLattice = _lattice(size, (spacingMm,) * 3, np.eye(3))
        spacing = (0.9 * spacingMm, 0.9 * spacingMm, 1.4 * spacingMm) if oblique else (spacingMm,) * 3
        movingSize = [int(2.7 * radius / side) for radius, side in zip(_RADII_MM, spacing)]
        movingLattice = _lattice(movingSize, spacing, _turned(15.0) if oblique else np.eye(3))
        self.fixed = _volume(fixedLattice, self.truth(_points(fixedLattice)))
        self.moving = _volume(movingLattice, _points(movingLattice))

    @staticmethod
    def truth(points: np.ndarray) -> np.ndarray:
        """Fixed points -> moving points."""
        x, y, z = np.moveaxis(points, -1, 0)
        return points + np.stack(
            [
                4.0 + 3.0 * np.sin(y / 22.0),
                -3.0 + 3.0 * np.sin(z / 20.0),
                2.0 + 2.5 * np.sin(x / 24.0),
            ],
            -1,
        )

    def errorsMm(self, movedBy) -> np.ndarray:
        """|movedBy(point) - truth(point)| at 500 points inside the head; movedBy takes and gives LPS mm."""
        generator = np.random.default_rng(1)
        directions = generator.standard_normal((500, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        points = directions * generator.uniform(0.05, 0.85, (500, 1)) * _RADII_MM
        moved = np.array([movedBy(point) for point in points])
        return np.linalg.norm(moved - self.truth(points), axis=1)


def _turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    about = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return about[[2, 0, 1]][:, [2, 0, 1]] @ about


def _lattice(size, spacing, axes: np.ndarray) -> sitk.Image:
    lattice = sitk.Image([int(n) for n in size], sitk.sitkUInt8)
    lattice.SetSpacing([float(side) for side in spacing])
    lattice.SetDirection(axes.ravel().tolist())
    lattice.SetOrigin((-axes @ (np.array(spacing) * (np.array(size) - 1) / 2)).tolist())
    return lattice


def _points(lattice: sitk.Image) -> np.ndarray:
    k, j, i = np.meshgrid(*[np.arange(n) for n in lattice.GetSize()[::-1]], indexing="ij")
    axes = np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing())
    return np.stack([i, j, k], -1) @ axes.T + np.array(lattice.GetOrigin())


def _volume(lattice: sitk.Image, points: np.ndarray) -> sitk.Image:
    """A skull, a brain with blobs of many sizes and two dark ventricles, as a function of physical position."""
    radius = np.sqrt(((points / _RADII_MM) ** 2).sum(-1))
    inside = 1 / (1 + np.exp((radius - 1) * 30))
    skull = np.exp(-(((radius - 1.0) / 0.05) ** 2))
    values = 0.45 * inside + 0.35 * skull
    generator = np.random.default_rng(7)
    for _ in range(60):
        at = generator.uniform(-0.7, 0.7, 3) * _RADII_MM
        width = generator.uniform(5.0, 14.0)
        values += inside * generator.uniform(-0.25, 0.35) * np.exp(-((points - at) ** 2).sum(-1) / (2 * width**2))
    for side in (-1, 1):
        values -= inside * 0.4 * np.exp(-(((points - (side * 9.0, 4.0, 6.0)) / (5.0, 16.0, 8.0)) ** 2).sum(-1))
    values = np.clip(values, 0, None) + 0.01 * generator.standard_normal(values.shape)
    image = sitk.GetImageFromArray((1000 * values).astype(np.float32))
    image.CopyInformation(lattice)
    return image
