"""From the network to a displacement: one pass (paper), or several from coarse to fine (ours)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...network import WaveMorphNetwork
from ...spatial.displacement import border_taper, compose, exponentiate, resize, warp_image
from ...spatial.filters import smooth
from ...system.machine import computes_in_bfloat16
from ...system.strategy import strategy_for

_MIN_SIDE_VOXELS = 16  # of the lattice of a pass


def predict(
    network: WaveMorphNetwork,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    spacing_mm: float,
    start: torch.Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    finest_mm: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(displacement, velocity), each (1, 3, D, H, W) in voxels, that align `moving` to `fixed`, both (1, 1, D, H, W).

    spacing_mm: of the lattice of the volumes. start: a displacement to begin with. finest_mm: later passes on finer
    lattices than this are left out. The velocity is None unless the displacement is its exponential: after several
    passes, from a start, or where the network gives displacements.
    """
    passes = network.config.passes_mm
    spacings = (*passes[:1], *(mm for mm in passes[1:] if mm >= finest_mm)) or (spacing_mm,)
    displacement, velocity = start, None
    depth, height, width = fixed.shape[2:]
    size, current = (depth, height, width), None
    in_bfloat16 = strategy_for(fixed.device).halves_passes and computes_in_bfloat16(fixed.device)
    for index, mm in enumerate(spacings):
        lattice = lattice_for(size, mm / spacing_mm)
        if lattice != current:
            current, fixed_here, moving_here = lattice, downsample(fixed, lattice), downsample(moving, lattice)
        displacement = None if displacement is None else resize(displacement, lattice)
        velocity, displacement = one_pass(network, fixed_here, moving_here, displacement, in_bfloat16)
        progress((index + 1) / len(spacings))
    assert displacement is not None
    if passes:
        return resize(displacement, size).mul_(border_taper(size, fixed.device)), None
    exponential = start is None and network.config.output == "velocity"
    return displacement, velocity if exponential else None


def one_pass(
    network: WaveMorphNetwork,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    displacement: torch.Tensor | None,
    in_bfloat16: bool = False,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """(output of the network, displacement after the pass); the network gets `moving` warped by the displacement.

    fixed, moving: (1, 1, D, H, W). Velocities are integrated on the lattice where they are decoded, which is all that
    they can resolve. The first is None for networks of several passes, where the output of one is not the whole.
    in_bfloat16: the network alone computes in it.
    """
    config = network.config
    depth, height, width = fixed.shape[2:]
    size = (depth, height, width)
    warped = moving if displacement is None else warp_image(moving, displacement)
    padding = [side for n in reversed(size) for side in (0, -n % config.divisor)]
    pair = F.pad(fixed, padding), F.pad(warped, padding)
    with torch.autocast(fixed.device.type, torch.bfloat16) if in_bfloat16 else contextlib.nullcontext():
        flow = network.decode_symmetric(*pair) if config.symmetric else network.decode(*pair)
    if in_bfloat16:
        flow = flow.float()
    step = exponentiate(flow) if config.output == "velocity" else flow
    padded = (pair[0].shape[2], pair[0].shape[3], pair[0].shape[4])
    step = _without_padding(resize(step, padded), size)
    if displacement is not None:
        step = compose(displacement, step)
    if config.passes_mm:
        return None, smooth(step, config.pass_sigma)
    return _without_padding(resize(flow, padded), size), step


def lattice_for(size: tuple[int, int, int], ratio: float) -> tuple[int, int, int]:
    """The lattice over the same box with voxels about `ratio` times as large, never finer than `size`."""
    depth, height, width = (min(n, max(round(n / ratio), _MIN_SIDE_VOXELS)) for n in size)
    return depth, height, width


def downsample(image: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Means of (1, 1, D, H, W) over the voxels of a coarser lattice of `size`."""
    return image if tuple(image.shape[2:]) == tuple(size) else F.interpolate(image, size=size, mode="area")


def _without_padding(image: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    return image[:, :, : size[0], : size[1], : size[2]]
