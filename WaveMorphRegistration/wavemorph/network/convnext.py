"""ConvNeXt V2 blocks in 3D (paper section 3.5; Woo et al., CVPR 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, D, H, W), at each voxel."""

    def __init__(self, channels: int, epsilon: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self._epsilon)
        return x.movedim(-1, 1)


class Pointwise(nn.Conv3d):
    """A convolution with a kernel of one voxel, computed as a matrix product.

    On a CPU, torch's own convolution copies the input of narrow layers first, which takes twice the time.
    """

    def __init__(self, channels: int, out_channels: int, bias: bool = True):
        super().__init__(channels, out_channels, 1, bias=bias)

    def zero_bias(self) -> None:
        """Set the bias to 0, if there is one."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels_last = x.movedim(1, -1)
        if channels_last.is_contiguous():  # as ChannelNorm leaves it
            return F.linear(channels_last, self.weight.flatten(1), self.bias).movedim(-1, 1)
        result = torch.matmul(self.weight.flatten(1), x.flatten(2))
        if self.bias is not None:
            result = result.add_(self.bias.to(result.dtype)[:, None])
        return result.unflatten(2, x.shape[2:])


class ResponseNorm(nn.Module):
    """Global response normalization (ConvNeXt V2): scales each channel by its energy relative to the other channels."""

    def __init__(self, channels: int, epsilon: float = 1e-6):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = x.pow(2).sum((2, 3, 4), keepdim=True).add(self._epsilon**2).sqrt()
        relative = energy / (energy.mean(1, keepdim=True) + self._epsilon)
        return self.gamma * (x * relative) + self.beta + x


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm, pointwise expansion, GELU, response norm, pointwise projection, residual."""

    def __init__(self, channels: int, kernel: int = 7, expansion: int = 4):
        super().__init__()
        self.depthwise = nn.Conv3d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.expand = Pointwise(channels, expansion * channels)
        self.response = ResponseNorm(expansion * channels)
        self.project = Pointwise(expansion * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(self.expand(self.norm(self.depthwise(x))))
        return x + self.project(self.response(y))
