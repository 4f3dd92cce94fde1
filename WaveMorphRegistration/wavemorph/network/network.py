"""The WaveMorph network (paper section 3.3): MSWF encoder, ConvNeXt bottleneck, DySample decoder, flow head."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError
from ..spatial.displacement import lattice_size, resize
from ..spatial.filters import smooth
from .config import NetworkConfig
from .convnext import ChannelNorm, ConvNextBlock
from .dysample import make_upsampling
from .force import correlation_force
from .mswf import make_downsampling


class EncoderDecoder(nn.Module):
    """MSWF encoder, ConvNeXt bottleneck and DySample decoder with skips, up to `config.flow_level`.

    The sides of the inputs must be multiples of `config.divisor`.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        channels = list(config.channels)
        self.stem: nn.Module = nn.Identity()
        if config.stem:
            self.stem = _convolution(config.input_channels, channels[0])
        else:
            channels[0] = config.input_channels
        self.down = nn.ModuleList(
            make_downsampling(config, fine, coarse) for fine, coarse in zip(channels, channels[1:])
        )
        self.bottleneck = nn.Sequential(
            *(
                ConvNextBlock(channels[-1], config.bottleneck_kernel, config.expansion)
                for _ in range(config.bottleneck_blocks)
            )
        )
        levels = range(config.halvings - 1, config.flow_level - 1, -1)
        self.up = nn.ModuleList(make_upsampling(config, channels[level + 1]) for level in levels)
        self.merge = nn.ModuleList(
            _convolution(channels[level + 1] + channels[level], channels[level]) for level in levels
        )
        self.features = channels[config.flow_level]

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W) -> (B, features, ...), sides divided by 2^flow_level."""
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = self.bottleneck(x)
        for up, merge in zip(self.up, self.merge):
            x = merge(torch.cat([up(x), skips.pop()], 1))
        return x


class WaveMorphNetwork(EncoderDecoder):
    """Two volumes -> one field, a velocity or a displacement (`config.output`).

    Sides must be multiples of `config.divisor`.
    """

    def __init__(self, config: NetworkConfig | None = None):
        super().__init__(config or NetworkConfig())
        self.flow = nn.Conv3d(self.features, 3, 3, padding=1)
        nn.init.normal_(self.flow.weight, std=self.config.flow_deviation)
        if self.flow.bias is not None:
            nn.init.zeros_(self.flow.bias)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Predict the field.

        Parameters:
            fixed: (B, 1, D, H, W), about [0, 1].
            moving: (B, 1, D, H, W), about [0, 1].

        Returns:
            (B, 3, D, H, W) in voxels, channels (k, j, i).

        Raises:
            InputError: shapes differ, or a side is not a multiple of the divisor.
        """
        return resize(self.decode(fixed, moving), lattice_size(fixed))

    def decode(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """The field (B, 3, ...) on the lattice where it is decoded, in its voxels: sides divided by 2^flow_level."""
        self._check(fixed, moving)
        inputs = [fixed, moving]
        if self.config.inputs == "pair+force":
            inputs.append(correlation_force(fixed, moving))
        return smooth(self.flow(self.trunk(torch.cat(inputs, 1))), self.config.flow_sigma)

    def decode_symmetric(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Half the difference of both directions, so that swapped inputs give exactly the negative field (ours).

        For a velocity field, the map of the swapped pair is then the inverse. On the lattice of `decode`.
        """
        forward, backward = self.decode(torch.cat([fixed, moving]), torch.cat([moving, fixed])).chunk(2)
        return (forward - backward) / 2

    def predict_symmetric(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """`decode_symmetric` on the whole lattice, in its voxels."""
        return resize(self.decode_symmetric(fixed, moving), lattice_size(fixed))

    def _check(self, fixed: torch.Tensor, moving: torch.Tensor) -> None:
        divisor = self.config.divisor
        shape = tuple(fixed.shape)
        if len(shape) != 5 or shape[1] != 1 or shape != tuple(moving.shape):
            raise InputError(
                f"The network needs two volumes (B, 1, D, H, W) of one shape, not {shape} and {tuple(moving.shape)}."
            )
        if any(n % divisor for n in shape[2:]):
            raise InputError(f"The sides {shape[2:]} must be multiples of {divisor}; pad the volumes.")


def _convolution(channels: int, out_channels: int) -> nn.Sequential:
    """A convolution with a kernel of 3^3 voxels, norm, GELU."""
    return nn.Sequential(nn.Conv3d(channels, out_channels, 3, padding=1), ChannelNorm(out_channels), nn.GELU())
