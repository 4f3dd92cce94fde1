"""Selected nodes of a lattice: masks (D, H, W), their flat indices (N,), and values sampled at points (3, N).

Folding and inversion work on lists of nodes, because little of a field needs to be changed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..system.strategy import strategy_for
from .displacement import constant, length, warp


def sample_at_points(image: torch.Tensor, points: torch.Tensor, at_once: bool = False) -> torch.Tensor:
    """Trilinear samples (C, N) of `image` (1, C, D, H, W) at `points` (3, N) in voxels (k, j, i); edges are continued.

    On a CPU grid_sample runs one thread per batch item, so the points are divided into as many batch items. at_once:
    they are not, for gradients with respect to the image, of which each item would hold a copy.
    """
    count = points.shape[1]
    batches = torch.get_num_threads() if strategy_for(image.device).splits_samples and not at_once else 1
    size = max(1, math.ceil(count / batches))
    scale = constant(tuple(2 / max(n - 1, 1) for n in image.shape[2:]), image.device).view(3, 1)
    grid = F.pad((points * scale - 1).flip(0), (0, size * batches - count)).t().reshape(batches, 1, 1, size, 3)
    values = F.grid_sample(
        image.expand(batches, -1, -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return values.movedim(0, 1).reshape(image.shape[1], -1)[:, :count]


def flat_indices(marked: torch.Tensor) -> torch.Tensor:
    """Flat indices (N,) of the marked nodes of a mask (D, H, W)."""
    return marked.flatten().nonzero()[:, 0]


def unravel(indices: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Indices (k, j, i) as (3, N) of flat indices (N,) into a lattice of `size`."""
    plane = size[1] * size[2]
    return torch.stack([indices // plane, indices % plane // size[2], indices % size[2]])


def box_around(marked: torch.Tensor, margin: int) -> tuple[slice, ...]:
    """Slices of the bounding box of a mask (D, H, W) with a margin in nodes, clipped; empty for an empty mask."""
    sides = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        filled = marked.any(others[1]).any(others[0]).nonzero()[:, 0]
        if not len(filled):
            return (slice(0, 0),) * 3
        sides.append(slice(max(int(filled[0]) - margin, 0), int(filled[-1]) + 1 + margin))
    return tuple(sides)


def dilated_mask(marked: torch.Tensor, radius: int) -> torch.Tensor:
    """Nodes within `radius` nodes of a marked one along each axis: (D, H, W) -> (D, H, W)."""
    for axis in range(3):
        n, grown = marked.shape[axis], marked.clone()
        for step in range(1, radius + 1):
            grown.narrow(axis, 0, n - step).logical_or_(marked.narrow(axis, step, n - step))
            grown.narrow(axis, step, n - step).logical_or_(marked.narrow(axis, 0, n - step))
        marked = grown
    return marked


def marked_cells(marked: torch.Tensor) -> torch.Tensor:
    """Cells with a marked corner: nodes (D, H, W) -> cells (D, H, W); cell (k, j, i) begins at node (k, j, i)."""
    for axis in range(3):
        n, grown = marked.shape[axis], marked.clone()
        grown.narrow(axis, 0, n - 1).logical_or_(marked.narrow(axis, 1, n - 1))
        marked = grown
    return marked


def cell_means(image: torch.Tensor) -> torch.Tensor:
    """Mean over the eight corners of each cell: (1, C, D, H, W) -> the same shape; not valid on the last faces."""
    for axis in (2, 3, 4):
        n = image.shape[axis]
        mean = image.clone()
        mean.narrow(axis, 0, n - 1).add_(image.narrow(axis, 1, n - 1)).mul_(0.5)
        image = mean
    return image


def lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths: (3, ...) -> (...)."""
    return length(vectors[None])[0, 0]


def preimage(marked: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Nodes (D, H, W) that `displacement` (1, 3, D, H, W) maps into a cell with a marked corner."""
    return warp(marked[None, None].float(), displacement)[0, 0] > 0
