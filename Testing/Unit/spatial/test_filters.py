"""Filters against SimpleITK, and slab-wise or block-wise evaluation against the whole lattice."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from wavemorph.spatial.displacement import jacobian_determinant, least_corner_jacobian
from wavemorph.spatial.filters import apply_in_slabs, box_mean, box_mean_of_slabs, smooth
from wavemorph.system import strategy

SIZE = (18, 20, 22)  # (D, H, W)


@pytest.mark.parametrize("size", [SIZE, (90, 80, 70)])  # within one block, and over several
def test_smoothing_in_place_gives_the_same_result(size):
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    expected = smooth(noise, 1.2)
    assert smooth(noise, 1.2, out=noise) is noise
    assert torch.equal(noise, expected)


@pytest.mark.parametrize("measure", [jacobian_determinant, least_corner_jacobian])
@pytest.mark.parametrize("depth", [2, 3, 16, 33, 34, 37])
def test_determinants_slab_by_slab_equal_those_of_the_whole_lattice(measure, depth):
    displacement = torch.randn(1, 3, depth, 9, 11, generator=torch.Generator().manual_seed(depth))
    for planes in (None, 1, 2, 4, 16, 32):
        result = torch.empty(depth, 9, 11)
        assert apply_in_slabs(measure, displacement, out=result, planes=planes) is result
        assert torch.equal(result, measure(displacement))


def test_smoothing_agrees_with_simpleitk_and_keeps_constants():
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    inside = (slice(5, -5),) * 3
    expected = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(image[0, 0].numpy()), 1.5))
    smoothed = smooth(image, 1.5)[0, 0].numpy()
    assert np.abs(smoothed - expected)[inside].max() < 0.02
    assert torch.allclose(smooth(torch.ones(1, 2, *SIZE), 1.5), torch.ones(1, 2, *SIZE), atol=1e-5)


@pytest.mark.parametrize("way", [strategy.CPU, strategy.ACCELERATOR], ids=["products", "sums"])
@pytest.mark.parametrize("sigma", [(0.0, 0.6, 1.2), (2.0, 5.0, 20.0)])
@pytest.mark.parametrize("size", [SIZE, (70, 3, 150)])
def test_smoothing_agrees_with_scipy_where_edge_values_are_continued(monkeypatch, way, sigma, size):
    monkeypatch.setattr(strategy, "CPU", way)
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(4))
    widths, reaches = (0, 0, *sigma), (0, 0, *(math.ceil(2.5 * each) for each in sigma))
    expected = scipy.ndimage.gaussian_filter(image.double().numpy(), widths, mode="nearest", radius=reaches)
    assert np.abs(smooth(image, sigma).numpy() - expected).max() < 2e-6


def test_smoothing_along_lines_too_long_for_a_matrix_agrees_with_smoothing_each_part_of_them():
    image = torch.randn(1, 1, 2, 2, 1000, generator=torch.Generator().manual_seed(5))
    parts = [smooth(image[..., first : first + 120], 2.0)[..., 10:110] for first in range(0, 880, 100)]
    assert torch.allclose(torch.cat(parts, -1), smooth(image, 2.0)[..., 10:910], atol=1e-6)


@pytest.mark.parametrize("size", [(37, 41, 53), (16, 90, 47)])
def test_a_filter_in_blocks_equals_the_filter_of_the_whole_lattice(monkeypatch, size):
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    for measure in (lambda: smooth(image, 1.3), lambda: box_mean(image, 4)):
        monkeypatch.setattr(strategy, "CPU", strategy.ACCELERATOR)
        whole = measure()
        monkeypatch.setattr(strategy, "CPU", dataclasses.replace(strategy.CPU, block_voxels=5000))
        assert torch.allclose(measure(), whole, atol=1e-6)


@pytest.mark.parametrize("radius", [0, 1, 2, 4])
@pytest.mark.parametrize("planes", [1, 2, 5, 13, 20])
def test_window_means_of_an_image_that_comes_in_slabs_equal_those_of_the_whole(radius, planes):
    image = torch.randn(1, 2, 13, 10, 11, generator=torch.Generator().manual_seed(0))
    slabs = list(box_mean_of_slabs(image.split(planes, 2), radius))
    assert torch.equal(torch.cat(slabs, 2), box_mean(image, radius))


def test_the_gradient_of_smoothing_agrees_with_finite_differences():
    image = torch.randn(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(1))
    (smooth(image, 1.0) * weights).sum().backward()
    step = 1e-2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        change = ((smooth(image + step, 1.0) - smooth(image, 1.0)) * weights).sum()
    assert float((image.grad * step).sum()) == pytest.approx(float(change), rel=1e-3)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_window_means_agree_with_average_pooling(radius):
    image = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    pooled = F.avg_pool3d(image, 2 * radius + 1, 1, radius)
    assert torch.allclose(box_mean(image, radius), pooled, atol=1e-5)
