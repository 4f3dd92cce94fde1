"""The subject of a volume: what its outline holds, where it is cut off, and where it was scanned."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from displacements import smooth_noise
from wavemorph.spatial import subject
from wavemorph.spatial.grid import WorkingGrid
from wavemorph.spatial.preprocessing import Pair, foreground
from wavemorph.spatial.subject import Subject, find_subject

CPU = torch.device("cpu")
SIZE, SPACING = (50, 40, 56), (3.6, 3.4, 3.6)


def image_of(values: np.ndarray, lattice: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(lattice)
    return image


def subject_of(image: sitk.Image) -> Subject:
    return find_subject(image, foreground(image))


def outline_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(subject_of(image).outline) > 0


@pytest.mark.parametrize("noise", [0.0, 20.0, 50.0])
def test_the_outline_of_a_torso_holds_the_lungs_and_not_the_air_outside(noise):
    image = phantoms.torso(phantoms.regular(SIZE, SPACING), noise=noise)
    points, outline = phantoms.physical_points(image), outline_of(image)
    tissue = sitk.GetArrayFromImage(foreground(image)) > 0
    lungs = phantoms.in_lungs(points)
    assert lungs.sum() > 1000
    assert noise == 0 or tissue[lungs].mean() < 0.5  # a background of one value is told from lungs already
    assert outline[lungs].all()
    assert outline[phantoms.in_torso(points, 0.95)].all()
    assert not outline[~phantoms.in_torso(points, 1.25)].any()  # its edge is soft


def test_the_gap_between_a_torso_and_a_table_beside_it_is_outside_the_outline():
    lattice = phantoms.regular((50, 56, 56), SPACING)
    points = phantoms.physical_points(lattice)
    values = sitk.GetArrayFromImage(phantoms.torso(lattice, noise=20.0))
    table = (np.abs(points[..., 1] - 75) < 6) & (np.abs(points[..., 0]) < 60)
    values[table] = 200
    outline = outline_of(image_of(values, lattice))
    gap = (points[..., 1] > 53) & (points[..., 1] < 66) & ~phantoms.in_torso(points, 1.1)
    assert outline[table].mean() > 0.95
    assert gap.sum() > 5000
    assert outline[gap].mean() < 0.01
    assert outline[phantoms.in_torso(points, 0.95)].all()


@pytest.mark.parametrize(("share", "shape"), [(0.97, (21, 34, 27)), (0.9, (9, 8, 7)), (0.5, (3, 2, 1))])
def test_noise_is_removed_by_the_opening_of_simpleitk(share, shape):
    mask = np.random.default_rng(0).random(shape) < share
    expected = sitk.BinaryMorphologicalOpening(sitk.GetImageFromArray(mask.astype(np.uint8)), [1] * 3)
    assert np.array_equal(subject._opened(mask), sitk.GetArrayFromImage(expected) > 0)


def test_a_volume_of_nothing_but_tissue_is_wholly_the_subject():
    texture = smooth_noise(1, 2.0, 0)[0, 0].numpy()
    image = sitk.GetImageFromArray(500 + 100 * texture / texture.std())
    assert 0.2 < sitk.GetArrayFromImage(foreground(image)).mean() < 0.8
    found = subject_of(image)
    assert sitk.GetArrayFromImage(found.outline).all()
    assert found.cut == ((True, True),) * 3


def test_a_subject_within_the_volume_is_cut_off_nowhere():
    found = subject_of(phantoms.torso(phantoms.regular(SIZE, SPACING)))
    assert found.cut == ((False, False),) * 3
    grid = WorkingGrid((8, 8, 8), (9.0, 9.0, 9.0), (-200.0, 0.0, 0.0), np.eye(3))
    assert found.scanned(grid, None, CPU) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_a_subject_is_cut_off_at_exactly_the_face_that_crosses_it(axis, last):
    whole = phantoms.torso(phantoms.regular(SIZE, SPACING))
    half = [slice(None)] * 3
    half[axis] = slice(None, SIZE[axis] // 2) if last else slice(SIZE[axis] // 2, None)
    cut = np.zeros((3, 2), bool)
    cut[axis, int(last)] = True
    assert subject_of(whole[tuple(half)]).cut == tuple(map(tuple, cut.tolist()))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_scanned_nodes_of_an_oblique_grid_are_those_that_simpleitk_samples_within_the_volume(seed):
    lattice = phantoms.random_geometry(seed, size=(22, 26, 24))
    subject = Subject(lattice + 1, ((True, True),) * 3)
    axes = phantoms.rotation((10, -20, 30 * seed))
    spacing = np.array((4.1, 3.9, 4.3))
    center = phantoms.center_of(lattice)
    grid = WorkingGrid((36, 40, 38), tuple(spacing), tuple(center - axes @ (spacing * (18, 20, 19))), axes)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(center.tolist())
    affine.SetMatrix((1.1 * phantoms.rotation((5, 6, 7))).ravel().tolist())
    affine.SetTranslation((5.0, -3.0, 2.0))
    scanned = subject.scanned(grid, affine, CPU)[0, 0].numpy()
    # ITK samples up to half a voxel beyond the centers of the outermost voxels; padding tells how far a node is inside
    ones = sitk.ConstantPad(sitk.Cast(subject.outline, sitk.sitkFloat32), [1] * 3, [1] * 3, 0.0)
    sampled = sitk.GetArrayFromImage(grid.resample(ones, affine))
    assert scanned.shape == sampled.shape
    assert 0.05 < scanned.mean() < 0.95
    assert scanned[sampled > 0.999].all()
    assert not scanned[sampled < 0.4].any()


def test_beyond_a_face_at_which_the_subject_is_not_cut_off_there_is_air_that_counts_as_scanned():
    lattice = phantoms.regular((10, 10, 10), (1.0, 1.0, 1.0))
    subject = Subject(lattice + 1, ((False, False), (False, False), (True, False)))
    grid = WorkingGrid((14, 14, 14), (1.0, 1.0, 1.0), (-6.5, -6.5, -6.5), np.eye(3))
    expected = np.ones((14, 14, 14))
    expected[:2] = 0
    assert np.array_equal(subject.scanned(grid, None, CPU)[0, 0].numpy(), expected)


def test_the_length_scale_of_a_pair_is_its_size_relative_to_a_head_and_its_foregrounds_are_outlines():
    image = phantoms.torso(phantoms.regular(SIZE, SPACING), noise=10.0)
    pair = Pair(image, image)
    assert pair.length_scale == 1
    assert pair.subjects is None
    of_a_body = pair.as_body()
    expected = 2 * np.prod(phantoms.TORSO_RADII) ** (1 / 3) / 200
    assert of_a_body.length_scale == pytest.approx(expected, rel=0.05)
    assert np.array_equal(sitk.GetArrayViewFromImage(of_a_body.fixed_foreground), outline_of(image))
    smaller = phantoms.scaled(image, 0.05)
    assert Pair(smaller, smaller).as_body().length_scale == pytest.approx(0.05 * of_a_body.length_scale)
    assert pair.subjects is None
