"""Fields against analytic maps and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from wavemorph.spatial import displacement as field
from wavemorph.spatial.filters import box_mean

SIZE = (18, 20, 22)  # (D, H, W)


def coordinates() -> torch.Tensor:
    """(1, 3, D, H, W): the voxel coordinates (k, j, i)."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in SIZE], indexing="ij"))[None]


def smooth_noise(size=SIZE, amplitude=1.5, seed=0, sigma=2.5) -> torch.Tensor:
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    noise = field.smooth(noise, sigma)
    for axis, n in enumerate(size):
        ramp = torch.minimum(torch.arange(n), torch.arange(n).flip(0)).float().div(4).clamp(max=1)
        noise = noise * ramp.view([n if a == axis + 2 else 1 for a in range(5)])
    return noise * (amplitude / noise.abs().max())


def as_sitk(displacement: torch.Tensor) -> sitk.Transform:
    """The same displacement for SimpleITK on a lattice of unit spacing, where LPS x, y, z are i, j, k."""
    vectors = displacement[0].flip(0).movedim(0, -1).contiguous().numpy().astype(np.float64)
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))


def test_warp_samples_at_the_displaced_place_along_each_axis():
    image = coordinates().sum(1, keepdim=True) + 10 * coordinates()[:, :1]
    for axis, slope in enumerate((11.0, 1.0, 1.0)):
        displacement = torch.zeros(1, 3, *SIZE)
        displacement[:, axis] = 1.25
        inside = (field.warp(image, displacement) - image)[..., 2:-2, 2:-2, 2:-2]
        assert torch.allclose(inside, torch.full_like(inside, 1.25 * slope), atol=1e-3)


def test_warp_agrees_with_simpleitk():
    displacement = smooth_noise()
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    expected = sitk.Resample(sitk.GetImageFromArray(image[0, 0].numpy()), as_sitk(displacement), sitk.sitkLinear)
    inside = (slice(2, -2),) * 3
    np.testing.assert_allclose(
        field.warp(image, displacement)[0, 0].numpy()[inside], sitk.GetArrayFromImage(expected)[inside], atol=1e-4
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_warp_gives_the_same_however_many_threads_share_it(threads):
    before = torch.get_num_threads()
    displacement, image = smooth_noise(), torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    try:
        torch.set_num_threads(threads)
        warped = field.warp(image, displacement)
    finally:
        torch.set_num_threads(before)
    one_by_one = torch.cat([field.warp(image[:, c : c + 1], displacement) for c in range(3)], 1)
    assert torch.equal(warped, one_by_one)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_single_image_warped_by_rows_is_the_image_warped(threads):
    before = torch.get_num_threads()
    displacement = smooth_noise(amplitude=12)  # beyond the edges too
    image = torch.rand(1, 1, 20, 15, 17, generator=torch.Generator().manual_seed(1))
    try:
        torch.set_num_threads(threads)
        warped = field.warp_image(image, displacement)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(warped, field.warp(image, displacement), atol=2e-4)


def test_an_image_of_as_many_rows_as_a_head_is_warped_to_a_hundredth_of_its_range():
    displacement = smooth_noise((256, 256, 24), amplitude=20)
    image = torch.rand(1, 1, 256, 256, 24, generator=torch.Generator().manual_seed(1))
    difference = (field.warp_image(image, displacement) - field.warp(image, displacement)).abs()
    assert float(difference.max()) < 0.01  # neighbors differ by up to 1 here
    assert float(difference.mean()) < 5e-4


def test_a_flat_image_and_several_images_are_warped_as_ever():
    displacement = smooth_noise()
    for image in (torch.rand(1, 1, 1, 15, 17), torch.rand(1, 2, 20, 15, 17)):
        assert torch.equal(field.warp_image(image, displacement), field.warp(image, displacement))


def test_a_step_along_one_axis_is_composed_exactly_and_any_other_but_for_products():
    displacement = smooth_noise(seed=1)
    step = smooth_noise(seed=2, amplitude=0.9)
    for axis in range(3):
        along = torch.zeros_like(step)
        along[:, axis] = step[:, axis]
        assert torch.allclose(field.compose_small_step(displacement, along), field.compose(displacement, along), atol=1e-5)
    for length in (0.5, 0.25):
        here = step * (length / 0.9)
        left_out = field.compose_small_step(displacement, here) - field.compose(displacement, here)
        assert float(left_out.abs().max()) < 0.5 * length**2


@pytest.mark.parametrize("size", [SIZE, (90, 80, 70)])  # within one block, and over several
def test_smoothing_in_place_is_smoothing(size):
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    expected = field.smooth(noise, 1.2)
    assert field.smooth(noise, 1.2, out=noise) is noise
    assert torch.equal(noise, expected)


@pytest.mark.parametrize("measure", [field.jacobian_determinant, field.least_corner_jacobian])
@pytest.mark.parametrize("depth", [2, 3, 16, 33, 34, 37])
def test_determinants_by_slabs_are_those_taken_at_once(measure, depth):
    displacement = torch.randn(1, 3, depth, 9, 11, generator=torch.Generator().manual_seed(depth))
    for planes in (None, 1, 2, 4, 16, 32):
        result = torch.empty(depth, 9, 11)
        assert field.apply_in_slabs(measure, displacement, out=result, planes=planes) is result
        assert torch.equal(result, measure(displacement))


def test_composition_applies_the_inner_map_first():
    outer, inner = smooth_noise(seed=1), smooth_noise(seed=2)
    composed = as_sitk(field.compose(outer, inner))
    chain = sitk.CompositeTransform([as_sitk(outer), as_sitk(inner)])  # the last one is applied first
    for point in ((8.0, 9.0, 7.0), (12.0, 6.0, 10.0)):
        assert np.allclose(composed.TransformPoint(point), chain.TransformPoint(point), atol=1e-4)
    assert not torch.allclose(field.compose(outer, inner), field.compose(inner, outer), atol=1e-2)


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    center = torch.tensor([(n - 1) / 2 for n in SIZE]).view(1, 3, 1, 1, 1)
    offset = coordinates() - center
    spin = torch.tensor([[0.0, 0.1, 0.0], [-0.1, 0.0, 0.05], [0.0, -0.05, 0.0]])
    velocity = torch.einsum("ab,nbdhw->nadhw", spin, offset)
    expected = torch.einsum("ab,nbdhw->nadhw", torch.matrix_exp(spin) - torch.eye(3), offset)
    middle = (..., slice(7, 11), slice(8, 12), slice(9, 13))
    assert torch.allclose(field.exponentiate(velocity)[middle], expected[middle], atol=2e-3)


def test_the_exponentials_of_a_velocity_and_its_negative_undo_each_other():
    velocity = smooth_noise(size=(32, 32, 32), amplitude=1.0, sigma=4.0)
    there_and_back = field.compose(field.exponentiate(-velocity), field.exponentiate(velocity))
    assert there_and_back[..., 6:-6, 6:-6, 6:-6].abs().max() < 0.05  # where the velocity is smooth


def test_the_inverse_returns_every_point_even_where_the_map_stretches():
    displacement = smooth_noise(size=(32, 32, 32), amplitude=2.5, sigma=2.0)
    assert field.jacobian_determinant(displacement).max() > 2
    assert field.least_corner_jacobian(displacement).min() > 0
    inverse = field.invert(displacement)
    assert field.compose(displacement, inverse).abs().max() < 5e-3


def test_resizing_keeps_the_map():
    displacement = smooth_noise(size=(32, 32, 32), amplitude=2.0, sigma=8.0)
    coarse = field.resize(displacement, (16, 16, 16))
    assert coarse.abs().max() < 0.6 * displacement.abs().max()  # the lengths are in the larger voxels
    inside = (..., *(slice(5, -5),) * 3)
    assert torch.allclose(field.resize(coarse, (32, 32, 32))[inside], displacement[inside], atol=0.05)


def test_smoothing_agrees_with_simpleitk_and_keeps_constants():
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    inside = (slice(5, -5),) * 3
    expected = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(image[0, 0].numpy()), 1.5))
    smoothed = field.smooth(image, 1.5)[0, 0].numpy()
    assert np.abs(smoothed - expected)[inside].max() < 0.02
    assert torch.allclose(field.smooth(torch.ones(1, 2, *SIZE), 1.5), torch.ones(1, 2, *SIZE), atol=1e-5)


