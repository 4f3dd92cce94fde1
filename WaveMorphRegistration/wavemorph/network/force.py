"""The gradient of local correlation with respect to a shift, as input channels of the network (ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..spatial.filters import box_mean

_SCALE = 4.0  # the force between two brains that are some voxels apart is then about 1
_NOISE = 1e-3  # variance added in each window, so that flat tissue gives no force


def correlation_force(fixed: torch.Tensor, moving: torch.Tensor, radius: int = 2) -> torch.Tensor:
    """The gradient of squared local correlation with respect to a shift of the moving image, without autograd.

    The inverse hyperbolic sine compresses the range, so that strong edges do not dominate.

    Parameters:
        fixed: (B, 1, D, H, W).
        moving: (B, 1, D, H, W).
        radius: windows have (2 radius + 1)^3 voxels.

    Returns:
        (B, 3, D, H, W), channels (k, j, i).
    """
    with torch.no_grad():
        images = torch.cat([fixed, moving], 1)
        moments = box_mean(torch.cat([images, images * images, fixed * moving], 1), radius)
        fixed_mean, moving_mean, fixed_square, moving_square, product = moments.split(1, 1)
        fixed_variance = fixed_square - fixed_mean**2 + _NOISE
        moving_variance = moving_square - moving_mean**2 + _NOISE
        covariance = product - fixed_mean * moving_mean
        by_covariance = covariance / (fixed_variance * moving_variance)
        by_variance = by_covariance * covariance / moving_variance
        terms = [by_covariance, by_variance, by_variance * moving_mean - by_covariance * fixed_mean]
        a, b, c = box_mean(torch.cat(terms, 1), radius).split(1, 1)
        slope = a * fixed - b * moving + c
        slopes = []
        for axis in (2, 3, 4):
            padding = [0] * 6
            padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = 1
            n = moving.shape[axis]
            padded = F.pad(moving, padding, mode="replicate")
            slopes.append((padded.narrow(axis, 2, n) - padded.narrow(axis, 0, n)) * (0.5 * _SCALE) * slope)
        return torch.asinh(torch.cat(slopes, 1))
