"""Presets as data: the schedule of the optimizer for each preset and kind of pair, and the thresholds that choose it.

The measurements behind these numbers are in Testing/Benchmarks/research_log.md.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .deformable.optimizer import OptimizationSchedule, PyramidLevel

SPACING_MM = 1.0  # of the working grid
MARGIN_MM = 10.0  # of the working grid around the fixed foreground
SKULL_STRIPPED_MARGIN_MM = (
    4.0  # around a skull-stripped brain, within which the brain of a head may lie after the affine
)

LNCC_RADIUS_VOXELS = 4  # windows of 9 voxels, as in the paper
SAME_SUBJECT_LNCC_RADIUS_VOXELS = 2  # small windows are more exact for two scans of one subject
LNCC_STRIDE_VOXELS = 2  # for two subjects in one contrast; otherwise a stride costs accuracy
MIND_FACTOR_SAME_CONTRAST = 4  # pyramid factors from which on MIND-SSC is used: its capture range is the largest
MIND_FACTOR_DIFFERENT_CONTRAST = 2

# Agreement above which brighter is expected to meet brighter: T1 pairs reach 0.7, T1 with proton density 0.4.
MIN_CONTRAST_AGREEMENT = 0.5
# Mean soft Dice of the structures after the affine, from which on the segmentations are trusted. Real pairs that are
# segmented well reach 0.70 to 0.78; one that was segmented badly (proton density in thick slices) reached 0.55, and was
# aligned better by mutual information.
MIN_STRUCTURE_DICE = 0.65
# Below this after their own alignment the segmentations contradict each other, and nothing speaks against mutual
# information: 0.34 where a head of eight thick slices was segmented as one that lies on its side.
MIN_CONSISTENT_DICE = 0.5
MIN_DICE_GAIN_OVER_MI = 0.1  # by which the affine of the structures must exceed that of mutual information otherwise

# Log scale factor below which the linear stage stays rigid where no brain is segmented. An affine that models breathing
# moved a chest wall by 6 mm, and was no better a start than the rigid transform in any of five pairs.
MIN_BODY_STRETCH = 0.12
# Pearson's correlation within the subjects after the linear stage, above which two volumes of one contrast are expected
# where there is no brain: 0.47 to 0.98 in pairs of one contrast, at most 0.10 in pairs of different contrast.
MIN_GLOBAL_CORRELATION = 0.3

# By smoothness: factor of the Gaussians, and what is added to the threshold for pairs of one subject. Between two
# brains 0.8 gains a little Dice, and 2 brings the standard deviation of log Jacobian from 0.52 to 0.34. Narrower
# Gaussians give a higher correlation: at low, medium and high it reached 0.90, 0.86 and 0.73 with two brains, and
# 0.96, 0.95 and 0.92 with one.
_SMOOTHNESS = {"low": (0.8, 0.015), "medium": (1.0, 0.0), "high": (2.0, -0.08)}

BYTES_PER_VOXEL = 300  # measured peak of a registration per voxel of the working grid, without the volumes themselves
MEMORY_RETRY_FACTOR = 1.5  # by which the grid is coarsened when memory runs out

# Without a network of several passes.
_WITHOUT_NETWORK = {
    "Balanced": OptimizationSchedule(levels=(PyramidLevel(4, 50), PyramidLevel(2, 30), PyramidLevel(1, 15))),
    "Precise": OptimizationSchedule(levels=(PyramidLevel(4, 80), PyramidLevel(2, 40), PyramidLevel(1, 15))),
}
# After several passes of the network the coarsest level gains nothing, and few iterations suffice at the finer ones:
# what they gain later is noise as often as anatomy.
_AFTER_NETWORK = {
    "Balanced": OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 8), PyramidLevel(1, 2)),
        initial_step=0.5,
        fluid_sigma=1.0,
        tolerance=1e-2,
    ),
    "Precise": OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 15), PyramidLevel(1, 10)), fluid_sigma=1.0
    ),
}
# With the segmentation term, once the first level has shown that the pair is of two subjects: the term gains overlap
# between two people and loses accuracy between two scans of one. Smaller steps and narrower Gaussians gain beside it;
# on other organs they lost a tenth.
_WITH_SEGMENTATION = {
    "Balanced": OptimizationSchedule(
        levels=(PyramidLevel(2, 16), PyramidLevel(2, 8, segmentation=True), PyramidLevel(1, 2, segmentation=True)),
        initial_step=0.3,
        fluid_sigma=0.7,
        elastic_sigma=0.6,
        same_subject_initial_step=0.5,
        tolerance=1e-2,
    ),
    "Precise": OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 8, segmentation=True), PyramidLevel(1, 6, segmentation=True)),
        bidirectional=True,
        initial_step=0.3,
        fluid_sigma=0.7,
        elastic_sigma=0.6,
        same_subject_initial_step=0.7,
        segmentation_interval=3,
        tolerance=1e-2,
    ),
}
# Descriptors of different contrasts agree less exactly, least of all at full resolution. With stronger smoothing the
# true error of synthetic pairs is less, and two scans of one head are deformed half as much.
_DIFFERENT_CONTRAST = {
    "Balanced": OptimizationSchedule(
        levels=(PyramidLevel(4, 50), PyramidLevel(2, 40)), fluid_sigma=3.0, elastic_sigma=1.0
    ),
    "Precise": OptimizationSchedule(
        levels=(PyramidLevel(4, 80), PyramidLevel(2, 80), PyramidLevel(1, 10)),
        fluid_sigma=3.0,
        elastic_sigma=1.0,
        tolerance=5e-4,
    ),
}
# Voxels from which on brains have the schedule of bodies: those of brains begin at 2 voxels, too wide there to follow
# what the affine leaves. In voxels of 4.8 mm the error of a noisy brain fell from 6.3 to 2.8 mm,
# of a plain one from 2.7 to 2.5.
MIN_COARSE_MM = 3.0
# Where no brain is segmented: any part of the body, without a network. The coarsest voxels are about a fifteenth of the
# subject, so that organs are found that a linear transform leaves apart. Wide windows at the coarse levels and narrow
# ones at the finest gained on all five pairs tried, stronger smoothing on all but one.
_BODY = {
    "Instant": OptimizationSchedule(
        levels=(
            PyramidLevel(8, 50),
            PyramidLevel(4, 80),
            PyramidLevel(2, 20, lncc_radius=4, lncc_stride=2),
            PyramidLevel(1, 5, lncc_radius=2),
        ),
        fluid_sigma=4.0,
        same_subject_threshold=math.inf,
    ),
    "Balanced": OptimizationSchedule(
        levels=(
            PyramidLevel(8, 50),
            PyramidLevel(4, 80),
            PyramidLevel(2, 50, lncc_radius=4, lncc_stride=2),
            PyramidLevel(1, 15, lncc_radius=2),
        ),
        fluid_sigma=4.0,
        same_subject_threshold=math.inf,
    ),
    "Precise": OptimizationSchedule(
        levels=(
            PyramidLevel(8, 50),
            PyramidLevel(4, 80),
            PyramidLevel(2, 80, lncc_radius=2),
            PyramidLevel(1, 30, lncc_radius=2),
        ),
        fluid_sigma=4.0,
        same_subject_threshold=math.inf,
        tolerance=1e-3,
    ),
}


def _large_steps(at_half: int, at_full: int, tolerance: float) -> OptimizationSchedule:
    """Few large steps under wide Gaussians of the force, in both directions before the finest level.

    at_half, at_full: iterations at half and full resolution.
    """
    return OptimizationSchedule(
        levels=(
            PyramidLevel(8, 50),
            PyramidLevel(4, 80),
            PyramidLevel(2, at_half, lncc_radius=2, initial_step=0.8, fluid_sigma=4.0),
            PyramidLevel(1, at_full, lncc_radius=2, initial_step=0.9),
        ),
        bidirectional=True,
        initial_step=0.6,
        fluid_sigma=5.0,
        same_subject_threshold=math.inf,
        tolerance=tolerance,
    )


# For bodies in one contrast, on a working grid finer than their voxels: the true error of most known deformations is
# less than with many small steps, and the time. On a grid as coarse as the voxels two subjects lose by it. Both
# directions gain more than the iterations that their time is taken from.
_BODY_LARGE_STEPS = {
    "Instant": _BODY["Instant"],
    "Balanced": _large_steps(15, 11, tolerance=_BODY["Balanced"].tolerance),
    "Precise": _large_steps(20, 25, tolerance=_BODY["Precise"].tolerance),
}


def with_smoothness(schedule: OptimizationSchedule, smoothness: str) -> OptimizationSchedule:
    """The schedule with the Gaussians for force and displacement widened or narrowed; "medium" leaves it as it is."""
    factor, raised = _SMOOTHNESS[smoothness]
    fluid, elastic = schedule.same_subject_sigmas
    return replace(
        schedule,
        levels=tuple(
            level if level.fluid_sigma is None else replace(level, fluid_sigma=factor * level.fluid_sigma)
            for level in schedule.levels
        ),
        fluid_sigma=factor * schedule.fluid_sigma,
        elastic_sigma=factor * schedule.elastic_sigma,
        same_subject_sigmas=(factor * fluid, factor * elastic),
        same_subject_threshold=schedule.same_subject_threshold + raised,
    )


def body_schedule(preset: str, large_steps: bool = False) -> OptimizationSchedule:
    """The schedule of a preset for a pair without segmented brains.

    large_steps: for one contrast, where the working grid is finer than the voxels of both images.
    """
    return (_BODY_LARGE_STEPS if large_steps else _BODY)[preset]


def choose_schedule(
    preset: str, same_contrast: bool, after_passes: bool, with_segmentation: bool
) -> OptimizationSchedule | None:
    """The schedule of a preset for two brains, or None for "Instant", which has none.

    after_passes: whether a network of several passes came before. with_segmentation: whether both segmentations are
    trusted.
    """
    if not same_contrast:
        schedules = _DIFFERENT_CONTRAST
    elif not after_passes:
        schedules = _WITHOUT_NETWORK
    else:
        schedules = _WITH_SEGMENTATION if with_segmentation else _AFTER_NETWORK
    return schedules.get(preset)
