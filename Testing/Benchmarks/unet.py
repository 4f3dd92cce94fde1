"""A U-Net after VoxelMorph (Balakrishnan et al., IEEE TMI 2019; Dalca et al., MedIA 2019), as a peer of our network."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn
from wavemorph.network import NetworkConfig
from wavemorph.spatial.displacement import resize

ENCODER = (16, 32, 32, 32)
DECODER = (32, 32, 32, 32, 32, 16, 16)


class UNet(nn.Module):
    """VoxelMorph's default: two volumes to a stationary velocity at half resolution.

    It takes the place of our network in `registration.deformable.inference` and `training.loop`, so that passes,
    integration, loss and training are the same. There a velocity is integrated by as many squarings as its length
    needs, up to VoxelMorph's 7 for velocities of 8 to 16 voxels.
    """

    def __init__(self, config: NetworkConfig | None = None):
        super().__init__()
        # of the configuration only the passes count; the number of channels is that of the halvings
        self.config = dataclasses.replace(
            config or NetworkConfig(), channels=(*ENCODER, ENCODER[-1]), output="velocity", symmetric=False
        )
        self.down = nn.ModuleList(_convolution(a, b) for a, b in zip((2, *ENCODER), ENCODER))
        inputs, channels = [], ENCODER[-1]
        for skip, width in zip(ENCODER[::-1], DECODER):
            inputs.append(channels)
            channels = width + skip
        finest = (channels, *DECODER[len(ENCODER) :])
        self.up = nn.ModuleList(_convolution(a, b) for a, b in zip(inputs, DECODER))
        self.finest = nn.Sequential(*(_convolution(a, b) for a, b in zip(finest, finest[1:])))
        self.flow = nn.Conv3d(finest[-1], 3, 3, padding=1)
        nn.init.normal_(self.flow.weight, std=1e-5)
        nn.init.zeros_(self.flow.bias)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """(B, 1, D, H, W) twice -> (B, 3, D, H, W), a velocity in voxels."""
        return resize(self.decode(fixed, moving), tuple(fixed.shape[2:]))

    def decode(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The velocity on half the lattice, in its voxels."""
        x, skips = torch.cat([moving, fixed], 1), []
        for convolve in self.down:
            skips.append(convolve(x))
            x = F.max_pool3d(skips[-1], 2)
        for convolve in self.up:
            x = F.interpolate(convolve(x), scale_factor=2.0, mode="nearest")
            x = torch.cat([x, skips.pop()], 1)
        return resize(self.flow(self.finest(x)), tuple(n // 2 for n in fixed.shape[2:]))


def _convolution(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(channels, out_channels, 3, padding=1), nn.LeakyReLU(0.2))
