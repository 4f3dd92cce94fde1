"""Downsampling: multi-scale wavelet fusion (MSWF, paper section 3.4), and the three alternatives of its ablation."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from . import wavelet
from .config import NetworkConfig
from .convnext import ChannelNorm, Pointwise


class WaveletFusion(nn.Module):
    """MSWF: (B, C, D, H, W) -> (B, C', D/2, H/2, W/2) by the eight Haar bands.

    Each band has a depthwise kernel whose size fits its content: large for low-pass bands, small for high-pass bands.
    The bands are then fused as in a ConvNeXt block: norm, pointwise expansion, GELU, projection; a pointwise shortcut
    passes the bands themselves (ours). Sides must be even.
    """

    def __init__(self, config: NetworkConfig, channels: int, out_channels: int):
        super().__init__()
        kernels = [config.kernels[band.count("H")] for band in wavelet.BANDS]
        self.depthwise = nn.ModuleList(
            nn.Conv3d(channels, channels, kernel, padding=kernel // 2, groups=channels) for kernel in kernels
        )
        # adjacent bands with kernels of one size are convolved together, in a fraction of the time of eight
        runs = [list(run) for _, run in itertools.groupby(range(8), key=lambda band: kernels[band])]
        self._runs = [slice(run[0], run[-1] + 1) for run in runs]
        self.norm = ChannelNorm(8 * channels)
        self.expand = Pointwise(8 * channels, config.expansion * out_channels)
        self.project = Pointwise(config.expansion * out_channels, out_channels)
        self.shortcut = Pointwise(8 * channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bands = wavelet.decompose(x)
        filtered = torch.cat([self._filter(bands, run) for run in self._runs], 1)
        return self.shortcut(bands) + self.project(F.gelu(self.expand(self.norm(filtered))))

    def _filter(self, bands: torch.Tensor, run: slice) -> torch.Tensor:
        convolutions, channels = self.depthwise[run], bands.shape[1] // 8
        weight, bias = (torch.cat([getattr(each, name) for each in convolutions]) for name in ("weight", "bias"))
        part = bands[:, channels * run.start : channels * run.stop]
        return F.conv3d(part, weight, bias, padding=weight.shape[-1] // 2, groups=part.shape[1])


class WaveletSampling(nn.Module):
    """The eight Haar bands, fused by one pointwise layer."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.fuse = Pointwise(8 * channels, out_channels)
        self.norm = ChannelNorm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.norm(self.fuse(wavelet.decompose(x))))


class PatchMerging(nn.Module):
    """The eight voxels of a 2x2x2 patch as channels, normalized and projected (Swin's, as in TransMorph)."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm = ChannelNorm(8 * channels)
        self.reduce = Pointwise(8 * channels, out_channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = [x[:, :, k::2, j::2, i::2] for k in (0, 1) for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(patches, 1)))


class MaxPooling(nn.Module):
    """The largest of each 2x2x2 patch, then a convolution of side 3."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.convolve = nn.Conv3d(channels, out_channels, 3, padding=1)
        self.norm = ChannelNorm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.norm(self.convolve(F.max_pool3d(x, 2))))


def make_downsampling(config: NetworkConfig, channels: int, out_channels: int) -> nn.Module:
    """The module for `config.downsampling`: (B, channels, D, H, W) -> (B, out_channels, D/2, H/2, W/2)."""
    if config.downsampling == "mswf":
        return WaveletFusion(config, channels, out_channels)
    plain = {"max": MaxPooling, "merging": PatchMerging, "wavelet": WaveletSampling}
    return plain[config.downsampling](channels, out_channels)
