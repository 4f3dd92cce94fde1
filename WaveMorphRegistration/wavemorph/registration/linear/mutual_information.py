"""The rigid transform or the affine by mutual information: centering, then six or twelve parameters, coarse to fine.

Transforms are SimpleITK's, LPS mm, fixed points -> moving points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from .mattes import MattesRegistration, as_affine, box_center_mm, centroid_mm, scaled_affine, with_center
from .orientation import better_turned

_FINE_MM = 2.5  # voxels for a head
_PITCH_STARTS_DEG = (-20.0, 0.0, 20.0)  # head positions differ most by nodding
_STRETCH_PENALTY = 6.0  # mutual information per sum of squared log scale factors; see `_log_stretch_variance`
# for a head: a neck in one volume only shifts its centroid along the body
_SHIFT_STARTS_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)


def linear_part(transform: sitk.Transform) -> sitk.AffineTransform | None:
    """The transform as one affine where it is linear, also a composite of linear ones; otherwise None.

    Raises InputError where it is linear and singular.
    """
    return as_affine(transform) if transform.IsLinear() else None


def rigid_part(affine: sitk.AffineTransform, fixed_foreground: sitk.Image) -> sitk.AffineTransform:
    """The rotation nearest to the affine, about the centroid of the fixed foreground, which maps as before.

    Raises InputError where the affine mirrors.
    """
    left, _, right = np.linalg.svd(np.reshape(affine.GetMatrix(), (3, 3)))
    rotation = left @ right
    if np.linalg.det(rotation) < 0:
        raise InputError("The initial transform mirrors the moving image; a rigid transform cannot, so choose another.")
    center = centroid_mm(fixed_foreground)
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
    registration = MattesRegistration(fixed, moving, masks, seed, length_scale)
    center = centroid_mm(fixed_foreground) / length_scale
    foregrounds = fixed_foreground, moving_foreground
    registration, best = _rigid_stage(registration, foregrounds, initial, center, progress)
    for spacing, done in ((registration.coarse_mm, 0.7), (_FINE_MM, 1.0)):
        best = registration.converged_rigid(with_center(best, center), spacing)
        progress(done)
    best = scaled_affine(best, length_scale)
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
    Where the files state the orientations wrongly, it is the best of all 24; see `orientation.better_turned`.

    length_scale: size of the subject relative to a head. ITK weighs rotation against translation, and stops, by
    gradients per mm; the search therefore runs in units in which the subject is as large as a head. min_stretch: an
    affine that changes no length by this fraction is replaced by the rigid transform. converge: search along lines
    until nothing is gained, which takes several times as long; a deformation corrects what is missing otherwise.

    Mutual information also rises where more of the subject comes into view, so that a slab of thick slices would be
    stretched. Therefore the rigid stage fixes the region that both volumes show, and stretching is penalized.
    """
    registration = MattesRegistration(fixed, moving, masks, seed, length_scale)
    coarse, fine = registration.coarse_mm, _FINE_MM
    center = centroid_mm(fixed_foreground) / length_scale
    foregrounds = fixed_foreground, moving_foreground
    registration, best = _rigid_stage(registration, foregrounds, initial, center, progress)
    if converge:
        best = registration.converged_rigid(with_center(best, center), coarse)
    before = best
    for spacing, step, done in ((coarse, 1.0, 0.7), (fine, 0.5, 1.0)):
        refined = registration.refine_affine(with_center(best, center), spacing, None if converge else step)
        scores = [
            registration.score(each, spacing) - _STRETCH_PENALTY * _log_stretch_variance(each, before)
            for each in (refined, best)
        ]
        if scores[0] > scores[1]:
            best = refined
        progress(done)
    if _largest_stretch(best, before) < min_stretch:
        best = before
    return scaled_affine(with_center(best, center), length_scale)


def _rigid_stage(
    registration: MattesRegistration,
    foregrounds: tuple[sitk.Image, sitk.Image],
    initial: sitk.AffineTransform | None,
    center: np.ndarray,
    progress: Callable[[float], None],
) -> tuple[MattesRegistration, sitk.AffineTransform]:
    """(the registration, restricted to what both volumes show; the best start, refined rigidly).

    foregrounds: fixed and moving. initial: the only start, in mm, if there is one. center: of rotation, fixed LPS mm
    over the length scale. progress: called with up to 0.5.
    """
    coarse = registration.coarse_mm
    if initial is not None:
        starts = [scaled_affine(initial, 1 / registration.length_scale)]
    else:
        starts = _best_starts(registration, *foregrounds)
    progress(0.15)
    rigid = [registration.refine_rigid(with_center(start, center), coarse) for start in starts]
    best = max([*starts, *rigid], key=lambda affine: registration.score(affine, coarse))
    if initial is None:
        best = better_turned(registration, foregrounds, center, best)
    registration = registration.restricted_to_overlap(best)
    again = registration.refine_rigid(with_center(best, center), coarse)
    best = max(best, again, key=lambda affine: registration.score(affine, coarse))
    progress(0.5)
    return registration, best


def _best_starts(
    registration: MattesRegistration, fixed_foreground: sitk.Image, moving_foreground: sitk.Image
) -> list[sitk.AffineTransform]:
    """The three best of `_candidates`."""
    candidates = _candidates(fixed_foreground, moving_foreground, registration.length_scale)
    return sorted(candidates, key=lambda start: registration.score(start, registration.coarse_mm), reverse=True)[:3]


def _candidates(
    fixed_foreground: sitk.Image, moving_foreground: sitk.Image, length_scale: float
) -> list[sitk.AffineTransform]:
    """Starts in units of `length_scale` mm."""
    pivot = centroid_mm(fixed_foreground) / length_scale
    offsets = [
        np.zeros(3),
        centroid_mm(moving_foreground) / length_scale - pivot,
        (box_center_mm(moving_foreground) - box_center_mm(fixed_foreground)) / length_scale,
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
