"""Mutual information of two images with its derivative (ours)."""

from __future__ import annotations

import torch

from ...spatial.filters import smooth
from .base import ImageSimilarity


class MutualInformation(ImageSimilarity):
    """Mutual information of the joint histogram of all voxels with Parzen windows (Viola and Wells, IJCV 1997).

    fixed, moving: (1, 1, D, H, W) in [0, brightest]. weight: (1, 1, D, H, W) in [0, 1], where voxels count.
    """

    def __init__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        weight: torch.Tensor,
        bins: int = 48,
        brightest: float = 1.2,
    ):
        super().__init__(moving)
        self._bins = bins
        self._scale = (bins - 5) / brightest  # two bins stay free at each end for the Parzen window
        self._weight = (weight / weight.sum()).flatten()
        self._row = self._position(fixed).round().long()

    def _position(self, image: torch.Tensor) -> torch.Tensor:
        return (image.flatten() * self._scale + 2).clamp(2, self._bins - 3)

    def compare(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ImageSimilarity.compare`; warped: (1, 1, D, H, W)."""
        bins, position = self._bins, self._position(warped)
        column = position.floor().long()
        fraction = position - column
        cell = self._row * bins + column
        histogram = torch.zeros(bins * bins, device=warped.device)
        histogram.index_add_(0, cell, self._weight * (1 - fraction))
        histogram.index_add_(0, cell + 1, self._weight * fraction)
        joint = smooth(histogram.view(1, 1, 1, bins, bins), 1.0)[0, 0, 0] + 1e-8
        joint = joint / joint.sum()
        ratio = (joint / (joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True))).log()
        value = (joint * ratio).sum()
        # a brighter sample moves its mass along its row, so the derivative is the slope of log p(f, m) - log p(m)
        slope = (smooth(ratio[None, None, None], 1.0)[0, 0, 0].diff(dim=1)).flatten()
        gradient = slope[self._row * (bins - 1) + column] * self._weight * self._scale
        return value, gradient.view_as(warped)
