"""The inverse of a displacement field, in two parts that a lattice can hold (ours). Lengths are in voxels."""

from __future__ import annotations

from collections.abc import Callable

import SimpleITK as sitk
import torch
import torch.nn.functional as F

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
    inverse = TwoPartInverse(displacement)
    for attempt in range(rounds):
        progress((attempt + 3) / (rounds + 3))
        sharp = inverse.error > largest
        if not bool(sharp.any()):
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
        inverse = TwoPartInverse(grid.from_mm(transform))
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
        self._solve(flat_indices(lengths(residual) > _FIRST_PART_TOLERANCE_VOXELS))
        self._correct(torch.ones(size, dtype=torch.bool, device=displacement.device))

    def update(self, displacement: torch.Tensor, changed: torch.Tensor) -> None:
        """Update both parts for a displacement that has changed at the nodes in the mask `changed` (D, H, W)."""
        self._u = displacement
        if not bool(changed.any()):
            return
        reached = preimage(dilated_mask(changed, 1), self.first)
        before = self.first.clone()
        self._solve(flat_indices(reached))
        moved = lengths(self.first[0] - before[0]) > NEGLIGIBLE_CHANGE_VOXELS
        self._correct(dilated_mask(changed | preimage(moved, displacement), 1))

    def _solve(self, nodes: torch.Tensor) -> None:
        """Solve w(y) = -u(y + w(y)) at the nodes with these flat indices."""
        flat = self.first.view(3, -1)
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


def invert_at_points(
    displacement: torch.Tensor,
    points: torch.Tensor,
    start: torch.Tensor,
    steps: int = 4,
    tolerance: float = _FIRST_PART_TOLERANCE_VOXELS,
) -> torch.Tensor:
    """w (3, N) with w = -u(y + w) at the points y (3, N), by Newton's method from `start` (3, N), all in voxels.

    Steps are at most one voxel long. Points whose residual is within `tolerance` are not iterated further.
    """
    inverse = start.clone()
    left = torch.arange(points.shape[1], device=points.device)
    for _ in range(steps):
        at = points[:, left] + inverse[:, left]
        residual = inverse[:, left] + sample_at_points(displacement, at)
        unsolved = lengths(residual) > tolerance
        if not bool(unsolved.any()):
            break
        left, at, residual = left[unsolved], at[:, unsolved], residual[:, unsolved]
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
        inverse[:, left] -= step / lengths(step).clamp(min=1)
    return inverse
