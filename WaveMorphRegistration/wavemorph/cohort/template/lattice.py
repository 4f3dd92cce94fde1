"""The lattice of a template: where it lies, and what lies on it."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ...spatial.grid import WorkingGrid

_MARGIN = 0.1  # of the mean shape's longest side, around it
_DIVISOR = 16  # of the sides of the lattice, so that it can be halved
_AXES = np.diag([-1.0, -1.0, 1.0])  # right, anterior, superior, as LPS vectors


def lattice_around(points: np.ndarray, spacing_mm: float) -> tuple[WorkingGrid, np.ndarray]:
    """(a lattice whose middle is at 0 and that holds the points (N, 3) with a margin, the middle of the points)."""
    along = points @ _AXES
    first, last = np.percentile(along, (0.1, 99.9), axis=0)
    extent = last - first + 2 * _MARGIN * float(np.max(last - first))
    size = (-(-np.ceil(extent / spacing_mm) // _DIVISOR) * _DIVISOR).astype(int)
    origin = _AXES @ (-(size - 1) / 2 * spacing_mm)
    width, height, depth = (int(n) for n in size)
    x, y, z = (float(value) for value in origin)
    grid = WorkingGrid((width, height, depth), (spacing_mm,) * 3, (x, y, z), _AXES)
    return grid, _AXES @ ((first + last) / 2)


def set_geometry(image: sitk.Image, grid: WorkingGrid) -> None:
    """Give an image the geometry of a grid of its size."""
    image.SetOrigin(grid.origin)
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction.ravel().tolist())


def points_of(mask: sitk.Image, count: int = 20_000) -> np.ndarray:
    """(N, 3) LPS mm: at most `count` voxels of a mask, evenly spread."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    indices = indices[:: max(1, len(indices) // count)]
    steps = np.reshape(mask.GetDirection(), (3, 3)) * np.array(mask.GetSpacing())
    return indices @ steps.T + np.array(mask.GetOrigin())


def mask_on(nodes: WorkingGrid, mask: sitk.Image) -> np.ndarray:
    """(D, H, W) bool: a mask at the nodes of a grid."""
    return sitk.GetArrayFromImage(nodes.resample(mask, None, sitk.sitkNearestNeighbor)) > 0
