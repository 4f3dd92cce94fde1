"""The working grid against the geometry of SimpleITK, for oblique, anisotropic and flipped volumes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from phantoms import head, physical_points, random_geometry, regular
from wavemorph.io.result import displacement_transform
from wavemorph.spatial import grid as grid_module
from wavemorph.spatial.grid import (
    WorkingGrid,
    array_from_tensor,
    image_from_tensor,
    make_grid_along_axes,
    make_working_grid,
    tensor_from_array,
)

GEOMETRIES = range(20)


def grid_for(fixed: sitk.Image, spacing=3.0, margin=6.0):
    last = np.array(fixed.GetSize()) - 1
    return make_working_grid(fixed, (np.zeros(3, int), last), spacing, margin)


@pytest.mark.parametrize("seed", GEOMETRIES)
def test_the_grid_is_canonical_isotropic_and_covers_the_volume(seed):
    fixed = random_geometry(seed)
    grid = grid_for(fixed)
    assert np.linalg.det(grid.direction) == pytest.approx(1)
    assert np.allclose(np.argmax(np.abs(grid.direction), axis=0), (0, 1, 2))
    assert (np.diag(grid.direction) * (-1, -1, 1) > 0).all()  # i, j, k point to R, A, S
    assert max(grid.spacing) / min(grid.spacing) < 1.25
    assert all(n % 8 == 0 for n in grid.size)
    axes = grid.direction * np.array(grid.spacing)
    indices = (physical_points(fixed).reshape(-1, 3) - np.array(grid.origin)) @ np.linalg.inv(axes).T
    nodes, margin = np.array(grid.size), 6.0 / max(grid.spacing)
    assert (indices.min(0) > margin - 0.5).all()
    assert (indices.max(0) < nodes - 0.5 - margin).all()
    assert (np.abs(indices.min(0) + indices.max(0) - (nodes - 1)) <= 2).all()  # centered to within voxels


@pytest.mark.parametrize("seed", GEOMETRIES)
def test_displacements_in_voxels_become_the_same_map_in_millimeters(seed):
    grid = grid_for(random_geometry(seed))
    generator = torch.Generator().manual_seed(seed)
    displacement = torch.randn(1, 3, *grid.shape, generator=generator)
    transform = displacement_transform(grid.to_mm(displacement))
    axes = grid.direction * np.array(grid.spacing)
    for k, j, i in np.random.default_rng(seed).integers(0, np.array(grid.shape), (10, 3)):
        start = np.array(grid.origin) + axes @ (i, j, k)
        step = displacement[0, :, k, j, i].numpy()[::-1]
        assert np.allclose(transform.TransformPoint(start.tolist()), start + axes @ step, atol=1e-4)


@pytest.mark.parametrize("seed", GEOMETRIES)
def test_a_transform_sampled_on_the_grid_is_the_same_map_in_millimeters(seed):
    grid = grid_for(random_geometry(seed))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05, 0.1, 0.0, -0.02, 0.95, 0.03, 0.0, 0.08, 1.0))
    affine.SetTranslation((2.0, -3.0, 1.0))
    transform = displacement_transform(grid.to_mm(grid.from_mm(affine)))
    axes = grid.direction * np.array(grid.spacing)
    for fraction in np.random.default_rng(seed).uniform(0.1, 0.9, (20, 3)):
        point = np.array(grid.origin) + axes @ (fraction * (np.array(grid.size) - 1))
        assert np.allclose(transform.TransformPoint(point.tolist()), affine.TransformPoint(point.tolist()), atol=1e-3)


def test_outside_the_grid_the_displacement_is_zero():
    grid = grid_for(random_geometry(3))
    transform = displacement_transform(grid.to_mm(torch.ones(1, 3, *grid.shape)))
    axes = grid.direction * np.array(grid.spacing)
    outside = np.array(grid.origin) - axes @ (1.01, 1.01, 1.01)
    assert np.allclose(transform.TransformPoint(outside.tolist()), outside)
    on_the_ring = np.array(grid.origin) - axes @ (1, 0, 0)
    assert np.allclose(transform.TransformPoint(on_the_ring.tolist()), on_the_ring)


def test_a_volume_on_the_grid_has_the_values_that_simpleitk_interpolates():
    fixed = head(random_geometry(5))
    grid = grid_for(fixed)
    resampled = image_from_tensor(tensor_from_array(sitk.GetArrayFromImage(grid.resample(fixed))), grid)
    index = [n // 2 for n in grid.size]
    assert np.allclose(
        resampled.TransformIndexToPhysicalPoint(index),
        np.array(grid.origin) + grid.direction * np.array(grid.spacing) @ index,
    )
    assert resampled[index] == pytest.approx(
        fixed.EvaluateAtPhysicalPoint(resampled.TransformIndexToPhysicalPoint(index), sitk.sitkLinear), rel=1e-3
    )


def test_fixed_voxels_of_about_the_working_spacing_are_kept_as_nodes():
    fixed = sitk.Image([60, 70, 50], sitk.sitkUInt8)
    fixed.SetSpacing((1.0, 1.0, 1.05))
    grid = make_working_grid(fixed, (np.zeros(3, int), np.array((59, 69, 49))), 1.0, 10.0)
    index = fixed.TransformPhysicalPointToContinuousIndex(grid.origin)
    assert np.allclose(index, np.round(index), atol=1e-4)


@pytest.mark.parametrize("seed", GEOMETRIES)
def test_a_snapped_grid_moves_by_at_most_its_spacing_and_shares_nodes_with_the_lattice(seed):
    fixed = random_geometry(seed)
    last = np.array(fixed.GetSize()) - 1
    grid, lattice = grid_for(fixed), make_working_grid(fixed, (np.ones(3, int), last), 3.0, 1.0, 16).halved()
    snapped = grid.snapped_to(lattice)
    shift = (np.array(snapped.origin) - np.array(grid.origin)) @ grid.direction / grid.spacing
    assert np.abs(shift).max() <= 1.001
    node = image_from_tensor(torch.zeros(lattice.shape), lattice).TransformPhysicalPointToContinuousIndex(
        snapped.point((4.5, 2.5, 0.5))  # the center of eight voxels: a node of the halved grid
    )
    assert np.allclose(node, np.round(node), atol=1e-3)
    assert snapped.shape == grid.shape


def test_a_grid_is_not_snapped_to_a_lattice_with_other_axes_or_another_spacing():
    grid = grid_for(random_geometry(0))
    flipped = dataclasses.replace(grid, direction=np.diag([1.0, 1.0, -1.0]) @ grid.direction).halved()
    coarser = grid.halved().halved()
    assert grid.snapped_to(flipped) is grid
    assert grid.snapped_to(coarser) is grid


@pytest.mark.parametrize("seed", range(5))
def test_a_grid_along_other_axes_covers_the_mask_and_is_centered_on_it(seed):
    fixed = random_geometry(seed)
    mask = sitk.Cast(fixed * 0 + 1, sitk.sitkUInt8)
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(0.4, -0.3, 0.7)
    direction = np.reshape(rotation.GetMatrix(), (3, 3))
    grid = make_grid_along_axes(direction, mask, 2.0, 4.0, 16)
    assert grid.spacing == (2.0,) * 3
    assert all(n % 16 == 0 for n in grid.size)
    np.testing.assert_array_equal(grid.direction, direction)
    points = physical_points(fixed).reshape(-1, 3)
    indices = (np.c_[points, np.ones(len(points))] @ np.linalg.inv(grid.matrix).T)[:, :3]
    within = ((indices > -0.5) & (indices < np.array(grid.size) - 0.5)).all(1)
    assert within.mean() > 0.995
    low, high = np.percentile(indices, (0.1, 99.9), axis=0)
    assert (low > 0.5).all() and (np.abs(low + high - (np.array(grid.size) - 1)) < 1.5).all()


def test_arrays_and_tensors_do_not_share_memory():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = tensor_from_array(array)
    tensor += 1
    assert array[0, 0, 0] == 0
    back = array_from_tensor(tensor)
    back += 1
    assert float(tensor[0, 0, 0]) == 1


@pytest.mark.parametrize("seed", GEOMETRIES)
def test_the_slabs_of_a_grid_are_its_planes(seed):
    grid = grid_for(random_geometry(seed))
    nodes = image_from_tensor(torch.zeros(grid.shape), grid)
    for first, planes in ((0, 5), (5, 7), (12, grid.size[2] - 12)):
        slab = grid.slab(first, planes)
        assert slab.size == (*grid.size[:2], planes)
        for index in ((0, 0, 0), (3, 2, 1), (grid.size[0] - 1, 0, planes - 1)):
            point = nodes.TransformIndexToPhysicalPoint((index[0], index[1], index[2] + first))
            assert np.allclose(slab.point(index), point, rtol=0, atol=1e-9)


def test_a_displacement_in_millimeters_does_not_depend_on_the_slabs_in_which_it_is_computed(monkeypatch):
    grid = grid_for(random_geometry(3))
    displacement = torch.randn(1, 3, *grid.shape, generator=torch.Generator().manual_seed(0))
    whole = sitk.GetArrayFromImage(grid.to_mm(displacement))
    for slab in (1, 7, 1000):
        monkeypatch.setattr(grid_module, "_CONVERSION_SLAB_PLANES", slab)
        assert np.allclose(sitk.GetArrayFromImage(grid.to_mm(displacement)), whole, rtol=0, atol=1e-5)


def test_a_resized_grid_covers_the_same_box_as_in_simpleitk():
    image = head(regular((30, 34, 28), (1.1, 0.9, 1.3)), noise=5.0)
    grid = make_working_grid(image, (np.zeros(3), np.array(image.GetSize()) - 1), 1.0, 2.0)
    half = grid.resized(tuple(n // 2 for n in grid.shape))
    binned = sitk.BinShrink(image_from_tensor(torch.zeros(grid.shape), grid), [2, 2, 2])
    np.testing.assert_allclose(half.origin, binned.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(half.spacing, binned.GetSpacing())
    assert half.size == binned.GetSize()
    expected = binned.TransformIndexToPhysicalPoint((3, 5, 7))
    np.testing.assert_allclose((half.matrix @ [3, 5, 7, 1])[:3], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_grid_of_a_displacement_image_is_the_one_it_was_made_on(seed):
    grid = grid_for(random_geometry(seed))
    found = WorkingGrid.inside_ring_of(grid.to_mm(torch.zeros(1, 3, *grid.shape)))
    assert found.size == grid.size
    np.testing.assert_allclose(found.matrix, grid.matrix, atol=1e-9)
