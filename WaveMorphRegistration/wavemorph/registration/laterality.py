"""Whether one of the two volumes is mirrored left to right (ours).

The pair is aligned linearly twice more, on coarse copies: as it is, and with the moving volume mirrored. No body is its
own mirror image: organs lie on one side, folds of a brain differ, and on average so do its two halves. So the wrong one
of the two agrees less, and after the deformation nothing would tell it any more.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..errors import InputError
from ..spatial.grid import WorkingGrid, array_from_tensor, make_working_grid, tensor_from_array
from ..spatial.preprocessing import Pair, WorkingPair, bounding_box, prepare
from .linear.mattes import as_affine
from .linear.structures import refine_structures
from .segmentation.brain import BrainSegmentation
from .segmentation.pair import PairSegmentation
from .similarity.lncc import LocalCorrelation

_SPACING_MM = 3.0  # for a head, of the coarse copies
_RADIUS_VOXELS = 2  # of windows
_DICE_WEIGHT = 2.0  # of the structures' Dice against local correlation; its differences are smaller
_SAMPLES, _ITERATIONS = 20_000, 25  # of mutual information
_MIN_COSINE = 0.8  # between the axis that is mirrored, seen from either volume


def mirrored_gain(pair: Pair, affine: sitk.AffineTransform, segmentation: PairSegmentation | None) -> float | None:
    """By how much the volumes would agree better if the moving one were mirrored; below 0 where they would agree less.

    The difference of squared local correlations under the best affine of either kind, and for brains twice that of the
    structures' mean Dice. None where the affine does not map left and right onto left and right, or too little can be
    compared. affine: of the linear stage, fixed points -> moving points, LPS mm.
    """
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    if abs(matrix[0, 0]) < _MIN_COSINE * np.linalg.norm(matrix[:, 0]):
        return None
    try:
        gain = _gain_of_bodies(pair, affine) if segmentation is None else _gain_of_brains(pair, affine, segmentation)
    except InputError:  # too few voxels
        return None
    return gain if math.isfinite(gain) else None


def _gain_of_brains(pair: Pair, affine: sitk.AffineTransform, segmentation: PairSegmentation) -> float:
    fixed, moving = (_on_cpu(each) for each in (segmentation.fixed, segmentation.moving))
    mirrored = replace(moving, probabilities=moving.probabilities.flip(4))
    of_moving, of_fixed = (_reflection(*_middle_plane(each.grid)) for each in (moving, fixed))
    start = as_affine(sitk.CompositeTransform([of_moving, affine, of_fixed]))
    plain, dice = refine_structures(fixed, moving, affine)
    found, dice_mirrored = refine_structures(fixed, mirrored, start)
    grid = _coarse_grid(pair)
    both = [prepare(pair, grid, each, torch.device("cpu")) for each in (plain, _after(of_moving, found))]
    brain = F.max_pool3d(1 - fixed.resample(grid, None, grid.shape)[:, :1], 3, 1, 1) > 0.5
    weight = brain * both[0].moving_inside * both[1].moving_inside
    similarity, similarity_mirrored = (_local(each.fixed, each.moving, weight) for each in both)
    return similarity_mirrored - similarity + _DICE_WEIGHT * (dice_mirrored - dice)


def _gain_of_bodies(pair: Pair, affine: sitk.AffineTransform) -> float:
    grid = _coarse_grid(pair)
    first, last = bounding_box(pair.fixed_foreground)
    middle = pair.fixed_foreground.TransformContinuousIndexToPhysicalPoint(((first + last) / 2).tolist())
    reflection = _reflection(np.array(middle), np.array([1.0, 0.0, 0.0]))
    both = [prepare(pair, grid, each, torch.device("cpu")) for each in (affine, _after(affine, reflection))]
    similarity, similarity_mirrored = (_similarity_refined(each, grid, pair.length_scale) for each in both)
    return similarity_mirrored - similarity


def _similarity_refined(working: WorkingPair, grid: WorkingGrid, length_scale: float) -> float:
    """Squared local correlation under the affine next to the identity that maximizes mutual information."""

    def image(values: torch.Tensor) -> sitk.Image:
        made = sitk.GetImageFromArray(array_from_tensor(values[0, 0]))
        made.SetSpacing([side / length_scale for side in grid.spacing])
        return made

    fixed, moving = image(working.fixed), image(working.moving)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / fixed.GetNumberOfPixels()), 1)
    method.SetMetricFixedMask(sitk.Cast(image(working.inside) > 0.5, sitk.sitkUInt8))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.05, numberOfIterations=_ITERATIONS, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    start = sitk.AffineTransform(3)
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = method.Execute(fixed, moving)
    except RuntimeError:  # ITK: the images no longer overlap
        found = start
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, found, sitk.sitkLinear, 0.0))
    return _local(working.fixed, tensor_from_array(warped)[None, None], working.weight * working.inside)


def _coarse_grid(pair: Pair) -> WorkingGrid:
    spacing = max(_SPACING_MM * pair.length_scale, *pair.fixed.GetSpacing())
    return make_working_grid(pair.fixed_foreground, bounding_box(pair.fixed_foreground), spacing, 2 * spacing)


def _local(fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor) -> float:
    return LocalCorrelation(fixed, moving, weight, radius=_RADIUS_VOXELS, signed=False).value()


def _middle_plane(grid: WorkingGrid) -> tuple[np.ndarray, np.ndarray]:
    """(a point, the normal) of the plane about which flipping the first axis of a lattice mirrors, LPS mm."""
    center = np.array(grid.point([(n - 1) / 2 for n in grid.size]))
    return center, np.array(grid.direction)[:, 0]


def _reflection(point: np.ndarray, normal: np.ndarray) -> sitk.AffineTransform:
    reflection = sitk.AffineTransform(3)
    reflection.SetCenter(point.tolist())
    reflection.SetMatrix((np.eye(3) - 2 * np.outer(normal, normal)).ravel().tolist())
    return reflection


def _after(outer: sitk.AffineTransform, inner: sitk.AffineTransform) -> sitk.AffineTransform:
    """x -> outer(inner(x))."""
    return as_affine(sitk.CompositeTransform([outer, inner]))


def _on_cpu(segmentation: BrainSegmentation) -> BrainSegmentation:
    return replace(segmentation, probabilities=segmentation.probabilities.cpu())
