"""The last step of a registration: a displacement without folds, and an inverse that its lattice can hold (ours).

Where little happens nothing is computed: the work goes by lists of nodes, and after a change only what the change
reaches is done again. Fields as in `field.py`, in voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from . import field

_NEGLIGIBLE = 0.008  # voxels there and back that need no correction
_SOLVED = 0.02  # voxels that the first part of an inverse may be off, for the second to correct
_UNNOTICED = 0.002  # voxels: a change that is not made, so that its surroundings need not be looked at again
_BLOCK = 24
_SLAB = 16
_FEW = 0.05  # share of nodes below which each is looked at


def settle(
    displacement: torch.Tensor,
    largest: float = 0.07,
    rounds: int = 6,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(u, w, c): the displacement without folds, and its inverse in two parts (`TwoPartInverse`).

    Where there and back ends more than `largest` voxels off, the map bends too sharply for its lattice, and is smoothed
    there only, and mildly: strong smoothing makes new bends around the patch. A few rounds leave few of these places,
    and cost less overlap than a stiffer field everywhere.
    """
    displacement = unfold(straighten(displacement))
    progress(0.2)
    inverse = TwoPartInverse(displacement)
    for attempt in range(rounds):
        progress((attempt + 3) / (rounds + 3))
        sharp = inverse.error > largest
        if not bool(sharp.any()):
            break
        patch = _patch(F.pad(sharp.float(), (0, 1) * 3), 1)
        smoother = unfold(_blend(displacement, patch, 1.3), within=patch[0, 0] > 0)
        changed = (smoother != displacement).any(1)[0]
        displacement = smoother
        inverse.update(displacement, changed)
    return displacement, inverse.first, inverse.second


def straighten(displacement: torch.Tensor, sharpest: float = 1.1, rounds: int = 4) -> torch.Tensor:
    """Smooth the displacement only where it bends sharply for how much it compresses, in a few rounds.

    The inverse's error goes with the second differences over the Jacobian determinant (correlation 0.74 over a brain):
    most of what the inverse could not hold is found by this alone, in a fifth of the time that inverting takes.
    """
    for _ in range(rounds):
        bend = torch.zeros_like(displacement[0, 0])
        for axis in range(3):
            n = bend.shape[axis]
            second = displacement[0].diff(n=2, dim=axis + 1)
            bend.narrow(axis, 1, n - 2).add_(_length(second))
        sharp = bend > sharpest * field.jacobian_determinant(displacement).clamp_(min=0.05)
        if not bool(sharp.any()):
            break
        displacement = _blend(displacement, _patch(sharp[None, None].float(), 1), 1.3)
    return displacement


