"""Whether one of two volumes of a body is mirrored left to right (ours).

The pair is aligned linearly twice more, on coarse copies: as it is, and with the moving volume mirrored. Most organs of
a trunk lie on one side, so the wrong one of the two agrees less, and after the deformation nothing would tell it any
more. Brains are not judged: their halves are too alike.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import InputError
from ..spatial.grid import WorkingGrid, array_from_tensor, make_working_grid, tensor_from_array
from ..spatial.preprocessing import Pair, WorkingPair, bounding_box, prepare
from .linear.mattes import as_affine
from .similarity.lncc import LocalCorrelation

_SPACING_MM = 3.0  # for a head, of the coarse copies
_RADIUS_VOXELS = 2  # of windows
_SAMPLES, _ITERATIONS = 20_000, 25  # of mutual information
_MIN_COSINE = 0.8  # between the axis that is mirrored, seen from either volume


def mirrored_gain(pair: Pair, affine: sitk.AffineTransform) -> float | None:
    """By how much two bodies would agree better if the moving one were mirrored; below 0 where they would agree less.

    The difference of squared local correlations under the best affine of either kind. None for brains, where the affine
    does not map left and right onto left and right, or where too little can be compared. affine: of the linear stage,
    fixed points -> moving points, LPS mm.
    """
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    if not pair.is_body or abs(matrix[0, 0]) < _MIN_COSINE * np.linalg.norm(matrix[:, 0]):
        return None
    try:
        gain = _gain(pair, affine)
    except InputError:  # too few voxels
        return None
    return gain if math.isfinite(gain) else None


def _gain(pair: Pair, affine: sitk.AffineTransform) -> float:
    grid = _coarse_grid(pair)
    mirrored = as_affine(sitk.CompositeTransform([affine, _reflection(pair)]))
    coarse = copy.copy(pair)  # the images in means of whole voxels, so that fine ones are not filtered four times
    coarse.fixed, coarse.moving = (_shrunk(image, grid.spacing[0]) for image in (pair.fixed, pair.moving))
    return _similarity(coarse, mirrored, grid) - _similarity(coarse, affine, grid)


def _shrunk(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The means of whole voxels, none larger than the spacing."""
    sides = zip(image.GetSpacing(), image.GetSize())
    return sitk.BinShrink(image, [max(1, min(int(spacing_mm / own), count // 2)) for own, count in sides])


def _similarity(pair: Pair, affine: sitk.AffineTransform, grid: WorkingGrid) -> float:
    return _similarity_refined(prepare(pair, grid, affine, torch.device("cpu")), grid, pair.length_scale)


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
    weight = working.weight * working.inside
    return LocalCorrelation(
        working.fixed, tensor_from_array(warped)[None, None], weight, radius=_RADIUS_VOXELS, signed=False
    ).value()


def _coarse_grid(pair: Pair) -> WorkingGrid:
    spacing = max(_SPACING_MM * pair.length_scale, *pair.fixed.GetSpacing())
    return make_working_grid(pair.fixed_foreground, bounding_box(pair.fixed_foreground), spacing, 2 * spacing)


def _reflection(pair: Pair) -> sitk.AffineTransform:
    """At the sagittal plane through the middle of the fixed subject."""
    first, last = bounding_box(pair.fixed_foreground)
    middle = pair.fixed_foreground.TransformContinuousIndexToPhysicalPoint(((first + last) / 2).tolist())
    reflection = sitk.AffineTransform(3)
    reflection.SetCenter(middle)
    reflection.SetMatrix(np.diag([-1.0, 1.0, 1.0]).ravel().tolist())
    return reflection
