"""Physical sizes: what no scan has is refused, what is doubtful is said, and what people scan passes without a word."""

from __future__ import annotations

import itertools

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import wavemorph
from wavemorph.errors import InputError
from wavemorph.io.checks import size_warnings
from wavemorph.io.images import validate_image

HEAD = ((176, 256, 256), (1.0, 0.94, 0.94))
# what people scan: size in voxels, spacing in mm
HEADS = {
    "head": HEAD,
    "head in thick slices": ((512, 512, 24), (0.45, 0.45, 5.0)),
    "slab of a head": ((256, 256, 16), (0.9, 0.9, 1.2)),
    "head with the neck": ((512, 512, 300), (0.6, 0.6, 1.25)),
}
TORSOS = {
    "torso": ((512, 512, 300), (0.98, 0.98, 1.5)),
    "torso of a large patient": ((512, 512, 400), (1.37, 1.37, 3.0)),
    "slab of the liver": ((320, 260, 72), (1.2, 1.2, 3.0)),
}
SMALL = {
    "mouse brain": ((128, 128, 80), (0.15, 0.15, 0.15)),
    "mouse brain in thick slices": ((256, 256, 20), (0.08, 0.08, 0.5)),
    "rat brain": ((192, 192, 64), (0.16, 0.16, 0.5)),
    "mouse brain under a microscope": ((1320, 800, 1140), (0.01, 0.01, 0.01)),
}
TINY = {
    "zebrafish larva": ((120, 60, 50), (0.01, 0.01, 0.01)),
    "block of tissue": ((60, 60, 40), (0.01, 0.01, 0.01)),
}
ALONE = {
    "knee": ((384, 384, 160), (0.42, 0.42, 0.7)),
    "whole body": ((512, 512, 650), (1.37, 1.37, 3.0)),
    "whole body of a mouse": ((200, 200, 500), (0.2, 0.2, 0.2)),
    "bones in a light sheet": ((20, 20, 20), (0.02, 0.02, 0.02)),
    **{name: scan for group in (HEADS, TORSOS, SMALL, TINY) for name, scan in group.items()},
}


class Lattice:
    """The size and spacing of an image, without its voxels."""

    def __init__(self, size, spacing):
        self._size, self._spacing = size, spacing

    def GetSize(self):
        return self._size

    def GetSpacing(self):
        return self._spacing


def lattice(scan, factor: float = 1.0) -> Lattice:
    return Lattice(scan[0], tuple(factor * value for value in scan[1]))


@pytest.mark.parametrize("name", ALONE)
def test_two_scans_of_one_kind_have_no_warning(name):
    assert size_warnings(lattice(ALONE[name]), lattice(ALONE[name], 1.2)) == ()


@pytest.mark.parametrize("group", [HEADS, TORSOS, SMALL, TINY])
def test_scans_of_subjects_of_about_one_size_have_no_warning(group):
    for first, second in itertools.product(group.values(), repeat=2):
        assert size_warnings(lattice(first), lattice(second)) == ()


@pytest.mark.parametrize("factor", [10.0, 0.1, 25.4 / 5])
def test_a_spacing_that_is_wrong_by_a_factor_is_said_with_both_lengths(factor):
    for pair in ((lattice(HEAD, factor), lattice(HEAD)), (lattice(HEAD), lattice(HEAD, factor))):
        sentence = size_warnings(*pair)[-1]
        assert f"x {240.64 * factor:.4g} mm" in sentence and "176 x 240.6 x 240.6 mm" in sentence


def test_a_distance_of_slices_that_is_wrong_by_ten_is_said():
    assert "x 1760 mm" in size_warnings(Lattice((256, 256, 176), (0.9, 0.9, 10.0)), lattice(HEAD))[0]


def test_a_part_of_a_body_and_a_scan_of_the_whole_have_no_warning():
    whole = lattice(ALONE["whole body"])
    for part in (HEADS["head"], TORSOS["slab of the liver"], ((512, 512, 420), (0.75, 0.75, 3.0))):
        assert size_warnings(whole, lattice(part)) == size_warnings(lattice(part), whole) == ()


def test_a_spacing_that_must_be_wrong_is_refused():
    with pytest.raises(InputError, match=r"that of the moving image 0\.2406 mm"):
        size_warnings(lattice(HEAD), lattice(HEAD, 1e-3))


def test_two_heads_larger_than_any_scanner_or_in_meters_are_said():
    sentences = size_warnings(lattice(HEAD, 10), lattice(HEAD, 10))
    assert len(sentences) == 2
    assert "1760 x 2406 x 2406 mm large, more than a scanner holds" in sentences[0]
    sentences = size_warnings(lattice(HEAD, 1e-3), lattice(HEAD, 1e-3))
    assert len(sentences) == 2 and "0.176 x 0.2406 x 0.2406 mm" in sentences[0] and "meters" in sentences[0]


@pytest.mark.parametrize(("spacing", "length"), [(940.0, "16.9 m"), (1.7e5, "3.06e+03 m")])
def test_a_volume_longer_than_any_scan_is_refused_with_its_length(spacing, length):
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((18, 18, 18), np.float32))
    image.SetSpacing((1.0, 1.0, spacing))
    with pytest.raises(InputError, match=length.replace("+", r"\+")):
        validate_image(image, "fixed image")


def test_a_doubtful_size_is_a_warning_of_the_report(tiny_pair):
    settings = wavemorph.Settings(spacing_mm=8.0, weights="none", affine=False)
    fixed, moving = tiny_pair
    result = wavemorph.register(fixed, phantoms.scaled(moving, 3.5), settings)
    assert "if both show the same part of a body" in result.report["warnings"][0]
