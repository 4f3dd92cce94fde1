"""The affine that aligns two segmentations, against affines that are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from segmentations import affine_of, lattice, round_structures
from wavemorph.registration.linear.structures import align_structures, structure_dice


def errors_mm(found: sitk.Transform, truth: sitk.Transform, extent_mm: float) -> list[float]:
    points = np.random.default_rng(0).uniform(-extent_mm, extent_mm, (50, 3)).tolist()
    return [np.linalg.norm(np.subtract(found.TransformPoint(p), truth.TransformPoint(p))) for p in points]


@pytest.mark.parametrize("angles", [(3, -4, 5), (28, 0, 0), (-20, 25, 30)])
def test_a_known_affine_is_found(angles):
    truth = affine_of(angles, (1.08, 0.94, 1.02), (14.0, -10.0, 7.0))
    fixed, moving = round_structures(lattice(), truth), round_structures(lattice(size=(40, 42, 44)))
    found, dice = align_structures(fixed, moving)
    assert max(errors_mm(found, truth, 40)) < 1.0
    assert dice > 0.93
    assert dice == pytest.approx(structure_dice(fixed, moving, found))
    assert structure_dice(fixed, moving, sitk.AffineTransform(3)) < 0.7


def test_structures_outside_the_moving_volume_do_not_bias_the_affine():
    truth = affine_of((4, 3, -6), (1.0, 1.03, 0.97), (3.0, 2.0, -4.0))
    whole = lattice(size=(40, 42, 44))
    low = dataclasses.replace(whole, size=(40, 42, 24), origin=whole.point((0, 0, 10)))
    found, _ = align_structures(round_structures(lattice(), truth), round_structures(low))
    assert max(errors_mm(found, truth, 25)) < 3.0
