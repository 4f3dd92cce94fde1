"""Whether a volume is mirrored left to right, on bodies that differ from their mirror images and some that do not."""

from __future__ import annotations

import math

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph.registration.laterality import mirrored_gain
from wavemorph.spatial.preprocessing import Pair


def mirrored(image: sitk.Image) -> sitk.Image:
    """The image as if its file named left what is right."""
    result = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)[:, :, ::-1]))
    result.CopyInformation(image)
    return result


def gain_of(fixed: sitk.Image, moving: sitk.Image, affine: sitk.AffineTransform | None = None) -> float | None:
    pair = Pair(fixed, moving, None, None).as_body()
    with torch.inference_mode():
        return mirrored_gain(pair, affine or sitk.AffineTransform(3))


@pytest.fixture(scope="module")
def torsos() -> tuple[sitk.Image, sitk.Image]:
    """One torso at two times of its breath."""
    lattice = phantoms.regular((44, 36, 48), (4.0, 4.0, 4.0))
    return phantoms.torso(lattice, noise=20.0), phantoms.torso(lattice, phantoms.breathing, noise=20.0, seed=1)


def test_a_body_as_it_is_agrees_less_when_it_is_mirrored(torsos):
    assert gain_of(*torsos) < -0.1


def test_a_mirrored_body_agrees_better_when_it_is_mirrored_again(torsos):
    assert gain_of(torsos[0], mirrored(torsos[1])) > 0.1


def test_the_size_of_the_body_does_not_matter(torsos):
    small = [phantoms.scaled(image, 0.1) for image in torsos]
    assert gain_of(*small) == pytest.approx(gain_of(*torsos), abs=0.02)


def test_a_body_that_is_its_own_mirror_image_gains_nothing(torsos):
    symmetric = [(image + mirrored(image)) / 2 for image in torsos]
    assert (gain_of(*symmetric) or 0.0) <= 0.0


def test_brains_are_not_judged(torsos):
    assert mirrored_gain(Pair(*torsos, None, None), sitk.AffineTransform(3)) is None


def test_nothing_is_said_where_the_affine_exchanges_axes(torsos):
    quarter = sitk.AffineTransform(3)
    quarter.Rotate(0, 1, math.pi / 2)
    assert gain_of(*torsos, quarter) is None


def test_nothing_is_said_where_nothing_can_be_compared(torsos):
    away = sitk.AffineTransform(3)
    away.SetTranslation((500.0, 0.0, 0.0))
    assert gain_of(*torsos, away) is None
