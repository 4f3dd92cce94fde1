"""Whether two volumes show the same contrast: whether brighter tissue in one is brighter in the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .lncc import LocalCorrelation

_VOXEL_MM = 4.0  # for a head


def global_correlation(fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor) -> float:
    """Pearson's correlation of two images (1, 1, D, H, W) over the voxels of `weight`."""
    total = weight.sum().clamp(min=1e-6)
    a = fixed - (fixed * weight).sum() / total
    b = moving - (moving * weight).sum() / total
    variances = (a * a * weight).sum() * (b * b * weight).sum()
    return float((a * b * weight).sum() / variances.clamp(min=1e-20).sqrt())


def contrast_agreement(fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor, spacing_mm: float) -> float:
    """1 where brighter meets brighter everywhere, -1 where the contrast is reversed, near 0 where both occur.

    fixed, moving, weight: (1, 1, D, H, W), voxels of `spacing_mm`. The mean local correlation over its own root mean
    square. Unlike a correlation over the whole image it does not rise because both subjects lie on a dark background.
    Measured in windows of 20 mm with voxels of 4 mm: after an affine, smaller structures of two people are not aligned
    yet.
    """
    pool = max(1, round(_VOXEL_MM / spacing_mm))
    pool = min(pool, *(n // 5 for n in fixed.shape[2:]))
    fixed, moving, weight = (F.avg_pool3d(t, pool) for t in (fixed, moving, weight))
    signed = LocalCorrelation(fixed, moving, weight, radius=2, signed=True).value()
    squared = LocalCorrelation(fixed, moving, weight, radius=2, signed=False).value()
    return signed / max(squared, 1e-12) ** 0.5
