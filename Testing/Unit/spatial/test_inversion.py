"""An inverse that the lattice can hold, between the nodes too, and each shortcut against the plain way."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from displacements import SIZE, as_sitk, bump, tapered_noise
from wavemorph.io.result import displacement_transform
from wavemorph.spatial.displacement import least_corner_jacobian
from wavemorph.spatial.filters import smooth
from wavemorph.spatial.folding import blend_smoothed, remove_folds
from wavemorph.spatial.grid import WorkingGrid
from wavemorph.spatial.inversion import (
    TwoPartInverse,
    invert_at_points,
    invert_displacement_image,
    regularize_and_invert,
)
from wavemorph.spatial.nodes import sample_at_points


def round_trip_errors(displacement, inverse, correction, count=4000):
    """Distances at random points between the nodes, computed without the functions of the engine."""
    points = 4 + torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) * (torch.tensor(SIZE) - 9.0)
    scale = 2 / (torch.tensor(SIZE, dtype=torch.float32) - 1)
    at = points
    for step in (displacement, inverse, correction):
        grid = (at * scale - 1).flip(-1).view(1, 1, 1, -1, 3)
        at = at + F.grid_sample(step, grid, align_corners=True)[0, :, 0, 0].T
    return (at - points).norm(dim=1)


def test_sharp_maps_are_regularized_until_they_can_be_inverted_between_the_nodes_too():
    sharp = bump(6.0) + 1.2 * tapered_noise(3, 1.0, 4)
    unregularized = TwoPartInverse(remove_folds(sharp))
    displacement, inverse, correction = regularize_and_invert(sharp)
    distances = round_trip_errors(displacement, inverse, correction)
    assert round_trip_errors(remove_folds(sharp), unregularized.first, unregularized.second).max() > 0.15
    assert distances.max() < 0.12
    assert distances.mean() < 0.03
    assert least_corner_jacobian(displacement).min() > 0


def test_smooth_maps_are_inverted_as_they_are():
    displacement, inverse, correction = regularize_and_invert(bump(2.0))
    assert torch.equal(displacement, bump(2.0))
    assert round_trip_errors(displacement, inverse, correction).max() < 0.07


def test_both_parts_invert_the_map_between_the_nodes_too_in_simpleitk():
    displacement = 6 * tapered_noise(3, 3.0, 0)
    parts = TwoPartInverse(displacement)
    chain = sitk_chain(parts.second, parts.first, displacement)
    points = np.random.default_rng(0).uniform(3, 28, (300, 3))
    errors = [np.linalg.norm(np.subtract(chain.TransformPoint(point), point)) for point in points]
    assert np.mean(errors) < 0.03
    assert np.max(errors) < 0.2


def sitk_chain(*displacements: torch.Tensor) -> sitk.Transform:
    """The last one is applied first."""
    return sitk.CompositeTransform([as_sitk(each) for each in displacements])


def test_the_error_of_an_inverse_is_the_round_trip_error_at_the_center_of_each_cell():
    displacement = bump(5.0)
    displacement[..., 20:] += tapered_noise(3, 1.0, 2)[..., 20:]
    parts = TwoPartInverse(displacement)
    centers = torch.stack(torch.meshgrid(*[torch.arange(n - 1) + 0.5 for n in SIZE], indexing="ij")).flatten(1)
    at = centers
    for step in (displacement, parts.first, parts.second):
        at = at + sample_at_points(step, at)
    expected = (at - centers).square().sum(0).sqrt().view(parts.error.shape)
    assert expected.max() > 0.02
    measured = parts.error > 0
    assert torch.allclose(parts.error[measured], expected[measured], atol=1e-4)
    assert 0 < measured.float().mean() < 1
    assert expected[~measured].max() < 0.02


def test_an_inverse_updated_for_a_change_equals_a_new_one():
    before, patch = bump(4.0) + 0.8 * tapered_noise(3, 1.0, 4), torch.zeros(1, 1, *SIZE)
    patch[..., 12:17, 14:20, 18:24] = 1
    after = blend_smoothed(before, smooth(patch, 1.0), 1.3)
    updated = TwoPartInverse(before)
    updated.update(after, (after != before).any(1)[0])
    new = TwoPartInverse(after)
    assert (after != before).any()
    assert (updated.first - new.first).abs().max() < 0.05
    assert abs(float(updated.error.max() - new.error.max())) < 0.02
    assert (updated.error - new.error).abs().mean() < 2e-3


def test_the_inverse_at_points_maps_them_back():
    displacement = bump(4.0)
    generator = torch.Generator().manual_seed(3)
    points = 6 + torch.rand(3, 500, generator=generator) * (torch.tensor(SIZE).view(3, 1) - 13.0)
    moved = points + sample_at_points(displacement, points)
    inverse = invert_at_points(displacement, moved, torch.zeros_like(moved), steps=20, tolerance=1e-3)
    assert (moved + inverse - points).abs().max() < 5e-3
    assert (moved - points).abs().max() > 2


def test_an_image_of_a_displacement_is_inverted_on_its_own_lattice_without_changing_it():
    grid = WorkingGrid(SIZE[::-1], (1.5, 2.0, 1.8), (10.0, -20.0, 5.0), np.diag([-1.0, -1.0, 1.0]))
    image = grid.to_mm(bump(2.0))
    before = sitk.GetArrayFromImage(image)
    inverse, correction = invert_displacement_image(image)
    assert np.array_equal(sitk.GetArrayFromImage(image), before)
    assert all(
        each.GetOrigin() == image.GetOrigin() and each.GetSize() == image.GetSize() for each in (inverse, correction)
    )
    chain = sitk.CompositeTransform([displacement_transform(each) for each in (correction, inverse, image)])
    points = [grid.point(index) for index in np.random.default_rng(0).uniform(2, 29, (300, 3))]
    errors = [np.linalg.norm(np.subtract(chain.TransformPoint(point), point)) for point in points]
    assert np.max(errors) < 0.15
