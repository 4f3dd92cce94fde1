"""Finishing: no folds, an inverse that the lattice can hold, and every short cut against the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from wavemorph.spatial import displacement as field
from wavemorph.spatial import inversion as finishing
from wavemorph.spatial.folding import folding_mask, remove_folds
from wavemorph.spatial.inversion import TwoPartInverse, regularize_and_invert

SIZE = (32, 36, 40)


def noise(channels: int, sigma: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = field.smooth(torch.randn(1, channels, *SIZE, generator=generator), sigma)
    return drawn * field.border_taper(SIZE, drawn.device)


def bump(amplitude: float) -> torch.Tensor:
    """A displacement along k that dies out towards the border."""
    k, j, i = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SIZE], indexing="ij")
    size = amplitude * torch.exp(-4 * (k**2 + j**2 + i**2))
    return torch.stack([size, torch.zeros_like(size), torch.zeros_like(size)])[None]


def as_sitk(displacement: torch.Tensor) -> sitk.Transform:
    """The same displacement for SimpleITK on a lattice of unit spacing, where LPS x, y, z are i, j, k."""
    vectors = displacement[0].flip(0).movedim(0, -1).contiguous().numpy().astype(np.float64)
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))


def test_unfolding_removes_every_fold_and_leaves_the_rest():
    folded = bump(3.0) + F.pad(5 * torch.ones(1, 3, 3, 3, 3), (18, 19, 16, 17, 14, 15))
    assert field.least_corner_jacobian(folded).min() < 0
    flat = remove_folds(folded)
    assert field.least_corner_jacobian(flat).min() > 0
    assert torch.equal(flat[:, :, :6], folded[:, :, :6])


def test_a_map_without_folds_is_left_as_it_is():
    displacement = bump(2.0)
    assert torch.equal(remove_folds(displacement), displacement)


def test_even_a_hopeless_displacement_ends_without_folds():
    assert field.least_corner_jacobian(remove_folds(30 * noise(3, 0.5, 3))).min() > 0


def there_and_back(displacement, inverse, correction, count=4000):
    """Distances at random places between the nodes, computed without the fields' own functions."""
    points = 4 + torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) * (torch.tensor(SIZE) - 9.0)
    scale = 2 / (torch.tensor(SIZE, dtype=torch.float32) - 1)
    at = points
    for step in (displacement, inverse, correction):
        grid = (at * scale - 1).flip(-1).view(1, 1, 1, -1, 3)
        at = at + F.grid_sample(step, grid, align_corners=True)[0, :, 0, 0].T
    return (at - points).norm(dim=1)


def test_settling_makes_sharp_maps_invertible_between_the_nodes_too():
    sharp = bump(6.0) + 1.2 * noise(3, 1.0, 4)
    unsettled = TwoPartInverse(remove_folds(sharp))
    displacement, inverse, correction = regularize_and_invert(sharp)
    distances = there_and_back(displacement, inverse, correction)
    assert there_and_back(remove_folds(sharp), unsettled.first, unsettled.second).max() > 0.15
    assert distances.max() < 0.12
    assert distances.mean() < 0.03
    assert field.least_corner_jacobian(displacement).min() > 0


def test_settling_leaves_smooth_maps_as_they_are():
    displacement, inverse, correction = regularize_and_invert(bump(2.0))
    assert torch.equal(displacement, bump(2.0))
    assert there_and_back(displacement, inverse, correction).max() < 0.07


def test_the_two_parts_bring_points_back_between_the_nodes_too_as_simpleitk_sees_them():
    displacement = 6 * noise(3, 3.0, 0)
    parts = TwoPartInverse(displacement)
    chain = sitk.CompositeTransform([as_sitk(f) for f in (parts.second, parts.first, displacement)])
    points = np.random.default_rng(0).uniform(3, 28, (300, 3))
    errors = [np.linalg.norm(np.subtract(chain.TransformPoint(point), point)) for point in points]
    assert np.mean(errors) < 0.03
    assert np.max(errors) < 0.2


