"""Mutual information of two volumes at several spacings, and the search for the linear transform that maximizes it.

Transforms are SimpleITK's, LPS mm, fixed points -> moving points. Mutual information makes no assumption about the two
contrasts, and its samples are seeded, so that the answer is the same each time.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import SimpleITK as sitk

from ...errors import InputError

_COARSE_MM = 4.0  # voxels for a head
_DOWNSAMPLED_SLAB_PLANES = 16  # of a downsampled image that are made at once
_PARTIAL_OVERLAP = 0.95  # fraction of the fixed lattice below which the moving volume shows only a part of it


class MattesRegistration:
    """Mutual information between one fixed and one moving image, at several spacings.

    Spacings and transforms are in units of `length_scale` mm.
    """

    def __init__(self, fixed: sitk.Image, moving: sitk.Image, masks, seed: int, length_scale: float = 1.0):
        self._images = (fixed, *_robust_range(fixed)), (moving, *_robust_range(moving))
        self._masks = tuple(mask and _scaled_image(mask, 1 / length_scale) for mask in masks)
        self.length_scale = length_scale
        self.coarse_mm = max(_COARSE_MM, 2 * min(fixed.GetSpacing()) / length_scale)
        self._seed = seed + 1  # 0 would mean: seed by the clock
        self._cache: dict[float, tuple[sitk.Image, sitk.Image]] = {}

    def _pair(self, spacing: float) -> tuple[sitk.Image, sitk.Image]:
        if spacing not in self._cache:
            fixed, moving = (
                _scaled_image(_downsample(*image, spacing * self.length_scale), 1 / self.length_scale)
                for image in self._images
            )
            self._cache[spacing] = fixed, moving
        return self._cache[spacing]

    def restricted_to_overlap(self, affine: sitk.Transform) -> MattesRegistration:
        """The same registration, restricted to what the moving volume shows under this affine."""
        lattice, moving = self._pair(self.coarse_mm)
        moving_extent = sitk.Image(moving.GetSize(), sitk.sitkUInt8) + 1
        moving_extent.CopyInformation(moving)
        overlap = sitk.Resample(moving_extent, lattice, affine, sitk.sitkNearestNeighbor, 0)
        if np.mean(sitk.GetArrayViewFromImage(overlap)) > _PARTIAL_OVERLAP:
            return self
        if self._masks[0] is not None:
            overlap = overlap & (
                sitk.Resample(self._masks[0], overlap, sitk.Transform(), sitk.sitkNearestNeighbor, 0) > 0
            )
        if not np.any(sitk.GetArrayViewFromImage(overlap)):
            return self
        restricted = copy.copy(self)
        restricted._masks = overlap, self._masks[1]
        return restricted

    def _method(self, spacing: float, samples: int) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.RANDOM)
        fraction = min(1.0, samples / self._pair(spacing)[0].GetNumberOfPixels())
        method.SetMetricSamplingPercentage(fraction, self._seed)
        method.SetInterpolator(sitk.sitkLinear)
        if self._masks[0] is not None:
            method.SetMetricFixedMask(self._masks[0])
        if self._masks[1] is not None:
            method.SetMetricMovingMask(self._masks[1])
        return method

    def score(self, affine: sitk.Transform, spacing: float) -> float:
        """Mutual information (larger is better); minus infinity where nothing overlaps."""
        method = self._method(spacing, samples=15_000)
        method.SetMetricUseFixedImageGradientFilter(False)  # not needed for the value, and slower than all the rest
        method.SetMetricUseMovingImageGradientFilter(False)
        method.SetInitialTransform(sitk.AffineTransform(affine), inPlace=False)
        try:
            return -method.MetricEvaluate(*self._pair(spacing))
        except RuntimeError:  # ITK: all samples map outside the moving image
            return -math.inf

    def refine_rigid(
        self, start: sitk.AffineTransform, spacing: float, step: float | None = 2.0, samples: int = 20_000
    ) -> sitk.AffineTransform:
        """start(R(x)) with the best rigid R. step: as of `_optimize`."""
        rigid = sitk.Euler3DTransform()
        rigid.SetCenter(start.GetCenter())
        method = self._method(spacing, samples)
        method.SetMovingInitialTransform(start)
        found = self._optimize(method, rigid, spacing, step, iterations=60)
        return as_affine(sitk.CompositeTransform([start, found])) if found is not None else start

    def converged_rigid(self, start: sitk.AffineTransform, spacing: float) -> sitk.AffineTransform:
        """The better of `start` and what line searches make of it: descent by fixed steps ended up to 4 mm away."""
        found = self.refine_rigid(start, spacing, step=None, samples=40_000)
        return max(start, found, key=lambda rigid: self.score(rigid, spacing))

    def refine_affine(self, start: sitk.AffineTransform, spacing: float, step: float | None) -> sitk.AffineTransform:
        found = self._optimize(self._method(spacing, samples=40_000), start, spacing, step, iterations=50)
        return as_affine(found) if found is not None else start

    def _optimize(self, method, transform, spacing, step, iterations) -> sitk.Transform | None:
        """The optimum near `transform`, or None. step: of the descent, in mm for a head; None for line searches."""
        method.SetInitialTransform(transform, inPlace=False)
        if step is None:
            method.SetOptimizerAsConjugateGradientLineSearch(
                learningRate=1.0, numberOfIterations=30, convergenceMinimumValue=1e-5, convergenceWindowSize=5
            )
        else:
            method.SetOptimizerAsRegularStepGradientDescent(
                learningRate=step, minStep=0.01, numberOfIterations=iterations, relaxationFactor=0.6
            )
        method.SetOptimizerScalesFromPhysicalShift()
        try:
            return method.Execute(*self._pair(spacing))
        except RuntimeError:  # ITK: the images no longer overlap; the caller keeps its start
            return None


def as_affine(transform: sitk.Transform) -> sitk.AffineTransform:
    """A linear transform as one affine. Raises InputError where it is singular."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(np.eye(3)[axis]))) - origin for axis in range(3)]
    matrix = np.stack(columns, axis=1)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError("The initial transform flattens space (determinant 0); choose one that can be inverted.")
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix.ravel().tolist())
    affine.SetTranslation(origin.tolist())
    return affine


