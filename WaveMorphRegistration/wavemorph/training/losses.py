"""The unsupervised loss: similarity and smoothness (paper section 3.8); and the segmentation loss (ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..network.segmentation import STRUCTURES


def local_correlation_loss(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None = None, window: int = 9, noise: float = 1e-5
) -> torch.Tensor:
    """One minus the mean squared correlation in cubic windows (paper 3.8: NCC).

    Parameters:
        fixed: (B, 1, D, H, W).
        warped: (B, 1, D, H, W).
        weight: (B, 1, D, H, W), weights of the windows; None weights all the same.
        window: side of the windows, voxels.
        noise: variance added in each window.

    Returns:
        A scalar, 0 to 1.
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
    """Mean squared forward difference of a field (B, 3, D, H, W), over components and axes (paper 3.8: smoothness)."""
    along_k, along_j, along_i = (field.diff(dim=axis).pow(2).mean() for axis in (2, 3, 4))
    return (along_k + along_j + along_i) / 3


def _mean(x: torch.Tensor, window: int) -> torch.Tensor:
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = window, window // 2
        x = F.avg_pool3d(x, kernel, 1, padding)
    return x


# larger for small structures and for those surrounded by others
_WEIGHTS = {
    "outside": 0.7,
    "white matter": 1.0,
    "cortex": 1.0,
    "cerebellar cortex": 1.2,
    "pallidum": 2.0,
    "hippocampus": 2.0,
}


def segmentation_loss(logits: torch.Tensor, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy and soft Dice of a segmentation (ours).

    Parameters:
        logits: (1, len(STRUCTURES), D, H, W).
        probabilities: the true ones, (1, len(STRUCTURES), D, H, W).

    Returns:
        (cross entropy weighted by structure, mean soft Dice of the structures with more than 100 voxels), scalars.
    """
    weights = logits.new_tensor([_WEIGHTS.get(name, 1.5) for name in STRUCTURES]).view(1, -1, 1, 1, 1)
    logs = logits.log_softmax(1)
    entropy = -(weights * probabilities * logs).sum(1).mean()
    predicted, axes = logs.exp(), (2, 3, 4)
    overlap, total = (predicted * probabilities).sum(axes), predicted.sum(axes) + probabilities.sum(axes)
    occurs = (probabilities.sum(axes) > 100).to(overlap.dtype)
    dice = ((2 * overlap + 1) / (total + 1) * occurs).sum() / occurs.sum().clamp(min=1)
    return entropy, dice