def test_the_error_of_an_inverse_is_what_is_measured_in_the_middle_of_each_cell():
    displacement = bump(5.0)
    displacement[..., 20:] += noise(3, 1.0, 2)[..., 20:]
    parts = TwoPartInverse(displacement)
    middle = torch.stack(torch.meshgrid(*[torch.arange(n - 1) + 0.5 for n in SIZE], indexing="ij")).flatten(1)
    at = middle
    for step in (displacement, parts.first, parts.second):
        at = at + finishing.sampled(step, at)
    expected = (at - middle).square().sum(0).sqrt().view(parts.error.shape)
    assert expected.max() > 0.02
    looked_at = parts.error > 0
    assert torch.allclose(parts.error[looked_at], expected[looked_at], atol=1e-4)
    assert 0 < looked_at.float().mean() < 1
    assert expected[~looked_at].max() < 0.02


def test_an_inverse_that_followed_a_change_is_the_one_that_is_made_anew():
    before, patch = bump(4.0) + 0.8 * noise(3, 1.0, 4), torch.zeros(1, 1, *SIZE)
    patch[..., 12:17, 14:20, 18:24] = 1
    after = finishing._blend(before, field.smooth(patch, 1.0), 1.3)
    followed = TwoPartInverse(before)
    followed.update(after, (after != before).any(1)[0])
    anew = TwoPartInverse(after)
    assert (after != before).any()
    assert (followed.first - anew.first).abs().max() < 0.05
    assert abs(float(followed.error.max() - anew.error.max())) < 0.02
    assert (followed.error - anew.error).abs().mean() < 2e-3


@pytest.mark.parametrize("least", [0.0, 0.02, 0.3])
def test_folded_nodes_are_those_whose_least_corner_jacobian_is_too_small(least):
    for seed in range(3):
        displacement = 2.2 * noise(3, 1.0, seed) / 0.2
        plain = field.least_corner_jacobian(displacement) < least
        assert 0 < plain.float().mean() < 1
        assert torch.equal(folding_mask(displacement, least), plain)


@pytest.mark.parametrize("first, last", [(8, 20), (0, 3), (12, 13), (0, 24), (5, 5)])
def test_folds_are_looked_for_only_where_they_may_be(first, last):
    displacement = 2.2 * noise(3, 1.0, 0) / 0.2
    within, reached = torch.zeros(SIZE, dtype=torch.bool), torch.zeros(SIZE, dtype=torch.bool)
    within[(slice(first, last),) * 3] = True
    if last > first:
        reached[(slice(max(first - 1, 0), last + 1),) * 3] = True
    everywhere = folding_mask(displacement)
    assert torch.equal(folding_mask(displacement, within=within), everywhere & reached)
    assert last == first or bool((everywhere & reached).any())


def test_smoothing_in_blocks_is_smoothing_of_the_whole():
    displacement, patch = bump(4.0) + noise(3, 1.0, 4), field.smooth((noise(1, 2.0, 5) > 0.1).float(), 1.0)
    plain = displacement + patch * (field.smooth(displacement, 1.3) - displacement)
    assert torch.allclose(finishing._blend(displacement, patch, 1.3), plain, atol=finishing._UNNOTICED)


def test_places_are_inverted_one_by_one():
    displacement = bump(4.0)
    places = 6 + torch.rand(3, 500, generator=torch.Generator().manual_seed(3)) * (torch.tensor(SIZE).view(3, 1) - 13.0)
    moved = places + finishing.sampled(displacement, places)
    back = finishing.invert_at_points(displacement, moved, torch.zeros_like(moved), steps=20, tolerance=1e-3)
    assert (moved + back - places).abs().max() < 5e-3
    assert (moved - places).abs().max() > 2


def test_only_where_a_map_bends_sharply_it_is_straightened():
    displacement = bump(3.0)
    displacement[..., 20:] += noise(3, 0.8, 2)[..., 20:]
    straight = finishing.smooth_sharp_bends(displacement)
    assert torch.equal(straight[..., :12], displacement[..., :12])
    assert TwoPartInverse(remove_folds(straight)).error.max() < 0.7 * TwoPartInverse(remove_folds(displacement)).error.max()
