"""The foreground of a volume, and the dilation of masks, against SimpleITK and torch."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph.spatial.preprocessing import dilate, foreground


@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkFloat32, sitk.sitkFloat64])
def test_the_foreground_is_the_same_in_every_pixel_type(pixel):
    image = phantoms.ct(2)
    reference = sitk.Cast(image, sitk.sitkFloat32)
    low, high = np.percentile(sitk.GetArrayFromImage(reference)[::2, ::2, ::2], (1, 99))
    clamped = sitk.Clamp(reference, sitk.sitkFloat32, float(low), float(high))
    expected = sitk.OtsuThreshold(clamped, 0, 1)
    found = foreground(sitk.Cast(image, pixel))
    assert found.GetPixelID() == sitk.sitkUInt8
    assert found.GetOrigin() == image.GetOrigin()
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert 0.05 < sitk.GetArrayFromImage(found).mean() < 0.8


def test_a_background_of_one_value_is_not_in_the_foreground():
    lattice = phantoms.regular((40, 44, 50), (2.0, 2.0, 2.0))
    values = sitk.GetArrayFromImage(phantoms.head(lattice)).astype(np.int16)
    values[values < 50] = -7
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(lattice)
    assert np.array_equal(sitk.GetArrayFromImage(foreground(image)), values != -7)


@pytest.mark.parametrize("radius", [1, 4, 12])
def test_a_mask_is_dilated_by_the_radius_along_each_axis(radius):
    mask = (torch.rand(1, 1, 30, 33, 36, generator=torch.Generator().manual_seed(1)) > 0.9995).float()
    expected = torch.nn.functional.max_pool3d(mask, 2 * radius + 1, 1, radius)
    assert mask.sum() > 0
    assert torch.equal(dilate(mask, radius), expected)
