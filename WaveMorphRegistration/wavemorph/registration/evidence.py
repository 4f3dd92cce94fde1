"""What a registration tells about its own success, as numbers that mean the same for every subject and size (ours).

Measured on a coarse copy of the working pair, so that it costs little and does not depend on the preset's resolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..spatial.displacement import lattice_size, length, warp_image
from ..spatial.nodes import flat_indices, unravel
from ..spatial.preprocessing import WorkingPair
from .segmentation.brain import matrix_of
from .similarity.contrast import global_correlation
from .similarity.lncc import LocalCorrelation
from .similarity.mutual_information import MutualInformation

_SPACING_MM = 2.5  # for a head, of the coarse copy
_RADIUS_VOXELS = 3  # of windows
_SHIFTS = (0.12, 0.25)  # of the sides of the grid, by which the result is misaligned on purpose
_FITTED_POINTS = 4000
_MIN_COMPARED = 0.2  # of the weight, without which a misalignment says nothing


def evidence(
    working: WorkingPair,
    affine: sitk.Transform,
    displacement: torch.Tensor | None,
    spacing_mm: float,
    length_scale: float,
) -> dict[str, float]:
    """Numbers by name, for `verdict.judge`.

    working: the pair under the affine. displacement: (1, 3, D, H, W) in voxels, or None. spacing_mm: of the working
    grid. length_scale: size of the subject relative to a head.

    similarity, information: squared local correlation and mutual information (nats) of the result. *_shifted,
    *_mirrored: the largest of the same where the result is misaligned, shifted or mirrored along an axis. correlation:
    global, its absolute value. outlines: Dice of the subjects' outlines. stretch: the largest |log| of the affine's
    scale factors. displacement: mean length, mm of a head. rigid_part: root mean square length, mm of a head, of the
    rigid motion nearest to the displacement: large where the affine is not the right one.
    """
    warped = working.moving if displacement is None else warp_image(working.moving, displacement)
    inside, moving_inside = working.inside.float(), working.moving_inside.float()
    moving_inside = moving_inside if displacement is None else warp_image(moving_inside, displacement)
    weight = working.weight * working.inside
    scanned = working.scanned_by_both
    if scanned is not None:
        weight = weight * scanned
    factor = max(1, round(_SPACING_MM * length_scale / spacing_mm))
    factor = min(factor, *(n // 12 for n in warped.shape[2:])) or 1
    fixed, warped, weight, inside, moving_inside = (
        F.avg_pool3d(each, factor) for each in (working.fixed, warped, weight, inside, moving_inside)
    )
    compared = weight if scanned is None else F.avg_pool3d(working.weight * scanned, factor)
    shared = float((torch.minimum(inside, moving_inside) * compared).sum())
    total = float(((inside + moving_inside) * compared).sum())
    found = {
        "similarity": _local(fixed, warped, weight),
        "information": _information(fixed, warped, weight),
        "correlation": abs(global_correlation(fixed, warped, weight)),
        "outlines": 2 * shared / max(total, 1e-6),
        "stretch": float(np.abs(np.log(np.linalg.svd(matrix_of(affine)[:3, :3])[1].clip(1e-6))).max()),
        "displacement": 0.0,
        "rigid_part": 0.0,
    }
    for name, misaligned in (("shifted", _shifted), ("mirrored", _mirrored)):
        # one copy at a time: they are as large as the pair where that is coarse itself
        wrong = [
            (_local(fixed, *each), _information(fixed, *each)) for each in misaligned(warped, weight, moving_inside)
        ]
        # where no copy can be compared, nothing tells the result from a misaligned one
        largest = map(max, zip(*wrong)) if wrong else (found["similarity"], found["information"])
        found[f"similarity_{name}"], found[f"information_{name}"] = largest
    if displacement is not None:
        mean_length = length(displacement).mul_(working.inside).sum() / working.inside.sum()
        found["displacement"] = float(mean_length) * spacing_mm / length_scale
        found["rigid_part"] = _rigid_part(displacement, working.inside) * spacing_mm / length_scale
    return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}


def _rigid_part(displacement: torch.Tensor, mask: torch.Tensor) -> float:
    """Root mean square length, in voxels, of the rigid motion that fits a displacement best (Arun et al., PAMI 1987).

    displacement: (1, 3, D, H, W) in voxels. mask: (1, 1, D, H, W) bool, where it counts.
    """
    nodes = flat_indices(mask)
    if len(nodes) > _FITTED_POINTS:  # at random: a stride may have a common factor with the sides of the lattice
        chosen = np.random.default_rng(0).integers(len(nodes), size=_FITTED_POINTS).tolist()
        nodes = nodes[torch.tensor(chosen, device=nodes.device)]
    kji = unravel(nodes, lattice_size(mask)).T
    points = np.array(kji.tolist(), float)
    moved = points + np.array(displacement[0][(slice(None), *kji.T)].T.tolist())
    centered, center = points - points.mean(0), moved.mean(0)
    left, _, right = np.linalg.svd(centered.T @ (moved - center))
    turn = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    return float(np.sqrt(((centered @ turn + center - points) ** 2).sum(1).mean()))


def _local(fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor) -> float:
    return LocalCorrelation(fixed, warped, weight, radius=_RADIUS_VOXELS, signed=False).value()


def _information(fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor) -> float:
    return float(MutualInformation(fixed, warped, weight, bins=32).compare(warped)[0])


def _shifted(
    warped: torch.Tensor, weight: torch.Tensor, moving_inside: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(warped image, weight) of the result shifted along each axis, where enough is left to compare."""
    for axis, fraction, sign in itertools.product((2, 3, 4), _SHIFTS, (-1, 1)):
        shift = sign * max(1, round(fraction * warped.shape[axis]))
        yield from _if_compared(weight, warped.roll(shift, axis), moving_inside.roll(shift, axis))


def _mirrored(
    warped: torch.Tensor, weight: torch.Tensor, moving_inside: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same of the result mirrored along each axis, about the middle of what is compared."""
    for axis in (2, 3, 4):
        offset = round(2 * _middle(weight, axis)) - (warped.shape[axis] - 1)
        yield from _if_compared(weight, *(each.flip(axis).roll(offset, axis) for each in (warped, moving_inside)))


def _if_compared(
    weight: torch.Tensor, warped: torch.Tensor, moving_inside: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    both = weight * (moving_inside > 0.5)
    if float(both.sum()) > _MIN_COMPARED * float(weight.sum()):
        yield warped, both


def _middle(weight: torch.Tensor, axis: int) -> float:
    """The centroid of a weight along one axis, in voxels."""
    others = tuple(a for a in range(5) if a != axis)
    along = weight.sum(others)
    return float((along * torch.arange(len(along), device=along.device)).sum() / along.sum().clamp(min=1e-6))
