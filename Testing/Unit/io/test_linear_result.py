"""A result whose affine is the whole map: its transforms, and its files as SimpleITK reads them."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import wavemorph
from pointsets import brain_points, moved
from wavemorph.io.outputs import write_inverse, write_transform


@pytest.fixture
def result(tiny_pair):
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(phantoms.rotation((3.0, -7.0, 11.0)).ravel().tolist())
    affine.SetTranslation((4.0, 1.0, -2.0))
    jacobian = sitk.Image([20, 22, 18], sitk.sitkFloat32) + 1.0
    jacobian.SetOrigin((-40.0, -44.0, -36.0))
    jacobian.SetSpacing((4.0, 4.0, 4.0))
    report = {"transform_type": "rigid", "warnings": []}
    return wavemorph.Registration(affine, None, None, None, jacobian, None, report, *tiny_pair)


def test_the_transform_is_the_affine_itself_and_its_inverse_is_exact(result):
    points = brain_points()
    assert isinstance(result.transform, sitk.AffineTransform)
    assert np.array_equal(moved(result.transform, points), moved(result.affine, points))
    assert np.abs(moved(result.inverse, moved(result.transform, points)) - points).max() < 1e-10


@pytest.mark.parametrize("extension", [".tfm", ".txt", ".h5"])
def test_its_transforms_are_read_back_as_linear_transforms(result, tmp_path, extension):
    points = brain_points()
    for write, name, expected in (
        (write_transform, "forward", result.transform),
        (write_inverse, "inverse", result.inverse),
    ):
        path = tmp_path / f"{name}{extension}"
        write(result, path)
        read = sitk.ReadTransform(str(path))
        assert read.IsLinear()
        assert read.Downcast().GetName() == "AffineTransform"
        assert np.abs(moved(read, points) - moved(expected, points)).max() < 1e-9


def test_as_a_displacement_field_it_moves_points_in_the_same_way(result, tmp_path):
    points = brain_points()
    for write, name, expected, at in (
        (write_transform, "forward", result.transform, points),
        (write_inverse, "inverse", result.inverse, moved(result.transform, points)),
    ):
        path = tmp_path / f"{name}.nrrd"
        write(result, path)
        field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
        assert np.abs(moved(field, at) - moved(expected, at)).max() < 1e-3


def test_it_is_the_same_after_saving_and_loading(result, tmp_path):
    result.save(tmp_path)
    assert not (tmp_path / "displacement.nrrd").exists()
    loaded = wavemorph.Registration.load(tmp_path)
    points = brain_points()
    assert loaded.is_linear
    assert loaded.report == result.report
    assert np.abs(moved(loaded.transform, points) - moved(result.transform, points)).max() < 1e-12
    loaded.fixed, loaded.moving = result.fixed, result.moving
    assert np.array_equal(sitk.GetArrayFromImage(loaded.warped), sitk.GetArrayFromImage(result.warped))
    assert np.array_equal(sitk.GetArrayFromImage(loaded.jacobian), np.ones(result.fixed.GetSize()[::-1]))


def test_its_jacobian_needs_no_working_grid(result, tmp_path):
    result.save(tmp_path, [], [])
    loaded = wavemorph.Registration.load(tmp_path)
    loaded.fixed = result.fixed
    assert np.array_equal(sitk.GetArrayFromImage(loaded.jacobian), sitk.GetArrayFromImage(result.jacobian))


def test_a_result_can_be_warped_with_as_with_any_other(result):
    labels = sitk.Cast(result.moving > 300, sitk.sitkUInt8)
    expected = sitk.Resample(labels, result.fixed, result.affine, sitk.sitkNearestNeighbor, 0)
    warped = result.warp(labels, labels=True)
    assert np.array_equal(sitk.GetArrayFromImage(warped), sitk.GetArrayFromImage(expected))
