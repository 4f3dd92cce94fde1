"""Folding of a displacement field: where the map folds, and how that is removed (ours). Lengths are in voxels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..system.strategy import strategy_for
from .displacement import determinant, jacobian_determinant, lattice_size, least_corner_jacobian
from .filters import smooth
from .nodes import box_around, dilated_mask, flat_indices, lengths, unravel

NEGLIGIBLE_CHANGE_VOXELS = 0.002  # a smaller change is not made, so that its surroundings need not be checked again
_BLEND_BLOCK_SIDE = 24  # voxels
_BOUND_SLAB_PLANES = 16
_SPARSE_FRACTION = 0.05  # of the nodes; below it each is checked without a bound first


def remove_folds(
    displacement: torch.Tensor, least: float = 0.02, rounds: int = 40, within: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth the displacement (1, 3, D, H, W) only where a corner Jacobian falls below `least`, until none does.

    The smoothed patch grows with the rounds. Should folds outlive all rounds, the whole displacement is scaled down,
    which ends at the identity at the latest. within: mask (D, H, W); outside it the field is known not to fold.

    Where the host must not wait, it looks for folds after every few rounds only: a round without any changes nothing.
    """
    strategy = strategy_for(displacement.device)
    if not strategy.waits:
        return _remove_folds_without_waiting(displacement, least, rounds, strategy.look_interval)
    for attempt in range(rounds):
        folded = folding_mask(displacement, least, within)
        if not bool(folded.any()):
            return displacement
        patch = smooth_patch(folded, 2 + attempt // 4)
        displacement = blend_smoothed(displacement, patch, 1.0)
        within = patch[0, 0] > 0 if within is None else within | (patch[0, 0] > 0)
    while bool(folding_mask(displacement, least).any()):
        displacement = displacement * 0.9
    return displacement


def _remove_folds_without_waiting(
    displacement: torch.Tensor, least: float, rounds: int, look_interval: int
) -> torch.Tensor:
    """`remove_folds` on whole fields, with one look of the host in `look_interval` rounds."""
    for attempt in range(rounds):
        patch = smooth_patch(folding_mask(displacement, least), 2 + attempt // 4)
        displacement = blend_smoothed(displacement, patch, 1.0)
        if (attempt + 1) % look_interval == 0 and not bool(folding_mask(displacement, least).any()):
            return displacement
    while bool(folding_mask(displacement, least).any()):
        for _ in range(look_interval):
            displacement = torch.where(folding_mask(displacement, least).any(), displacement * 0.9, displacement)
    return displacement


def smooth_sharp_bends(displacement: torch.Tensor, sharpest: float = 1.1, rounds: int = 4) -> torch.Tensor:
    """Smooth the displacement (1, 3, D, H, W) where second differences are large relative to the Jacobian determinant.

    sharpest: the largest ratio that is kept. The error of the inverse follows this ratio (correlation 0.74 over a
    brain). This finds most of what the inverse cannot hold, in a fifth of the time of an inversion.
    """
    waits = strategy_for(displacement.device).waits
    for _ in range(rounds):
        bend = torch.zeros_like(displacement[0, 0])
        for axis in range(3):
            n = bend.shape[axis]
            second = displacement[0].diff(n=2, dim=axis + 1)
            bend.narrow(axis, 1, n - 2).add_(lengths(second))
        sharp = bend > sharpest * jacobian_determinant(displacement).clamp_(min=0.05)
        if waits and not bool(sharp.any()):
            break
        displacement = blend_smoothed(displacement, smooth_patch(sharp, 1), 1.3)
    return displacement


def folding_mask(displacement: torch.Tensor, least: float = 0.0, within: torch.Tensor | None = None) -> torch.Tensor:
    """Nodes (D, H, W) at which the least of the eight corner Jacobians is below `least`.

    Equal to `displacement.least_corner_jacobian(u) < least`. within: mask (D, H, W); only these nodes and their direct
    neighbors are checked, and the answer is False elsewhere.
    """
    if not strategy_for(displacement.device).selects_nodes:
        folded = least_corner_jacobian(displacement) < least
        return folded if within is None else folded & dilated_mask(within, 1)
    if within is None:
        return _folding_mask(displacement[0], least, None)
    candidates = dilated_mask(within, 1)
    result = torch.zeros_like(candidates)
    box = box_around(candidates, 1)
    result[box] = _folding_mask(displacement[0][(slice(None), *box)], least, candidates[box])
    return result


def smooth_patch(marked: torch.Tensor, radius: int) -> torch.Tensor:
    """(1, 1, D, H, W): 1 within `radius` voxels of the mask (D, H, W), falling to 0 around it."""
    return smooth(dilated_mask(marked, radius)[None, None].float(), 1.0)


def blend_smoothed(displacement: torch.Tensor, patch: torch.Tensor, sigma: float) -> torch.Tensor:
    """displacement + patch (smoothed - displacement), in blocks where the patch (1, 1, D, H, W) is not zero."""
    if not strategy_for(displacement.device).selects_nodes:
        return displacement + _without_negligible((smooth(displacement, sigma) - displacement).mul_(patch))
    side, size = _BLEND_BLOCK_SIDE, lattice_size(displacement)
    halo = max(1, math.ceil(2.5 * sigma))
    counts = [math.ceil(n / side) for n in size]
    filled = [count * side - n for n, count in zip(size, counts)]
    coverage = F.max_pool3d(F.pad(patch, (0, filled[2], 0, filled[1], 0, filled[0])), side)[0, 0]
    result = displacement.clone()
    for block in coverage.nonzero().tolist():
        first = [b * side for b in block]
        last = [min(f + side, n) for f, n in zip(first, size)]
        low = [max(f - halo, 0) for f in first]
        high = [min(e + halo, n) for e, n in zip(last, size)]
        around = _box_index(low, high)
        core = _box_index(first, last)
        inside = _box_index([a - c for a, c in zip(first, low)], [b - c for b, c in zip(last, low)])
        smoothed = smooth(displacement[around], sigma)[inside]
        result[core] += _without_negligible(patch[core] * (smoothed - displacement[core]))
    return result


def _without_negligible(change: torch.Tensor) -> torch.Tensor:
    """A change of a displacement (1, 3, D, H, W), and 0 where it is negligible."""
    return change * (change.abs().amax(1, keepdim=True) > NEGLIGIBLE_CHANGE_VOXELS)


def _box_index(first: list[int], last: list[int]) -> tuple[slice, ...]:
    """The index of a box of (1, C, D, H, W), from `first` up to `last`."""
    return (slice(None), slice(None), *(slice(a, b) for a, b in zip(first, last)))


def _folding_mask(u: torch.Tensor, least: float, candidates: torch.Tensor | None) -> torch.Tensor:
    """`folding_mask` of (3, D, H, W) at the candidates (D, H, W), or at all nodes."""
    result = torch.zeros(u.shape[1:], dtype=torch.bool, device=u.device)
    nodes = flat_indices(_nodes_to_check(u, least, candidates))
    if len(nodes):
        result.view(-1)[nodes] = _least_corner_jacobian_at(u, nodes) < least
    return result


def _nodes_to_check(u: torch.Tensor, least: float, candidates: torch.Tensor | None) -> torch.Tensor:
    """Mask (D, H, W) of the nodes that `_ostrowski_bound` does not exclude; few candidates are checked without it."""
    if candidates is not None and int(candidates.sum()) < _SPARSE_FRACTION * candidates.numel():
        return candidates
    safe = max(least, 1e-6) * 1.01  # rounding
    planes = u.shape[1]
    unsure = torch.empty(u.shape[1:], dtype=torch.bool, device=u.device)
    for first in range(0, planes, _BOUND_SLAB_PLANES):  # the temporaries of a slab stay in the cache
        last = min(first + _BOUND_SLAB_PLANES, planes)
        unsure[first:last] = _ostrowski_bound(u, first, last) < safe
    return unsure if candidates is None else unsure & candidates


def _least_corner_jacobian_at(u: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """The least of the eight corner Jacobians of (3, D, H, W) at the nodes with the flat indices (N,): (N,)."""
    depth, height, width = u.shape[1:]
    shape = (depth, height, width)
    flat = u.reshape(3, -1)
    strides = (shape[1] * shape[2], shape[2], 1)
    index = unravel(nodes, shape)
    center = flat[:, nodes]
    forward: list[torch.Tensor] = []
    backward: list[torch.Tensor] = []
    for axis in range(3):
        at_end, at_start = index[axis] == shape[axis] - 1, index[axis] == 0
        ahead = flat[:, nodes + torch.where(at_end, 0, strides[axis])] - center
        behind = center - flat[:, nodes - torch.where(at_start, 0, strides[axis])]
        for difference, missing, other in ((ahead, at_end, behind), (behind, at_start, ahead)):
            column = torch.where(missing, other, difference)
            column[axis] += 1
            (forward if difference is ahead else backward).append(column)
    lowest = torch.full((len(nodes),), math.inf, device=u.device)
    for bits in range(8):
        columns = [(forward, backward)[bits >> axis & 1][axis] for axis in range(3)]
        lowest = torch.minimum(lowest, determinant(columns))
    return lowest


def _ostrowski_bound(u: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """A lower bound of the corner Jacobians of x + u, or 0: (3, D, H, W) -> its planes from `first` up to `last`.

    For a matrix that is strictly diagonally dominant by rows, the determinant is at least the product of the
    dominances (Ostrowski, 1937).
    """
    start, end = max(first - 1, 0), min(last + 1, u.shape[1])
    bound = torch.ones_like(u[0, start:end])
    for row, component in enumerate(u[:, start:end]):
        dominance = torch.ones_like(component)
        for axis in range(3):
            n = component.shape[axis]
            difference = component.diff(dim=axis)
            if axis != row:
                difference = difference.abs_().neg_()
            both = F.pad(difference, [0] * (2 * (2 - axis)) + [1, 1], value=math.inf)
            dominance += torch.minimum(both.narrow(axis, 0, n), both.narrow(axis, 1, n))
        bound.mul_(dominance.clamp_(min=0))
    return bound[first - start : last - start]
