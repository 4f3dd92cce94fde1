"""Registrations of a body of any size, orientation and voxels, and of one of which the moving volume shows a half."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from pointsets import moved
from wavemorph import Registration, Settings, register

VOXEL_MM = 4.0
SETTINGS = Settings(weights="none")
INSTANT = Settings(preset="Instant", affine=False)  # the network of the installed model


def body_pair(size=(48, 40, 48), spacing=(3.8, 3.7, 4.0)) -> tuple[sitk.Image, sitk.Image]:
    """(fixed, moving): the torso while it breathes and the plain one, on lattices of different voxels."""
    moving_size = tuple(n + 2 for n in size)
    fixed = phantoms.torso(phantoms.regular(size, spacing), phantoms.breathing, noise=15, seed=1)
    return fixed, phantoms.torso(phantoms.regular(moving_size, spacing[::-1]), noise=15, seed=2)


def torso_points() -> np.ndarray:
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 3)) * phantoms.TORSO_RADII
    return points[phantoms.in_torso(points, 0.9)]


POINTS = torso_points()
TRUTH = POINTS + phantoms.breathing(POINTS)


def mapped(result: Registration, factor: float = 1.0) -> np.ndarray:
    """Where the torso's points go, where all lengths were multiplied by `factor`."""
    return moved(result.transform, POINTS * factor) / factor


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=1)


@pytest.fixture(scope="module")
def plain() -> Registration:
    return register(*body_pair(), SETTINGS)


def half_of(image: sitk.Image, axis: int, upper: bool) -> sitk.Image:
    part = [slice(None)] * 3
    middle = image.GetSize()[axis] // 2
    part[axis] = slice(middle, None) if upper else slice(None, middle)
    return image[tuple(part)]


def test_a_breathing_torso_is_aligned(plain):
    assert distances(POINTS, TRUTH).mean() > 4
    assert distances(mapped(plain), TRUTH).mean() < 0.35 * VOXEL_MM
    assert plain.report["folding"]["strict_voxels"] == 0
    assert plain.report["warnings"] == plain.report["notes"] == []
    assert plain.report["subject"]["kind"] == "body"
    assert np.allclose(plain.report["subject"]["extent_mm"], np.multiply(2, phantoms.TORSO_RADII), rtol=0.06)
    assert plain.report["subject"]["unseen_percent"] == 0


@pytest.mark.parametrize("factor", [0.05, 0.1, 3.0])
def test_where_all_lengths_are_scaled_the_map_is_the_same_scaled(plain, factor):
    result = register(*(phantoms.scaled(image, factor) for image in body_pair()), SETTINGS)
    assert np.allclose(result.displacement.GetSpacing(), factor * np.array(plain.displacement.GetSpacing()))
    assert distances(mapped(result, factor), mapped(plain)).max() < 0.02 * max(plain.displacement.GetSpacing())
    assert result.report["warnings"] == []


def test_where_all_lengths_are_scaled_the_network_sees_the_same():
    results = [register(*(phantoms.scaled(image, f) for image in body_pair()), INSTANT) for f in (1.0, 0.05)]
    assert distances(mapped(results[0]), POINTS).mean() > 0.5
    assert distances(mapped(results[1], 0.05), mapped(results[0])).max() < 0.02 * max(
        results[0].displacement.GetSpacing()
    )


def test_the_order_and_the_direction_of_the_axes_do_not_matter(plain):
    reoriented = [sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True)) for image in body_pair()]
    assert distances(mapped(register(*reoriented, SETTINGS)), mapped(plain)).mean() < 0.1 * VOXEL_MM


def test_other_voxels_give_the_same_map_within_half_a_voxel(plain):
    coarse = body_pair((40, 32, 46), (4.7, 4.6, 4.2))
    assert distances(mapped(register(*coarse, SETTINGS)), mapped(plain)).mean() < 0.5 * VOXEL_MM


@pytest.mark.parametrize(("axis", "upper"), [(2, True), (2, False), (1, True)])
def test_where_the_moving_volume_shows_half_of_the_body_that_half_is_aligned_up_to_the_cut(axis, upper):
    fixed, moving = body_pair()
    result = register(fixed, half_of(moving, axis, upper), SETTINGS)
    from_cut = TRUTH[:, axis] if upper else -TRUTH[:, axis]
    errors = distances(mapped(result), TRUTH)
    near = (from_cut > 0) & (from_cut < 4 * VOXEL_MM)
    assert near.sum() > 100
    assert errors[near].mean() < VOXEL_MM
    assert errors[from_cut > 0].mean() < VOXEL_MM
    assert result.report["subject"]["unseen_percent"] == pytest.approx(50, abs=8)
    (warning,) = result.report["warnings"]
    assert "of the fixed subject is not in the moving volume" in warning


def test_where_the_fixed_volume_shows_half_of_the_body_that_half_is_aligned_up_to_the_cut():
    fixed, moving = body_pair()
    result = register(half_of(fixed, 2, True), moving, SETTINGS)
    errors, from_cut = distances(mapped(result), TRUTH), POINTS[:, 2]
    assert errors[(from_cut > 0) & (from_cut < 4 * VOXEL_MM)].mean() < VOXEL_MM
    assert errors[from_cut > 0].mean() < VOXEL_MM
    assert result.report["subject"]["unseen_percent"] == 0
    assert result.report["warnings"] == []
