"""The gain of a scanner, on phantoms that are multiplied by known ones."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.spatial.bias_field import without_strong_bias
from wavemorph.spatial.intensities import comparable
from wavemorph.spatial.preprocessing import foreground

LATTICE = phantoms.random_geometry(3, size=(62, 54, 47), extent_mm=80.0)
GAINS = {  # logarithms, along (k, j, i) from -1 to 1
    "a slope": lambda k, j, i: 1.5 * k - 0.4 * i,
    "a surface coil": lambda k, j, i: -np.log(0.3 + (k - 0.3) ** 2 + (j - 1.4) ** 2 + i**2) * 1.1,
    "a slope and waves": lambda k, j, i: 1.5 * j + 0.2 * np.sin(4 * i) * np.cos(3 * k),
}


@pytest.fixture(scope="module")
def plain() -> sitk.Image:
    return phantoms.head(LATTICE, noise=0.005, seed=1)


def positions() -> list[np.ndarray]:
    return np.meshgrid(*[np.linspace(-1, 1, n) for n in reversed(LATTICE.GetSize())], indexing="ij")


def with_values(values: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(LATTICE)
    return image


def unevenness(image: sitk.Image, plain: sitk.Image) -> float:
    """The range, in logarithms, of the ratio of two images where the second shows tissue."""
    values, true = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(plain)
    tissue = sitk.GetArrayFromImage(foreground(plain)) > 0
    tissue &= true > 300
    return float(np.ptp(np.percentile(np.log(np.maximum(values[tissue], 1) / true[tissue]), (2, 98))))


@pytest.mark.parametrize("name", GAINS)
def test_most_of_a_steep_gain_is_taken_out_and_the_subject_is_found(plain, name):
    biased = with_values(sitk.GetArrayFromImage(plain) * np.exp(GAINS[name](*positions())).astype(np.float32))
    before = sitk.GetArrayFromImage(biased)
    found = without_strong_bias(biased)
    assert unevenness(biased, plain) > 1.6  # what a gain of five does
    assert unevenness(found, plain) < 0.4 * unevenness(biased, plain)
    subject, true = (sitk.GetArrayFromImage(foreground(each)) > 0 for each in (found, plain))
    assert 2 * np.sum(subject & true) / (subject.sum() + true.sum()) > 0.95
    assert found.GetOrigin() == LATTICE.GetOrigin() and found.GetDirection() == LATTICE.GetDirection()
    assert np.array_equal(sitk.GetArrayFromImage(biased), before)  # the input is as it was


@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_volumes_of_even_or_weak_gain_are_kept(plain, factor):
    values = sitk.GetArrayFromImage(plain) * np.exp(factor * GAINS["a slope"](*positions()))
    image = with_values(values.astype(np.float32))
    assert without_strong_bias(image) is image


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(LATTICE.GetSize()[::-1], np.int16),
        np.random.default_rng(0).normal(0, 1, LATTICE.GetSize()[::-1]).astype(np.float32),
        (np.indices(LATTICE.GetSize()[::-1]).sum(0) > 80).astype(np.uint8),
    ],
    ids=["constant", "noise", "a mask"],
)
def test_where_nothing_tells_of_a_gain_the_volume_is_kept(values):
    image = with_values(values)
    assert without_strong_bias(image) is image


def test_a_ct_with_lungs_is_kept():
    image = phantoms.torso(phantoms.regular(size=(64, 56, 48), spacing=(6.0, 6.0, 8.0)))
    assert without_strong_bias(image) is image


def test_a_volume_of_two_slices_is_kept(plain):
    image = plain[:, :, 20:22]
    assert without_strong_bias(image) is image


def test_what_is_compared_has_no_strong_gain(plain):
    gain = np.exp(GAINS["a slope"](*positions()))
    biased = with_values(np.rint(sitk.GetArrayFromImage(plain) * gain).astype(np.int16))
    assert unevenness(comparable(biased), plain) < 0.4 * unevenness(biased, plain)
