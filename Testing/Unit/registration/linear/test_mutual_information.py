"""What counts as a linear transform, and the downsampled images of the affine by mutual information."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.registration.linear.mutual_information import _downsample, linear_part


def test_the_linear_part_of_linear_transforms_is_the_transform():
    euler = sitk.Euler3DTransform((3.0, 2.0, 1.0), 0.1, 0.2, -0.3, (5.0, 6.0, 7.0))
    both = sitk.CompositeTransform([euler, sitk.TranslationTransform(3, (1.0, 2.0, 3.0))])
    for transform in (euler, both, sitk.Transform(euler)):
        point = (10.0, -20.0, 30.0)
        assert np.allclose(linear_part(transform).TransformPoint(point), transform.TransformPoint(point))


def test_a_displacement_field_has_no_linear_part_and_a_singular_matrix_is_refused():
    field = sitk.Image([8, 8, 8], sitk.sitkVectorFloat64, 3)
    assert linear_part(sitk.DisplacementFieldTransform(field)) is None
    singular = sitk.AffineTransform(3)
    singular.SetMatrix((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="flattens space"):
        linear_part(singular)


@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkUInt8, sitk.sitkFloat32, sitk.sitkFloat64])
@pytest.mark.parametrize(("size", "spacing"), [((37, 45, 131), 4.0), ((40, 33, 64), 2.5), ((30, 30, 97), 0.5)])
def test_an_image_downsampled_in_slabs_equals_the_image_downsampled_at_once(pixel, size, spacing):
    lattice = phantoms.random_geometry(3, size=size, extent_mm=60.0)
    values = np.random.default_rng(0).uniform(0, 250, size[::-1])
    image = sitk.Cast(sitk.GetImageFromArray(values), pixel)
    image.CopyInformation(lattice)
    downsampled = _downsample(image, 20.3, 200.6, spacing)
    factors = [min(max(1, int(spacing / s + 0.3)), n // 8) for s, n in zip(lattice.GetSpacing(), size)]
    clamped = sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkFloat32, 20.3, 200.6)
    plain = sitk.BinShrink(clamped, factors)
    assert np.array_equal(sitk.GetArrayViewFromImage(downsampled), sitk.GetArrayViewFromImage(plain))
    for geometry in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(downsampled, geometry)(), getattr(plain, geometry)(), rtol=0, atol=1e-12)
