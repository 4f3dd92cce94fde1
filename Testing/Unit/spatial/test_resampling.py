"""Volumes on the working grid: the same in slabs as at once."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.resampling import antialiased, resample_to_grid


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
def test_resampling_in_slabs_equals_resampling_of_the_whole(seed, spacing, moved):
    image = phantoms.ct(seed, size=(25, 23, 32), extent_mm=54.0)
    grid = grid_over(image, spacing)
    transform = tilted(phantoms.center_of(image)) if moved else None
    darkest = float(sitk.GetArrayFromImage(image).min())
    smooth = antialiased(sitk.Cast(image, sitk.sitkFloat32), max(grid.spacing))
    plain = sitk.GetArrayFromImage(grid.resample(smooth, transform, sitk.sitkLinear, darkest))
    assert np.array_equal(resample_to_grid(image, grid, transform), plain)
    for slab in (1, 7, 16):
        # the origin of a slab is rounded differently from that of the whole
        assert np.abs(resample_to_grid(image, grid, transform, slab) - plain).max() < 1e-3


def test_a_slab_beyond_the_image_has_its_darkest_value():
    image = phantoms.ct(1)
    grid = grid_over(image, 3.0)
    far = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    assert (resample_to_grid(image, grid, far, 16) == float(sitk.GetArrayFromImage(image).min())).all()


def test_an_image_whose_voxels_are_nodes_of_the_grid_keeps_its_values_in_slabs():
    lattice = phantoms.regular((40, 44, 50), (1.0, 1.0, 1.0))
    image = sitk.Cast(phantoms.head(lattice), sitk.sitkInt16)
    grid = grid_over(image, 1.0)
    resampled = resample_to_grid(image, grid, None, 13)
    assert np.array_equal(np.unique(resampled), np.unique(sitk.GetArrayFromImage(image)))
