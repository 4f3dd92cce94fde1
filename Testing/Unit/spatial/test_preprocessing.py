"""What the deformable stages see of the images: the same by slabs as at once, and the subject found."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.preprocessing import dilate, foreground
from wavemorph.spatial.resampling import _antialiased, resample_to_grid


def ct(seed: int, size=(41, 38, 53), extent_mm=90.0) -> sitk.Image:
    """int16 on an oblique lattice, half of the seeds left-handed: a head in air, with noise."""
    lattice = phantoms.random_geometry(seed, size=size, extent_mm=extent_mm)
    values = sitk.GetArrayFromImage(phantoms.head(lattice, noise=0.02, seed=seed))
    image = sitk.GetImageFromArray(np.rint(values * 1.5 - 1000).astype(np.int16))
    image.CopyInformation(lattice)
    return image


def tilted(center) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetCenter([float(x) for x in center])
    affine.SetMatrix((phantoms.rotation((8.0, -5.0, 12.0)) * (1.05, 0.95, 1.1)).ravel().tolist())
    affine.SetTranslation((4.0, -7.0, 9.0))
    return affine


def grid_over(image: sitk.Image, spacing: float):
    return make_working_grid(image, (np.zeros(3), np.array(image.GetSize()) - 1), spacing, 10.0)


@pytest.mark.parametrize("moved", [False, True], ids=["fixed", "through the affine"])
@pytest.mark.parametrize("spacing", [1.7, 3.1, 7.0])
@pytest.mark.parametrize("seed", range(6))
def test_an_image_is_seen_by_slabs_as_it_is_at_once(seed, spacing, moved):
    image = ct(seed, size=(25, 23, 32), extent_mm=54.0)
    grid = grid_over(image, spacing)
    transform = tilted(phantoms.center_of(image)) if moved else None
    darkest = float(sitk.GetArrayFromImage(image).min())
    smooth = _antialiased(sitk.Cast(image, sitk.sitkFloat32), max(grid.spacing))
    plain = sitk.GetArrayFromImage(grid.resample(smooth, transform, sitk.sitkLinear, darkest))
    assert np.array_equal(resample_to_grid(image, grid, transform), plain)
    for slab in (1, 7, 16):
        # the origin of a part is rounded otherwise than that of the whole
        assert np.abs(resample_to_grid(image, grid, transform, slab) - plain).max() < 1e-3


def test_a_slab_that_sees_nothing_of_the_image_is_its_darkest_value():
    image = ct(1)
    grid = grid_over(image, 3.0)
    away = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    assert (resample_to_grid(image, grid, away, 16) == float(sitk.GetArrayFromImage(image).min())).all()


def test_an_image_whose_voxels_are_used_as_they_are_keeps_its_values_in_slabs():
    lattice = phantoms.regular((40, 44, 50), (1.0, 1.0, 1.0))
    image = sitk.Cast(phantoms.head(lattice), sitk.sitkInt16)
    grid = grid_over(image, 1.0)
    seen = resample_to_grid(image, grid, None, 13)
    assert np.array_equal(np.unique(seen), np.unique(sitk.GetArrayFromImage(image)))


@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkFloat32, sitk.sitkFloat64])
def test_the_foreground_is_the_same_in_every_pixel_type(pixel):
    image = ct(2)
    reference = sitk.Cast(image, sitk.sitkFloat32)
    low, high = np.percentile(sitk.GetArrayFromImage(reference)[::2, ::2, ::2], (1, 99))
    clamped = sitk.Clamp(reference, sitk.sitkFloat32, float(low), float(high))
    expected = sitk.OtsuThreshold(clamped, 0, 1)
    found = foreground(sitk.Cast(image, pixel))
    assert found.GetPixelID() == sitk.sitkUInt8
    assert found.GetOrigin() == image.GetOrigin()
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert 0.05 < sitk.GetArrayFromImage(found).mean() < 0.8


def test_a_background_of_one_value_is_no_foreground():
    lattice = phantoms.regular((40, 44, 50), (2.0, 2.0, 2.0))
    values = sitk.GetArrayFromImage(phantoms.head(lattice)).astype(np.int16)
    values[values < 50] = -7
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(lattice)
    assert np.array_equal(sitk.GetArrayFromImage(foreground(image)), values != -7)


@pytest.mark.parametrize("reach", [1, 4, 12])
def test_a_mask_grows_by_its_reach_along_each_axis(reach):
    mask = (torch.rand(1, 1, 30, 33, 36, generator=torch.Generator().manual_seed(1)) > 0.9995).float()
    expected = torch.nn.functional.max_pool3d(mask, 2 * reach + 1, 1, reach)
    assert mask.sum() > 0
    assert torch.equal(dilate(mask, reach), expected)
