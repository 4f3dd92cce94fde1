"""Separable filters and slab-wise evaluation on voxel lattices. Widths are in voxels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F

from ..system.strategy import strategy_for


def smooth(image: torch.Tensor, sigma_voxels: float | Sequence[float], out: torch.Tensor | None = None) -> torch.Tensor:
    """Gaussian smoothing of (B, C, D, H, W), cut off at 2.5 sigma, with edge values continued outside.

    sigma_voxels: standard deviation for all axes, or along (k, j, i). out: receives the result; may be `image` itself.
    Sums of shifted slices, which are faster than conv3d on a CPU; where a Gaussian is wide, products with a matrix,
    which are faster still.
    """
    sigmas = [float(sigma_voxels)] * 3 if isinstance(sigma_voxels, (int, float)) else list(sigma_voxels)
    if max(sigmas) <= 0:
        return image if out is None else out.copy_(image)
    weights = [_half_gaussian(sigma) for sigma in sigmas]
    side_per_weight = strategy_for(image.device).matrix_side_per_weight

    def along(part: torch.Tensor, axis: int) -> torch.Tensor:
        n, (center, *others) = part.shape[axis], weights[axis - 2]
        if not others:
            return part
        if n <= side_per_weight * len(others):
            return _product_along(part, _filter_matrix(n, weights[axis - 2], part), axis)
        result = part * center
        first, last = part.narrow(axis, 0, 1), part.narrow(axis, n - 1, 1)
        for r, weight in enumerate(others, 1):
            inner, edge = max(n - r, 0), min(r, n)
            result.narrow(axis, edge, inner).add_(part.narrow(axis, 0, inner), alpha=weight)
            result.narrow(axis, 0, edge).add_(first, alpha=weight)
            result.narrow(axis, 0, inner).add_(part.narrow(axis, n - inner, inner), alpha=weight)
            result.narrow(axis, inner, edge).add_(last, alpha=weight)
        return result

    return separable(image, along, out)


def box_mean(image: torch.Tensor, radius: int, out: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of (B, C, D, H, W) over windows of (2 radius + 1)^3 voxels, with zeros outside the lattice.

    out: receives the result; may be `image` itself.
    """
    return separable(image, lambda part, axis: _window_sums(part, radius, axis), out).div_((2 * radius + 1) ** 3)


def box_mean_of_slabs(slabs: Iterable[torch.Tensor], radius: int) -> Iterator[torch.Tensor]:
    """`box_mean` of an image that comes in slabs (B, C, d, H, W) of consecutive planes, in such slabs.

    Neither the image nor the result need be in memory as a whole: a plane is given as soon as its windows are known.
    """
    held: torch.Tensor | None = None  # sums within the planes that windows further on need too
    for slab in slabs:
        batch, channels, planes, height, width = slab.shape
        held = slab.new_zeros(batch, channels, radius, height, width) if held is None else held
        known = held.shape[2]
        sums = slab.new_empty(batch, channels, known + planes, height, width)
        sums[:, :, :known] = held
        for part, inside in zip(slab.split(1, 1), sums[:, :, known:].split(1, 1)):
            inside.copy_(_window_sums(_window_sums(part, radius, 4), radius, 3))
        if known + planes > 2 * radius:
            yield _means_across_planes(sums, radius)
        held = sums[:, :, max(known + planes - 2 * radius, 0) :].clone()  # not a view, which would keep all planes
    if held is not None and held.shape[2] > radius:
        yield _means_across_planes(F.pad(held, (0, 0, 0, 0, 0, radius)), radius)


def _means_across_planes(sums: torch.Tensor, radius: int) -> torch.Tensor:
    """Means of whole windows from the sums within planes: (B, C, d + 2 radius, H, W) -> (B, C, d, H, W)."""
    width = 2 * radius + 1
    means = sums.new_empty(*sums.shape[:2], sums.shape[2] - 2 * radius, *sums.shape[3:])
    for part, mean in zip(sums.split(1, 1), means.split(1, 1)):
        torch.div(_run_sums(part, width, 2), width**3, out=mean)
    return means


def _window_sums(part: torch.Tensor, radius: int, axis: int) -> torch.Tensor:
    """Sums of 2 radius + 1 values along an axis, with zeros outside: the same shape."""
    padding = [0] * 6
    padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = radius
    return _run_sums(F.pad(part, padding), 2 * radius + 1, axis)