def test_the_gradient_of_a_ramp_is_its_slope_in_k_j_i_order():
    ramp = (coordinates() * torch.tensor([3.0, -2.0, 0.5]).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    inside = field.gradient(ramp)[0, :, 1:-1, 1:-1, 1:-1]
    for channel, slope in enumerate((3.0, -2.0, 0.5)):
        assert torch.allclose(inside[channel], torch.full_like(inside[channel], slope), atol=1e-4)


def test_the_jacobian_of_a_linear_map_is_its_determinant():
    matrix = torch.tensor([[0.2, 0.1, 0.0], [0.05, -0.1, 0.1], [0.0, 0.2, 0.3]])
    displacement = torch.einsum("ab,nbdhw->nadhw", matrix, coordinates())
    expected = float(torch.linalg.det(torch.eye(3) + matrix))
    assert torch.allclose(field.jacobian_determinant(displacement), torch.full(SIZE, expected), atol=1e-4)
    assert torch.allclose(field.least_corner_jacobian(displacement), torch.full(SIZE, expected), atol=1e-4)


def test_jacobian_agrees_with_simpleitk_on_an_unrotated_lattice():
    displacement = smooth_noise()
    vectors = displacement[0].flip(0).movedim(0, -1).contiguous().numpy()
    expected = sitk.DisplacementFieldJacobianDeterminant(sitk.GetImageFromArray(vectors, isVector=True))
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(
        field.jacobian_determinant(displacement).numpy()[inside], sitk.GetArrayFromImage(expected)[inside], atol=1e-4
    )


def test_the_strict_test_sees_a_fold_that_central_differences_miss():
    displacement = torch.zeros(1, 3, *SIZE)
    displacement[0, 1, 9, 10, 11] = 1.5  # one voxel jumps over its neighbor
    assert field.jacobian_determinant(displacement).min() > 0
    assert field.least_corner_jacobian(displacement).min() < 0


@pytest.mark.parametrize("size", [(37, 41, 53), (16, 90, 47)])
def test_a_filter_in_blocks_is_the_filter_of_the_whole(monkeypatch, size):
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    for measure in (lambda: field.smooth(image, 1.3), lambda: box_mean(image, 4)):
        monkeypatch.setattr(field, "_BLOCK", 10**9)
        whole = measure()
        monkeypatch.setattr(field, "_BLOCK", 5000)
        assert torch.allclose(measure(), whole, atol=1e-6)


def test_smoothing_in_training_keeps_its_gradient():
    image = torch.randn(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(1))
    (field.smooth(image, 1.0) * weights).sum().backward()
    step = 1e-2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        change = ((field.smooth(image + step, 1.0) - field.smooth(image, 1.0)) * weights).sum()
    assert float((image.grad * step).sum()) == pytest.approx(float(change), rel=1e-3)
