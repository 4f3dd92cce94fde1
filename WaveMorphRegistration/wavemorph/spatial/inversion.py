"""The inverse of a displacement field, in two parts that a lattice can hold (ours). Lengths are in voxels."""

from __future__ import annotations

from collections.abc import Callable

import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..system.strategy import strategy_for
from .displacement import compose, determinant, invert, lattice_size, resize
from .folding import NEGLIGIBLE_CHANGE_VOXELS, blend_smoothed, remove_folds, smooth_patch, smooth_sharp_bends
from .grid import WorkingGrid
from .nodes import (
    cell_means,
    dilated_mask,
    flat_indices,
    lengths,
    marked_cells,
    preimage,
    sample_at_points,
    unravel,
)

_NEGLIGIBLE_ERROR_VOXELS = 0.008  # errors of the first part that need no correction
_FIRST_PART_TOLERANCE_VOXELS = 0.02  # errors of the first part that the second may correct
_POINTS_AT_ONCE = 200_000  # that are inverted together, to bound the memory of the temporaries
_NEWTON_STEPS = 4  # for the first part, from a good start


def regularize_and_invert(
    displacement: torch.Tensor,
    largest: float = 0.07,
    rounds: int = 6,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(u, w, c): the displacement without folds, and its inverse in two parts (`TwoPartInverse`).

    Where the round trip misses by more than `largest` voxels, the map bends too sharply for its lattice and is smoothed
    locally. The smoothing is mild, because strong smoothing makes new bends around the patch. This costs less overlap
    than a smoother field everywhere. All fields are (1, 3, D, H, W). progress(fraction) is called between the rounds.
    """
    displacement = remove_folds(smooth_sharp_bends(displacement))
    progress(0.2)
    inverse = make_two_part_inverse(displacement)
    look_interval = -(-strategy_for(displacement.device).look_interval // _NEWTON_STEPS)
    for attempt in range(rounds):
        progress((attempt + 3) / (rounds + 3))
        sharp = inverse.error > largest
        if attempt % look_interval == 0 and not bool(sharp.any()):
            break
        patch = smooth_patch(F.pad(sharp[0, 0].float(), (0, 1) * 3) > 0, 1)
        smoother = remove_folds(blend_smoothed(displacement, patch, 1.3), within=patch[0, 0] > 0)
        changed = (smoother != displacement).any(1)[0]
        displacement = smoother
        inverse.update(displacement, changed)
    return displacement, inverse.first, inverse.second


def invert_displacement_image(displacement: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """(inverse displacement, its correction) of a displacement image as `WorkingGrid.to_mm` makes it, LPS mm.

    The map itself is not changed, unlike by `regularize_and_invert`, so that the inverse is less exact where the map
    compresses strongly.
    """
    grid = WorkingGrid.inside_ring_of(displacement)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    with torch.inference_mode():
        inverse = make_two_part_inverse(grid.from_mm(transform))
        return grid.to_mm(inverse.first), grid.to_mm(inverse.second)


class TwoPartInverse:
    """`first` w and `second` c, with (id + c)(id + w)(id + u) equal to the identity within `error` voxels.

    An inverse sampled on a lattice is inexact where the map compresses: one of its cells holds many voxels of the
    forward side. On the forward lattice that error is small and smooth, and c corrects it. What remains is least at the
    nodes and largest at the centers of the cells, so c balances the two. first, second: (1, 3, D, H, W).
    error: (1, 1, D-1, H-1, W-1), the remaining length at the center of each cell.
    """

    def __init__(self, displacement: torch.Tensor):
        size = lattice_size(displacement)
        coarse = resize(displacement, (max(size[0] // 2, 2), max(size[1] // 2, 2), max(size[2] // 2, 2)))
        self._u = displacement
        self.first = resize(invert(coarse, tolerance=5e-3), size).contiguous()
        self.second = torch.zeros_like(displacement)
        self.error = displacement.new_zeros(1, 1, *(n - 1 for n in size))
        residual = compose(displacement, self.first)[0]
        self._solve(lengths(residual) > _FIRST_PART_TOLERANCE_VOXELS)
        self._correct(torch.ones(size, dtype=torch.bool, device=displacement.device))

    def update(self, displacement: torch.Tensor, changed: torch.Tensor) -> None:
        """Update both parts for a displacement that has changed at the nodes in the mask `changed` (D, H, W)."""
        self._u = displacement
        if strategy_for(displacement.device).waits and not bool(changed.any()):
            return
        before = self.first.clone()
        self._solve(preimage(dilated_mask(changed, 1), self.first))
        moved = lengths(self.first[0] - before[0]) > NEGLIGIBLE_CHANGE_VOXELS
        self._correct(dilated_mask(changed | preimage(moved, displacement), 1))

    def _solve(self, marked: torch.Tensor) -> None:
        """Solve w(y) = -u(y + w(y)) at the nodes in the mask `marked` (D, H, W)."""
        flat, nodes = self.first.view(3, -1), flat_indices(marked)
        points = unravel(nodes, lattice_size(self._u)).float()
        flat.index_copy_(1, nodes, invert_at_points(self._u, points, flat.index_select(1, nodes)))

    def _correct(self, within: torch.Tensor) -> None:
        """Compute c and the error at the nodes in the mask `within` (D, H, W) and in the cells that they touch."""
        size = lattice_size(self._u)
        second = self.second.view(3, -1)
        nodes = flat_indices(within)
        second.index_fill_(1, nodes, 0) if len(nodes) < within.numel() else second.zero_()
        round_trip = torch.zeros_like(second)
        if len(nodes) == within.numel():
            round_trip = compose(self.first, self._u).view(3, -1)
        else:
            u = self._u.view(3, -1).index_select(1, nodes)
            round_trip.index_copy_(1, nodes, sample_at_points(self.first, unravel(nodes, size) + u).add_(u))
        inexact = dilated_mask((lengths(round_trip) > _NEGLIGIBLE_ERROR_VOXELS).view(size), 1) & within
        nodes = flat_indices(inexact)
        miss = round_trip.index_select(1, nodes)
        second.index_copy_(1, nodes, -miss)
        points = unravel(nodes, size).float()
        at_nodes = miss + sample_at_points(self.second, points + miss)

        touched = marked_cells(inexact)
        for axis in range(3):
            touched.select(axis, size[axis] - 1).fill_(False)
        cells = flat_indices(touched)
        start = unravel(cells, size) + 0.5
        moved = cell_means(self._u).view(3, -1).index_select(1, cells)
        moved = moved + sample_at_points(self.first, start + moved)  # does not change below: only c does
        round_trip.zero_().index_copy_(1, cells, moved + sample_at_points(self.second, start + moved))
        # the cells of a node precede it; the first nodes have none, and the displacement is 0 there
        around = F.pad(cell_means(round_trip.view(1, 3, *size)), (1, 0) * 3)[..., :-1, :-1, :-1]
        around = around.reshape(3, -1).index_select(1, nodes)
        second.index_add_(1, nodes, at_nodes.add_(around), alpha=-0.5)
        errors = torch.zeros(size, device=round_trip.device)
        errors.view(-1).index_copy_(0, cells, lengths(moved + sample_at_points(self.second, start + moved)))
        renewed = within | touched
        self.error[0, 0] = torch.where(renewed, errors, F.pad(self.error[0, 0], (0, 1) * 3))[:-1, :-1, :-1]


class _WholeFieldInverse(TwoPartInverse):
    """`TwoPartInverse` at all nodes with masks, for devices for whose lists of nodes the host would have to wait."""

    def _solve(self, marked: torch.Tensor) -> None:
        points = _all_nodes(self._u)
        start = self.first.view(3, -1)
        solved = _invert_masked(self._u, points, start, marked.flatten(), _NEWTON_STEPS, _FIRST_PART_TOLERANCE_VOXELS)
        self.first = solved.view_as(self.first)

    def _correct(self, within: torch.Tensor) -> None:
        size, points = lattice_size(self._u), _all_nodes(self._u)
        round_trip = compose(self.first, self._u)
        inexact = dilated_mask((lengths(round_trip[0]) > _NEGLIGIBLE_ERROR_VOXELS) & within, 1) & within
        miss = torch.where(inexact, round_trip, 0.0)
        self.second = torch.where(within, -miss, self.second)
        at_nodes = miss.view(3, -1) + sample_at_points(self.second, points + miss.view(3, -1))

        touched = marked_cells(inexact)
        for axis in range(3):
            touched.select(axis, size[axis] - 1).fill_(False)
        start, moved = points + 0.5, cell_means(self._u).view(3, -1)
        moved = moved + sample_at_points(self.first, start + moved)
        error = moved + sample_at_points(self.second, start + moved)
        around = F.pad(cell_means(torch.where(touched, error.view(1, 3, *size), 0.0)), (1, 0) * 3)[..., :-1, :-1, :-1]
        change = (at_nodes.view(1, 3, *size) + around) * inexact
        self.second = self.second.sub(change, alpha=0.5)
        remaining = lengths(moved + sample_at_points(self.second, start + moved)).view(size) * touched
        self.error[0, 0] = torch.where(within | touched, remaining, F.pad(self.error[0, 0], (0, 1) * 3))[:-1, :-1, :-1]


def make_two_part_inverse(displacement: torch.Tensor) -> TwoPartInverse:
    """The inverse of a displacement (1, 3, D, H, W) in voxels, at selected nodes or at all, as its device demands."""
    selects = strategy_for(displacement.device).selects_nodes
    return (TwoPartInverse if selects else _WholeFieldInverse)(displacement)


def _all_nodes(field: torch.Tensor) -> torch.Tensor:
    """(3, N): the coordinates (k, j, i) of all nodes of a field, in voxels."""
    size = lattice_size(field)
    return unravel(torch.arange(size[0] * size[1] * size[2], device=field.device), size).float()


def invert_at_points(
    displacement: torch.Tensor,
    points: torch.Tensor,
    start: torch.Tensor,
    steps: int = _NEWTON_STEPS,
    tolerance: float = _FIRST_PART_TOLERANCE_VOXELS,
) -> torch.Tensor:
    """w (3, N) with w = -u(y + w) at the points y (3, N), by Newton's method from `start` (3, N), all in voxels.

    Steps are at most one voxel long. Points whose residual is within `tolerance` are not iterated further.
    """
    if not strategy_for(points.device).selects_nodes:
        everywhere = torch.ones(points.shape[1], dtype=torch.bool, device=points.device)
        return _invert_masked(displacement, points, start, everywhere, steps, tolerance)
    inverse = torch.empty_like(start)
    for first in range(0, points.shape[1], _POINTS_AT_ONCE):
        part = slice(first, first + _POINTS_AT_ONCE)
        inverse[:, part] = _invert_selected(displacement, points[:, part], start[:, part], steps, tolerance)
    return inverse


def _invert_selected(
    displacement: torch.Tensor, points: torch.Tensor, start: torch.Tensor, steps: int, tolerance: float
) -> torch.Tensor:
    """`invert_at_points`, each step at those points alone that need it."""
    inverse = start.clone()
    left = torch.arange(points.shape[1], device=points.device)
    for _ in range(steps):
        at = points[:, left] + inverse[:, left]
        residual = inverse[:, left] + sample_at_points(displacement, at)
        unsolved = lengths(residual) > tolerance
        if not bool(unsolved.any()):
            break
        left, at, residual = left[unsolved], at[:, unsolved], residual[:, unsolved]
        inverse[:, left] -= _newton_step(displacement, at, residual)
    return inverse


def _invert_masked(
    displacement: torch.Tensor,
    points: torch.Tensor,
    start: torch.Tensor,
    marked: torch.Tensor,
    steps: int,
    tolerance: float,
) -> torch.Tensor:
    """`invert_at_points` at the points in the mask `marked` (N,), all steps at all points; elsewhere `start`."""
    inverse = start
    for _ in range(steps):
        at = points + inverse
        residual = inverse + sample_at_points(displacement, at)
        marked = marked & (lengths(residual) > tolerance)
        inverse = torch.where(marked, inverse - _newton_step(displacement, at, residual), inverse)
    return inverse


def _newton_step(displacement: torch.Tensor, at: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """(3, N): what is to be subtracted at the points `at` (3, N) to remove the residuals (3, N); at most one voxel."""
    columns = []
    for axis in range(3):
        shift = at.new_zeros(3, 1)
        shift[axis] = 0.5
        column = sample_at_points(displacement, at + shift) - sample_at_points(displacement, at - shift)
        column[axis] += 1
        columns.append(column)
    a, b, c = columns
    scale = 1 / determinant(columns).clamp(min=0.05)
    crossed = ((b, c), (c, a), (a, b))
    step = torch.stack([(torch.linalg.cross(p, q, dim=0) * residual).sum(0) * scale for p, q in crossed])
    return step / lengths(step).clamp(min=1)
