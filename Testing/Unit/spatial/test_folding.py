"""Folding is found, only where it may be, and removed; the rest of the field stays as it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from displacements import SIZE, bump, tapered_noise
from wavemorph.spatial.displacement import least_corner_jacobian
from wavemorph.spatial.filters import smooth
from wavemorph.spatial.folding import (
    NEGLIGIBLE_CHANGE_VOXELS,
    blend_smoothed,
    folding_mask,
    remove_folds,
    smooth_sharp_bends,
)
from wavemorph.spatial.inversion import TwoPartInverse


def test_every_fold_is_removed_and_the_rest_stays():
    folded = bump(3.0) + F.pad(5 * torch.ones(1, 3, 3, 3, 3), (18, 19, 16, 17, 14, 15))
    assert least_corner_jacobian(folded).min() < 0
    repaired = remove_folds(folded)
    assert least_corner_jacobian(repaired).min() > 0
    assert torch.equal(repaired[:, :, :6], folded[:, :, :6])


def test_a_map_without_folds_is_not_changed():
    displacement = bump(2.0)
    assert torch.equal(remove_folds(displacement), displacement)


def test_even_a_displacement_that_folds_everywhere_ends_without_folds():
    assert least_corner_jacobian(remove_folds(30 * tapered_noise(3, 0.5, 3))).min() > 0


@pytest.mark.parametrize("least", [0.0, 0.02, 0.3])
def test_the_folding_mask_marks_nodes_whose_least_corner_jacobian_is_too_small(least):
    for seed in range(3):
        displacement = 2.2 * tapered_noise(3, 1.0, seed) / 0.2
        plain = least_corner_jacobian(displacement) < least
        assert 0 < plain.float().mean() < 1
        assert torch.equal(folding_mask(displacement, least), plain)


@pytest.mark.parametrize("first, last", [(8, 20), (0, 3), (12, 13), (0, 24), (5, 5)])
def test_the_folding_mask_checks_only_the_given_nodes_and_their_neighbors(first, last):
    displacement = 2.2 * tapered_noise(3, 1.0, 0) / 0.2
    within, checked = torch.zeros(SIZE, dtype=torch.bool), torch.zeros(SIZE, dtype=torch.bool)
    within[(slice(first, last),) * 3] = True
    if last > first:
        checked[(slice(max(first - 1, 0), last + 1),) * 3] = True
    everywhere = folding_mask(displacement)
    assert torch.equal(folding_mask(displacement, within=within), everywhere & checked)
    assert last == first or bool((everywhere & checked).any())


def test_blending_in_blocks_equals_blending_of_the_whole():
    displacement, patch = bump(4.0) + tapered_noise(3, 1.0, 4), smooth((tapered_noise(1, 2.0, 5) > 0.1).float(), 1.0)
    plain = displacement + patch * (smooth(displacement, 1.3) - displacement)
    assert torch.allclose(blend_smoothed(displacement, patch, 1.3), plain, atol=NEGLIGIBLE_CHANGE_VOXELS)


def test_a_map_is_smoothed_only_where_it_bends_sharply_and_inverts_better_then():
    displacement = bump(3.0)
    displacement[..., 20:] += tapered_noise(3, 0.8, 2)[..., 20:]
    smoothed = smooth_sharp_bends(displacement)
    assert torch.equal(smoothed[..., :12], displacement[..., :12])
    errors = [TwoPartInverse(remove_folds(each)).error.max() for each in (smoothed, displacement)]
    assert errors[0] < 0.7 * errors[1]
