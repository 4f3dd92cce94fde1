"""What a registration tells about the error of its map at each place (ours).

Above all how far the map is from two other ones, which begin without it: one from moving to fixed, and one by another
measure of similarity. Measured on a coarse copy of the working pair. Lengths are in its voxels, so that the numbers
mean the same for subjects of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ...spatial.displacement import (
    compose,
    gradient,
    invert,
    jacobian_determinant,
    lattice_size,
    length,
    warp_image,
)
from ...spatial.filters import box_mean, smooth
from ...spatial.grid import WorkingGrid
from ...spatial.preprocessing import WorkingPair
from ..deformable.optimizer import OptimizationProblem, OptimizationSchedule, PyramidLevel, optimize
from ..deformable.stage import Contrast, similarity_factory
from ..state import AlignedPair

_SPACING_MM = 3.0  # for a head, of the coarse copy
_MIN_FACTOR = 2  # voxels of the working grid along a side of one of the coarse copy, where the grid is large enough
_MIN_SIDE_VOXELS = 12  # of the coarse copy
_MIN_LEVEL_SIDE_VOXELS = 6
_RADIUS_VOXELS, _FAR_RADIUS_VOXELS = 2, 5  # of windows
_FLOOR_VOXELS = 0.02  # below which lengths are not told apart
_MIN_SHARE = 0.05  # of a window, without which nothing in it is compared
_MIN_JACOBIAN = 0.05
_NOISE = 1e-5  # variance added in each window
_SCHEDULE = OptimizationSchedule(
    levels=(PyramidLevel(4, 30), PyramidLevel(2, 25), PyramidLevel(1, 10, lncc_radius=_RADIUS_VOXELS)),
    fluid_sigma=2.0,
    initial_step=0.3,
    same_subject_threshold=math.inf,
    tolerance=0.0,
)
_CONTINUED = replace(_SCHEDULE, levels=(PyramidLevel(1, 12, lncc_radius=_RADIUS_VOXELS),), fluid_sigma=1.5)


@dataclass(frozen=True)
class ErrorFeatures:
    """values: (number of names, d, h, w) on `grid`. inside: (d, h, w), 1 in the fixed subject. subject: its kind."""

    values: torch.Tensor
    names: tuple[str, ...]
    grid: WorkingGrid
    inside: torch.Tensor
    subject: str


def error_features(
    aligned: AlignedPair, contrast: Contrast, displacement: torch.Tensor, outline: torch.Tensor
) -> ErrorFeatures:
    """The features of the map by `displacement`, (1, 3, D, H, W) in voxels of the working grid.

    outline: (1, 1, D, H, W), 1 in the fixed subject.
    """
    coarse = _CoarseCopy(aligned, displacement, outline)
    maps = {**_disagreements(coarse, aligned, contrast), **_appearance(coarse), **_shape(coarse)}
    values, inside = torch.cat(list(maps.values()), 1)[0], coarse.inside[0, 0]
    return ErrorFeatures(values, tuple(maps), coarse.grid, inside, aligned.job.pair.kind)


class _CoarseCopy:
    """The pair and its map on coarse voxels, each the mean of `factor`^3.

    problem: what the other maps are found from. warped: the moving image under the map. seen: 0 to 1, where both
    volumes can be compared. inside: 0 to 1, the fixed subject.
    """

    def __init__(self, aligned: AlignedPair, displacement: torch.Tensor, outline: torch.Tensor):
        working, shape = aligned.working, aligned.grid.shape
        wanted = max(_MIN_FACTOR, round(_SPACING_MM * aligned.job.pair.length_scale / aligned.spacing_mm))
        factor = max(1, min(wanted, *(n // _MIN_SIDE_VOXELS for n in shape)))
        self.grid = aligned.grid.averaged(factor)
        warped, seen = warp_image(working.moving, displacement), _compared(working, displacement)

        def coarse(image: torch.Tensor) -> torch.Tensor:
            return F.avg_pool3d(image, factor)

        self.problem = OptimizationProblem(
            working.fixed,
            working.moving,
            working.weight,
            fixed_scanned=working.fixed_scanned,
            moving_scanned=working.moving_scanned,
        ).downsampled(factor)
        self.warped, self.seen, self.inside = coarse(warped), coarse(seen), coarse(outline)
        self.displacement = coarse(displacement) / factor


def _disagreements(coarse: _CoarseCopy, aligned: AlignedPair, contrast: Contrast) -> dict[str, torch.Tensor]:
    """How far other maps are from this one: the logarithm of the mean distance in windows.

    "backward": from moving to fixed, begun with the inverse of this map. "independent": the same, begun without it.
    "other": from fixed to moving, begun without it, by MIND-SSC.
    """
    found, problem, size = coarse.displacement, coarse.problem, lattice_size(coarse.displacement)
    make = similarity_factory(aligned.job.settings.similarity, contrast.same)
    levels = tuple(level for level in _SCHEDULE.levels if min(size) // level.factor >= _MIN_LEVEL_SIDE_VOXELS)
    schedule = replace(_SCHEDULE, levels=levels)
    backward = optimize(problem.reversed(), _CONTINUED, make, invert(found))
    independent = optimize(problem.reversed(), schedule, make)
    other = optimize(problem, schedule, similarity_factory("mind", contrast.same))
    return {
        "backward": _log_length(compose(backward, found)),
        "independent": _log_length(compose(independent, found)),
        "other": _log_length(other - found),
    }


def _appearance(coarse: _CoarseCopy) -> dict[str, torch.Tensor]:
    """How well both volumes agree at each place, and how much there is to align.

    "residual": of a shift by least squares, what is not explained divided by the texture that resists a shift.
    """
    fixed, seen = coarse.problem.fixed, coarse.seen
    correlation = _window_mean(_squared_correlation(fixed, coarse.warped, seen))
    least, trace = _texture(fixed, seen)
    return {"residual": ((1 - correlation).clamp(min=1e-4).log() - least) / 2, "texture": trace}


def _shape(coarse: _CoarseCopy) -> dict[str, torch.Tensor]:
    """What the map continues only, and how rough it is.

    "unseen": share of wide windows in which nothing can be compared. "rough": standard deviation of the logarithm of
    the Jacobian determinant in the subject, the same everywhere.
    """
    logarithms = _window_mean(jacobian_determinant(coarse.displacement)[None, None].clamp(min=_MIN_JACOBIAN).log())
    rough = logarithms[coarse.inside > 0.5].std()
    return {
        "unseen": 1 - box_mean(coarse.seen, _FAR_RADIUS_VOXELS),
        "rough": rough.nan_to_num(0.0).expand_as(coarse.seen),
    }


def _compared(working: WorkingPair, displacement: torch.Tensor) -> torch.Tensor:
    """The weight of the pair where both volumes were scanned under the map."""
    weight = working.weight
    if working.moving_scanned is not None:
        weight = weight * warp_image(working.moving_scanned.float(), displacement)
    return weight if working.fixed_scanned is None else weight * working.fixed_scanned


def _log_length(vectors: torch.Tensor) -> torch.Tensor:
    return (_window_mean(length(vectors)) + _FLOOR_VOXELS).log()


def _window_mean(image: torch.Tensor) -> torch.Tensor:
    return smooth(image, _RADIUS_VOXELS / 2)


def _squared_correlation(fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(1, 1, D, H, W): the squared correlation of each window, 0 where nothing can be compared."""
    share = box_mean(weight, _RADIUS_VOXELS)
    products = torch.cat([fixed, warped, fixed * fixed, warped * warped, fixed * warped], 1).mul_(weight)
    f, w, ff, ww, fw = box_mean(products, _RADIUS_VOXELS).div_(share.clamp(min=1e-3)).split(1, 1)
    variances = (ff - f * f).clamp_(min=0).add_(_NOISE) * (ww - w * w).clamp_(min=0).add_(_NOISE)
    return ((fw - f * w).square_() / variances).clamp_(max=1) * (share > _MIN_SHARE)


def _texture(image: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the least eigenvalue of the structure tensor of each window, and of its trace.

    The eigenvalue by the closed form of Smith (Communications of the ACM 1961).
    """
    a, b, c = (gradient(image) * (seen > 0.5)).split(1, 1)
    tensor = _window_mean(torch.cat([a * a, b * b, c * c, a * b, a * c, b * c], 1))
    aa, bb, cc, ab, ac, bc = tensor.split(1, 1)
    mean = (aa + bb + cc) / 3
    spread = (aa - mean) ** 2 + (bb - mean) ** 2 + (cc - mean) ** 2 + 2 * (ab * ab + ac * ac + bc * bc)
    radius = (spread / 6).clamp(min=1e-24).sqrt()
    x, y, z, u, v, w = ((each / radius) for each in (aa - mean, bb - mean, cc - mean, ab, ac, bc))
    half_determinant = (x * (y * z - w * w) - u * (u * z - w * v) + v * (u * w - y * v)) / 2
    angle = half_determinant.clamp(-1, 1).acos() / 3
    least = mean + 2 * radius * (angle + 2 * math.pi / 3).cos()
    return (least.clamp(min=0) + 1e-6).log(), (3 * mean + 1e-6).log()
