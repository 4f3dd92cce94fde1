"""Rigid and affine registrations, and the smoothness of deformable ones, against known transforms and SimpleITK."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import wavemorph
from stand_in_device import DEVICE, stand_in_device
from wavemorph.errors import InputError
from wavemorph.registration import pipeline

CENTER = (2.0, -3.0, 1.0)


def rigid_truth(angles_degrees=(7.0, -5.0, 9.0), shift=(6.0, -4.0, 5.0)) -> sitk.Euler3DTransform:
    truth = sitk.Euler3DTransform()
    truth.SetCenter(CENTER)
    truth.SetRotation(*np.radians(angles_degrees).tolist())
    truth.SetTranslation(shift)
    return truth


def rigidly_moved(truth: sitk.Euler3DTransform, noise: float = 0.02) -> tuple[sitk.Image, sitk.Image]:
    """(fixed, moving) heads; no voxel is interpolated: the moving head is computed on the lattice mapped back."""
    fixed, lattice = phantoms.head(phantoms.regular((60, 64, 56), (1.5, 1.5, 1.5))), phantoms.regular((62, 60, 66))
    back = truth.GetInverse()
    mapped_back = sitk.Image(lattice)
    mapped_back.SetOrigin(back.TransformPoint(lattice.GetOrigin()))
    rotation = np.reshape(truth.GetMatrix(), (3, 3))
    mapped_back.SetDirection((rotation.T @ np.reshape(lattice.GetDirection(), (3, 3))).ravel().tolist())
    moving = phantoms.head(mapped_back, (0.0, 0.0, 0.0), noise=noise, seed=3)
    moving.CopyInformation(lattice)
    return fixed, moving


def errors_mm(found: sitk.Transform, truth: sitk.Transform) -> np.ndarray:
    points = np.random.default_rng(0).uniform(-25, 25, (300, 3)).tolist()
    return np.array([np.subtract(found.TransformPoint(p), truth.TransformPoint(p)) for p in points])


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    return np.reshape(sitk.AffineTransform(transform).GetMatrix(), (3, 3))


def register(pair, transform_type: str, **options) -> wavemorph.Registration:
    settings = wavemorph.Settings(transform_type=transform_type, weights="none", threads=1)
    return wavemorph.register(*pair, settings, **options)


@pytest.fixture(scope="module")
def rigid_result():
    return register(rigidly_moved(rigid_truth()), "rigid")


def test_a_known_rotation_and_translation_are_found_exactly_rigid(rigid_result):
    assert np.linalg.norm(errors_mm(rigid_result.transform, rigid_truth()), axis=1).max() < 0.3
    matrix = matrix_of(rigid_result.transform)
    assert np.abs(matrix.T @ matrix - np.eye(3)).max() < 1e-6
    assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-6)


def test_the_inverse_of_a_rigid_result_is_exact(rigid_result):
    round_trip = sitk.CompositeTransform([rigid_result.inverse, rigid_result.transform])
    assert np.abs(errors_mm(round_trip, sitk.Transform())).max() < 1e-9


def test_the_report_of_a_rigid_result_has_all_entries_and_measures_both_similarities(rigid_result):
    report = rigid_result.report
    deformable = wavemorph.register(
        rigid_result.fixed, rigid_result.moving, wavemorph.Settings(weights="none", spacing_mm=4.0)
    ).report
    assert report.keys() == deformable.keys()
    for name in ("similarity", "folding", "jacobian", "displacement_mm", "inverse_consistency_mm"):
        assert report[name].keys() == deformable[name].keys(), name
    assert (report["transform_type"], deformable["transform_type"]) == ("rigid", "deformable")
    assert report["similarity"]["after"] > report["similarity"]["before"] + 0.2
    assert report["folding"]["central_voxels"] == report["folding"]["strict_voxels"] == 0
    assert report["folding"]["evaluated_voxels"] > 1000
    assert report["displacement_mm"] == {"mean": 0.0, "max": 0.0}
    assert report["inverse_consistency_mm"]["inverse"] == "linear"
    assert report["inverse_consistency_mm"]["max"] == 0
    assert report["jacobian"]["sd_log"] == 0
    assert {"Preparing", "Rigid", "Finishing", "total"} == set(report["seconds"])


def test_the_warped_volume_and_the_jacobian_of_a_rigid_result_are_those_of_simpleitk(rigid_result):
    expected = sitk.Resample(rigid_result.moving, rigid_result.fixed, rigid_result.transform, sitk.sitkLinear, 0.0)
    assert np.array_equal(sitk.GetArrayFromImage(rigid_result.warped), sitk.GetArrayFromImage(expected))
    for image in (rigid_result.jacobian, rigid_result.working_jacobian):
        assert np.abs(sitk.GetArrayFromImage(image) - 1).max() < 1e-6


def test_a_known_affine_is_found():
    truth = sitk.AffineTransform(3)
    truth.SetMatrix((phantoms.rotation((4.0, -3.0, 5.0)) @ np.diag([1.08, 0.94, 1.05])).ravel().tolist())
    truth.SetTranslation((3.0, -2.0, 4.0))
    lattice = phantoms.regular((72, 72, 72), (1.5, 1.5, 1.5))
    fixed = phantoms.head(lattice)
    result = register((fixed, sitk.Resample(fixed, lattice, truth.GetInverse())), "affine")
    assert np.linalg.norm(errors_mm(result.transform, truth), axis=1).mean() < 0.5
    assert result.report["jacobian"]["max"] == pytest.approx(1.08 * 0.94 * 1.05, abs=0.02)
    assert result.is_linear


def test_a_rigid_registration_starts_from_the_rigid_part_of_an_initial_affine():
    truth = rigid_truth((40.0, 0.0, 0.0), (30.0, 0.0, 0.0))
    start = sitk.AffineTransform(3)
    start.SetMatrix((1.1 * phantoms.rotation((35.0, 2.0, 0.0))).ravel().tolist())
    start.SetCenter(CENTER)
    start.SetTranslation((28.0, 1.0, 0.0))
    result = register(rigidly_moved(truth), "rigid", initial_transform=start)
    assert np.linalg.norm(errors_mm(result.transform, truth), axis=1).max() < 0.3
    assert np.linalg.det(matrix_of(result.transform)) == pytest.approx(1.0, abs=1e-6)


def test_masks_limit_what_a_rigid_registration_compares():
    """A block beside the head is in the moving volume only; the masks leave it out."""
    truth = rigid_truth()
    fixed, moving = rigidly_moved(truth)
    block = sitk.Image(moving.GetSize(), sitk.sitkFloat32)
    block.CopyInformation(moving)
    block[8:20, 8:20, 8:20] = 400.0
    mask = sitk.Cast(block == 0, sitk.sitkUInt8)
    result = register(
        (fixed, moving + block), "rigid", moving_mask=mask, fixed_mask=sitk.Cast(fixed >= 0, sitk.sitkUInt8)
    )
    assert np.linalg.norm(errors_mm(result.transform, truth), axis=1).max() < 0.5


def test_an_initial_transform_that_mirrors_cannot_start_a_rigid_registration():
    mirror = sitk.ScaleTransform(3, (-1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="mirrors"):
        register(rigidly_moved(rigid_truth()), "rigid", initial_transform=mirror)


def test_the_head_of_one_person_moved_rigidly_is_found_through_its_structures(template):
    """The template is segmented, so that the rigid transform is refined from the affine of the structures."""
    truth = rigid_truth((10.0, -6.0, 8.0), (12.0, -9.0, 7.0))
    fixed = sitk.BinShrink(template, [2, 2, 2])
    values = sitk.GetArrayFromImage(sitk.Resample(template, fixed, truth.GetInverse()))
    noise = np.random.default_rng(1).normal(0, 0.05 * values.max(), values.shape)
    moving = sitk.GetImageFromArray(np.where(values > 0, np.maximum(values + noise, 1e-3), 0).astype(np.float32))
    moving.CopyInformation(fixed)
    result = wavemorph.register(fixed, moving, wavemorph.Settings(transform_type="rigid", threads=1))
    assert result.report["segmentation"]["after"] > result.report["segmentation"]["before"] + 0.2
    assert np.linalg.norm(errors_mm(result.transform, truth), axis=1).max() < 0.3


def test_a_smoother_setting_gives_a_smaller_spread_of_the_jacobian(tiny_pair):
    spread = {}
    for smoothness in ("low", "medium", "high"):
        settings = wavemorph.Settings(smoothness=smoothness, weights="none", spacing_mm=2.5, threads=1)
        report = wavemorph.register(*tiny_pair, settings).report
        spread[smoothness] = report["jacobian"]["sd_log"]
        assert report["folding"]["strict_voxels"] == 0
    assert spread["high"] < spread["medium"] < spread["low"]


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_linear_registration_stays_on_its_device(tiny_pair, kind, monkeypatch):
    monkeypatch.setattr(pipeline, "choose_device", lambda name: DEVICE)
    start = sitk.AffineTransform(3)
    start.SetTranslation((3.5, 0.0, 2.5))
    with stand_in_device() as log:
        settings = wavemorph.Settings(transform_type=kind, spacing_mm=4.0)
        assert wavemorph.register(*tiny_pair, settings, initial_transform=start).is_linear
    assert log.launches > 100
