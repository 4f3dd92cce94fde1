"""Pairs with a known deformation: it has to be exact, or every measurement made with them is wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.training.known_deformation import Difference, make_pair

ONLY_MOVED = Difference(gamma=1.0, bias=0.0, noise=0.0, spacing_mm=(2.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def head():
    return phantoms.head(phantoms.regular((45, 48, 42), (2.0, 2.0, 2.0)))


def test_the_moving_volume_shows_the_fixed_one_through_the_truth(head):
    pair = make_pair(head, ONLY_MOVED)
    warped = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(pair.moving, sitk.sitkFloat32), head, pair.truth))
    values = sitk.GetArrayFromImage(head)
    inside = sitk.GetArrayFromImage(sitk.BinaryErode(pair.foreground, [2, 2, 2])) > 0
    assert np.corrcoef(values[inside], warped[inside])[0, 1] > 0.99
    unaligned = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(pair.moving, sitk.sitkFloat32), head))
    assert np.corrcoef(values[inside], unaligned[inside])[0, 1] < 0.8


def test_the_inverse_truth_is_the_inverse_of_the_truth(head):
    pair = make_pair(head, ONLY_MOVED, seed=3)
    for point in np.random.default_rng(0).uniform(-20, 20, (100, 3)).tolist():
        moved = pair.truth.TransformPoint(point)
        assert np.linalg.norm(np.subtract(pair.inverse_truth.TransformPoint(moved), point)) < 0.15
        assert np.linalg.norm(np.subtract(moved, point)) > 0.1


def test_the_error_is_zero_for_the_truth_and_the_length_of_the_map_for_the_identity(head):
    pair = make_pair(head, ONLY_MOVED)
    assert pair.error_mm(pair.truth).max() == 0
    assert pair.error_mm(sitk.Transform()).mean() > 3


def test_contrast_bias_noise_and_geometry_change_as_asked(head):
    pair = make_pair(head, Difference(spacing_mm=(1.5, 2.0, 2.5)))
    assert np.allclose(pair.moving.GetSpacing(), (1.5, 2.0, 2.5))
    direction = np.reshape(pair.moving.GetDirection(), (3, 3))
    assert np.allclose(direction @ direction.T, np.eye(3))
    assert np.abs(direction - np.eye(3)).max() > 0.02
    assert pair.moving.GetPixelID() == sitk.sitkInt16
    assert sitk.GetArrayFromImage(pair.moving)[0].std() > 0


def test_a_lesion_is_a_blob_of_another_intensity_in_the_moving_volume_only(head):
    without = make_pair(head, ONLY_MOVED, seed=5)
    pair = make_pair(head, dataclasses.replace(ONLY_MOVED, lesion_mm=7.0), seed=5)
    assert np.array_equal(sitk.GetArrayFromImage(pair.fixed), sitk.GetArrayFromImage(without.fixed))
    assert pair.error_mm(without.truth).max() == 0
    before, after = (sitk.GetArrayFromImage(p.moving).astype(float) for p in (without, pair))
    changed = np.abs(after - before) > 100
    ball = 4 / 3 * np.pi * 7.0**3
    assert 0.5 * ball < changed.sum() * 2.0**3 < 2 * ball
    components = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(changed.astype(np.uint8))))
    assert np.bincount(components[changed]).max() > 0.9 * changed.sum()
    assert before[changed].mean() - after[changed].mean() > 200


def test_the_same_seed_gives_the_same_pair_and_another_gives_another(head):
    first, again, other = (
        sitk.GetArrayFromImage(make_pair(head, Difference(spacing_mm=(2.0, 2.0, 3.0)), seed).moving)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
