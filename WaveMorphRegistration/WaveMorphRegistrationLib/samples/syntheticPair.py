"""Two head-like volumes whose true correspondence is known, computed in about a second."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

_RADII_MM = (62.0, 76.0, 58.0)


class SyntheticPair:
    """The images `fixed` and `moving`, LPS mm; `groundTruth` maps points of one to points of the other.

    spacingMm: of the voxels of fixed.
    oblique: rotate the axes of the moving volume and make its voxels anisotropic; it shows the same head.
    """

    def __init__(self, spacingMm: float = 3.0, oblique: bool = False):
        size = [int(2.5 * radius / spacingMm) for radius in _RADII_MM]
        fixedGrid = _emptyImage(size, (spacingMm,) * 3, np.eye(3))
        spacing = (0.9 * spacingMm, 0.9 * spacingMm, 1.4 * spacingMm) if oblique else (spacingMm,) * 3
        movingSize = [int(2.7 * radius / side) for radius, side in zip(_RADII_MM, spacing)]
        movingGrid = _emptyImage(movingSize, spacing, _rotation(15.0) if oblique else np.eye(3))
        self.fixed = _head(fixedGrid, self.groundTruth(_points(fixedGrid)))
        self.moving = _head(movingGrid, _points(movingGrid))

    @staticmethod
    def groundTruth(points: np.ndarray) -> np.ndarray:
        """Fixed points -> moving points, (..., 3) LPS mm."""
        x, y, z = np.moveaxis(points, -1, 0)
        return points + np.stack(
            [
                4.0 + 3.0 * np.sin(y / 22.0),
                -3.0 + 3.0 * np.sin(z / 20.0),
                2.0 + 2.5 * np.sin(x / 24.0),
            ],
            -1,
        )

    def errorsMm(self, transformPoint) -> np.ndarray:
        """The distance (mm) of transformPoint(point) from the ground truth at 500 points in the head, LPS mm."""
        generator = np.random.default_rng(1)
        directions = generator.standard_normal((500, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        points = directions * generator.uniform(0.05, 0.85, (500, 1)) * _RADII_MM
        transformed = np.array([transformPoint(point) for point in points])
        return np.linalg.norm(transformed - self.groundTruth(points), axis=1)


def _rotation(degrees: float) -> np.ndarray:
    """A rotation by the same angle about z and then about x."""
    angle = np.radians(degrees)
    aboutZ = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return aboutZ[[2, 0, 1]][:, [2, 0, 1]] @ aboutZ


def _emptyImage(size, spacing, axes: np.ndarray) -> sitk.Image:
    """An image whose center is the origin of the world."""
    image = sitk.Image([int(n) for n in size], sitk.sitkUInt8)
    image.SetSpacing([float(side) for side in spacing])
    image.SetDirection(axes.ravel().tolist())
    image.SetOrigin((-axes @ (np.array(spacing) * (np.array(size) - 1) / 2)).tolist())
    return image


def _points(image: sitk.Image) -> np.ndarray:
    k, j, i = np.meshgrid(*[np.arange(n) for n in image.GetSize()[::-1]], indexing="ij")
    axes = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    return np.stack([i, j, k], -1) @ axes.T + np.array(image.GetOrigin())


def _head(image: sitk.Image, points: np.ndarray) -> sitk.Image:
    """A skull, a brain with blobs of many sizes, and two dark ventricles, as a function of position (LPS mm)."""
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
    head = sitk.GetImageFromArray((1000 * values).astype(np.float32))
    head.CopyInformation(image)
    return head
