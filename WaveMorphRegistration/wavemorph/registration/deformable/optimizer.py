"""Multiresolution optimization of a similarity by composition of small smooth steps (ours).

Each level repeats `step.LevelStep` until the similarity hardly rises any more. Each step is a small diffeomorphism;
`spatial.folding.remove_folds` makes the result free of folds on the lattice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from ...spatial.displacement import invert, resize, warp_image
from ...spatial.filters import smooth
from ...system.recording import repeated
from ...system.strategy import strategy_for
from ..similarity.base import ImageSimilarity
from .step import LevelStep, SegmentationTerm, StepRule, weighted_rms

_MANY_PLANES = 64  # from here on the reference gradient is measured in a quarter of the planes
_MIN_ITERATIONS = 20  # before convergence is tested
_CONVERGENCE_WINDOW = 10  # iterations


@dataclass(frozen=True)
class PyramidLevel:
    """One resolution: `factor` voxels of the working grid to one voxel here, and the maximum number of iterations.

    segmentation: whether the segmentation term counts at this level. lncc_radius, lncc_stride: of the windows of local
    correlation, in voxels of the level; None for those of two brains. initial_step, fluid_sigma: in place of those of
    the schedule, or None.
    """

    factor: int
    iterations: int
    segmentation: bool = False
    lncc_radius: int | None = None
    lncc_stride: int = 1
    initial_step: float | None = None
    fluid_sigma: float | None = None


@dataclass(frozen=True)
class OptimizationSchedule:
    """Pyramid levels and regularization. Lengths are in voxels of the level.

    bidirectional: run the levels before the finest from moving to fixed too. The finest level begins with the mean of
        the one map and the inverse of the other, in which errors of one direction are halved.
    initial_step: root-mean-square length of the first step over the weighted voxels; less where the pair is nearly
        aligned.
    fluid_sigma, elastic_sigma: standard deviations of the Gaussians for the force and for the displacement.
    same_subject_threshold: a level that ends above this squared correlation is taken for a pair of one subject: it is
        repeated, and the later levels are run, with same_subject_sigmas, same_subject_initial_step, and without the
        segmentation term. The brains of two people reached 0.88, a head and its deformed self 0.95.
    max_similarity_drop: a level with the segmentation term that ends with a similarity lower than at its start by more
        than this is repeated without it, since the segmentations contradict the images. Between two people both rise
        together, by 0.001 to 0.02.
    momentum: fraction of the previous direction that is kept.
    max_step: limit of any step. tolerance: a level stops when ten iterations gain less than this fraction of its value.
    segmentation_weight: factor of the squared difference of each segmentation map beside the similarity.
    segmentation_interval: iterations between two evaluations of the force of the segmentation term.
    """

    levels: tuple[PyramidLevel, ...]
    bidirectional: bool = False
    initial_step: float = 0.4
    fluid_sigma: float = 1.5
    elastic_sigma: float = 0.7
    same_subject_threshold: float = 0.92
    same_subject_sigmas: tuple[float, float] = (4.0, 1.0)
    same_subject_initial_step: float = 0.4
    max_similarity_drop: float = 0.01
    momentum: float = 0.5
    max_step: float = 0.5
    tolerance: float = 2e-3
    segmentation_weight: float = 7.5
    segmentation_interval: int = 2

    def regularization(self, level: PyramidLevel, same_subject: bool) -> tuple[float, float, float]:
        """(initial step, Gaussian of the force, of the displacement) at a level, in its voxels."""
        if same_subject:
            return self.same_subject_initial_step, *self.same_subject_sigmas
        step = self.initial_step if level.initial_step is None else level.initial_step
        fluid = self.fluid_sigma if level.fluid_sigma is None else level.fluid_sigma
        return step, fluid, self.elastic_sigma


@dataclass(frozen=True)
class OptimizationProblem:
    """What is aligned in one direction.

    fixed, moving, weight: (1, 1, D, H, W). segmentations: maps (1, C, d, h, w) of both volumes over the same box, or
    None. fixed_scanned, moving_scanned: like the images, but bool, where the volume was scanned, or None where it was
    everywhere.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    weight: torch.Tensor
    segmentations: tuple[torch.Tensor, torch.Tensor] | None = None
    fixed_scanned: torch.Tensor | None = None
    moving_scanned: torch.Tensor | None = None

    def reversed(self) -> OptimizationProblem:
        """The same problem from moving to fixed; the weight stays where it is."""
        return OptimizationProblem(
            fixed=self.moving,
            moving=self.fixed,
            weight=self.weight,
            segmentations=self.segmentations and self.segmentations[::-1],
            fixed_scanned=self.moving_scanned,
            moving_scanned=self.fixed_scanned,
        )

    def downsampled(self, factor: int) -> OptimizationProblem:
        """Means of the images over `factor`^3 voxels; the segmentations are as they are."""
        if factor == 1:
            return self
        fixed, moving, weight = (F.avg_pool3d(image, factor) for image in (self.fixed, self.moving, self.weight))
        fixed_scanned, moving_scanned = (
            None if scanned is None else F.avg_pool3d(scanned.float(), factor) > 1 - 1e-4
            for scanned in (self.fixed_scanned, self.moving_scanned)
        )
        return OptimizationProblem(fixed, moving, weight, self.segmentations, fixed_scanned, moving_scanned)

    def scanned_under(self, displacement: torch.Tensor) -> torch.Tensor | None:
        """Where both volumes were scanned when the moving one is warped, bool; None where they were everywhere."""
        if self.moving_scanned is None:
            return self.fixed_scanned
        warped = warp_image(self.moving_scanned.float(), displacement) > 0.5
        return warped if self.fixed_scanned is None else warped & self.fixed_scanned


