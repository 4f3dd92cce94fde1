"""Small displacement fields and noise for the tests, (B, C, D, H, W) = (k, j, i), in voxels."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from wavemorph.spatial.displacement import border_taper
from wavemorph.spatial.filters import smooth

SIZE = (32, 36, 40)  # (D, H, W)


def smooth_noise(channels: int, sigma: float, seed: int, size=SIZE) -> torch.Tensor:
    """(1, channels, *size): white noise, smoothed with a Gaussian of `sigma` voxels."""
    return smooth(torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed)), sigma)


def tapered_noise(channels: int, sigma: float, seed: int, size=SIZE) -> torch.Tensor:
    """`smooth_noise` that falls to zero on the border."""
    return smooth_noise(channels, sigma, seed, size) * border_taper(size, torch.device("cpu"))


def bump(amplitude: float, size=SIZE) -> torch.Tensor:
    """A displacement along k that falls to zero towards the border."""
    k, j, i = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    along_k = amplitude * torch.exp(-4 * (k**2 + j**2 + i**2))
    return torch.stack([along_k, torch.zeros_like(along_k), torch.zeros_like(along_k)])[None]


def as_sitk(displacement: torch.Tensor) -> sitk.Transform:
    """The same displacement for SimpleITK on a lattice of unit spacing, where LPS x, y, z are i, j, k."""
    vectors = displacement[0].flip(0).movedim(0, -1).contiguous().numpy().astype(np.float64)
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))
