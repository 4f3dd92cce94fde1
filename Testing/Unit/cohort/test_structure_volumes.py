"""Volumes of structures from the Jacobian, and the synthetic times whose changes are known."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph.cohort.longitudinal.jobs import SquaredDifferences, symmetric_displacement
from wavemorph.cohort.longitudinal.structures import jacobian_on, labels_as_structures, volumes_of
from wavemorph.cohort.longitudinal.synthetic import Contraction, contraction_of, make_times
from wavemorph.cohort.template.shape import linear_transform
from wavemorph.io.labels import label_map_of
from wavemorph.io.result import Registration
from wavemorph.spatial.grid import WorkingGrid, tensor_from_image

GRID = WorkingGrid((20, 24, 28), (2.0, 2.0, 2.0), (-19.0, -23.0, -27.0), np.eye(3))


def ball(radius: float = 12.0) -> sitk.Image:
    lattice = phantoms.regular((20, 24, 28), (2.0, 2.0, 2.0))
    inside = np.linalg.norm(phantoms.physical_points(lattice), axis=-1) < radius
    image = sitk.GetImageFromArray(inside.astype(np.uint8))
    image.CopyInformation(lattice)
    return image


def test_a_structure_in_a_map_that_enlarges_everything_is_larger_by_the_cube():
    affine = linear_transform(1.02 * np.eye(3), np.zeros(3))
    map_to_second = Registration(affine, None, None, None, None, report={"transform_type": "affine"})
    structures = labels_as_structures(label_map_of(ball(), "ball"), GRID, sitk.Transform())
    jacobians = {"first": np.ones(GRID.shape), "second": jacobian_on(GRID, map_to_second)}
    first, second = volumes_of(structures, jacobians, GRID.spacing)
    assert first.volume_ml == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.05) and first.percent == 0
    assert second.percent == pytest.approx(100 * (1.02**3 - 1), abs=1e-3)


def test_the_jacobian_of_a_contraction_is_that_of_its_differences():
    change, step = Contraction(np.array([1.0, 2.0, 3.0]), 15.0, 0.05), 1e-4
    for point in np.random.default_rng(0).uniform(-20, 20, (10, 3)):
        offsets = np.concatenate([step * np.eye(3), -step * np.eye(3)])

        def forward(points: np.ndarray) -> np.ndarray:
            away = points - change.center
            weight = np.exp(-np.sum(away**2, axis=-1, keepdims=True) / (2 * change.width**2))
            return change.center + away * (1 - change.amount * weight)

        moved = forward(point + offsets)
        determinant = np.linalg.det((moved[:3] - moved[3:]).T / (2 * step))
        assert change.jacobian(point[None])[0] == pytest.approx(determinant, rel=1e-5)
        assert np.allclose(change.inverse(forward(point[None])), point, atol=1e-3)


@pytest.mark.parametrize("percent", [3.0, -2.0])
def test_a_region_shrinks_by_exactly_what_was_asked_for(percent):
    region = ball()
    change = contraction_of(region, percent)
    points = phantoms.physical_points(region)[sitk.GetArrayViewFromImage(region) > 0]
    assert change.jacobian(points).mean() == pytest.approx(1 - percent / 100, abs=1e-9)


def test_the_scans_of_two_times_differ_in_pose_and_noise():
    lattice = phantoms.regular((20, 24, 28), (4.0, 4.0, 4.0))
    first, second = make_times(phantoms.head(lattice), ball(), (0.0, 3.0), spacing_mm=4.0)
    assert first.image.GetOrigin() != second.image.GetOrigin()
    assert not np.allclose(first.motion.GetMatrix(), second.motion.GetMatrix())


def test_the_derivative_of_squared_differences_is_that_of_its_value():
    generator = torch.Generator().manual_seed(0)
    fixed, moving, weight = (torch.rand(1, 1, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    measure = SquaredDifferences(fixed, moving, weight)
    value, slope = measure.compare(moving)
    for index in ((0, 0, 1, 2, 3), (0, 0, 3, 4, 5)):
        changed = moving.clone()
        changed[index] += 1e-6
        assert float((measure.compare(changed)[0] - value) / 1e-6) == pytest.approx(float(slope[index]), abs=1e-5)


def test_a_change_between_two_times_is_found_in_either_direction():
    lattice = phantoms.regular((40, 44, 40), (2.0, 2.0, 2.0))
    fixed = tensor_from_image(phantoms.head(lattice, noise=0.01, seed=1)) / 1000
    moved = tensor_from_image(phantoms.head(lattice, center=(0.8, 0.0, -0.6), noise=0.01, seed=2)) / 1000
    weight = (fixed > 0.1).float()
    gain = torch.linspace(0.9, 1.1, 40).view(1, 1, -1, 1, 1)  # as of a bias field
    with torch.inference_mode():
        there = symmetric_displacement(fixed, moved * gain, weight)
        back = symmetric_displacement(moved * gain, fixed, weight)
    inside = weight[0, 0] > 0
    expected = torch.tensor([-0.3, 0.0, 0.4]).view(3, 1)  # voxels along k, j, i
    assert float((there[0][:, inside] - expected).norm(dim=0).mean()) < 0.5 * float(expected.norm())  # in one round
    assert float((there[0][:, inside] + back[0][:, inside]).norm(dim=0).mean()) < 0.05
