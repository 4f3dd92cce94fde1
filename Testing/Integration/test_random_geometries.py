"""Registrations in twenty unrelated oblique geometries: accurate, free of folds, and the same on disk."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import wavemorph
from pointsets import brain_points, moved, points_of
from wavemorph.io.outputs import TRANSFORM_EXTENSIONS, write_inverse, write_transform
from wavemorph.io.points import transform_points
from wavemorph.io.transforms import read_transform

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_files_read_by_simpleitk_map_points_as_the_engine_does(random_registration, seed, tmp_path):
    result = random_registration(seed)
    points = points_of(result.fixed)
    expected = moved(result.transform, points)
    assert np.abs(expected - points).max() > 2
    for extension in (".h5", ".nii.gz"):
        write_transform(result, tmp_path / f"t{extension}")
        read = read_transform(tmp_path / f"t{extension}")
        assert np.linalg.norm(moved(read, points) - expected, axis=1).max() < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_the_warped_volume_is_what_simpleitk_resamples_with_the_file(random_registration, seed, tmp_path):
    result = random_registration(seed)
    write_transform(result, tmp_path / "t.h5")
    transform = sitk.ReadTransform(str(tmp_path / "t.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(result.moving, result.fixed, transform, sitk.sitkLinear, 0.0))
    warped = sitk.GetArrayFromImage(result.warped)
    assert np.abs(warped - expected).max() <= 1e-3 * np.ptp(sitk.GetArrayViewFromImage(result.moving))
    assert result.warped.GetDirection() == result.fixed.GetDirection()
    assert result.warped.GetOrigin() == result.fixed.GetOrigin()


@pytest.mark.parametrize("seed", SEEDS)
def test_in_every_geometry_the_map_is_accurate_and_does_not_fold(random_registration, seed):
    result = random_registration(seed)
    points = brain_points() + phantoms.center_of(result.fixed)
    center = phantoms.center_of(result.fixed)
    truth = points + moved(result.affine, center[None])[0] - center + phantoms.OFFSET  # the moving head is not rotated
    before = np.linalg.norm(moved(result.affine, points) - truth, axis=1).mean()
    after = np.linalg.norm(moved(result.transform, points) - truth, axis=1).mean()
    assert after < 1.2 < 3.0 < before
    assert result.report["folding"]["strict_voxels"] == result.report["folding"]["central_voxels"] == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_round_trip_error_is_below_a_tenth_of_a_voxel(random_registration, seed):
    result = random_registration(seed)
    points = points_of(result.fixed, margin=0.2)
    back = moved(result.inverse, moved(result.transform, points))
    distances = np.linalg.norm(back - points, axis=1)
    assert distances.max() < 0.1 * 4.0
    assert distances.mean() < 0.02 * 4.0


def test_a_saved_result_is_the_same_after_loading(random_registration, tmp_path):
    result = random_registration(3)
    result.save(tmp_path)
    loaded = wavemorph.Registration.load(tmp_path)
    points = points_of(result.fixed, 100)
    assert np.allclose(moved(loaded.transform, points), moved(result.transform, points), atol=1e-5)
    assert np.allclose(moved(loaded.inverse, points), moved(result.inverse, points), atol=1e-5)
    for name in ("warped", "jacobian"):
        assert np.array_equal(*(sitk.GetArrayViewFromImage(getattr(r, name)) for r in (loaded, result)))
    assert loaded.report == result.report


def test_the_inverse_is_written_in_every_form(random_registration, tmp_path):
    result = random_registration(4)
    points = moved(result.transform, points_of(result.fixed, 100, margin=0.25))
    expected = moved(result.inverse, points)
    for extension in TRANSFORM_EXTENSIONS:
        path = tmp_path / f"inverse{extension}"
        write_inverse(result, path)
        exact = extension in (".h5", ".tfm", ".txt")
        error = np.linalg.norm(moved(read_transform(path), points) - expected, axis=1)
        assert error.max() < (1e-3 if exact else 0.125 * 4.0)  # a field in voxels only samples the inverse


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_jacobian_is_that_of_the_whole_map_in_space(random_registration, seed):
    """Against differences of the transform itself, one voxel to each side."""
    result = random_registration(seed)
    image = result.working_jacobian
    nodes = np.random.default_rng(seed).integers(2, np.array(image.GetSize()) - 2, (100, 3))
    for node in nodes:
        columns = []
        for axis in range(3):
            ends = [node + side * np.eye(3, dtype=int)[axis] for side in (1, -1)]
            ends = [image.TransformIndexToPhysicalPoint(end.tolist()) for end in ends]
            change = np.subtract(*[result.transform.TransformPoint(end) for end in ends])
            columns.append((change, np.subtract(*ends)))
        moving, fixed = (np.stack(parts, 1) for parts in zip(*columns))
        expected = np.linalg.det(moving) / np.linalg.det(fixed)
        assert image[node.tolist()] == pytest.approx(expected, abs=2e-3)


def test_the_reported_inverse_consistency_is_the_round_trip_error_of_the_transforms(random_registration):
    registration = random_registration(3)
    reported = registration.report["inverse_consistency_mm"]
    size = np.array(registration.displacement.GetSize())
    generator = np.random.default_rng(1)
    points = np.array(
        [
            registration.displacement.TransformContinuousIndexToPhysicalPoint(index.tolist())
            for index in generator.uniform(0.25, 0.75, (2000, 3)) * (size - 1)
        ]
    )
    back = transform_points(transform_points(points, registration.transform), registration.inverse)
    distances = np.linalg.norm(back - points, axis=1)
    assert distances.max() < 2 * reported["max"] + 0.05
    assert 0.2 * reported["mean"] < distances.mean() < 5 * reported["mean"]
