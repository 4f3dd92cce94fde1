"""The affine stage: centring, then rigid, then twelve parameters, by mutual information at a few resolutions.

Transforms are SimpleITK's, LPS mm, fixed points -> moving points. Mutual information makes no assumption about the two
contrasts, and its samples are seeded, so that the answer is the same each time.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from .errors import InputError

_TILTS_DEGREES = (-20.0, 0.0, 20.0)  # nodding is what differs most between head positions
_SLAB = 16  # planes of a shrunken image made at once
_PARTIAL = 0.95  # share of the fixed lattice below which the moving volume counts as showing only a part
_STRETCH = 6.0  # mutual information that a stretch along one axis must gain, per sum of squared log factors
_SHIFTS_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)  # a neck in only one of the two moves its centre along the body


def linear_part(transform: sitk.Transform) -> sitk.AffineTransform | None:
    """The transform as one affine if it is linear (also a composite of linear ones), otherwise None.

    Raises InputError if it is linear and singular.
    """
    if not transform.IsLinear():
        return None
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(np.eye(3)[axis]))) - origin for axis in range(3)]
    matrix = np.stack(columns, axis=1)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError("The initial transform flattens space (determinant 0); choose one that can be inverted.")
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix.ravel().tolist())
    affine.SetTranslation(origin.tolist())
    return affine


def estimate_affine(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_foreground: sitk.Image,
    moving_foreground: sitk.Image,
    masks: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
    initial: sitk.AffineTransform | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> sitk.AffineTransform:
    """The affine that maps fixed points to moving points.

    The foregrounds say where the subjects are; `masks` restrict what is compared. Without `initial`, the headers' own
    alignment, the centres of mass and the centres of the foregrounds compete under several tilts and shifts along the
    body axis; the three best by mutual information are refined rigidly, and the best of those becomes affine.

    Mutual information also rises where more of the subject comes into view, and a slab of thick slices would be
    stretched for it: what both show is settled by the rigid stage, and a stretch must gain more than that brings.
    """
    comparison = _Comparison(fixed, moving, masks, seed)
    centre = _centroid(fixed_foreground)
    if initial is not None:
        starts = [initial]
    else:
        candidates = _candidates(fixed_foreground, moving_foreground)
        starts = sorted(candidates, key=lambda start: comparison.score(start, 4.0), reverse=True)[:3]
    progress(0.15)
    rigid = [comparison.refine_rigid(_about(start, centre), 4.0) for start in starts]
    best = max([*starts, *rigid], key=lambda affine: comparison.score(affine, 4.0))
    comparison = comparison.where_both_show(best)
    again = comparison.refine_rigid(_about(best, centre), 4.0)
    best = before = max(best, again, key=lambda affine: comparison.score(affine, 4.0))
    progress(0.5)
    for spacing, step, done in ((4.0, 1.0, 0.7), (2.5, 0.5, 1.0)):
        refined = comparison.refine_affine(_about(best, centre), spacing, step)
        merits = [comparison.score(each, spacing) - _STRETCH * _stretch(each, before) for each in (refined, best)]
        if merits[0] > merits[1]:
            best = refined
        progress(done)
    return _about(best, centre)


class _Comparison:
    """Mutual information between one fixed and one moving image, at several spacings."""

    def __init__(self, fixed: sitk.Image, moving: sitk.Image, masks, seed: int):
        self._images = tuple((image, *_usual_range(image)) for image in (fixed, moving))
        self._masks = masks
        self._seed = seed + 1  # 0 would mean: seed by the clock
        self._cache: dict[float, tuple[sitk.Image, sitk.Image]] = {}

    def _pair(self, spacing: float) -> tuple[sitk.Image, sitk.Image]:
        if spacing not in self._cache:
            self._cache[spacing] = tuple(_shrunk(*image, spacing) for image in self._images)
        return self._cache[spacing]

    def where_both_show(self, affine: sitk.Transform) -> _Comparison:
        """The same comparison, of no more than what the moving volume shows under this affine."""
        lattice, moving = self._pair(4.0)
        whole = sitk.Image(moving.GetSize(), sitk.sitkUInt8) + 1
        whole.CopyInformation(moving)
        seen = sitk.Resample(whole, lattice, affine, sitk.sitkNearestNeighbor, 0)
        if np.mean(sitk.GetArrayViewFromImage(seen)) > _PARTIAL:
            return self
        if self._masks[0] is not None:
            seen = seen & (sitk.Resample(self._masks[0], seen, sitk.Transform(), sitk.sitkNearestNeighbor, 0) > 0)
        if not np.any(sitk.GetArrayViewFromImage(seen)):
            return self
        narrower = copy.copy(self)
        narrower._masks = seen, self._masks[1]
        return narrower

    def _method(self, spacing: float, samples: int) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = min(1.0, samples / self._pair(spacing)[0].GetNumberOfPixels())
        method.SetMetricSamplingPercentage(share, self._seed)
        method.SetInterpolator(sitk.sitkLinear)
        if self._masks[0] is not None:
            method.SetMetricFixedMask(self._masks[0])
        if self._masks[1] is not None:
            method.SetMetricMovingMask(self._masks[1])
        return method

    def score(self, affine: sitk.Transform, spacing: float) -> float:
        """Mutual information (larger is better); minus infinity where nothing overlaps."""
        method = self._method(spacing, samples=15_000)
        method.SetInitialTransform(sitk.AffineTransform(affine), inPlace=False)
        try:
            return -method.MetricEvaluate(*self._pair(spacing))
        except RuntimeError:  # ITK: all samples map outside the moving image
            return -math.inf

    def refine_rigid(self, start: sitk.AffineTransform, spacing: float) -> sitk.AffineTransform:
        """start(R(x)) with the best rigid R."""
        rigid = sitk.Euler3DTransform()
        rigid.SetCenter(start.GetCenter())
        method = self._method(spacing, samples=20_000)
        method.SetMovingInitialTransform(start)
        found = self._optimise(method, rigid, spacing, step=2.0, iterations=60)
        return linear_part(sitk.CompositeTransform([start, found])) if found is not None else start

    def refine_affine(self, start: sitk.AffineTransform, spacing: float, step: float) -> sitk.AffineTransform:
        found = self._optimise(self._method(spacing, samples=40_000), start, spacing, step, iterations=50)
        return linear_part(found) if found is not None else start

    def _optimise(self, method, transform, spacing, step, iterations) -> sitk.Transform | None:
        method.SetInitialTransform(transform, inPlace=False)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=step, minStep=0.01, numberOfIterations=iterations, relaxationFactor=0.6
        )
        method.SetOptimizerScalesFromPhysicalShift()
        try:
            return method.Execute(*self._pair(spacing))
        except RuntimeError:  # the two drifted apart: the caller keeps its start
            return None


def _candidates(fixed_foreground: sitk.Image, moving_foreground: sitk.Image) -> list[sitk.AffineTransform]:
    pivot = _centroid(fixed_foreground)
    offsets = [
        np.zeros(3),
        _centroid(moving_foreground) - pivot,
        _box_centre(moving_foreground) - _box_centre(fixed_foreground),
    ]
    candidates = []
    for offset, tilt, shift in itertools.product(offsets, _TILTS_DEGREES, _SHIFTS_MM):
        start = sitk.Euler3DTransform()
        start.SetCenter(pivot.tolist())
        start.SetRotation(math.radians(tilt), 0.0, 0.0)
        start.SetTranslation((offset + np.array([0.0, 0.0, shift])).tolist())
        candidates.append(linear_part(start))
    return candidates


def _stretch(affine: sitk.AffineTransform, before: sitk.AffineTransform) -> float:
    """The sum of squared log factors, but for their mean, by which `affine` stretches more than `before`."""
    added = np.reshape(affine.GetMatrix(), (3, 3)) @ np.linalg.inv(np.reshape(before.GetMatrix(), (3, 3)))
    logs = np.log(np.maximum(np.linalg.svd(added)[1], 1e-6))
    return float(((logs - logs.mean()) ** 2).sum())


def _about(affine: sitk.AffineTransform, centre: np.ndarray) -> sitk.AffineTransform:
    """The same map, its matrix acting about `centre`: keeps rotation and translation apart for the optimiser."""
    moved = sitk.AffineTransform(3)
    moved.SetCenter(centre.tolist())
    moved.SetMatrix(affine.GetMatrix())
    moved.SetTranslation((np.array(affine.TransformPoint(centre.tolist())) - centre).tolist())
    return moved


def _usual_range(image: sitk.Image) -> tuple[float, float]:
    """The intensities without the few extreme ones (metal, flow) that would waste the histogram's bins."""
    low, high = np.percentile(sitk.GetArrayViewFromImage(image)[::2, ::2, ::2], (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _shrunk(image: sitk.Image, low: float, high: float, spacing: float) -> sitk.Image:
    """float32, clamped to [low, high], with voxels of about `spacing` mm, each the mean of whole voxels of the image.

    Made in slabs, because a large volume need not be held as float32 too.
    """
    factors = [
        min(max(1, int(spacing / own + 0.3)), max(1, size // 8))
        for own, size in zip(image.GetSpacing(), image.GetSize())
    ]
    planes = image.GetSize()[2] // factors[2] * factors[2]
    thickness = _SLAB * factors[2]
    slabs = [
        sitk.BinShrink(
            sitk.Clamp(image[:, :, first : min(first + thickness, planes)], sitk.sitkFloat32, low, high), factors
        )
        for first in range(0, planes, thickness)
    ]
    shrunk = sitk.GetImageFromArray(np.concatenate([sitk.GetArrayViewFromImage(slab) for slab in slabs]))
    shrunk.SetSpacing(slabs[0].GetSpacing())
    shrunk.SetOrigin(slabs[0].GetOrigin())
    shrunk.SetDirection(slabs[0].GetDirection())
    return shrunk


def _points(mask: sitk.Image) -> np.ndarray:
    """LPS mm of (a thinned set of) the mask's voxels, (N, 3)."""
    stride = [max(1, n // 64) for n in mask.GetSize()]
    kji = np.argwhere(sitk.GetArrayViewFromImage(mask)[:: stride[2], :: stride[1], :: stride[0]])
    if not len(kji):
        kji = np.array([[0, 0, 0]])
    ijk = kji[:, ::-1] * stride
    axes = np.array(mask.GetDirection()).reshape(3, 3) * np.array(mask.GetSpacing())
    return ijk @ axes.T + np.array(mask.GetOrigin())


def _centroid(mask: sitk.Image) -> np.ndarray:
    return _points(mask).mean(axis=0)


def _box_centre(mask: sitk.Image) -> np.ndarray:
    points = _points(mask)
    return (points.min(axis=0) + points.max(axis=0)) / 2
