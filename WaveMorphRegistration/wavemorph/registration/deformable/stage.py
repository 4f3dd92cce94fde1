"""The deformable stages: the network, the optimizer, and a map without folds (and with an inverse, if asked for)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ...spatial.displacement import resize
from ...spatial.folding import remove_folds
from ...spatial.inversion import regularize_and_invert
from ...system.machine import return_freed_memory
from ..schedules import (
    LNCC_RADIUS_VOXELS,
    LNCC_STRIDE_VOXELS,
    MIN_COARSE_MM,
    MIN_CONTRAST_AGREEMENT,
    MIN_GLOBAL_CORRELATION,
    MIN_STRUCTURE_DICE,
    MIND_FACTOR_DIFFERENT_CONTRAST,
    MIND_FACTOR_SAME_CONTRAST,
    SAME_SUBJECT_LNCC_RADIUS_VOXELS,
    body_schedule,
    choose_schedule,
    with_smoothness,
)
from ..segmentation.stage import looks_for_brains
from ..similarity.base import ImageSimilarity
from ..similarity.contrast import contrast_agreement, global_correlation
from ..similarity.lncc import LocalCorrelation
from ..similarity.mind import MindSsc
from ..similarity.mutual_information import MutualInformation
from ..state import AlignedPair, Job
from .inference import predict
from .optimizer import OptimizationProblem, OptimizationSchedule, PyramidLevel, SimilarityFactory, optimize

_NETWORK_DISCARDED = "The network did not improve the alignment; its result was discarded."
# Passes of the network on voxels smaller than this many voxels of the grid are left to the optimizer, which is faster.
_FINEST_PASS_VOXELS = 3.9
_MIN_LEVEL_SIDE_VOXELS = 3  # the outermost voxels of a lattice do not move


@dataclass(frozen=True)
class Contrast:
    """Whether both volumes show the same contrast.

    agreement, correlation: as measured under the linear map, see `contrast_agreement` and `global_correlation`.
    """

    agreement: float
    correlation: float
    same: bool


@dataclass(frozen=True)
class DeformationEstimate:
    """displacement, velocity: (1, 3, D, H, W) in voxels of the working grid, or None. notes: for the report."""

    displacement: torch.Tensor | None
    velocity: torch.Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinalMap:
    """The displacement without folds, (1, 3, D, H, W) in voxels, and its two-part inverse if it was asked for."""

    displacement: torch.Tensor
    inverse: torch.Tensor | None = None
    correction: torch.Tensor | None = None


def judge_contrast(aligned: AlignedPair) -> Contrast:
    """Whether the contrast is the same, by measurement or as the settings say.

    Between heads the local agreement decides; of other parts of the body both measures must say so.
    """
    working, setting = aligned.working, aligned.job.settings.contrast
    weight, pair = working.weight * working.inside, aligned.job.pair
    spacing = aligned.spacing_mm / pair.length_scale
    agreement = contrast_agreement(working.fixed, working.moving, weight, spacing)
    correlation = global_correlation(working.fixed, working.moving, weight)
    measured = agreement > MIN_CONTRAST_AGREEMENT
    if pair.is_body:
        measured = measured and correlation > MIN_GLOBAL_CORRELATION
    return Contrast(agreement, correlation, measured if setting == "auto" else setting == "same")


def run_network(aligned: AlignedPair) -> DeformationEstimate:
    """The displacement by the network, from the remainder of the initial transform if there is one.

    A result that does not raise local correlation is discarded. The network is trained on heads: where brains were
    looked for and not found, it is not used.
    """
    job, working = aligned.job, aligned.working
    start = None
    if aligned.linear.remainder is not None:
        start = aligned.grid.from_mm(aligned.linear.remainder).to(job.device)
    if job.model is None or _is_known_body(job):
        return DeformationEstimate(start)
    job.timer.start("Network", 0.2)
    spacing = aligned.spacing_mm / job.pair.length_scale  # as if the subject were as large as a head
    displacement, velocity = predict(
        job.model.network,
        working.fixed,
        working.moving,
        spacing,
        start,
        lambda fraction: job.timer.report(0.2 + 0.05 * fraction, "aligning by the network"),
        finest_mm=0.0 if job.settings.preset == "Instant" else _FINEST_PASS_VOXELS * spacing,
    )
    if _raises_correlation(aligned, start, displacement):
        return DeformationEstimate(displacement, velocity)
    return DeformationEstimate(start, notes=(_NETWORK_DISCARDED,))


def run_optimizer(aligned: AlignedPair, contrast: Contrast, start: DeformationEstimate) -> DeformationEstimate:
    """The displacement after optimization from `start`; `start` itself for brains and the preset "Instant"."""
    job, working = aligned.job, aligned.working
    segmentations = _trusted_log_odds(aligned, contrast)
    schedule = _schedule(aligned, contrast, segmentations is not None)
    if schedule is None:
        return start
    schedule = with_smoothness(schedule, job.settings.smoothness)
    job.timer.start("Refinement", 0.25)
    if job.settings.similarity == "mi":  # is no correlation, by which pairs of one subject are recognized
        schedule = replace(schedule, same_subject_threshold=math.inf)
    displacement = optimize(
        OptimizationProblem(
            working.fixed,
            working.moving,
            working.weight,
            segmentations,
            working.fixed_scanned,
            working.moving_scanned,
        ),
        schedule,
        similarity_factory(job.settings.similarity, contrast.same),
        start.displacement,
        lambda fraction: job.timer.report(0.25 + 0.35 * fraction, "refining the deformation"),
    )
    return DeformationEstimate(displacement, notes=start.notes)


def finish(aligned: AlignedPair, displacement: torch.Tensor | None) -> FinalMap:
    """The displacement without folds; with `Settings.inverse`, regularized where its inverse would be inexact."""
    timer = aligned.job.timer
    timer.start("Finishing", 0.6)
    if displacement is None:
        displacement = torch.zeros(1, 3, *aligned.grid.shape, device=aligned.job.device)
    if not aligned.job.settings.inverse:
        return FinalMap(remove_folds(displacement))
    return_freed_memory()  # the inversion needs blocks of other sizes
    return FinalMap(
        *regularize_and_invert(
            displacement, progress=lambda fraction: timer.report(0.6 + 0.35 * fraction, "inverting the deformation")
        )
    )


def _schedule(aligned: AlignedPair, contrast: Contrast, with_segmentation: bool) -> OptimizationSchedule | None:
    """The schedule of the preset: that of bodies also for the refinement of brains in coarse voxels."""
    job = aligned.job
    is_coarse = aligned.spacing_mm >= MIN_COARSE_MM and job.settings.preset != "Instant"
    if _is_known_body(job) or is_coarse:
        schedule = body_schedule(job.settings.preset, _takes_large_steps(aligned, contrast))
        return _on_lattice(schedule, min(aligned.grid.size))
    after_passes = job.model is not None and bool(job.model.network.config.passes_mm)
    return choose_schedule(job.settings.preset, contrast.same, after_passes, with_segmentation)


def _takes_large_steps(aligned: AlignedPair, contrast: Contrast) -> bool:
    """Whether it is a body in one contrast, on a working grid finer than the voxels of both images."""
    job = aligned.job
    is_finer = aligned.spacing_mm < job.pair.finest_voxel_mm
    return _is_known_body(job) and is_finer and contrast.same and job.settings.similarity != "mi"


def _is_known_body(job: Job) -> bool:
    """Whether brains would have been found, or do not matter because there is no network."""
    settings = job.settings
    return job.pair.is_body and (looks_for_brains(settings) or settings.preset != "Instant")


def _on_lattice(schedule: OptimizationSchedule | None, side: int) -> OptimizationSchedule | None:
    """The schedule without levels too coarse for a lattice with `side` voxels along its shortest side."""
    if schedule is None:
        return None
    levels = tuple(level for level in schedule.levels if side // level.factor >= _MIN_LEVEL_SIDE_VOXELS)
    return replace(schedule, levels=levels)


def _trusted_log_odds(aligned: AlignedPair, contrast: Contrast) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The maps of the segmentation term; None where it is not used or the segmentations are not trusted."""
    settings, segmentation, affine = aligned.job.settings, aligned.segmentation, aligned.linear.affine
    wanted = settings.preset != "Instant" and settings.similarity == "auto" and contrast.same
    if not wanted or segmentation is None or segmentation.dice_after(affine, aligned.grid) < MIN_STRUCTURE_DICE:
        return None
    return segmentation.log_odds(affine, aligned.grid)


