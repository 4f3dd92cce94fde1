"""Displacement fields against analytic maps and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from displacements import as_sitk, smooth_noise
from wavemorph.spatial.displacement import (
    compose,
    compose_small_step,
    exponentiate,
    gradient,
    invert,
    jacobian_determinant,
    least_corner_jacobian,
    resize,
    warp,
    warp_image,
)

SIZE = (18, 20, 22)  # (D, H, W)


def coordinates() -> torch.Tensor:
    """(1, 3, D, H, W): the voxel coordinates (k, j, i)."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in SIZE], indexing="ij"))[None]


def random_displacement(size=SIZE, amplitude=1.5, seed=0, sigma=2.5) -> torch.Tensor:
    """Smooth, of at most `amplitude` voxels along an axis, and zero on the border."""
    noise = smooth_noise(3, sigma, seed, size)
    for axis, n in enumerate(size):
        ramp = torch.minimum(torch.arange(n), torch.arange(n).flip(0)).float().div(4).clamp(max=1)
        noise = noise * ramp.view([n if a == axis + 2 else 1 for a in range(5)])
    return noise * (amplitude / noise.abs().max())


def test_warp_samples_at_the_displaced_point_along_each_axis():
    image = coordinates().sum(1, keepdim=True) + 10 * coordinates()[:, :1]
    for axis, slope in enumerate((11.0, 1.0, 1.0)):
        displacement = torch.zeros(1, 3, *SIZE)
        displacement[:, axis] = 1.25
        inside = (warp(image, displacement) - image)[..., 2:-2, 2:-2, 2:-2]
        assert torch.allclose(inside, torch.full_like(inside, 1.25 * slope), atol=1e-3)


