"""The segmentation of a brain: a probability map of each structure on a lattice, and what is derived from it (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ...network.segmentation import STRUCTURES
from ...spatial.grid import WorkingGrid

_MAX_LOG_ODDS = 6.0  # beyond this, log-odds say nothing more about a voxel
# The maps of the segmentation term. Structures that hardly touch each other share one, so that five maps serve for all;
# the cerebellum counts as one structure.
LOG_ODDS_MAPS = (
    ("white matter", "cerebellar white matter", "pallidum", "thalamus"),
    ("outside", "ventricles"),
    ("thalamus", "pallidum"),
    ("caudate", "putamen"),
    ("ventricles", "hippocampus", "cerebellar cortex", "cerebellar white matter"),
)


@dataclass(frozen=True)
class BrainSegmentation:
    """Structures of the brain in one volume.

    probabilities: (1, len(STRUCTURES), D, H, W) on `grid`; they sum to 1 in each voxel.
    skull_stripped: whether the volume shows the brain without skull and scalp.
    rotation_deg: angle between the axes of the brain and the right, anterior and superior axes of the volume.
    """

    probabilities: torch.Tensor
    grid: WorkingGrid
    skull_stripped: bool
    rotation_deg: float = 0.0

    def volumes_ml(self) -> np.ndarray:
        """The volume of each structure, in the order of STRUCTURES."""
        voxel = float(np.prod(self.grid.spacing)) / 1000
        return np.array(self.probabilities.sum((0, 2, 3, 4)).tolist()) * voxel

    def centroids(self) -> np.ndarray:
        """(len(STRUCTURES), 3): the centroid of each structure, LPS mm."""
        return np.array([centroid(self.probabilities[:, n : n + 1], self.grid) for n in range(len(STRUCTURES))])

    def resample(self, grid: WorkingGrid, affine: sitk.Transform | None, size: tuple[int, int, int]) -> torch.Tensor:
        """Probabilities (1, len(STRUCTURES), *size) on a lattice of `size` over the box of `grid`.

        affine: points of `grid` -> points of this volume, LPS mm; None for the identity. Beyond the volume everything
        is "outside".
        """
        lattice = grid.resized(size)
        structures = _sample(self.probabilities[:, 1:], _index_matrix(lattice, self.grid, affine), lattice.shape)
        return torch.cat([1 - structures.sum(1, keepdim=True), structures], 1)

    def by_structure(self, grid: WorkingGrid) -> dict[str, torch.Tensor]:
        """Name -> probability (D, H, W) at the nodes of a grid in the same space, without "outside"."""
        return dict(zip(STRUCTURES[1:], self.resample(grid, None, grid.shape)[0, 1:]))

    def log_odds(self, grid: WorkingGrid, affine: sitk.Transform | None, size: tuple[int, int, int]) -> torch.Tensor:
        """(1, len(LOG_ODDS_MAPS), *size): log-odds of each map from -6 to 6, scaled to 0 to 1; see `resample`.

        Unlike probabilities, log-odds have a gradient some voxels away from the border between structures.
        """
        probabilities = self.resample(grid, affine, size)
        maps = [
            probabilities[:, [STRUCTURES.index(name) for name in names]].sum(1, keepdim=True) for names in LOG_ODDS_MAPS
        ]
        log_odds = torch.logit(torch.cat(maps, 1), eps=1e-6)
        return log_odds.clamp_(-_MAX_LOG_ODDS, _MAX_LOG_ODDS).div_(2 * _MAX_LOG_ODDS).add_(0.5)


def mean_soft_dice(fixed: torch.Tensor, moving: torch.Tensor) -> float:
    """Mean soft Dice of the structures but the first, of probabilities (len(STRUCTURES), ...) of both volumes.

    2 sum(min(p, q)) / (sum(p) + sum(q)); structures that the fixed volume lacks are left out.
    """
    fixed, moving = fixed[1:].flatten(1), moving[1:].flatten(1)
    overlap, total = torch.minimum(fixed, moving).sum(1), fixed.sum(1) + moving.sum(1)
    present = fixed.sum(1) > 0
    return float((2 * overlap / total.clamp(min=1e-6))[present].mean()) if present.any() else 0.0


def downsampled_maps(
    probabilities: torch.Tensor, grid: WorkingGrid, spacing_mm: float
) -> tuple[torch.Tensor, WorkingGrid]:
    """Means of (1, C, D, H, W) over voxels of about `spacing_mm`, on the CPU, and their grid."""
    size = tuple(max(4, round(n * own / spacing_mm)) for n, own in zip(grid.shape, grid.spacing[::-1]))
    maps = F.interpolate(probabilities, size=size, mode="area").cpu()  # small, and not every GPU has float64
    return maps, grid.resized(size)


def centroid(probability: torch.Tensor, grid: WorkingGrid) -> np.ndarray:
    """The centroid of a map (1, 1, D, H, W) on `grid`, (3,) LPS mm."""
    total, kji = probability.sum().clamp(min=1e-6), []
    for axis in range(3):
        others = [a + 2 for a in range(3) if a != axis]
        index = torch.arange(probability.shape[axis + 2], device=probability.device, dtype=probability.dtype)
        kji.append(float((probability.sum((0, 1, *others)) * index).sum() / total))
    return np.array(grid.point(kji[::-1]))


def matrix_of(affine: sitk.Transform) -> np.ndarray:
    """4x4 matrix of a linear transform, LPS mm."""
    origin = np.array(affine.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis in range(3):
        matrix[:3, axis] = np.array(affine.TransformPoint(tuple(np.eye(3)[axis]))) - origin
    return matrix


def _index_matrix(target: WorkingGrid, source: WorkingGrid, affine: sitk.Transform | None) -> np.ndarray:
    """4x4 matrix, index (i, j, k) of `target` -> index of `source`, through `affine`."""
    through = matrix_of(affine) if affine is not None else np.eye(4)
    return np.linalg.inv(source.matrix) @ through @ target.matrix


def _sample(image: torch.Tensor, matrix: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
    """`image` (1, C, ...) at the nodes of a lattice of `shape`, whose indices (i, j, k) `matrix` maps to its own."""
    axes = [torch.arange(n, device=image.device, dtype=torch.float32) for n in shape]
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    rows = matrix.tolist()
    last = [max(n - 1, 1) for n in reversed(image.shape[2:])]
    points = [(r[0] * i + r[1] * j + r[2] * k + r[3]) * (2 / n) - 1 for r, n in zip(rows, last)]
    return F.grid_sample(image, torch.stack(points, -1)[None], align_corners=True)