def _run_sums(part: torch.Tensor, width: int, axis: int) -> torch.Tensor:
    """Sums of each run of `width` values along an axis, width - 1 fewer than there are values.

    Built by doubling: the time grows with the logarithm of the width.
    """
    n, power, length, at = part.shape[axis] - width + 1, part, 1, 0
    total: torch.Tensor | None = None
    while at < width:  # add the sums of 1, 2, 4, ... values that make up the binary digits of the width
        if width & length:
            term = power.narrow(axis, at, n)
            total = term.clone() if total is None else total.add_(term)
            at += length
        if at < width:
            m = power.shape[axis] - length
            power = power.narrow(axis, 0, m) + power.narrow(axis, length, m)
        length *= 2
    assert total is not None  # the width is at least 1
    return total


def separable(
    image: torch.Tensor, along: Callable[[torch.Tensor, int], torch.Tensor], out: torch.Tensor | None = None
) -> torch.Tensor:
    """Apply the one-dimensional filter `along(part, axis)` along the axes 4, 3 and 2 of (B, C, D, H, W).

    along: keeps the shape and mixes values along `axis` only. out: receives the result; may be `image` itself.
    On a CPU it works in blocks that fit the cache, which halves the time on large volumes.
    """
    depth, height, width = image.shape[2:]
    block = strategy_for(image.device).block_voxels
    if block is None or image.requires_grad or depth * height * width <= block:
        for axis in (4, 3, 2):
            image = along(image, axis)
        return image if out is None else out.copy_(image)
    result = torch.empty_like(image) if out is None else out
    planes, rows = max(1, block // (height * width)), max(1, block // (depth * width))
    for whole, done in zip(image.split(1, 1), result.split(1, 1)):
        for first in range(0, depth, planes):
            part = slice(first, first + planes)
            done[:, :, part] = along(along(whole[:, :, part], 4), 3)
        for first in range(0, height, rows):
            part = slice(first, first + rows)
            done[:, :, :, part] = along(done[:, :, :, part], 2)
    return result


def apply_in_slabs(
    measure: Callable[..., torch.Tensor], *fields: torch.Tensor, out: torch.Tensor, planes: int | None = None
) -> torch.Tensor:
    """Evaluate `measure(*fields)` slab by slab into `out` (..., D, H, W), to bound the memory of its temporaries.

    measure: depends on direct neighbors only. fields: (1, C, D, H, W) each. planes: planes of a slab; by default what
    fits the cache on a CPU, and the whole lattice on other devices.
    """
    depth, height, width = out.shape[-3:]
    if planes is None:
        block = strategy_for(out.device).block_voxels
        planes = depth if block is None else max(1, block // (height * width))
    for first in range(0, depth, planes):
        last = min(first + planes, depth)
        # one plane more on either side, where there is one; a difference needs two
        start, end = max(min(first - 1, depth - 2), 0), min(max(last + 1, 2), depth)
        part = measure(*(each[:, :, start:end] for each in fields))
        out[..., first:last, :, :] = part[..., first - start : last - start, :, :]
    return out


def _filter_matrix(n: int, half: list[float], like: torch.Tensor) -> torch.Tensor:
    """(n, n): the symmetric filter with weights `half` from its center outward, with edge values continued outside."""
    reach = len(half) - 1
    weights = like.new_tensor([*half[:0:-1], *half]).expand(n, -1)
    columns = torch.arange(n, device=like.device)[:, None] + torch.arange(-reach, reach + 1, device=like.device)
    return like.new_zeros(n, n).scatter_add_(1, columns.clamp_(0, n - 1), weights)


def _product_along(part: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """`matrix` (n, n) times each line of (B, C, D, H, W) along an axis of n voxels."""
    if axis == 4:
        return part @ matrix.T
    if axis == 3:
        return matrix @ part
    return (matrix @ part.flatten(3)).view(part.shape)


def _half_gaussian(sigma: float) -> list[float]:
    """Weights of a Gaussian from its center outward; the weights of both sides add up to 1."""
    if sigma <= 0:
        return [1.0]
    weights = [math.exp(-0.5 * (r / sigma) ** 2) for r in range(max(1, math.ceil(2.5 * sigma)) + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]