def unfold(
    displacement: torch.Tensor, least: float = 0.02, rounds: int = 40, within: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth the displacement only where a corner Jacobian falls below `least`, until none does.

    The patch grows with the rounds; should folding outlive them all, the whole displacement is scaled down, which ends
    at the identity at the latest. within: (D, H, W) nodes outside of which it is known not to fold.
    """
    for attempt in range(rounds):
        folded = folded_nodes(displacement, least, within)
        if not bool(folded.any()):
            return displacement
        reach = 2 + attempt // 4
        patch = _patch(folded[None, None].float(), reach)
        displacement = _blend(displacement, patch, 1.0)
        within = patch[0, 0] > 0 if within is None else within | (patch[0, 0] > 0)
    while bool(folded_nodes(displacement, least).any()):
        displacement = displacement * 0.9
    return displacement


def folded_nodes(displacement: torch.Tensor, least: float = 0.0, within: torch.Tensor | None = None) -> torch.Tensor:
    """(D, H, W), where the least of a node's eight corner Jacobians is below `least` (`field.least_corner_jacobian`).

    within: (D, H, W), the nodes in question and, by one node's reach, their neighbours; elsewhere False is answered.
    """
    if within is None:
        return _folded(displacement[0], least, None)
    asked = _dilated(within, 1)
    result = torch.zeros_like(asked)
    box = _box(asked, 1)
    result[box] = _folded(displacement[0][(slice(None), *box)], least, asked[box])
    return result


def _folded(u: torch.Tensor, least: float, asked: torch.Tensor | None) -> torch.Tensor:
    """`folded_nodes` of (3, D, H, W), at the nodes asked for, or at all.

    Where many are asked for, those whose `_least_determinant` answers for all eight corners are not looked at.
    """
    shape = u.shape[1:]
    if asked is not None and int(asked.sum()) < _FEW * asked.numel():
        doubtful = asked
    else:
        safe = max(least, 1e-6) * 1.01  # rounding
        doubtful = torch.empty(shape, dtype=torch.bool, device=u.device)
        for first in range(0, shape[0], _SLAB):  # what lies in between stays in the cache
            doubtful[first : first + _SLAB] = _least_determinant(u, first, min(first + _SLAB, shape[0])) < safe
        if asked is not None:
            doubtful &= asked
    result = torch.zeros(shape, dtype=torch.bool, device=u.device)
    nodes = _numbers(doubtful)
    if not len(nodes):
        return result
    flat = u.reshape(3, -1)
    strides = (shape[1] * shape[2], shape[2], 1)
    places = _places(nodes, shape)
    here = flat[:, nodes]
    forward, backward = [], []
    for axis in range(3):
        at_end, at_start = places[axis] == shape[axis] - 1, places[axis] == 0
        ahead = flat[:, nodes + torch.where(at_end, 0, strides[axis])] - here
        behind = here - flat[:, nodes - torch.where(at_start, 0, strides[axis])]
        for difference, missing, other in ((ahead, at_end, behind), (behind, at_start, ahead)):
            column = torch.where(missing, other, difference)
            column[axis] += 1
            (forward if difference is ahead else backward).append(column)
    lowest = None
    for bits in range(8):
        columns = [(forward, backward)[bits >> axis & 1][axis] for axis in range(3)]
        value = field.determinant(columns)
        lowest = value if lowest is None else torch.minimum(lowest, value)
    result.view(-1)[nodes] = lowest < least
    return result


def _least_determinant(u: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """What no corner Jacobian of x + u falls below, or 0: (3, D, H, W) -> its planes from `first` up to `last`.

    Where each number on the diagonal is larger than the others of its row together, the determinant is at least the
    product of what it is larger by (Ostrowski, 1937).
    """
    start, end = max(first - 1, 0), min(last + 1, u.shape[1])
    product = None
    for row, component in enumerate(u[:, start:end]):
        excess = torch.ones_like(component)
        for axis in range(3):
            n = component.shape[axis]
            difference = component.diff(dim=axis)
            if axis != row:
                difference = difference.abs_().neg_()
            both = F.pad(difference, [0] * (2 * (2 - axis)) + [1, 1], value=math.inf)
            excess += torch.minimum(both.narrow(axis, 0, n), both.narrow(axis, 1, n))
        excess.clamp_(min=0)
        product = excess if product is None else product.mul_(excess)
    return product[first - start : last - start]


class TwoPartInverse:
    """`first` w and `second` c with (id + c)(id + w)(id + u) the identity but for `error`, a length in voxels.

    No inverse sampled on a lattice is good where the map compresses, because it is steep there: one of its cells holds
    many voxels of the forward side. Seen from that side the error is small and smooth, and c takes it away. What
    remains is least at the nodes and most in the middle of the cells, so c shares it out between the two; `error`,
    (1, 1, D-1, H-1, W-1), is what remains in the middle of each cell.
    """

    def __init__(self, displacement: torch.Tensor):
        size = tuple(displacement.shape[2:])
        coarse = field.resize(displacement, tuple(max(n // 2, 2) for n in size))
        self._u = displacement
        self.first = field.resize(field.invert(coarse, tolerance=5e-3), size).contiguous()
        self.second = torch.zeros_like(displacement)
        self.error = displacement.new_zeros(1, 1, *(n - 1 for n in size))
        residual = field.compose(displacement, self.first)[0]
        self._solve(_numbers(_length(residual) > _SOLVED))
        self._correct(torch.ones(size, dtype=torch.bool, device=displacement.device))

    def update(self, displacement: torch.Tensor, changed: torch.Tensor) -> None:
        """Follow a displacement that differs from the last one where `changed` (D, H, W) says."""
        self._u = displacement
        if not bool(changed.any()):
            return
        reached = _seen_through(_dilated(changed, 1), self.first)
        before = self.first.clone()
        self._solve(_numbers(reached))
        moved = _length(self.first[0] - before[0]) > _UNNOTICED
        self._correct(_dilated(changed | _seen_through(moved, displacement), 1))

    def _solve(self, nodes: torch.Tensor) -> None:
        """w(y) = -u(y + w(y)) at these nodes."""
        flat = self.first.view(3, -1)
        places = _places(nodes, tuple(self._u.shape[2:])).float()
        flat.index_copy_(1, nodes, inverted_at(self._u, places, flat.index_select(1, nodes)))

    def _correct(self, within: torch.Tensor) -> None:
        """c and the error at the nodes `within` (D, H, W) and the cells that they touch."""
        size = tuple(self._u.shape[2:])
        second = self.second.view(3, -1)
        nodes = _numbers(within)
        second.index_fill_(1, nodes, 0) if len(nodes) < within.numel() else second.zero_()
        dense = torch.zeros_like(second)
        if len(nodes) == within.numel():
            dense = field.compose(self.first, self._u).view(3, -1)
        else:
            u = self._u.view(3, -1).index_select(1, nodes)
            dense.index_copy_(1, nodes, sampled(self.first, _places(nodes, size) + u).add_(u))
        far = _dilated((_length(dense) > _NEGLIGIBLE).view(size), 1) & within
        nodes = _numbers(far)
        there_and_back = dense.index_select(1, nodes)
        second.index_copy_(1, nodes, -there_and_back)
        places = _places(nodes, size).float()
        at_nodes = there_and_back + sampled(self.second, places + there_and_back)

        touched = _any_of_eight(far)  # cell (k, j, i) has the nodes k and k + 1
        for axis in range(3):
            touched.select(axis, size[axis] - 1).fill_(False)
        cells = _numbers(touched)
        start = _places(cells, size) + 0.5
        middle = _mean_of_eight(self._u).view(3, -1).index_select(1, cells)
        middle = middle + sampled(self.first, start + middle)  # from here on fixed: only c changes
        dense.zero_().index_copy_(1, cells, middle + sampled(self.second, start + middle))
        # the cells of a node lie behind it; the first nodes have none there, and nothing moves at them
        around = F.pad(_mean_of_eight(dense.view(1, 3, *size)), (1, 0) * 3)[..., :-1, :-1, :-1]
        around = around.reshape(3, -1).index_select(1, nodes)
        second.index_add_(1, nodes, at_nodes.add_(around), alpha=-0.5)
        errors = torch.zeros(size, device=dense.device)
        errors.view(-1).index_copy_(0, cells, _length(middle + sampled(self.second, start + middle)))
        renewed = within | touched
        self.error[0, 0] = torch.where(renewed, errors, F.pad(self.error[0, 0], (0, 1) * 3))[:-1, :-1, :-1]


def inverted_at(
    displacement: torch.Tensor, places: torch.Tensor, start: torch.Tensor, steps: int = 4, tolerance: float = _SOLVED
) -> torch.Tensor:
    """w (3, N) with w = -u(y + w) at the places y (3, N), all in voxels, by Newton's method from `start`.

    No step is longer than a voxel; places that are solved to `tolerance` are left alone.
    """
    inverse = start.clone()
    left = torch.arange(places.shape[1], device=places.device)
    for _ in range(steps):
        at = places[:, left] + inverse[:, left]
        residual = inverse[:, left] + sampled(displacement, at)
        far = _length(residual) > tolerance
        if not bool(far.any()):
            break
        left, at, residual = left[far], at[:, far], residual[:, far]
        columns = []
        for axis in range(3):
            shift = at.new_zeros(3, 1)
            shift[axis] = 0.5
            column = sampled(displacement, at + shift) - sampled(displacement, at - shift)
            column[axis] += 1
            columns.append(column)
        a, b, c = columns
        scale = 1 / field.determinant(columns).clamp(min=0.05)
        crossed = ((b, c), (c, a), (a, b))
        step = torch.stack([(torch.linalg.cross(p, q, dim=0) * residual).sum(0) * scale for p, q in crossed])
        inverse[:, left] -= step / _length(step).clamp(min=1)
    return inverse


def sampled(image: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, C, D, H, W) at `places` (3, N), in voxels (k, j, i) -> (C, N); beyond the lattice its edge goes on.

    On the CPU grid_sample runs one thread per batch item, so the list is dealt out to as many.
    """
    count = places.shape[1]
    hands = torch.get_num_threads() if image.device.type == "cpu" else 1
    each = max(1, math.ceil(count / hands))
    scale = torch.tensor([2 / max(n - 1, 1) for n in image.shape[2:]], device=image.device).view(3, 1)
    points = F.pad((places * scale - 1).flip(0), (0, each * hands - count)).t().reshape(hands, 1, 1, each, 3)
    values = F.grid_sample(
        image.expand(hands, -1, -1, -1, -1), points, mode="bilinear", padding_mode="border", align_corners=True
    )
    return values.movedim(0, 1).reshape(image.shape[1], -1)[:, :count]


def _numbers(marked: torch.Tensor) -> torch.Tensor:
    """(D, H, W) -> the numbers of the marked nodes, counted through the lattice."""
    return marked.flatten().nonzero()[:, 0]


def _box(marked: torch.Tensor, margin: int) -> tuple[slice, ...]:
    """The box of what is marked and `margin` nodes around it, as far as the lattice goes; empty where nothing is."""
    sides = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        places = marked.any(others[1]).any(others[0]).nonzero()[:, 0]
        if not len(places):
            return (slice(0, 0),) * 3
        sides.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + 1 + margin))
    return tuple(sides)


