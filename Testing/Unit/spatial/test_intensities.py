"""Padding and the scale of intensities, on a phantom of a head in CT whose plain volume is the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.spatial.intensities import comparable
from wavemorph.spatial.preprocessing import Pair, foreground

SIZE = (44, 44, 40)


def values_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def image_of(values: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(phantoms.regular(SIZE, (2.0, 2.0, 2.0)))
    return image


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """int16: a head in air of -1000 with noise, as in CT."""
    head = values_of(phantoms.head(phantoms.regular(SIZE, (2.0, 2.0, 2.0)), noise=0.01))
    return np.rint(head * 1.5 - 1000).astype(np.int16)


def beyond_circle() -> np.ndarray:
    """Where a CT is padded: outside the largest circle in each slice."""
    j, i = np.indices(SIZE[:2]) - (SIZE[0] - 1) / 2
    return np.broadcast_to(np.hypot(i, j) > SIZE[0] / 2, SIZE[::-1])


@pytest.mark.parametrize("value", [-3024, -2000, -32768, 20000, 0, 200])
def test_padding_outside_the_circle_of_a_ct_becomes_air(plain, value):
    padded = np.where(beyond_circle(), value, plain).astype(np.int16)
    changed = values_of(comparable(image_of(padded)))
    assert np.array_equal(changed[~beyond_circle()], plain[~beyond_circle()])
    assert np.all(np.abs(changed[beyond_circle()] + 1000) < 60)
    assert np.array_equal(padded, np.where(beyond_circle(), value, plain))  # the input is as it was


@pytest.mark.parametrize("outer", [0, -1024, -9999])
def test_two_values_of_padding_as_after_a_resampling_of_a_padded_ct_both_become_air(plain, outer):
    padded = np.where(beyond_circle(), -3024, plain).astype(np.int16)
    j, i = np.indices(SIZE[:2]) - (SIZE[0] - 1) / 2
    padded[:, np.abs(i) + np.abs(j) > 36] = outer
    changed, beyond = values_of(comparable(image_of(padded))), beyond_circle()
    assert np.array_equal(changed[~beyond], plain[~beyond])
    assert np.all(np.abs(changed[beyond] + 1000) < 60)


def test_padding_beyond_float32_is_replaced_without_a_warning(plain):
    padded = np.where(beyond_circle(), np.finfo(np.float64).min, plain.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed = values_of(comparable(image_of(padded)))
    assert np.all(np.abs(changed[beyond_circle()] + 1000) < 60)


@pytest.mark.parametrize("value", [-3024, -1000, 0])
def test_the_subject_is_the_same_whatever_the_padding_is(plain, value):
    padded = image_of(np.where(beyond_circle(), value, plain).astype(np.int16))
    expected = values_of(foreground(image_of(plain)))
    assert np.mean(values_of(Pair(padded, padded).fixed_foreground) != expected) < 0.01


def test_padding_that_cuts_obliquely_through_tissue_is_moved_near_the_range_of_the_tissue(plain):
    tissue = plain[12:28, 12:32, 14:30].astype(np.int16)
    _, j, i = np.indices(tissue.shape)
    shown = i + j > 8
    changed = values_of(comparable(sitk.GetImageFromArray(np.where(shown, tissue, -10000).astype(np.int16))))
    span = np.ptp(tissue[shown])
    assert np.array_equal(changed[shown], tissue[shown])
    assert tissue[shown].min() - 0.3 * span < changed[0, 0, 0] < np.percentile(tissue[shown], 5)


def test_volumes_without_padding_are_taken_as_they_are(plain):
    inside = values_of(foreground(image_of(plain))) > 0
    low, high = np.percentile(plain[inside], (0.5, 99.5))
    stripped = np.where(inside, plain - low + 0.2 * (high - low), 0).astype(np.int16)
    for values in (plain, stripped, (plain - plain.mean()) / plain.std(), (plain > -500).astype(np.uint8)):
        image = image_of(values)
        assert comparable(image) is image


@pytest.mark.parametrize(("factor", "offset"), [(1e-12, 0), (1e-40, 0), (1e12, 0), (1e200, 0), (1, 1e9)])
def test_intensities_of_any_scale_are_the_same_but_for_a_linear_function(plain, factor, offset):
    changed = values_of(comparable(image_of(plain.astype(np.float64) * factor + offset)))
    assert changed.dtype == np.float32 and 100 < np.ptp(changed) < 1e5
    assert np.corrcoef(changed.ravel(), plain.ravel())[0, 1] > 0.999999


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_without_data_that_cut_through_the_subject_are_cut_away(plain, axis):
    first, last = SIZE[axis] // 2, SIZE[axis] - 4
    planes = np.moveaxis(plain.copy(), 2 - axis, 0)
    planes[:first], planes[last:] = -1024, -1024
    values = np.ascontiguousarray(np.moveaxis(planes, 0, 2 - axis))
    changed = comparable(image_of(values))
    assert changed.GetSize()[axis] == last - first
    expected = [0, 0, 0]
    expected[axis] = first
    assert np.allclose(changed.GetOrigin(), image_of(values).TransformIndexToPhysicalPoint(expected))
    assert np.array_equal(values_of(changed), np.moveaxis(planes[first:last], 0, 2 - axis))


def test_a_pair_keeps_the_volumes_that_were_given(plain):
    given = image_of(np.where(beyond_circle(), -3024, plain).astype(np.int16))
    pair = Pair(given, given)
    assert pair.inputs == (given, given)
    assert values_of(given).min() == -3024 and values_of(pair.fixed).min() > -1100
