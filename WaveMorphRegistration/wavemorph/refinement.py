"""Instance refinement: coarse-to-fine gradient ascent of a similarity, by composition of small smooth steps (ours).

At each iteration the force of the similarity, dS/dw * grad(w) at the warped image w, is smoothed (the fluid part),
scaled to a step of at most half a voxel, composed with the displacement so far, and the displacement is smoothed
slightly (the elastic part). Each step is a small diffeomorphism, so the whole stays one; `finishing.unfold` makes
that certain on the lattice. Smoothing at a fixed rate against an unnormalised force is diffusion regularity at its
equilibrium (paper section 3.8): strong edges move, flat tissue follows its surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from . import field

_MANY = 64  # planes


@dataclass(frozen=True)
class Level:
    """One resolution: `factor` voxels of the working grid to one voxel here, and the most iterations spent.

    tissues: whether what a network sees in both volumes counts here too, where the pair is not alike.
    """

    factor: int
    iterations: int
    tissues: bool = False


@dataclass(frozen=True)
class RefinementPlan:
    """How far and how stiffly to refine. Lengths are in voxels of the level.

    rate: root-mean-square length of the first step over the foreground, less where the two are nearly aligned.
    force_sigma, field_sigma: Gaussians for the force and for the displacement.
    alike, alike_sigmas: where a level of squared correlation ends above `alike`, what still differs is noise more than
        anatomy: that level is done again, and the ones after it are done, with these Gaussians for force and
        displacement. Two scans of one head are aligned more exactly so; the brains of two people reached 0.83.
    momentum: share of the previous direction that is kept.
    longest: limit of any step. tolerance: stop a level when ten iterations gain less than this share of its value.
    """

    levels: tuple[Level, ...]
    rate: float = 0.4
    force_sigma: float = 1.5
    field_sigma: float = 0.7
    alike: float = 0.92
    alike_sigmas: tuple[float, float] = (3.0, 1.0)
    momentum: float = 0.5
    longest: float = 0.5
    tolerance: float = 2e-3


def refine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    plan: RefinementPlan,
    make_similarity: Callable,
    start: torch.Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> torch.Tensor:
    """The displacement (1, 3, D, H, W) in voxels that aligns `moving` to `fixed`, both (1, 1, D, H, W).

    weight: (1, 1, D, H, W), where voxels count. make_similarity(fixed, weight, level, alike) -> see
    `similarity.py`; alike: whether an earlier level found the two alike.
    start: a displacement to begin with. The result lies on the full lattice, whatever the finest level.
    """
    displacement, alike = start, False
    cost = [level.iterations / level.factor**3 for level in plan.levels]
    for index, level in enumerate(plan.levels):
        size = tuple(n // level.factor for n in fixed.shape[2:])
        here = torch.zeros(1, 3, *size, device=fixed.device) if displacement is None else displacement
        displacement = field.resize(here, size)
        images = tuple(_pool(image, level.factor) for image in (fixed, moving, weight))
        similarity = make_similarity(images[0], images[2], level, alike)
        resistance = _resistance(images[0], images[2], plan, make_similarity, replace(level, tissues=False), alike)
        for attempt in range(2):
            displacement, reached = _refine_level(
                *images,
                displacement,
                plan,
                level,
                similarity,
                resistance,
                lambda part, index=index, attempt=attempt: progress(
                    (sum(cost[:index]) + (attempt + part) / 2 * cost[index]) / sum(cost)
                ),
            )
            if alike or reached <= plan.alike or level is plan.levels[-1]:
                break
            alike = True
            plan = replace(plan, force_sigma=plan.alike_sigmas[0], field_sigma=plan.alike_sigmas[1])
    progress(1.0)
    return field.resize(displacement, tuple(fixed.shape[2:]))


def _refine_level(fixed, moving, weight, displacement, plan, level, similarity, resistance, progress):
    """(the displacement, the similarity that it was made from)."""
    features = similarity.features(moving)
    border = field.border_taper(tuple(fixed.shape[2:]), fixed.device)
    momentum = torch.zeros_like(displacement)
    # were the two aligned already, the first force would be noise: the scale is never that of less than half the force
    # by which the fixed image resists a shift
    least, scale, values, value = 0.5 * resistance, None, [], 0.0
    for iteration in range(level.iterations):
        value, force = _force(similarity, features, displacement, plan.force_sigma)
        if scale is None:
            scale = plan.rate / max(_length(force, weight), least, 1e-20)
        momentum.mul_(plan.momentum).add_(force, alpha=1 - plan.momentum)
        step = momentum * (scale / (1 - plan.momentum ** (iteration + 1)))
        length = step.pow(2).sum(1, keepdim=True).sqrt_().clamp_(min=plan.longest)
        step.mul_(plan.longest / length).mul_(border)
        displacement = field.smooth(field.compose(displacement, step), plan.field_sigma).mul_(border)
        progress((iteration + 1) / level.iterations)
        values.append(value)
        if len(values) > 20 and values[-1] - values[-11] < plan.tolerance * abs(values[-1]):
            break
    return displacement, value


def _resistance(fixed, weight, plan: RefinementPlan, make_similarity: Callable, level: Level, alike: bool) -> float:
    """Root-mean-square force by which the fixed image resists a shift of one voxel along each axis.

    Of the planes in the middle where there are many: it is a matter of scale, and half a force costs half as much.
    """
    planes = fixed.shape[2]
    some = slice(3 * planes // 8, 3 * planes // 8 + planes // 4) if planes >= _MANY else slice(0, planes)
    part, counting = fixed[:, :, some], weight[:, :, some]
    if float(counting.sum()) < 0.05 * float(weight.sum()):
        part, counting = fixed, weight
    similarity = make_similarity(part, counting, level, alike)
    shift = torch.ones(1, 3, *part.shape[2:], device=part.device)
    _, force = _force(similarity, similarity.features(part), shift, plan.force_sigma)
    return _length(force, counting) * float(counting.sum() / weight.sum())


def _force(similarity, features: torch.Tensor, displacement: torch.Tensor, sigma: float) -> tuple[float, torch.Tensor]:
    """The similarity of the warped features, and its slope along each axis at each voxel, smoothed."""
    warped = field.warp(features, displacement)
    value, slope = similarity(warped)
    force = field.gradient(warped[:, :1]).mul_(slope[:, :1])
    for channel in range(1, warped.shape[1]):
        force.addcmul_(field.gradient(warped[:, channel : channel + 1]), slope[:, channel : channel + 1])
    return value, field.smooth(force, sigma)


def _length(force: torch.Tensor, weight: torch.Tensor) -> float:
    """Root mean square over the weighted voxels."""
    return float((force.pow(2).sum(1, keepdim=True) * weight).sum() / weight.sum()) ** 0.5


def _pool(image: torch.Tensor, factor: int) -> torch.Tensor:
    return image if factor == 1 else F.avg_pool3d(image, factor)