def test_warp_agrees_with_simpleitk():
    displacement = random_displacement()
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    expected = sitk.Resample(sitk.GetImageFromArray(image[0, 0].numpy()), as_sitk(displacement), sitk.sitkLinear)
    inside = (slice(2, -2),) * 3
    np.testing.assert_allclose(
        warp(image, displacement)[0, 0].numpy()[inside], sitk.GetArrayFromImage(expected)[inside], atol=1e-4
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_warp_gives_the_same_result_for_any_number_of_threads(threads):
    before = torch.get_num_threads()
    displacement, image = random_displacement(), torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    try:
        torch.set_num_threads(threads)
        warped = warp(image, displacement)
    finally:
        torch.set_num_threads(before)
    channel_by_channel = torch.cat([warp(image[:, c : c + 1], displacement) for c in range(3)], 1)
    assert torch.equal(warped, channel_by_channel)


@pytest.mark.parametrize("threads", [1, 2])
def test_warp_image_agrees_with_warp_for_any_number_of_threads(threads):
    before = torch.get_num_threads()
    displacement = random_displacement(amplitude=12)  # beyond the edges too
    image = torch.rand(1, 1, 20, 15, 17, generator=torch.Generator().manual_seed(1))
    try:
        torch.set_num_threads(threads)
        warped = warp_image(image, displacement)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(warped, warp(image, displacement), atol=2e-4)


def test_warp_image_of_a_volume_of_256_rows_and_planes_is_exact_to_a_hundredth_of_its_range():
    displacement = random_displacement((256, 256, 24), amplitude=20)
    image = torch.rand(1, 1, 256, 256, 24, generator=torch.Generator().manual_seed(1))
    difference = (warp_image(image, displacement) - warp(image, displacement)).abs()
    assert float(difference.max()) < 0.01  # neighbors differ by up to 1 here
    assert float(difference.mean()) < 5e-4


def test_warp_image_falls_back_to_warp_for_one_plane_and_for_several_channels():
    displacement = random_displacement()
    for image in (torch.rand(1, 1, 1, 15, 17), torch.rand(1, 2, 20, 15, 17)):
        assert torch.equal(warp_image(image, displacement), warp(image, displacement))


def test_compose_small_step_is_exact_along_one_axis_and_otherwise_but_for_products_of_components():
    displacement = random_displacement(seed=1)
    step = random_displacement(seed=2, amplitude=0.9)
    for axis in range(3):
        along = torch.zeros_like(step)
        along[:, axis] = step[:, axis]
        assert torch.allclose(compose_small_step(displacement, along), compose(displacement, along), atol=1e-5)
    for length in (0.5, 0.25):
        here = step * (length / 0.9)
        left_out = compose_small_step(displacement, here) - compose(displacement, here)
        assert float(left_out.abs().max()) < 0.5 * length**2


def test_composition_applies_the_inner_map_first():
    outer, inner = random_displacement(seed=1), random_displacement(seed=2)
    composed = as_sitk(compose(outer, inner))
    chain = sitk.CompositeTransform([as_sitk(outer), as_sitk(inner)])  # the last one is applied first
    for point in ((8.0, 9.0, 7.0), (12.0, 6.0, 10.0)):
        assert np.allclose(composed.TransformPoint(point), chain.TransformPoint(point), atol=1e-4)
    assert not torch.allclose(compose(outer, inner), compose(inner, outer), atol=1e-2)


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    center = torch.tensor([(n - 1) / 2 for n in SIZE]).view(1, 3, 1, 1, 1)
    offset = coordinates() - center
    spin = torch.tensor([[0.0, 0.1, 0.0], [-0.1, 0.0, 0.05], [0.0, -0.05, 0.0]])
    velocity = torch.einsum("ab,nbdhw->nadhw", spin, offset)
    expected = torch.einsum("ab,nbdhw->nadhw", torch.matrix_exp(spin) - torch.eye(3), offset)
    middle = (..., slice(7, 11), slice(8, 12), slice(9, 13))
    assert torch.allclose(exponentiate(velocity)[middle], expected[middle], atol=2e-3)


def test_the_exponential_of_the_negative_velocity_is_the_inverse_map():
    velocity = random_displacement(size=(32, 32, 32), amplitude=1.0, sigma=4.0)
    round_trip = compose(exponentiate(-velocity), exponentiate(velocity))
    assert round_trip[..., 6:-6, 6:-6, 6:-6].abs().max() < 0.05  # where the velocity is smooth


def test_the_inverse_is_exact_at_every_node_even_where_the_map_stretches():
    displacement = random_displacement(size=(32, 32, 32), amplitude=2.5, sigma=2.0)
    assert jacobian_determinant(displacement).max() > 2
    assert least_corner_jacobian(displacement).min() > 0
    inverse = invert(displacement)
    assert compose(displacement, inverse).abs().max() < 5e-3


def test_resizing_keeps_the_map():
    displacement = random_displacement(size=(32, 32, 32), amplitude=2.0, sigma=8.0)
    coarse = resize(displacement, (16, 16, 16))
    assert coarse.abs().max() < 0.6 * displacement.abs().max()  # the lengths are in the larger voxels
    inside = (..., *(slice(5, -5),) * 3)
    assert torch.allclose(resize(coarse, (32, 32, 32))[inside], displacement[inside], atol=0.05)


def test_the_gradient_of_a_ramp_is_its_slope_in_k_j_i_order():
    ramp = (coordinates() * torch.tensor([3.0, -2.0, 0.5]).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    inside = gradient(ramp)[0, :, 1:-1, 1:-1, 1:-1]
    for channel, slope in enumerate((3.0, -2.0, 0.5)):
        assert torch.allclose(inside[channel], torch.full_like(inside[channel], slope), atol=1e-4)


def test_the_jacobian_of_a_linear_map_is_its_determinant():
    matrix = torch.tensor([[0.2, 0.1, 0.0], [0.05, -0.1, 0.1], [0.0, 0.2, 0.3]])
    displacement = torch.einsum("ab,nbdhw->nadhw", matrix, coordinates())
    expected = float(torch.linalg.det(torch.eye(3) + matrix))
    assert torch.allclose(jacobian_determinant(displacement), torch.full(SIZE, expected), atol=1e-4)
    assert torch.allclose(least_corner_jacobian(displacement), torch.full(SIZE, expected), atol=1e-4)


def test_jacobian_agrees_with_simpleitk_on_an_unrotated_lattice():
    displacement = random_displacement()
    vectors = displacement[0].flip(0).movedim(0, -1).contiguous().numpy()
    expected = sitk.DisplacementFieldJacobianDeterminant(sitk.GetImageFromArray(vectors, isVector=True))
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(
        jacobian_determinant(displacement).numpy()[inside], sitk.GetArrayFromImage(expected)[inside], atol=1e-4
    )


def test_the_least_corner_jacobian_finds_a_fold_that_central_differences_miss():
    displacement = torch.zeros(1, 3, *SIZE)
    displacement[0, 1, 9, 10, 11] = 1.5  # one voxel passes its neighbor
    assert jacobian_determinant(displacement).min() > 0
    assert least_corner_jacobian(displacement).min() < 0
