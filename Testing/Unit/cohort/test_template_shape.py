"""The mean shape of a population: poses are free, scale, shear and deformation are unbiased."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.cohort.template import shape
from wavemorph.spatial.grid import WorkingGrid

NODES = WorkingGrid((24, 28, 20), (5.0, 5.0, 5.0), (57.5, 67.5, -47.5), np.diag([-1.0, -1.0, 1.0]))
POINTS = shape.node_points(NODES)
INSIDE = np.linalg.norm(POINTS / (45, 50, 35), axis=-1) < 1


def bumps(points: np.ndarray) -> np.ndarray:
    """A smooth displacement (..., 3), mm, that holds no rotation and no shift of its own to speak of."""
    x, y, z = np.moveaxis(points / 20, -1, 0)
    return 2.0 * np.stack([np.sin(2 * y) * np.cos(z), np.sin(2 * z) * np.cos(x), np.sin(2 * x) * np.cos(y)], -1)


def mean_of(shapes: list[np.ndarray]) -> np.ndarray:
    """The mean shape at the nodes of subjects with these positions (D, H, W, 3)."""
    sample = shape.sampled_nodes(INSIDE)
    flat = [each.reshape(-1, 3)[sample] for each in shapes]
    alignments = shape.procrustes_alignment(flat, POINTS.reshape(-1, 3)[sample])
    return shape.mean_shape((each - POINTS for each in shapes), alignments, NODES)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first - second, axis=-1)[INSIDE].max())


def rigid(seed: int) -> shape.RigidMotion:
    generator = np.random.default_rng(seed)
    return shape.RigidMotion(phantoms.rotation(generator.uniform(-20, 20, 3)), generator.uniform(-30, 30, 3))


def test_a_rigid_fit_finds_the_motion_of_points():
    points, motion = np.random.default_rng(0).normal(size=(50, 3)), rigid(1)
    found = shape.rigid_fit(points, motion(points))
    assert np.allclose(found.rotation, motion.rotation) and np.allclose(found.translation, motion.translation)


def test_half_a_motion_twice_is_the_whole():
    motion, points = rigid(2), np.random.default_rng(0).normal(size=(50, 3))
    half = shape.rigid_half(motion)
    assert np.allclose(half(half(points)), motion(points))
    assert np.linalg.det(half.rotation) == pytest.approx(1)


def test_a_displacement_and_its_opposite_give_back_the_original():
    assert distance(mean_of([POINTS + bumps(POINTS), POINTS - bumps(POINTS)]), POINTS) < 0.05


def test_opposite_scales_and_shears_give_back_the_original():
    stretch = np.array([[1.1, 0.05, 0], [0.05, 0.95, 0], [0, 0, 1.02]])
    mean = mean_of([POINTS @ stretch, POINTS @ (2 * np.eye(3) - stretch)])
    assert distance(mean, POINTS) < 0.03  # of 5 mm: the poses of the two differ a little


def test_the_mean_shape_does_not_depend_on_the_poses_of_the_subjects():
    shapes = [POINTS + factor * bumps(POINTS) for factor in (0.2, 1.0, -0.3)]
    posed = [rigid(seed)(each) for seed, each in enumerate(shapes)]
    assert distance(mean_of(shapes), mean_of(posed)) < 1e-3


def test_a_population_that_is_larger_than_the_template_makes_it_larger():
    found = mean_of([1.04 * POINTS, 1.06 * POINTS])
    assert distance(found, 1.05 * POINTS) < 1e-6
    update = shape.shape_update(found, NODES, INSIDE)
    assert np.allclose(update.map.affine.GetMatrix(), 1.05 * np.eye(3).ravel(), atol=1e-6)


def test_an_update_maps_nodes_to_the_mean_shape_and_its_inverse_back():
    positions = 1.03 * POINTS + 0.5 * bumps(POINTS)
    update = shape.shape_update(positions, NODES, INSIDE)
    for index in np.argwhere(INSIDE)[::500]:
        point, target = POINTS[tuple(index)], positions[tuple(index)]
        assert np.allclose(update.map.transform.TransformPoint(point.tolist()), target, atol=1e-3)
        assert np.allclose(update.map.inverse.TransformPoint(target.tolist()), point, atol=0.05)


def test_an_update_that_only_moves_the_template_changes_no_shape():
    update = shape.shape_update(rigid(3)(POINTS), NODES, INSIDE)
    assert update.max_mm < 1e-6


def test_the_mean_with_mirrored_subjects_is_symmetric():
    mean = shape.mirrored_mean(POINTS + bumps(POINTS), NODES)
    assert np.allclose(shape.mirrored_points(mean[:, :, ::-1], NODES), mean)
    assert distance(mean, POINTS + bumps(POINTS)) > 0.1


def test_a_mirrored_point_is_on_the_other_side_at_the_same_height():
    middle = np.array(NODES.point([(n - 1) / 2 for n in NODES.size]))
    right, left = np.array([3.0, 4.0, 5.0]), np.array([-3.0, 4.0, 5.0])
    assert np.allclose(shape.mirrored_points(middle + right, NODES), middle + left)


def test_displacements_at_nodes_are_those_of_the_transform():
    motion = rigid(4)
    found = shape.displacement_at_nodes(sitk.Transform(motion.transform()), NODES)
    assert np.allclose(POINTS + found, motion(POINTS), atol=1e-4)