class SimilarityFactory(Protocol):
    """Makes the measure to maximize at a level."""

    def __call__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        weight: torch.Tensor,
        level: PyramidLevel,
        same_subject: bool,
        scanned: torch.Tensor | None = None,
    ) -> ImageSimilarity:
        """fixed, moving, weight: (1, 1, D, H, W). scanned: the voxels that both volumes show, bool, or None for all."""


def optimize(
    problem: OptimizationProblem,
    schedule: OptimizationSchedule,
    make_similarity: SimilarityFactory,
    start: torch.Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> torch.Tensor:
    """The displacement (1, 3, D, H, W) in voxels that aligns the moving image of `problem` to the fixed one.

    start: a displacement to begin with, on any lattice over the same box. The result is on the lattice of the images,
    whatever the factor of the finest level. progress(fraction) is called at each iteration.
    """
    finest = schedule.levels[-1].factor
    coarse = tuple(level for level in schedule.levels if level.factor > finest) if schedule.bidirectional else ()
    run = _MultiresolutionOptimizer(schedule, make_similarity, progress, (*coarse, *schedule.levels))
    displacement, same_subject = start, False
    if coarse:
        forward, same_subject = run(problem, coarse, start, same_subject)
        start_backward = invert(resize(start, _size_of(forward))) if start is not None else None
        backward, same_subject = run(problem.reversed(), coarse, start_backward, same_subject)
        displacement = invert(backward).add_(forward).mul_(0.5)
    displacement, _ = run(problem, schedule.levels[len(coarse) :], displacement, same_subject)
    progress(1.0)
    return resize(displacement, _size_of(problem.fixed))


class _MultiresolutionOptimizer:
    """Runs pyramid levels in one direction, and reports the fraction of the work of all `levels` that is done."""

    def __init__(
        self,
        schedule: OptimizationSchedule,
        make_similarity: SimilarityFactory,
        progress: Callable[[float], None],
        levels: tuple[PyramidLevel, ...],
    ):
        self._schedule, self._make_similarity, self._progress = schedule, make_similarity, progress
        self._total, self._done = sum(map(_work_of, levels)), 0.0

    def __call__(
        self,
        problem: OptimizationProblem,
        levels: tuple[PyramidLevel, ...],
        displacement: torch.Tensor | None,
        same_subject: bool,
    ) -> tuple[torch.Tensor, bool]:
        """(displacement on the lattice of the last level, whether the pair is taken for one subject)."""
        if displacement is None:
            displacement = torch.zeros(1, 3, *_size_of(problem.fixed, levels[0].factor), device=problem.fixed.device)
        for level in levels:
            resized = resize(displacement, _size_of(problem.fixed, level.factor))
            displacement = resized.clone() if resized is displacement else resized  # the level overwrites it
            displacement, same_subject = self._level_with_retry(problem, level, displacement, same_subject)
            self._done += _work_of(level)
        return displacement, same_subject

    def _level_with_retry(
        self, problem: OptimizationProblem, level: PyramidLevel, displacement: torch.Tensor, same_subject: bool
    ) -> tuple[torch.Tensor, bool]:
        """One level, and once more with the settings for one subject where its first result asks for them.

        displacement: is overwritten; that to begin with is kept only where the result may be refused.
        """
        schedule = self._schedule
        for attempt in range(2):
            with_segmentation = level.segmentation and problem.segmentations is not None and not same_subject
            moved = displacement.clone() if with_segmentation else displacement
            found, before, after = self._run_level(problem, level, moved, same_subject, attempt)
            contradicted = with_segmentation and after < before - schedule.max_similarity_drop
            displacement = displacement if contradicted else found
            found_same = after > schedule.same_subject_threshold and level is not schedule.levels[-1]
            if same_subject or not (contradicted or found_same):
                break
            same_subject = True
        return displacement, same_subject

    def _run_level(
        self,
        problem: OptimizationProblem,
        level: PyramidLevel,
        displacement: torch.Tensor,
        same_subject: bool,
        attempt: int,
    ) -> tuple[torch.Tensor, float, float]:
        """(displacement, overwritten; similarity at the first iteration and at the last one; 0 where there is none)."""
        schedule, here = self._schedule, problem.downsampled(level.factor)
        initial_step, fluid_sigma, elastic_sigma = schedule.regularization(level, same_subject)
        scanned = here.scanned_under(displacement)
        similarity = self._make_similarity(here.fixed, here.moving, here.weight, level, same_subject, scanned)
        segmentation = None
        if level.segmentation and here.segmentations is not None and not same_subject:
            segmentation = SegmentationTerm(here.segmentations, here.weight, schedule.segmentation_weight)
        reference = self._reference_gradient_rms(here, level, same_subject, fluid_sigma)
        step = LevelStep(
            similarity,
            segmentation,
            displacement,
            here.weight,
            StepRule(
                rms_step=initial_step,
                max_step=schedule.max_step,
                momentum=schedule.momentum,
                fluid_sigma=fluid_sigma,
                elastic_sigma=elastic_sigma,
            ),
            # in a pair that is aligned already the first force is noise, and must not be scaled to a whole step
            min_rms_force=0.5 * reference,
        )
        advance, refresh = (repeated(each, displacement.device) for each in (step, step.refresh_segmentation))
        similarities: list[torch.Tensor] = []
        totals: list[torch.Tensor] = []
        interval = strategy_for(displacement.device).look_interval
        for iteration in range(level.iterations):
            if segmentation is not None and iteration % schedule.segmentation_interval == 0:
                refresh()
            advance()
            similarities.append(step.similarity.clone())
            totals.append(step.total.clone())
            fraction = (attempt + (iteration + 1) / level.iterations) / 2
            self._progress((self._done + fraction * _work_of(level)) / self._total)
            if (iteration + 1) % interval == 0 and _has_converged(totals, schedule.tolerance):
                break
        before, after = torch.stack([similarities[0], similarities[-1]]).tolist() if similarities else (0.0, 0.0)
        return step.displacement, before, after

    def _reference_gradient_rms(
        self, problem: OptimizationProblem, level: PyramidLevel, same_subject: bool, sigma: float
    ) -> torch.Tensor:
        """Root-mean-square force by which the fixed image resists a shift of one voxel along each axis.

        Where there are many planes, a quarter of them in the middle is enough for this scale.
        """
        planes = problem.fixed.shape[2]
        many = planes >= _MANY_PLANES
        part = slice(3 * planes // 8, 3 * planes // 8 + planes // 4) if many else slice(0, planes)
        fixed, weight = problem.fixed[:, :, part], problem.weight[:, :, part]
        if many:
            here, everywhere = torch.stack([weight.sum(), problem.weight.sum()]).tolist()
            if here < 0.05 * everywhere:
                fixed, weight = problem.fixed, problem.weight
        similarity = self._make_similarity(fixed, fixed, weight, level, same_subject)
        shift = torch.ones(1, 3, *fixed.shape[2:], device=fixed.device)
        _, force = similarity.value_and_gradient(shift)
        return weighted_rms(smooth(force, sigma), weight) * (weight.sum() / problem.weight.sum())


def _has_converged(values: list[torch.Tensor], tolerance: float) -> bool:
    """Whether the last ten iterations gained less than `tolerance` of the value."""
    if len(values) <= _MIN_ITERATIONS:
        return False
    last, earlier = torch.stack([values[-1], values[-1 - _CONVERGENCE_WINDOW]]).tolist()
    return bool(last - earlier < tolerance * abs(last))


def _work_of(level: PyramidLevel) -> float:
    return level.iterations / level.factor**3


def _size_of(image: torch.Tensor, factor: int = 1) -> tuple[int, int, int]:
    """(D, H, W) of a tensor (B, C, D, H, W), divided by `factor`."""
    depth, height, width = image.shape[2:]
    return depth // factor, height // factor, width // factor