def _raises_correlation(aligned: AlignedPair, before: torch.Tensor | None, after: torch.Tensor) -> bool:
    """Whether local correlation is higher after than before, on voxels twice as large."""
    working = aligned.working
    fixed, moving, weight = (F.avg_pool3d(t, 2) for t in (working.fixed, working.moving, working.weight))
    similarity = LocalCorrelation(fixed, moving, weight, signed=False)
    depth, height, width = fixed.shape[2:]
    coarse = [None if u is None else resize(u, (depth, height, width)) for u in (before, after)]
    return similarity.value(coarse[1]) > similarity.value(coarse[0])


def similarity_factory(name: str, same_contrast: bool) -> SimilarityFactory:
    """The measure of each level.

    MIND-SSC at coarse levels, where its capture range is the largest; local correlation at finer ones, where it is more
    exact for one contrast. Squared differences would gain a little Dice on two scans of one scanner, and fail under a
    bias field.
    """
    mind_factor = MIND_FACTOR_SAME_CONTRAST if same_contrast else MIND_FACTOR_DIFFERENT_CONTRAST

    def make(
        fixed: torch.Tensor,
        moving: torch.Tensor,
        weight: torch.Tensor,
        level: PyramidLevel,
        same_subject: bool,
        scanned: torch.Tensor | None = None,
    ) -> ImageSimilarity:
        if name == "mi":
            return MutualInformation(fixed, moving, weight)
        if name == "mind" or (name == "auto" and level.factor >= mind_factor):
            return MindSsc(fixed, moving, weight, scanned)
        radius, stride = LNCC_RADIUS_VOXELS, LNCC_STRIDE_VOXELS if same_contrast else 1
        if same_subject:
            radius, stride = SAME_SUBJECT_LNCC_RADIUS_VOXELS, 1
        elif level.lncc_radius is not None:
            radius, stride = level.lncc_radius, level.lncc_stride
        return LocalCorrelation(fixed, moving, weight, radius, signed=False, stride=stride, scanned=scanned)

    return make
