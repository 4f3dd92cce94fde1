"""The linear stage: the affine, or the rigid transform, by structures or by mutual information.

From the initial transform if there is one.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ...spatial.preprocessing import Pair
from ..schedules import MIN_BODY_STRETCH, MIN_CONSISTENT_DICE, MIN_DICE_GAIN_OVER_MI, MIN_STRUCTURE_DICE
from ..segmentation.pair import PairSegmentation
from ..state import Job, LinearAlignment
from .mutual_information import estimate_affine, estimate_rigid, linear_part, rigid_part
from .structures import align_structures, structure_dice

_MIN_OVERLAP = 0.01  # fraction of the fixed foreground
_FITTED_POINTS = 2000
_MAX_FRACTION_BEYOND = 0.2  # of the subject, beyond the other volume: then cut structures misplace the affine


def align_linearly(job: Job, initial: sitk.Transform | None, segmentation: PairSegmentation | None) -> LinearAlignment:
    """The affine (of the transform type rigid, a rigid one), and what a non-linear initial transform adds to it.

    initial: fixed points -> moving points, LPS mm, or None. Raises InputError where the volumes do not overlap under
    the result.
    """
    job.timer.start("Rigid" if job.settings.transform_type == "rigid" else "Affine", 0.1)
    alignment = _align(job, initial, segmentation)
    _check_overlap(job.pair, alignment.affine)
    return alignment


def _align(job: Job, initial: sitk.Transform | None, segmentation: PairSegmentation | None) -> LinearAlignment:
    start = linear_part(initial) if initial is not None else None
    if initial is not None and start is None:
        affine = _nearest_affine(initial, job.pair.fixed_foreground)
        parts = [sitk.Transform(affine.GetInverse()), sitk.Transform(initial)]
        return LinearAlignment(affine, sitk.CompositeTransform(parts))
    if not job.settings.affine:
        return LinearAlignment(start if start is not None else sitk.AffineTransform(3))
    estimate = _estimate_rigid if job.settings.transform_type == "rigid" else _estimate_affine
    return LinearAlignment(estimate(job, start, segmentation))


def _estimate_rigid(
    job: Job, start: sitk.AffineTransform | None, segmentation: PairSegmentation | None
) -> sitk.AffineTransform:
    """By mutual information, which is more exact between two scans of one head than the structures are.

    From the rigid part of the affine of the structures where they overlap well.
    """
    pair, masks = job.pair, (job.pair.fixed_mask, job.pair.moving_mask)
    if start is not None:
        start = rigid_part(start, pair.fixed_foreground)
    if segmentation is None:
        return _rigid_by_intensities(job, start, masks)
    affine, dice = _aligned_structures(segmentation, start)
    by_structures = rigid_part(affine, pair.fixed_foreground)
    if dice > MIN_STRUCTURE_DICE and all(mask is None for mask in masks):
        return _rigid_by_intensities(job, by_structures, _common_brain(pair, segmentation))
    by_intensities = _rigid_by_intensities(job, start, masks)
    dice, dice_by_intensities = (
        structure_dice(segmentation.fixed, segmentation.moving, each) for each in (by_structures, by_intensities)
    )
    return by_structures if _are_lost(dice_by_intensities, dice) else by_intensities


def _aligned_structures(
    segmentation: PairSegmentation, start: sitk.AffineTransform | None
) -> tuple[sitk.AffineTransform, float]:
    """See `align_structures`."""
    if start is None:
        return segmentation.alignment
    return align_structures(segmentation.fixed, segmentation.moving, start)


def _are_lost(dice_by_intensities: float, dice: float) -> bool:
    """Whether mutual information loses structures that the segmentations agree on. dice: of their own alignment."""
    return dice > MIN_CONSISTENT_DICE and dice_by_intensities < dice - MIN_DICE_GAIN_OVER_MI


def _common_brain(pair: Pair, segmentation: PairSegmentation) -> tuple[sitk.Image | None, sitk.Image | None]:
    """Masks of what both show where one is a head and the other a skull-stripped brain: the foreground of the brain."""
    fixed, moving = segmentation.fixed.skull_stripped, segmentation.moving.skull_stripped
    return (
        pair.fixed_foreground if fixed and not moving else None,
        pair.moving_foreground if moving and not fixed else None,
    )


def _rigid_by_intensities(
    job: Job, start: sitk.AffineTransform | None, masks: tuple[sitk.Image | None, sitk.Image | None]
) -> sitk.AffineTransform:
    pair = job.pair
    return estimate_rigid(
        pair.fixed,
        pair.moving,
        pair.fixed_foreground,
        pair.moving_foreground,
        masks=masks,
        initial=start,
        seed=job.settings.seed,
        length_scale=pair.length_scale,
        progress=lambda fraction: job.timer.report(0.1 + 0.8 * fraction, "aligning position and rotation"),
    )


def _estimate_affine(
    job: Job, start: sitk.AffineTransform | None, segmentation: PairSegmentation | None
) -> sitk.AffineTransform:
    """By structures where they overlap well and both volumes show them; otherwise by mutual information.

    Unless that loses the structures.
    """
    if segmentation is None:
        return _by_intensities(job, start)
    masked = job.pair.fixed_mask is not None or job.pair.moving_mask is not None
    by_structures, dice = _aligned_structures(segmentation, start)
    if dice > MIN_STRUCTURE_DICE and not masked and not _is_cut_off(job.pair, by_structures):
        return by_structures
    by_intensities = _by_intensities(job, start)
    dice_by_intensities = structure_dice(segmentation.fixed, segmentation.moving, by_intensities)
    return by_structures if _are_lost(dice_by_intensities, dice) else by_intensities


def _by_intensities(job: Job, start: sitk.AffineTransform | None) -> sitk.AffineTransform:
    pair = job.pair
    return estimate_affine(
        pair.fixed,
        pair.moving,
        pair.fixed_foreground,
        pair.moving_foreground,
        masks=(pair.fixed_mask, pair.moving_mask),
        initial=start,
        seed=job.settings.seed,
        length_scale=pair.length_scale,
        min_stretch=MIN_BODY_STRETCH if pair.is_body and job.settings.deformable else 0.0,
        converge=not job.settings.deformable,
        progress=lambda fraction: job.timer.report(
            0.1 + (0.1 if job.settings.deformable else 0.8) * fraction, "aligning position, rotation, scale and shear"
        ),
    )


def _is_cut_off(pair: Pair, affine: sitk.AffineTransform) -> bool:
    """Whether either volume shows only a part of the subject of the other, whose structures are cut off."""
    return any(
        _fraction_beyond(volume, foreground, transform) > _MAX_FRACTION_BEYOND
        for volume, foreground, transform in (
            (pair.moving, pair.fixed_foreground, affine),
            (pair.fixed, pair.moving_foreground, affine.GetInverse()),
        )
    )


def _fraction_beyond(volume: sitk.Image, foreground: sitk.Image, transform: sitk.Transform) -> float:
    """The fraction of a foreground that `transform` maps beyond the box of a volume."""
    indices = np.array(
        [volume.TransformPhysicalPointToContinuousIndex(point) for point in _moved(foreground, transform)]
    )
    return float(np.any((indices < -0.5) | (indices > np.array(volume.GetSize()) - 0.5), axis=1).mean())


def _moved(mask: sitk.Image, transform: sitk.Transform) -> list[tuple[float, float, float]]:
    """Where `transform` maps points of a mask, LPS mm."""
    return [transform.TransformPoint(point) for point in _points_of(mask).tolist()]


def _points_of(mask: sitk.Image) -> np.ndarray:
    """(N, 3) LPS mm: some 2000 points of a mask."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    indices = indices[:: max(1, len(indices) // _FITTED_POINTS)]
    return np.array([mask.TransformIndexToPhysicalPoint(index.tolist()) for index in indices])


def _nearest_affine(transform: sitk.Transform, mask: sitk.Image) -> sitk.AffineTransform:
    """The affine nearest to a transform in least squares over points of the mask."""
    points, targets = _points_of(mask), np.array(_moved(mask, transform))
    design = np.hstack([points, np.ones((len(points), 1))])
    solution = np.linalg.lstsq(design, targets, rcond=None)[0]
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(solution[:3].T.ravel().tolist())
    affine.SetTranslation(solution[3].tolist())
    return affine


def _check_overlap(pair: Pair, affine: sitk.AffineTransform) -> None:
    moved = sitk.Resample(pair.moving_foreground, pair.fixed_foreground, affine, sitk.sitkNearestNeighbor, 0)
    fixed = sitk.GetArrayViewFromImage(pair.fixed_foreground)
    shared = np.count_nonzero(sitk.GetArrayViewFromImage(moved) & fixed)
    if shared < _MIN_OVERLAP * np.count_nonzero(fixed):
        raise InputError(
            f"The fixed and the moving image do not overlap in space after the initial alignment ({shared} voxels in "
            "common): check that they show the same part of the body, or let the affine stage align them."
        )
