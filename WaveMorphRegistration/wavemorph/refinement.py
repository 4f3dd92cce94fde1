"""Instance refinement: coarse-to-fine gradient ascent of a similarity, by composition of small smooth steps (ours).

At each iteration the force of the similarity, dS/dw * grad(w) at the warped image w, is smoothed (the fluid part),
scaled to a step of at most half a voxel, composed with the displacement so far, and the displacement is smoothed
slightly (the elastic part). Each step is a small diffeomorphism, so the whole all but stays one; `finishing.unfold`
makes that certain on the lattice. Smoothing at a fixed rate against an unnormalised force is diffusion regularity at
its equilibrium (paper section 3.8): strong edges move, flat tissue follows its surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import field
from .similarity import TissueDifference

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

    both_ways: whether the levels before the finest are done from moving to fixed too, as alike where the two were found
        so. The finest begins with the mean of the one map and the inverse of the other: what they share is anatomy,
        where they differ is chance.
    rate: root-mean-square length of the first step over the foreground, less where the two are nearly aligned.
    force_sigma, field_sigma: Gaussians for the force and for the displacement.
    alike: where a level ends above this squared correlation, what still differs is noise more than anatomy: that level
        is done again, and the ones after it are done, with alike_sigmas for force and displacement, at alike_rate, and
        without tissues. Two scans of one head are aligned more exactly so; the brains of two people reached 0.88. So
        it is where a level with tissues ends with less similarity than it began with, by more than `misled`: then the
        network was misled, and that level is begun again. Between two people both rise together, by 0.001 to 0.02.
    momentum: share of the previous direction that is kept.
    longest: limit of any step. tolerance: stop a level when ten iterations gain less than this share of its value.
    tissue_share: what the squared difference of each tissue counts for beside the similarity.
    tissues_every: iterations for which their pull is kept; it changes slowly.
    """

    levels: tuple[Level, ...]
    both_ways: bool = False
    rate: float = 0.4
    force_sigma: float = 1.5
    field_sigma: float = 0.7
    alike: float = 0.92
    alike_sigmas: tuple[float, float] = (4.0, 1.0)
    alike_rate: float = 0.4
    misled: float = 0.01
    momentum: float = 0.5
    longest: float = 0.5
    tolerance: float = 2e-3
    tissue_share: float = 7.5
    tissues_every: int = 2


@dataclass(frozen=True)
class _Way:
    """One of the two directions: what stays, what is warped, where voxels count, and the tissues of both."""

    fixed: torch.Tensor
    moving: torch.Tensor
    weight: torch.Tensor
    tissues: tuple[torch.Tensor, torch.Tensor] | None

    def back(self) -> _Way:
        return _Way(self.moving, self.fixed, self.weight, self.tissues and self.tissues[::-1])


