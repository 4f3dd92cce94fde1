"""From the network to a displacement: one pass (the paper), or several from coarse to fine (ours)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .. import field
from .network import WaveMorphNetwork

_LEAST_SIDE = 16  # voxels: coarser than this no pass goes


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

    start: a displacement to begin with. finest_mm: finer passes are left out, but for the first. The velocity is None
    unless the displacement is its exponential: after several passes, from a start, or where the network gives
    displacements.
    """
    passes = network.config.passes_mm
    spacings = (*passes[:1], *(mm for mm in passes[1:] if mm >= finest_mm)) or (spacing_mm,)
    displacement, velocity = start, None
    size, shown = tuple(fixed.shape[2:]), None
    for index, mm in enumerate(spacings):
        here = lattice(size, mm / spacing_mm)
        if here != shown:
            shown, fixed_here, moving_here = here, pool(fixed, here), pool(moving, here)
        displacement = None if displacement is None else field.resize(displacement, here)
        velocity, displacement = one_pass(network, fixed_here, moving_here, displacement)
        progress((index + 1) / len(spacings))
    if network.config.passes_mm:
        return field.resize(displacement, size).mul_(field.border_taper(size, fixed.device)), None
    exponential = start is None and network.config.output == "velocity"
    return displacement, velocity if exponential else None


def one_pass(
    network: WaveMorphNetwork, fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """(what the network gave, the displacement after it): the network sees `moving` through the displacement so far.

    Velocities are integrated on the lattice where they are decoded, which is all that they can hold. Where several
    passes follow one another, what one of them gave says nothing about the whole, and is None.
    """
    config, size = network.config, tuple(fixed.shape[2:])
    seen = moving if displacement is None else field.warp_image(moving, displacement)
    padding = [side for n in reversed(size) for side in (0, -n % config.divisor)]
    pair = F.pad(fixed, padding), F.pad(seen, padding)
    flow = network.decode_symmetric(*pair) if config.symmetric else network.decode(*pair)
    step = field.exponentiate(flow) if config.output == "velocity" else flow
    padded = tuple(pair[0].shape[2:])
    step = _unpadded(field.resize(step, padded), size)
    if displacement is not None:
        step = field.compose(displacement, step)
    if config.passes_mm:
        return None, field.smooth(step, config.pass_sigma)
    return _unpadded(field.resize(flow, padded), size), step


def _unpadded(image: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    return image[:, :, : size[0], : size[1], : size[2]]


def lattice(size: tuple[int, int, int], ratio: float) -> tuple[int, int, int]:
    """The lattice over the same box whose voxels are about `ratio` times as large, never finer than `size`."""
    return tuple(min(n, max(round(n / ratio), _LEAST_SIDE)) for n in size)


def pool(image: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """The means of (1, 1, D, H, W) over the voxels of a coarser lattice."""
    return image if tuple(image.shape[2:]) == tuple(size) else F.interpolate(image, size=size, mode="area")
