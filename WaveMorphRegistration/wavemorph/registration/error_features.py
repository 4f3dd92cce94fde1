"""What a registration tells about the error of its map at each place, for `expected_error` (ours).

All is measured on a coarse copy of the working pair. Lengths are in its voxels, so that numbers mean the same for
subjects of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..spatial.displacement import (
    compose,
    gradient,
    invert,
    jacobian_determinant,
    lattice_size,
    length,
    warp,
    warp_image,
)
from ..spatial.filters import box_mean, smooth
from ..spatial.grid import WorkingGrid, tensor_from_array
from .deformable.optimizer import OptimizationProblem, OptimizationSchedule, PyramidLevel, optimize
from .deformable.stage import Contrast, _similarity_factory
from .state import AlignedPair

_SPACING_MM = 3.0  # for a head, of the coarse copy
_MIN_SIDE_VOXELS = 12  # of the coarse copy
_RADIUS_VOXELS = 2  # of windows
_FAR_RADIUS_VOXELS = 5
_PERTURBATION_SIGMA_VOXELS = 2.5
_PERTURBATION_VOXELS = 1.0  # root mean square
_ITERATIONS = 12
_FLOOR_VOXELS = 0.02  # below which lengths are not told apart
_SCHEDULE = OptimizationSchedule(
    levels=(PyramidLevel(1, _ITERATIONS, lncc_radius=_RADIUS_VOXELS),),
    fluid_sigma=1.5,
    elastic_sigma=0.7,
    initial_step=0.3,
    same_subject_threshold=math.inf,
    tolerance=0.0,
)


@dataclass(frozen=True)
class ErrorFeatures:
    """values: (N features, d, h, w) on `grid`. names: of the features."""

    values: torch.Tensor
    names: tuple[str, ...]
    grid: WorkingGrid


def error_features(
    aligned: AlignedPair,
    contrast: Contrast,
    displacement: torch.Tensor,
    outline: torch.Tensor,
    evidence: dict[str, float],
) -> ErrorFeatures:
    """displacement: (1, 3, D, H, W) in voxels, the result. outline: (1, 1, D, H, W), 1 in the fixed subject."""
    working = aligned.working
    scale = aligned.job.pair.length_scale
    factor = max(2, round(_SPACING_MM * scale / aligned.spacing_mm))
    factor = max(1, min(factor, *(n // _MIN_SIDE_VOXELS for n in aligned.grid.shape)))
    grid = _coarser_grid(aligned.grid, factor)

    def coarse(image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(image, factor) if factor > 1 else image

    warped = warp_image(working.moving, displacement)
    weight = working.weight
    scanned = _scanned_under(working, displacement)
    if scanned is not None:
        weight = weight * scanned
    fine_rho = coarse(_squared_correlation(working.fixed, warped, weight))
    small = coarse(displacement) / factor
    fixed, moving = coarse(working.fixed), coarse(working.moving)
    coarse_weight = coarse(weight)
    problem = OptimizationProblem(
        fixed,
        moving,
        coarse(working.weight),
        None,
        *(None if each is None else (coarse(each) > 1 - 1e-4).float() for each in (working.fixed_scanned, working.moving_scanned)),
    )
    inside = coarse(outline)
    perturbation = _perturbation(lattice_size(fixed)).to(fixed.device)
    make = _similarity_factory(aligned.job.settings.similarity, contrast.same)
    one, other = (optimize(problem, _SCHEDULE, make, small + sign * perturbation) for sign in (1, -1))
    back = optimize(problem.reversed(), _SCHEDULE, make, invert(small))
    seen = coarse_weight
    rho = _squared_correlation(fixed, coarse(warped), coarse_weight)
    texture_fixed, texture_moving = (_texture(image, seen) for image in (fixed, coarse(warped)))
    jacobian = jacobian_determinant(small)[None, None]
    strain = torch.cat([gradient(small[:, axis : axis + 1]) for axis in range(3)], 1)

    def log_length(vectors: torch.Tensor) -> torch.Tensor:
        return (_window_mean(length(vectors)) + _FLOOR_VOXELS).log()

    local = {
        "retained": log_length((one - other) / 2),
        "drift": log_length((one + other) / 2 - small),
        "backward": log_length(compose(back, small)),
        "correlation": _window_mean(rho),
        "fine correlation": _window_mean(fine_rho),
        "texture": texture_fixed[0],
        "texture trace": texture_fixed[1],
        "moving texture": texture_moving[0],
        "residual": (_window_mean(1 - rho).clamp(min=1e-4).log() - texture_fixed[0]) / 2,
        "unseen": 1 - _window_mean(seen),
        "unseen far": 1 - box_mean(seen, _FAR_RADIUS_VOXELS),
        "depth": box_mean(inside, _RADIUS_VOXELS),
        "depth far": box_mean(inside, _FAR_RADIUS_VOXELS),
        "jacobian": _window_mean(jacobian.clamp(min=0.05).log()),
        "strain": (_window_mean(strain.square().sum(1, keepdim=True)) + 1e-4).log() / 2,
        "displacement": log_length(small),
    }
    within = inside > 0.5
    means = {f"mean {name}": float(local[name][within].mean()) for name in ("retained", "drift", "backward", "correlation", "fine correlation", "texture", "strain", "displacement")}
    voxel = [max(image.GetSpacing()) / scale for image in aligned.job.pair.inputs]
    finest = [min(image.GetSpacing()) / scale for image in aligned.job.pair.inputs]
    overall = {
        **means,
        "same contrast": float(contrast.same),
        "agreement": contrast.agreement,
        "global correlation": contrast.correlation,
        "body": float(aligned.job.pair.is_body),
        "instant": float(aligned.job.settings.preset == "Instant"),
        "working spacing": math.log(aligned.spacing_mm / scale),
        "coarse spacing": math.log(max(grid.spacing) / scale),
        "voxel": math.log(max(voxel)),
        "finest": math.log(max(finest)),
        "margin": evidence["similarity"] - evidence["similarity_shifted"],
        "rigid part": math.log(evidence["rigid_part"] + 0.1),
        "outlines": evidence["outlines"],
    }
    shape = local["retained"].shape
    stacked = [*local.values(), *(torch.full(shape, value, device=fixed.device) for value in overall.values())]
    return ErrorFeatures(torch.cat(stacked, 1)[0], (*local, *overall), grid)


def _coarser_grid(grid: WorkingGrid, factor: int) -> WorkingGrid:
    """The lattice of the means of `factor`^3 voxels."""
    return replace(
        grid,
        size=tuple(n // factor for n in grid.size),
        spacing=tuple(factor * step for step in grid.spacing),
        origin=grid.point(((factor - 1) / 2,) * 3),
    )


def _scanned_under(working, displacement):
    if working.moving_scanned is None:
        return working.fixed_scanned
    warped = (warp(working.moving_scanned, displacement, padding="zeros") > 0.5).float()
    return warped if working.fixed_scanned is None else warped * working.fixed_scanned


def _window_mean(image: torch.Tensor) -> torch.Tensor:
    """Gaussian mean over windows."""
    return smooth(image, _RADIUS_VOXELS / 2)


def _squared_correlation(fixed, warped, weight, radius: int = _RADIUS_VOXELS):
    """(1, 1, D, H, W): the squared correlation within windows, 0 where nothing can be compared."""
    share = box_mean(weight, radius)
    means = box_mean(torch.cat([fixed, warped, fixed * fixed, warped * warped, fixed * warped], 1) * weight, radius)
    f, w, ff, ww, fw = (means / share.clamp(min=1e-3)).split(1, 1)
    covariance = fw - f * w
    variances = (ff - f * f).clamp(min=0).add(1e-5) * (ww - w * w).clamp(min=0).add(1e-5)
    return (covariance.square() / variances).clamp(max=1) * (share > 0.05)


def _texture(image: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the least eigenvalue of the structure tensor of each window, and of its trace."""
    slope = gradient(image) * (weight > 0.5)
    a, b, c = slope.split(1, 1)
    tensor = _window_mean(torch.cat([a * a, b * b, c * c, a * b, a * c, b * c], 1))
    aa, bb, cc, ab, ac, bc = tensor.split(1, 1)
    trace = aa + bb + cc
    # the closed form of Smith (Communications of the ACM 1961)
    mean = trace / 3
    p1 = ab * ab + ac * ac + bc * bc
    p2 = (aa - mean) ** 2 + (bb - mean) ** 2 + (cc - mean) ** 2 + 2 * p1
    p = (p2 / 6).clamp(min=1e-24).sqrt()
    x, y, z = (aa - mean) / p, (bb - mean) / p, (cc - mean) / p
    u, v, w = ab / p, ac / p, bc / p
    r = (x * (y * z - w * w) - u * (u * z - w * v) + v * (u * w - y * v)) / 2
    angle = torch.acos(r.clamp(-1, 1)) / 3
    least = mean + 2 * p * torch.cos(angle + 2 * math.pi / 3)
    return (least.clamp(min=0) + 1e-6).log(), (trace + 1e-6).log()


def _perturbation(size: tuple[int, int, int]) -> torch.Tensor:
    """(1, 3, D, H, W): a smooth random displacement in voxels, the same at each call."""
    noise = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
    smoothed = smooth(tensor_from_array(noise), _PERTURBATION_SIGMA_VOXELS)
    return smoothed * (_PERTURBATION_VOXELS / float(smoothed.square().sum(1).mean().sqrt()))
