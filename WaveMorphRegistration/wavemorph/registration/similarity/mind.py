"""Squared differences of features, among them the MIND-SSC descriptor for pairs of different contrast (ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...spatial.filters import box_mean
from .base import ImageSimilarity

_REACH_VOXELS = 2  # of a descriptor


class SquaredDifference(ImageSimilarity):
    """Minus half the weighted mean squared difference of features.

    fixed, moving: (1, C, D, H, W). weight: (1, 1, D, H, W) in [0, 1], where voxels count.
    """

    def __init__(self, fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor):
        super().__init__(moving)
        self._fixed = fixed
        self._weight = weight / (weight.sum().clamp(min=1e-6) * fixed.shape[1])

    def compare(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ImageSimilarity.compare`; warped: (1, C, D, H, W)."""
        difference = self._fixed - warped
        gradient = difference * self._weight
        return -0.5 * (gradient * difference).sum(), gradient


class MindSsc(SquaredDifference):
    """Squared difference of the self-similarity descriptors MIND-SSC (Heinrich et al., MICCAI 2013), for any contrast.

    The descriptor compares twelve pairs of neighbors of a voxel within one image, never the two images. fixed, moving,
    weight: (1, 1, D, H, W). scanned: of 0 and 1, or bool: the voxels that both volumes show; None for all. Descriptors
    that read others do not count.
    """

    _NEIGHBORS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
    _PAIRS = tuple(
        (a, b) for a in range(6) for b in range(a) if a // 2 != b // 2
    )  # neighbors at a distance of sqrt(2) voxels, not opposite ones

    def __init__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        weight: torch.Tensor,
        scanned: torch.Tensor | None = None,
    ):
        within = None
        if scanned is not None:
            within = (box_mean(scanned.float(), _REACH_VOXELS) > 1 - 1e-4).float()
            weight = weight * within
        super().__init__(self.descriptor(fixed, within=within), self.descriptor(moving, within=within), weight)

    @classmethod
    def descriptor(cls, image: torch.Tensor, radius: int = 1, within: torch.Tensor | None = None) -> torch.Tensor:
        """(1, 1, D, H, W) -> (1, 12, D, H, W), each in (0, 1]; patches have (2 radius + 1)^3 voxels.

        within: (1, 1, D, H, W) of 0 and 1, the voxels that decide which variance is typical; None for all.
        """
        padded = F.pad(image, (1,) * 6, mode="replicate")
        size = image.shape[2:]
        shifted = []
        for offset in cls._NEIGHBORS:
            part = padded
            for axis in range(3):
                part = part.narrow(axis + 2, 1 + offset[axis], size[axis])
            shifted.append(part)
        distance = box_mean(torch.cat([(shifted[a] - shifted[b]) ** 2 for a, b in cls._PAIRS], 1), radius)
        distance -= distance.amin(1, keepdim=True)
        variance = distance.mean(1, keepdim=True)
        typical = variance.mean() if within is None else (variance * within).sum() / within.sum().clamp(min=1)
        variance.clamp_(1e-3 * typical + 1e-12, 1e3 * typical + 1e-12)
        return distance.div_(variance).neg_().exp_()
