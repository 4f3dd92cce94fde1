"""What is derived from a segmentation: maps on other lattices against SimpleITK, log-odds, overlap."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from segmentations import affine_of, lattice, round_structures
from wavemorph.registration.segmentation.brain import mean_soft_dice
from wavemorph.spatial.grid import image_from_tensor


def test_maps_resampled_through_an_affine_are_those_that_simpleitk_resamples():
    source = round_structures(lattice())
    target = lattice(size=(30, 32, 28), spacing=3.0)
    affine = affine_of((8, -5, 12), (1.05, 0.95, 1.1), (4.0, -3.0, 6.0))
    found = source.resample(target, affine, target.shape)
    for code in (1, 5, 11):
        image = image_from_tensor(source.probabilities[0, code], source.grid)
        expected = sitk.GetArrayFromImage(target.resample(image, affine, sitk.sitkLinear, 0.0))
        inside = (slice(4, -4),) * 3
        np.testing.assert_allclose(found[0, code].numpy()[inside], expected[inside], atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(()), atol=1e-5)


def test_log_odds_maps_are_those_of_sums_of_structures():
    source = round_structures(lattice())
    log_odds = source.log_odds(source.grid, None, source.grid.shape).numpy()
    summed = ([1, 5, 7, 10], [0, 3], [7, 10], [8, 9], [3, 4, 5, 11])
    assert log_odds.shape[1] == len(summed)
    for found, codes in zip(log_odds[0], summed):
        probability = source.probabilities[0, codes].sum(0).double().numpy()
        with np.errstate(divide="ignore"):
            expected = np.clip(np.log(probability / (1 - probability)), -6, 6) / 12 + 0.5
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_mean_soft_dice_is_one_for_the_same_maps_and_plain_arithmetic_otherwise():
    maps = torch.rand(4, 3, 3, 3)
    assert mean_soft_dice(maps, maps) == pytest.approx(1.0)
    other = torch.rand(4, 3, 3, 3)
    plain = [float(2 * torch.minimum(a, b).sum() / (a.sum() + b.sum())) for a, b in zip(maps[1:], other[1:])]
    assert mean_soft_dice(maps, other) == pytest.approx(np.mean(plain), rel=1e-5)
