"""The unsupervised loss: similarity and smoothness (paper section 3.8), differentiable by autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def local_correlation_loss(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None = None, window: int = 9, noise: float = 1e-5
) -> torch.Tensor:
    """One minus the mean squared correlation in cubic windows (paper 3.8: NCC), for (B, 1, D, H, W) twice.

    weight: (B, 1, D, H, W), where windows count; everywhere without it. noise: variance added in each window.
    """
    images = torch.cat([fixed, warped], 1)
    moments = _mean(torch.cat([images, images * images, fixed * warped], 1), window)
    fixed_mean, warped_mean, fixed_square, warped_square, product = moments.split(1, 1)
    fixed_variance = (fixed_square - fixed_mean**2).clamp(min=0) + noise
    warped_variance = (warped_square - warped_mean**2).clamp(min=0) + noise
    correlation = (product - fixed_mean * warped_mean) ** 2 / (fixed_variance * warped_variance)
    if weight is None:
        return 1 - correlation.mean()
    return 1 - (correlation * weight).sum() / weight.sum()


def diffusion_loss(field: torch.Tensor) -> torch.Tensor:
    """Mean squared forward difference of (B, 3, D, H, W) over components and axes (paper 3.8: smoothness)."""
    return sum(field.diff(dim=axis).pow(2).mean() for axis in (2, 3, 4)) / 3


def _mean(x: torch.Tensor, window: int) -> torch.Tensor:
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = window, window // 2
        x = F.avg_pool3d(x, kernel, 1, padding)
    return x
