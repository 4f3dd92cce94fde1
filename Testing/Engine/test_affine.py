"""The affine stage against known transforms, and what counts as linear."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.affine import _shrunk, estimate_affine, linear_part
from wavemorph.demo import template_path
from wavemorph.errors import InputError
from wavemorph.preprocessing import foreground
from wavemorph.synthetic import Difference, make_pair


def estimate(fixed, moving, **options):
    return estimate_affine(fixed, moving, foreground(fixed), foreground(moving), **options)


def error_mm(affine, truth) -> float:
    points = np.random.default_rng(0).uniform(-22, 22, (200, 3)).tolist()
    differences = [np.subtract(affine.TransformPoint(point), truth.TransformPoint(point)) for point in points]
    return np.linalg.norm(differences, axis=1).mean()


def moved_head(truth: sitk.Transform, lattice: sitk.Image) -> sitk.Image:
    """The head at the origin seen after `truth` (fixed points -> moving points)."""
    return sitk.Resample(phantoms.head(phantoms.regular((60, 60, 60))), lattice, truth.GetInverse())


@pytest.mark.parametrize("seed", [0, 1])
def test_rotation_scale_and_shift_of_a_real_brain_are_found(seed):
    template = sitk.BinShrink(sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32), [2, 2, 2])
    difference = Difference(deformation_mm=0.5, rotation=15.0, translation_mm=30.0, scale=0.08, spacing_mm=(2, 2, 3))
    pair = make_pair(template, difference, seed)
    assert pair.error_mm(sitk.Transform()).mean() > 15
    assert pair.error_mm(estimate(pair.fixed, pair.moving)).mean() < 1.5


def test_an_initial_transform_is_improved():
    truth = sitk.TranslationTransform(3, (25.0, -15.0, 8.0))
    lattice = phantoms.regular((70, 70, 70))
    fixed, moving = phantoms.head(lattice), moved_head(truth, lattice)
    start = linear_part(sitk.TranslationTransform(3, (20.0, -12.0, 5.0)))
    assert error_mm(estimate(fixed, moving, initial=start), truth) < 0.4


def test_contrast_does_not_matter():
    truth = sitk.TranslationTransform(3, (6.0, 4.0, -5.0))
    fixed = phantoms.head(phantoms.regular((60, 60, 60)))
    values = sitk.GetArrayFromImage(moved_head(truth, fixed))
    moving = sitk.GetImageFromArray(np.where(values > 100, 1200 - values, values).astype(np.float32))
    moving.CopyInformation(fixed)
    assert error_mm(estimate(fixed, moving), truth) < 0.7


def test_progress_is_told():
    head, told = phantoms.head(phantoms.regular()), []
    estimate(head, head, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_linear_part_of_linear_transforms_is_the_transform():
    euler = sitk.Euler3DTransform((3.0, 2.0, 1.0), 0.1, 0.2, -0.3, (5.0, 6.0, 7.0))
    both = sitk.CompositeTransform([euler, sitk.TranslationTransform(3, (1.0, 2.0, 3.0))])
    for transform in (euler, both, sitk.Transform(euler)):
        point = (10.0, -20.0, 30.0)
        assert np.allclose(linear_part(transform).TransformPoint(point), transform.TransformPoint(point))


def test_a_field_has_no_linear_part_and_a_flat_matrix_is_refused():
    field = sitk.Image([8, 8, 8], sitk.sitkVectorFloat64, 3)
    assert linear_part(sitk.DisplacementFieldTransform(field)) is None
    flat = sitk.AffineTransform(3)
    flat.SetMatrix((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="flattens space"):
        linear_part(flat)


@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkUInt8, sitk.sitkFloat32, sitk.sitkFloat64])
@pytest.mark.parametrize(("size", "spacing"), [((37, 45, 131), 4.0), ((40, 33, 64), 2.5), ((30, 30, 97), 0.5)])
def test_an_image_shrunk_in_slabs_is_the_image_shrunk_at_once(pixel, size, spacing):
    lattice = phantoms.random_geometry(3, size=size, extent_mm=60.0)
    values = np.random.default_rng(0).uniform(0, 250, size[::-1])
    image = sitk.Cast(sitk.GetImageFromArray(values), pixel)
    image.CopyInformation(lattice)
    shrunk = _shrunk(image, 20.3, 200.6, spacing)
    factors = [min(max(1, int(spacing / s + 0.3)), n // 8) for s, n in zip(lattice.GetSpacing(), size)]
    clamped = sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkFloat32, 20.3, 200.6)
    plain = sitk.BinShrink(clamped, factors)
    assert np.array_equal(sitk.GetArrayViewFromImage(shrunk), sitk.GetArrayViewFromImage(plain))
    for geometry in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(shrunk, geometry)(), getattr(plain, geometry)(), rtol=0, atol=1e-12)
