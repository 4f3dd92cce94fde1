"""What the expected error is estimated from, against numpy and on pairs whose error is known."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from wavemorph import Settings
from wavemorph.registration.deformable.stage import judge_contrast
from wavemorph.registration.expected_error.estimate import error_bounds_mm
from wavemorph.registration.expected_error.features import (
    ErrorFeatures,
    _squared_correlation,
    _texture,
    error_features,
)
from wavemorph.registration.state import AlignedPair, Job, LinearAlignment, StageTimer
from wavemorph.spatial.filters import smooth
from wavemorph.spatial.grid import make_working_grid, tensor_from_image
from wavemorph.spatial.preprocessing import Pair, bounding_box, prepare

SPACING_MM = 2.5
WRONG_MM = 6.0


@pytest.fixture(scope="module")
def heads() -> list[sitk.Image]:
    """A head and the same under other noise."""
    lattice = phantoms.regular((72, 76, 64), (1.5, 1.5, 1.5))
    return [phantoms.head(lattice, noise=0.02, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def aligned(heads) -> AlignedPair:
    return as_they_lie(*heads)


def as_they_lie(fixed: sitk.Image, moving: sitk.Image) -> AlignedPair:
    pair = Pair(fixed, moving).with_subjects()
    grid = make_working_grid(pair.fixed, bounding_box(pair.fixed_foreground), SPACING_MM, 10.0)
    affine = sitk.AffineTransform(3)
    working = prepare(pair, grid, affine, torch.device("cpu"))
    job = Job(pair, Settings(), torch.device("cpu"), None, StageTimer(lambda *_: None))
    return AlignedPair(job, LinearAlignment(affine), None, grid, working)


def all_features_of(aligned: AlignedPair, displacement: torch.Tensor) -> ErrorFeatures:
    outline = tensor_from_image(
        aligned.grid.resample(aligned.job.pair.subjects[0].outline, None, sitk.sitkNearestNeighbor)
    )
    with torch.inference_mode():
        return error_features(aligned, judge_contrast(aligned), displacement, outline)


def features_of(aligned: AlignedPair, displacement: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    found = all_features_of(aligned, displacement)
    assert bool(torch.isfinite(found.values).all())
    assert found.values.shape[1:] == found.grid.shape == tuple(found.inside.shape)
    return dict(zip(found.names, found.values)), found.inside > 0.5


def a_wrong_bump(aligned: AlignedPair) -> torch.Tensor:
    """A displacement that is wrong by `WRONG_MM` in the middle of the upper half, and right elsewhere."""
    bump = torch.zeros(1, 3, *aligned.grid.shape)
    depth, height, width = aligned.grid.shape
    bump[0, 2, int(0.62 * depth), height // 2, width // 2] = 1
    bump = smooth(bump, 3.0)
    return bump * (WRONG_MM / SPACING_MM / float(bump.max()))


def test_all_other_maps_are_far_from_a_map_where_it_is_wrong_and_near_where_it_is_right(aligned):
    displacement = a_wrong_bump(aligned)
    found, inside = features_of(aligned, displacement)
    size = found["independent"].shape
    error = F.adaptive_avg_pool3d(displacement.square().sum(1, keepdim=True).sqrt(), size)[0, 0] * SPACING_MM
    wrong, right = inside & (error > 3.5), inside & (error < 0.05)
    assert int(wrong.sum()) > 10
    for name in ("backward", "independent", "other"):
        assert found[name][wrong].mean() > found[name][right].mean() + 1, name
    assert found["residual"][wrong].mean() > found["residual"][right].mean() + 1


def test_a_map_that_is_right_is_confirmed_by_all_other_maps(aligned):
    found, inside = features_of(aligned, torch.zeros(1, 3, *aligned.grid.shape))
    for name in ("backward", "independent", "other"):
        assert float(found[name][inside].exp().mean()) < 0.25, name  # of a coarse voxel


@settings(max_examples=4, deadline=None)
@given(factors=strategies.tuples(*[strategies.floats(1e-3, 1e4)] * 2))
def test_the_expected_error_does_not_depend_on_the_unit_of_the_intensities(heads, aligned, factors):
    displacement = a_wrong_bump(aligned)
    scaled = as_they_lie(*(head * factor for head, factor in zip(heads, factors)))
    expected, found = (error_bounds_mm(all_features_of(each, displacement)) for each in (aligned, scaled))
    assert torch.allclose(found, expected, rtol=0.02)


def test_the_least_eigenvalue_of_the_structure_tensor_is_that_of_numpy():
    image = smooth(torch.randn(1, 1, 9, 10, 11, generator=torch.Generator().manual_seed(0)), 1.0)
    least, trace = _texture(image, torch.ones_like(image))
    slopes = np.zeros((3, 9, 10, 11), np.float32)
    for axis, slope in enumerate(np.gradient(image[0, 0].numpy())):
        edge = [slice(None)] * 3
        edge[axis] = slice(1, -1)
        slopes[axis][tuple(edge)] = slope[tuple(edge)]  # differences are central, and zero on the border
    products = torch.tensor(np.einsum("akji,bkji->abkji", slopes, slopes).reshape(1, 9, 9, 10, 11))
    tensors = smooth(products, 1.0)[0].numpy().reshape(3, 3, -1).transpose(2, 0, 1)
    values = np.linalg.eigvalsh(tensors)
    assert np.allclose(least.exp().flatten().numpy(), values[:, 0] + 1e-6, rtol=0.02, atol=2e-6)
    assert np.allclose(trace.exp().flatten().numpy(), values.sum(1) + 1e-6, rtol=1e-3)


def test_the_squared_correlation_of_a_window_is_that_of_numpy():
    generator = torch.Generator().manual_seed(1)
    fixed, other = (torch.rand(1, 1, 9, 9, 9, generator=generator) for _ in range(2))
    warped = 0.5 * fixed + 0.5 * other
    found = _squared_correlation(fixed, warped, torch.ones_like(fixed))[0, 0, 4, 4, 4]
    window = (0, 0, *[slice(2, 7)] * 3)
    expected = np.corrcoef(fixed[window].flatten().numpy(), warped[window].flatten().numpy())[0, 1] ** 2
    assert float(found) == pytest.approx(expected, abs=2e-3)


def test_nothing_is_compared_where_nothing_was_seen():
    image = torch.rand(1, 1, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    weight = torch.ones_like(image)
    weight[:, :, :8] = 0
    found = _squared_correlation(image, image, weight)
    assert float(found[:, :, :5].max()) == 0
    assert float(found[:, :, 11:].min()) > 0.99
