"""Dynamic upsampling (paper section 3.6): DySample (Liu et al., ICCV 2023), extended to 3D, and its alternatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..spatial.displacement import constant
from .config import NetworkConfig
from .convnext import Pointwise


class DySample(nn.Module):
    """(B, C, D, H, W) -> (B, C, 2 D, 2 H, 2 W): each fine voxel is interpolated at a learned offset.

    A pointwise layer gives three offsets for each of the eight fine voxels of a coarse one, for each group of channels
    ("lp" style: linear, then shuffled). With zero offsets this is trilinear upsampling. Positions are float32 at least:
    in bfloat16 that of the hundredth voxel would be wrong by half a voxel.
    """

    def __init__(self, channels: int, groups: int = 4, scope: float = 0.25):
        super().__init__()
        self.offset = Pointwise(channels, 3 * groups * 8)
        nn.init.normal_(self.offset.weight, std=1e-3)
        self.offset.zero_bias()
        self._groups, self._scope = groups, scope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, *size = x.shape
        fine, dtype = [2 * n for n in size], torch.promote_types(x.dtype, torch.float32)
        offset = self._shuffle(self.offset(x) * self._scope)  # (B G, 3, 2D, 2H, 2W), in coarse voxels (i, j, k)
        axes = [(torch.arange(n, dtype=dtype, device=x.device) + 0.5) / 2 - 0.5 for n in fine]
        regular = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])
        points = (regular + offset).movedim(1, -1)
        scale = constant(tuple(2 / n for n in reversed(size)), x.device, dtype)
        points = (points + 0.5) * scale - 1
        grouped = x.to(dtype).reshape(batch * self._groups, channels // self._groups, *size)
        samples = F.grid_sample(grouped, points, mode="bilinear", padding_mode="border", align_corners=False)
        return samples.reshape(batch, channels, *fine)

    def _shuffle(self, offset: torch.Tensor) -> torch.Tensor:
        """(B, 3 G 8, D, H, W) -> (B G, 3, 2 D, 2 H, 2 W)."""
        batch, _, d, h, w = offset.shape
        offset = offset.reshape(batch * self._groups, 3, 2, 2, 2, d, h, w)
        return offset.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch * self._groups, 3, 2 * d, 2 * h, 2 * w)


class Interpolation(nn.Module):
    """Doubles the sides by nearest-neighbor or trilinear interpolation."""

    def __init__(self, mode: str):
        super().__init__()
        self._options = {"mode": mode} if mode == "nearest" else {"mode": mode, "align_corners": False}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, **self._options)


def make_upsampling(config: NetworkConfig, channels: int) -> nn.Module:
    """(B, channels, D, H, W) -> (B, channels, 2 D, 2 H, 2 W), by the module for `config.upsampling`."""
    if config.upsampling == "dysample":
        return DySample(channels, config.dysample_groups, config.dysample_scope)
    return Interpolation(config.upsampling)
