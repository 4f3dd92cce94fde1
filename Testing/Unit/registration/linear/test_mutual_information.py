"""The affine by mutual information: what counts as linear, downsampled images, stretching, and units of length."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.registration.linear.mattes import _downsample
from wavemorph.registration.linear.mutual_information import estimate_affine, linear_part
from wavemorph.spatial.preprocessing import foreground


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


def small_torso(stretch: float = 1.0) -> sitk.Image:
    """The torso on a coarse lattice, `stretch` times as long."""
    return phantoms.torso(
        phantoms.regular((26, 20, 30), (7.0, 7.0, 8.0)),
        deformation=lambda points: points * (0.0, 0.0, 1 / stretch - 1) + (0.0, 5.0, 4.0),
    )


def aligned(fixed: sitk.Image, moving: sitk.Image, **choices) -> sitk.AffineTransform:
    start = sitk.AffineTransform(3)
    return estimate_affine(fixed, moving, foreground(fixed), foreground(moving), initial=start, **choices)


def length_changes(affine: sitk.AffineTransform) -> np.ndarray:
    return np.linalg.svd(np.reshape(affine.GetMatrix(), (3, 3)))[1]


@pytest.mark.parametrize(("stretch", "stays_rigid"), [(1.06, True), (1.25, False)])
def test_an_affine_that_stretches_little_is_replaced_by_the_rigid_transform(stretch, stays_rigid):
    fixed, moving = small_torso(), small_torso(stretch)
    changes = length_changes(aligned(fixed, moving, min_stretch=0.12))
    assert np.allclose(changes, 1, atol=1e-6) == stays_rigid
    if not stays_rigid:
        assert changes.max() == pytest.approx(stretch, abs=0.08)
    assert length_changes(aligned(fixed, moving)).max() > 1.02  # without a limit


@pytest.mark.parametrize("factor", [0.05, 3.0])
def test_where_all_lengths_are_scaled_the_affine_is_the_same_and_its_translation_is_scaled(factor):
    fixed, moving = small_torso(), small_torso(1.2)
    plain = aligned(fixed, moving, length_scale=0.8)
    scaled = aligned(phantoms.scaled(fixed, factor), phantoms.scaled(moving, factor), length_scale=0.8 * factor)
    assert not np.allclose(plain.GetMatrix(), np.eye(3).ravel(), atol=0.01)
    assert np.allclose(scaled.GetMatrix(), plain.GetMatrix(), rtol=0, atol=1e-6)
    point = np.array((20.0, -10.0, 30.0))
    expected = factor * np.array(plain.TransformPoint(point))
    assert np.allclose(scaled.TransformPoint((factor * point).tolist()), expected, rtol=0, atol=1e-5 * factor)


def test_masks_and_the_initial_transform_are_in_mm_at_any_length_scale():
    fixed, moving = small_torso(), small_torso()
    moving.SetOrigin(np.add(moving.GetOrigin(), (300.0, 0.0, 0.0)).tolist())
    mask = sitk.GetImageFromArray((phantoms.physical_points(fixed)[..., 0] > -20).astype(np.uint8))
    mask.CopyInformation(fixed)
    start = sitk.AffineTransform(3)
    start.SetCenter((10.0, 20.0, 30.0))
    start.SetTranslation((306.0, 0.0, 0.0))
    found = estimate_affine(
        fixed, moving, foreground(fixed), foreground(moving), (mask, None), start, length_scale=0.6, min_stretch=0.12
    )
    assert np.linalg.norm(np.subtract(found.TransformPoint((0.0, 0.0, 0.0)), (300.0, 0.0, 0.0))) < 1.0
