"""The orthonormal Haar transform in 3D (paper section 3.4), by additions of strided slices."""

from __future__ import annotations

import torch

BANDS = ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH")
_HALF = 0.5**0.5


def decompose(image: torch.Tensor) -> torch.Tensor:
    """(B, C, D, H, W) with even sides -> (B, 8 C, D/2, H/2, W/2): the bands in the order of `BANDS`, C channels each.

    The letters stand for the axes D, H, W; L is the sum and H the difference (first minus second) of neighbors, over
    the square root of two.
    """
    bands = [image]
    for axis in (2, 3, 4):
        bands = [half for band in bands for half in _split(band, axis)]
    return torch.cat(bands, 1)


def reconstruct(bands: torch.Tensor) -> torch.Tensor:
    """The inverse of `decompose`: (B, 8 C, D, H, W) -> (B, C, 2 D, 2 H, 2 W)."""
    parts = list(bands.chunk(8, 1))
    for axis in (4, 3, 2):
        parts = [_join(low, high, axis) for low, high in zip(parts[::2], parts[1::2])]
    return parts[0]


def _split(image: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    index: list = [slice(None)] * 5
    index[axis] = slice(0, None, 2)
    first = image[tuple(index)]
    index[axis] = slice(1, None, 2)
    second = image[tuple(index)]
    return (first + second) * _HALF, (first - second) * _HALF


def _join(low: torch.Tensor, high: torch.Tensor, axis: int) -> torch.Tensor:
    pairs = torch.stack([(low + high) * _HALF, (low - high) * _HALF], axis + 1)
    return pairs.flatten(axis, axis + 1)
