"""The 24 ways in which a box can lie: starts for volumes whose file states their orientation wrongly, or not at all.

By mutual information, so that any contrast and any part of the body will do. Mirrored orientations are not tried: where
left and right are exchanged, no registration can tell.
"""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk

from ...spatial.preprocessing import Pair
from .mattes import MattesRegistration, box_center_mm, centroid_mm, with_center

_SPACING_FACTOR = 2.0  # of the coarse spacing, at which turned starts are compared: it keeps their order
# Mutual information of the best turned start over that of the others, both refined rigidly: 0.06 to 0.88 where the
# orientation is right; where it is wrong, 1.3 to 8 in most pairs, and 1.12 between PD in thick slices and T1.
_MIN_GAIN = 1.2
_MIN_GAIN_BEFORE_REFINEMENT = 0.9


def quarter_turns() -> list[np.ndarray]:
    """The 24 rotations (3x3) that map the axes onto one another, the identity first."""
    turns = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3)):
        turn = np.zeros((3, 3))
        turn[range(3), order] = signs
        if np.linalg.det(turn) > 0:
            turns.append(turn)
    return sorted(turns, key=lambda turn: -np.trace(turn))


def turned_starts(
    registration: MattesRegistration, fixed_foreground: sitk.Image, moving_foreground: sitk.Image
) -> list[tuple[float, sitk.AffineTransform]]:
    """[(mutual information, start)], the best first, by quarter turns but the identity about the foregrounds' middles.

    Starts map fixed points -> moving points in units of `registration.length_scale` mm.
    """
    pivot = centroid_mm(fixed_foreground) / registration.length_scale
    middles = [middle(moving_foreground) / registration.length_scale for middle in (centroid_mm, box_center_mm)]
    scored = []
    for turn, middle in itertools.product(quarter_turns()[1:], middles):
        start = sitk.AffineTransform(3)
        start.SetCenter(pivot.tolist())
        start.SetMatrix(turn.ravel().tolist())
        start.SetTranslation((middle - pivot).tolist())
        scored.append((coarse_score(registration, start), start))
    return sorted(scored, key=lambda pair: -pair[0])


def coarse_score(registration: MattesRegistration, start: sitk.AffineTransform) -> float:
    """Mutual information at the resolution at which turned starts are compared."""
    return registration.score(start, _SPACING_FACTOR * registration.coarse_mm)


def better_turned(
    registration: MattesRegistration,
    foregrounds: tuple[sitk.Image, sitk.Image],
    center: np.ndarray,
    best: sitk.AffineTransform,
) -> sitk.AffineTransform:
    """`best`, a refined alignment by the stated orientation, or the best turned one where that is clearly better.

    center: of rotation, fixed LPS mm over the length scale.
    """
    value, start = turned_starts(registration, *foregrounds)[0]
    if value < _MIN_GAIN_BEFORE_REFINEMENT * coarse_score(registration, best):
        return best
    turned = registration.refine_rigid(with_center(start, center), registration.coarse_mm)
    scores = [registration.score(each, registration.coarse_mm) for each in (turned, best)]
    return turned if scores[0] > _MIN_GAIN * scores[1] else best


def likeliest_rotation(pair: Pair, seed: int) -> np.ndarray:
    """3x3: the rotation, fixed directions -> moving directions in LPS, of the turned start that fits best.

    Refined rigidly. The identity is not among the starts.
    """
    registration = MattesRegistration(pair.fixed, pair.moving, (None, None), seed)
    _, start = turned_starts(registration, pair.fixed_foreground, pair.moving_foreground)[0]
    center = centroid_mm(pair.fixed_foreground)
    refined = registration.refine_rigid(with_center(start, center), registration.coarse_mm)
    left, _, right = np.linalg.svd(np.reshape(refined.GetMatrix(), (3, 3)))
    return np.asarray(left @ right)