def refine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    weight: torch.Tensor,
    plan: RefinementPlan,
    make_similarity: Callable,
    start: torch.Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    tissues: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The displacement (1, 3, D, H, W) in voxels that aligns `moving` to `fixed`, both (1, 1, D, H, W).

    weight: (1, 1, D, H, W), where voxels count. make_similarity(fixed, weight, level, alike) -> see
    `similarity.py`; alike: whether an earlier level found the two alike.
    start: a displacement to begin with. tissues: (1, C, ...) of the fixed and of the moving image, on a lattice of
    their own over the same box. The result lies on the full lattice, whatever the finest level.
    """
    way, finest = _Way(fixed, moving, weight, tissues), plan.levels[-1].factor
    coarse = tuple(level for level in plan.levels if level.factor > finest) if plan.both_ways else ()
    climb = _Climb(plan, make_similarity, progress, (*coarse, *plan.levels))
    displacement, alike = start, False
    if coarse:
        there, alike = climb(way, coarse, start, alike)
        begin = field.invert(field.resize(start, tuple(there.shape[2:]))) if start is not None else None
        back, alike = climb(way.back(), coarse, begin, alike)
        displacement = field.invert(back).add_(there).mul_(0.5)
    displacement, _ = climb(way, plan.levels[len(coarse) :], displacement, alike)
    progress(1.0)
    return field.resize(displacement, tuple(fixed.shape[2:]))


class _Climb:
    """Level after level in one direction, and how much of all `levels` that will be climbed is done."""

    def __init__(self, plan: RefinementPlan, make_similarity: Callable, progress: Callable, levels: tuple[Level, ...]):
        self._plan, self._make_similarity, self._progress = plan, make_similarity, progress
        self._total, self._done = sum(map(self._cost, levels)), 0.0

    @staticmethod
    def _cost(level: Level) -> float:
        return level.iterations / level.factor**3

    def __call__(
        self, way: _Way, levels: tuple[Level, ...], displacement: torch.Tensor | None, alike: bool
    ) -> tuple[torch.Tensor, bool]:
        """(the displacement on the lattice of the last level, whether the two were found alike)."""
        plan = self._plan
        for level in levels:
            size = tuple(n // level.factor for n in way.fixed.shape[2:])
            here = torch.zeros(1, 3, *size, device=way.fixed.device) if displacement is None else displacement
            displacement = field.resize(here, size)
            for attempt in range(2):
                found, before, after = self._level(way, level, displacement, alike, attempt)
                misled = level.tissues and way.tissues is not None and not alike and after < before - plan.misled
                displacement = displacement if misled else found
                if alike or (not misled and (after <= plan.alike or level is plan.levels[-1])):
                    break
                alike = True
            self._done += self._cost(level)
        return displacement, alike

    def _level(self, way: _Way, level: Level, displacement: torch.Tensor, alike: bool, attempt: int):
        """(the displacement, the similarity at the first and at the last iteration)."""
        plan = self._plan
        force_sigma, field_sigma = plan.alike_sigmas if alike else (plan.force_sigma, plan.field_sigma)
        rate = plan.alike_rate if alike else plan.rate
        fixed, moving, weight = (_pool(image, level.factor) for image in (way.fixed, way.moving, way.weight))
        tissues = None
        if level.tissues and way.tissues is not None and not alike:
            tissues = TissueDifference(*way.tissues, weight, plan.tissue_share)
        similarity = self._make_similarity(fixed, weight, level, alike)
        features = similarity.features(moving)
        border = field.border_taper(tuple(fixed.shape[2:]), fixed.device)
        momentum = torch.zeros_like(displacement)
        # were the two aligned already, the first force would be noise: the scale is never that of less than half the
        # force by which the fixed image resists a shift
        resistance = _resistance(fixed, weight, force_sigma, lambda *part: self._make_similarity(*part, level, alike))
        least, scale, seen, values = 0.5 * resistance, None, [0.0], []
        for iteration in range(level.iterations):
            value, force = _force(similarity, features, displacement)
            seen = [seen[0] if values else value, value]
            if tissues is not None:
                if iteration % plan.tissues_every == 0:
                    more, pull = tissues.force(displacement)
                value, force = value + more, force.add_(pull)
            field.smooth(force, force_sigma, out=force)
            if scale is None:
                scale = rate / max(_length(force, weight), least, 1e-20)
            momentum.mul_(plan.momentum).add_(force, alpha=1 - plan.momentum)
            gain = scale / (1 - plan.momentum ** (iteration + 1))
            # the force is not needed any more: what follows it takes its place
            force = _stepped(displacement, momentum, border, gain, plan.longest, out=force)
            displacement = field.smooth(force, field_sigma, out=force).mul_(border)
            part = (attempt + (iteration + 1) / level.iterations) / 2
            self._progress((self._done + part * self._cost(level)) / self._total)
            values.append(value)
            if len(values) > 20 and values[-1] - values[-11] < plan.tolerance * abs(values[-1]):
                break
        return displacement, seen[0], seen[-1]


def _stepped(
    displacement: torch.Tensor,
    direction: torch.Tensor,
    border: torch.Tensor,
    gain: float,
    longest: float,
    out: torch.Tensor,
) -> torch.Tensor:
    """The displacement after a step of `gain` times the direction, nowhere longer than `longest` voxels, into `out`."""

    def measure(here: torch.Tensor, towards: torch.Tensor, tapered: torch.Tensor) -> torch.Tensor:
        step = towards * gain
        step.mul_(longest / field.length(step).clamp_(min=longest)).mul_(tapered)
        return field.advance(here, step)

    return field.by_slabs(measure, displacement, direction, border, out=out)


def _resistance(fixed: torch.Tensor, weight: torch.Tensor, sigma: float, make_similarity: Callable) -> float:
    """Root-mean-square force by which the fixed image resists a shift of one voxel along each axis.

    Of the planes in the middle where there are many: it is a matter of scale, and half a force costs half as much.
    """
    planes = fixed.shape[2]
    some = slice(3 * planes // 8, 3 * planes // 8 + planes // 4) if planes >= _MANY else slice(0, planes)
    part, counting = fixed[:, :, some], weight[:, :, some]
    if float(counting.sum()) < 0.05 * float(weight.sum()):
        part, counting = fixed, weight
    similarity = make_similarity(part, counting)
    shift = torch.ones(1, 3, *part.shape[2:], device=part.device)
    _, force = _force(similarity, similarity.features(part), shift)
    return _length(field.smooth(force, sigma), counting) * float(counting.sum() / weight.sum())


def _force(similarity, features: torch.Tensor, displacement: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The similarity of the warped features, and its slope along each axis at each voxel."""
    warped = field.warp_image(features, displacement)
    value, slope = similarity(warped)
    return value, field.by_displacement(warped, slope)


def _length(force: torch.Tensor, weight: torch.Tensor) -> float:
    """Root mean square over the weighted voxels."""
    return float((field.length(force).square_() * weight).sum() / weight.sum()) ** 0.5


def _pool(image: torch.Tensor, factor: int) -> torch.Tensor:
    return image if factor == 1 else F.avg_pool3d(image, factor)