def _mean_of_eight(image: torch.Tensor) -> torch.Tensor:
    """(1, C, D, H, W): the mean of each node and its next ones along the axes; wrong on the last faces."""
    for axis in (2, 3, 4):
        n = image.shape[axis]
        mean = image.clone()
        mean.narrow(axis, 0, n - 1).add_(image.narrow(axis, 1, n - 1)).mul_(0.5)
        image = mean
    return image


def _places(nodes: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """(3, N) = (k, j, i) of nodes numbered through the lattice."""
    plane = size[1] * size[2]
    return torch.stack([nodes // plane, nodes % plane // size[2], nodes % size[2]])


def _length(vectors: torch.Tensor) -> torch.Tensor:
    """(3, ...) -> (...)."""
    return field.length(vectors[None])[0, 0]


def _seen_through(marked: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """(D, H, W): the nodes that `displacement` takes into a cell one of whose nodes is marked."""
    return field.warp(marked[None, None].float(), displacement)[0, 0] > 0


def _dilated(marked: torch.Tensor, reach: int) -> torch.Tensor:
    """(D, H, W), within `reach` nodes of what is marked, along each axis."""
    for axis in range(3):
        n, grown = marked.shape[axis], marked.clone()
        for step in range(1, reach + 1):
            grown.narrow(axis, 0, n - step).logical_or_(marked.narrow(axis, step, n - step))
            grown.narrow(axis, step, n - step).logical_or_(marked.narrow(axis, 0, n - step))
        marked = grown
    return marked


def _any_of_eight(marked: torch.Tensor) -> torch.Tensor:
    """(D, H, W), whether a node or its next ones along the axes are marked."""
    for axis in range(3):
        n, grown = marked.shape[axis], marked.clone()
        grown.narrow(axis, 0, n - 1).logical_or_(marked.narrow(axis, 1, n - 1))
        marked = grown
    return marked


def _patch(marked: torch.Tensor, reach: int) -> torch.Tensor:
    """1 within `reach` voxels of what is marked, fading to 0 around."""
    return field.smooth(_dilated(marked[0, 0] > 0, reach)[None, None].float(), 1.0)


def _blend(displacement: torch.Tensor, patch: torch.Tensor, sigma: float) -> torch.Tensor:
    """displacement + patch (smoothed - displacement), block by block where the patch is not zero."""
    size = tuple(displacement.shape[2:])
    halo = max(1, math.ceil(2.5 * sigma))
    counts = [math.ceil(n / _BLOCK) for n in size]
    filled = [count * _BLOCK - n for n, count in zip(size, counts)]
    coverage = F.max_pool3d(F.pad(patch, (0, filled[2], 0, filled[1], 0, filled[0])), _BLOCK)[0, 0]
    result = displacement.clone()
    for block in coverage.nonzero().tolist():
        first = [b * _BLOCK for b in block]
        last = [min(f + _BLOCK, n) for f, n in zip(first, size)]
        low = [max(f - halo, 0) for f in first]
        high = [min(e + halo, n) for e, n in zip(last, size)]
        around = (..., *(slice(a, b) for a, b in zip(low, high)))
        core = (..., *(slice(a, b) for a, b in zip(first, last)))
        inside = (..., *(slice(a - c, b - c) for a, b, c in zip(first, last, low)))
        smoothed = field.smooth(displacement[around], sigma)[inside]
        change = patch[core] * (smoothed - displacement[core])
        result[core] += change * (change.abs().amax(1, keepdim=True) > _UNNOTICED)
    return result
