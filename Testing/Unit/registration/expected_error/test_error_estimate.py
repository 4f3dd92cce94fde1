"""From features to millimeters on the fixed lattice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from wavemorph.registration.expected_error import coefficients, estimate
from wavemorph.registration.expected_error.features import ErrorFeatures
from wavemorph.spatial.grid import WorkingGrid

SIZE = (6, 7, 8)
GRID = WorkingGrid(SIZE, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), np.eye(3))


def features(subject: str = "body", **values: float) -> ErrorFeatures:
    """Features that are the same everywhere, by default those of an average place."""
    names = tuple(coefficients.COEFFICIENTS)
    usual = {name: mean for name, (_, mean, _) in coefficients.COEFFICIENTS.items()}
    maps = torch.stack([torch.full(GRID.shape, {**usual, **values}[name]) for name in names])
    return ErrorFeatures(maps, names, GRID, torch.ones(GRID.shape), subject)


@pytest.mark.parametrize("subject", ["brain", "body"])
def test_an_average_place_has_the_bound_of_the_bias_in_coarse_voxels(subject):
    bounds = estimate.error_bounds_mm(features(subject))
    assert bounds.shape == GRID.shape
    assert float(bounds.mean()) == pytest.approx(4.0 * math.exp(coefficients.BIASES[subject]), rel=1e-4)


@pytest.mark.parametrize("name", ["backward", "independent", "other"])
def test_a_map_that_other_maps_contradict_has_a_larger_bound(name):
    _, mean, deviation = coefficients.COEFFICIENTS[name]
    contradicted = estimate.error_bounds_mm(features(**{name: mean + 2 * deviation}))
    assert bool((contradicted > estimate.error_bounds_mm(features())).all())


def test_features_beyond_all_that_was_seen_do_not_count_more_than_the_limit():
    name, (_, mean, deviation) = next(iter(coefficients.COEFFICIENTS.items()))
    limit, beyond = (
        estimate.error_bounds_mm(features(**{name: mean + factor * coefficients.LIMIT * deviation}))
        for factor in (1, 5)
    )
    assert torch.allclose(limit, beyond)


def test_on_the_fixed_lattice_the_bound_is_within_the_subject_only_and_goes_on_to_its_edge():
    bounds = sitk.GetImageFromArray(np.full((4, 4, 4), 2.5, np.float32))
    bounds.SetSpacing((4.0, 4.0, 4.0))
    fixed = sitk.Image((20, 20, 20), sitk.sitkInt16)
    outline = np.zeros((20, 20, 20), np.uint8)
    outline[:, :18, 2:] = 1  # beyond the last node, which is at 12 mm
    outline = sitk.GetImageFromArray(outline)
    found = estimate._on_fixed_lattice(bounds, outline, fixed)
    assert found.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(found), 2.5 * sitk.GetArrayFromImage(outline))
