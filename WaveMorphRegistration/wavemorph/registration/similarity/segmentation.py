"""Agreement of the segmentations of both volumes, as a term beside an intensity similarity (ours)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...spatial.displacement import constant, gradient_wrt_displacement, lattice_size, resize, warp


class SegmentationDifference:
    """Minus half the weighted mean squared difference of segmentation maps, summed over the maps.

    fixed, moving: (1, C, d, h, w), log-odds or probability maps of both volumes, on a lattice over the same box as
    `weight` (1, 1, D, H, W). The difference is computed on the coarser of the two lattices, because the network
    resolves structures no finer. factor: what each map counts for.
    """

    def __init__(self, fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor, factor: float):
        self._lattice = lattice_size(weight)
        size = tuple(min(own, other) for own, other in zip(fixed.shape[2:], self._lattice))
        self._fixed, self._moving, weight = (F.interpolate(t, size=size, mode="area") for t in (fixed, moving, weight))
        self._weight = weight * (factor / weight.sum())

    def value_and_gradient(self, displacement: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Similarity.value_and_gradient`; displacement and derivative are on the lattice of the weight."""
        size = lattice_size(self._fixed)
        warped = warp(self._moving, resize(displacement, size))
        difference = self._fixed - warped
        slope = difference * self._weight
        value = -0.5 * (slope * difference).sum()
        gradient = gradient_wrt_displacement(warped, slope)
        if size == self._lattice:
            return value, gradient
        # a coarse voxel stands for several fine ones, and is several of them long
        ratio = [fine / coarse for fine, coarse in zip(self._lattice, size)]
        gradient *= constant(tuple(1 / (math.prod(ratio) * own) for own in ratio), gradient.device).view(1, 3, 1, 1, 1)
        return value, F.interpolate(gradient, size=self._lattice, mode="trilinear", align_corners=False)
