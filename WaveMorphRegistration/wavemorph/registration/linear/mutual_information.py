"""The rigid transform or the affine by mutual information: centering, then six or twelve parameters, coarse to fine.

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

from ...errors import InputError

_COARSE_MM, _FINE_MM = 4.0, 2.5  # voxels for a head
_PITCH_STARTS_DEG = (-20.0, 0.0, 20.0)  # head positions differ most by nodding
_DOWNSAMPLED_SLAB_PLANES = 16  # of a downsampled image that are made at once
_PARTIAL_OVERLAP = 0.95  # fraction of the fixed lattice below which the moving volume shows only a part of it
_STRETCH_PENALTY = 6.0  # mutual information per sum of squared log scale factors; see `_log_stretch_variance`
# for a head: a neck in one volume only shifts its centroid along the body
_SHIFT_STARTS_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)


def linear_part(transform: sitk.Transform) -> sitk.AffineTransform | None:
    """The transform as one affine where it is linear, also a composite of linear ones; otherwise None.

    Raises InputError where it is linear and singular.
    """
    return as_affine(transform) if transform.IsLinear() else None


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


def rigid_part(affine: sitk.AffineTransform, fixed_foreground: sitk.Image) -> sitk.AffineTransform:
    """The rotation nearest to the affine, about the centroid of the fixed foreground, which maps as before.

    Raises InputError where the affine mirrors.
    """
    left, _, right = np.linalg.svd(np.reshape(affine.GetMatrix(), (3, 3)))
    rotation = left @ right
    if np.linalg.det(rotation) < 0:
        raise InputError("The initial transform mirrors the moving image; a rigid transform cannot, so choose another.")
    center = _centroid(fixed_foreground)
    rigid = sitk.AffineTransform(3)
    rigid.SetCenter(center.tolist())
    rigid.SetMatrix(rotation.ravel().tolist())
    rigid.SetTranslation((np.array(affine.TransformPoint(center.tolist())) - center).tolist())
    return rigid


def estimate_rigid(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_foreground: sitk.Image,
    moving_foreground: sitk.Image,
    masks: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
    initial: sitk.AffineTransform | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
    length_scale: float = 1.0,
) -> sitk.AffineTransform:
    """The rotation and translation that maximize mutual information; arguments as of `estimate_affine`.

    initial: must be rigid.
    """
    registration = _MattesRegistration(fixed, moving, masks, seed, length_scale)
    center = _centroid(fixed_foreground) / length_scale
    if initial is not None:
        starts = [_scaled_affine(initial, 1 / length_scale)]
    else:
        starts = _best_starts(registration, fixed_foreground, moving_foreground)
    registration, best = _rigid_stage(registration, starts, center, progress)
    for spacing, done in ((registration.coarse_mm, 0.7), (_FINE_MM, 1.0)):
        best = registration.converged_rigid(_with_center(best, center), spacing)
        progress(done)
    best = _scaled_affine(best, length_scale)
    return rigid_part(best, fixed_foreground)  # of a product of rotations: removes rounding


def estimate_affine(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_foreground: sitk.Image,
    moving_foreground: sitk.Image,
    masks: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
    initial: sitk.AffineTransform | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
    length_scale: float = 1.0,
    min_stretch: float = 0.0,
    converge: bool = False,
) -> sitk.AffineTransform:
    """The affine, fixed points -> moving points in LPS mm, that maximizes mutual information.

    The foregrounds show where the subjects are; `masks` restrict what is compared. initial: where to start. Without it,
    the alignment by the headers, by the centroids and by the centers of the foregrounds are tried, each under several
    rotations and shifts along the body axis; the three best are refined rigidly, and the best of those becomes affine.

    length_scale: size of the subject relative to a head. ITK weighs rotation against translation, and stops, by
    gradients per mm; the search therefore runs in units in which the subject is as large as a head. min_stretch: an
    affine that changes no length by this fraction is replaced by the rigid transform. converge: search along lines
    until nothing is gained, which takes several times as long; a deformation corrects what is missing otherwise.

    Mutual information also rises where more of the subject comes into view, so that a slab of thick slices would be
    stretched. Therefore the rigid stage fixes the region that both volumes show, and stretching is penalized.
    """
    registration = _MattesRegistration(fixed, moving, masks, seed, length_scale)
    coarse, fine = registration.coarse_mm, _FINE_MM
    center = _centroid(fixed_foreground) / length_scale
    if initial is not None:
        starts = [_scaled_affine(initial, 1 / length_scale)]
    else:
        starts = _best_starts(registration, fixed_foreground, moving_foreground)
    registration, best = _rigid_stage(registration, starts, center, progress)
    if converge:
        best = registration.converged_rigid(_with_center(best, center), coarse)
    before = best
    for spacing, step, done in ((coarse, 1.0, 0.7), (fine, 0.5, 1.0)):
        refined = registration.refine_affine(_with_center(best, center), spacing, None if converge else step)
        scores = [
            registration.score(each, spacing) - _STRETCH_PENALTY * _log_stretch_variance(each, before)
            for each in (refined, best)
        ]
        if scores[0] > scores[1]:
            best = refined
        progress(done)
    if _largest_stretch(best, before) < min_stretch:
        best = before
    return _scaled_affine(_with_center(best, center), length_scale)


def _rigid_stage(
    registration: _MattesRegistration,
    starts: list[sitk.AffineTransform],
    center: np.ndarray,
    progress: Callable[[float], None],
) -> tuple[_MattesRegistration, sitk.AffineTransform]:
    """(the registration, restricted to what both volumes show; the best of `starts`, each refined rigidly).

    center: of rotation, LPS mm. progress: called with up to 0.5.
    """
    coarse = registration.coarse_mm
    progress(0.15)
    rigid = [registration.refine_rigid(_with_center(start, center), coarse) for start in starts]
    best = max([*starts, *rigid], key=lambda affine: registration.score(affine, coarse))
    registration = registration.restricted_to_overlap(best)
    again = registration.refine_rigid(_with_center(best, center), coarse)
    best = max(best, again, key=lambda affine: registration.score(affine, coarse))
    progress(0.5)
    return registration, best


def _best_starts(
    registration: _MattesRegistration, fixed_foreground: sitk.Image, moving_foreground: sitk.Image
) -> list[sitk.AffineTransform]:
    """The three best of `_candidates`."""
    candidates = _candidates(fixed_foreground, moving_foreground, registration.length_scale)
    return sorted(candidates, key=lambda start: registration.score(start, registration.coarse_mm), reverse=True)[:3]


class _MattesRegistration:
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

    def restricted_to_overlap(self, affine: sitk.Transform) -> _MattesRegistration:
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
                learningRate=1.0, numberOfIterations=30, convergenceMinimumValue=1e-6, convergenceWindowSize=5
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


def _candidates(
    fixed_foreground: sitk.Image, moving_foreground: sitk.Image, length_scale: float
) -> list[sitk.AffineTransform]:
    """Starts in units of `length_scale` mm."""
    pivot = _centroid(fixed_foreground) / length_scale
    offsets = [
        np.zeros(3),
        _centroid(moving_foreground) / length_scale - pivot,
        (_box_center(moving_foreground) - _box_center(fixed_foreground)) / length_scale,
    ]
    candidates = []
    for offset, pitch, shift in itertools.product(offsets, _PITCH_STARTS_DEG, _SHIFT_STARTS_MM):
        start = sitk.Euler3DTransform()
        start.SetCenter(pivot.tolist())
        start.SetRotation(math.radians(pitch), 0.0, 0.0)
        start.SetTranslation((offset + np.array([0.0, 0.0, shift])).tolist())
        candidates.append(as_affine(start))
    return candidates


def _log_stretch_variance(affine: sitk.AffineTransform, before: sitk.AffineTransform) -> float:
    """The sum of squared deviations of the log scale factors by which `affine` differs from `before`."""
    logs = _log_scale_factors(affine, before)
    return float(((logs - logs.mean()) ** 2).sum())


def _largest_stretch(affine: sitk.AffineTransform, before: sitk.AffineTransform) -> float:
    """The largest logarithm of a scale factor, of either sign, by which `affine` differs from `before`."""
    return float(np.abs(_log_scale_factors(affine, before)).max())


def _log_scale_factors(affine: sitk.AffineTransform, before: sitk.AffineTransform) -> np.ndarray:
    """(3,): the logarithms of the scale factors by which `affine` differs from `before`."""
    change = np.reshape(affine.GetMatrix(), (3, 3)) @ np.linalg.inv(np.reshape(before.GetMatrix(), (3, 3)))
    return np.log(np.maximum(np.linalg.svd(change)[1], 1e-6))


def _with_center(affine: sitk.AffineTransform, center: np.ndarray) -> sitk.AffineTransform:
    """The same map with its matrix acting about `center`, so that rotation and translation are nearly independent."""
    moved = sitk.AffineTransform(3)
    moved.SetCenter(center.tolist())
    moved.SetMatrix(affine.GetMatrix())
    moved.SetTranslation((np.array(affine.TransformPoint(center.tolist())) - center).tolist())
    return moved


def _scaled_affine(affine: sitk.AffineTransform, factor: float) -> sitk.AffineTransform:
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


def _centroid(mask: sitk.Image) -> np.ndarray:
    return _points(mask).mean(axis=0)


def _box_center(mask: sitk.Image) -> np.ndarray:
    points = _points(mask)
    return (points.min(axis=0) + points.max(axis=0)) / 2