def with_center(affine: sitk.AffineTransform, center: np.ndarray) -> sitk.AffineTransform:
    """The same map with its matrix acting about `center`, so that rotation and translation are nearly independent."""
    moved = sitk.AffineTransform(3)
    moved.SetCenter(center.tolist())
    moved.SetMatrix(affine.GetMatrix())
    moved.SetTranslation((np.array(affine.TransformPoint(center.tolist())) - center).tolist())
    return moved


def scaled_affine(affine: sitk.AffineTransform, factor: float) -> sitk.AffineTransform:
    """The same map where all coordinates are multiplied by `factor`."""
    result = sitk.AffineTransform(affine)
    result.SetCenter([factor * value for value in affine.GetCenter()])
    result.SetTranslation([factor * value for value in affine.GetTranslation()])
    return result


def _scaled_image(image: sitk.Image, factor: float) -> sitk.Image:
    """The same image where all coordinates are multiplied by `factor`."""
    result = sitk.Image(image)
    result.SetSpacing([factor * value for value in image.GetSpacing()])
    result.SetOrigin([factor * value for value in image.GetOrigin()])
    return result


def _robust_range(image: sitk.Image) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile: metal or flow would otherwise leave few histogram bins for tissue."""
    low, high = np.percentile(sitk.GetArrayViewFromImage(image)[::2, ::2, ::2], (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _downsample(image: sitk.Image, low: float, high: float, spacing: float) -> sitk.Image:
    """float32, clamped to [low, high], with voxels of about `spacing` mm, each the mean of whole voxels of the image.

    Computed in slabs, so that no float32 copy of a large volume is held.
    """
    factors = [
        min(max(1, int(spacing / own + 0.3)), max(1, size // 8))
        for own, size in zip(image.GetSpacing(), image.GetSize())
    ]
    planes = image.GetSize()[2] // factors[2] * factors[2]
    thickness = _DOWNSAMPLED_SLAB_PLANES * factors[2]
    slabs = [
        sitk.BinShrink(
            sitk.Clamp(image[:, :, first : min(first + thickness, planes)], sitk.sitkFloat32, low, high), factors
        )
        for first in range(0, planes, thickness)
    ]
    downsampled = sitk.GetImageFromArray(np.concatenate([sitk.GetArrayViewFromImage(slab) for slab in slabs]))
    downsampled.SetSpacing(slabs[0].GetSpacing())
    downsampled.SetOrigin(slabs[0].GetOrigin())
    downsampled.SetDirection(slabs[0].GetDirection())
    return downsampled


def _points(mask: sitk.Image) -> np.ndarray:
    """(N, 3) LPS mm of a regular subset of the voxels of the mask."""
    stride = [max(1, n // 64) for n in mask.GetSize()]
    kji = np.argwhere(sitk.GetArrayViewFromImage(mask)[:: stride[2], :: stride[1], :: stride[0]])
    if not len(kji):
        kji = np.array([[0, 0, 0]])
    ijk = kji[:, ::-1] * stride
    axes = np.array(mask.GetDirection()).reshape(3, 3) * np.array(mask.GetSpacing())
    return ijk @ axes.T + np.array(mask.GetOrigin())


def centroid_mm(mask: sitk.Image) -> np.ndarray:
    """(3,) LPS mm: the centroid of a mask."""
    return _points(mask).mean(axis=0)


def box_center_mm(mask: sitk.Image) -> np.ndarray:
    """(3,) LPS mm: the middle of the smallest box along the LPS axes that holds a mask."""
    points = _points(mask)
    return (points.min(axis=0) + points.max(axis=0)) / 2
