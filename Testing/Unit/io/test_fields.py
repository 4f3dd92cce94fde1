"""The whole map as one displacement field: where it reaches, how it is rounded, and its NIfTI file."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.evaluation.metrics import folding
from wavemorph.io.fields import (
    field_image,
    field_lattice,
    flattened_field,
    inverse_lattice,
    registration_field,
    rounded_whole_field,
    whole_field,
)
from wavemorph.io.outputs import write_inverse, write_transform
from wavemorph.io.result import Registration
from wavemorph.io.transforms.rounding import quantum_mm, round_vectors

EXTENSIONS = [".nii.gz", ".nii", ".nrrd", ".mha"]


@pytest.fixture
def registration(random_registration):
    return random_registration(3)


def positions(image, count=400, seed=2):
    """Random points in the box of an image, LPS mm."""
    indices = np.random.default_rng(seed).uniform(-0.5, np.array(image.GetSize()) - 0.5, (count, 3))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices])


def moved(transform, points):
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def as_transform(field):
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def smooth_vectors(size=(40, 36, 32), amplitude=6.0, seed=0):
    """Smooth random vectors (D, H, W, 3), float32, that are zero on the border."""
    noise = np.random.default_rng(seed).normal(size=(*size, 3)).astype(np.float32)
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise, isVector=True), 4.0)
    vectors = sitk.GetArrayFromImage(image)
    vectors *= amplitude / np.abs(vectors).max()
    vectors[[0, -1]] = vectors[:, [0, -1]] = vectors[:, :, [0, -1]] = 0
    return vectors


def with_other_moving(registration, shift_mm):
    """The same map with a moving volume elsewhere."""
    moving = sitk.Image(registration.moving)
    moving.SetOrigin(np.add(moving.GetOrigin(), shift_mm).tolist())
    return Registration(
        registration.affine,
        registration.displacement,
        registration.inverse_displacement,
        registration.inverse_correction,
        registration.working_jacobian,
        fixed=registration.fixed,
        moving=moving,
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("shift_mm", [(0.0, 0.0, 0.0), (25.0, -20.0, 15.0)])
def test_a_field_file_can_be_inverted_all_over_the_moving_volume(registration, tmp_path, extension, shift_mm):
    """Where the fixed volume ends too: the field goes on as the affine as far as the moving volume reaches."""
    result = with_other_moving(registration, shift_mm)
    write_transform(result, tmp_path / f"map{extension}")
    read = as_transform(sitk.ReadImage(str(tmp_path / f"map{extension}")))
    goals = positions(result.moving)
    starts = moved(result.inverse, goals)
    assert np.linalg.norm(moved(read, starts) - moved(result.transform, starts), axis=1).max() < 0.01
    assert np.linalg.norm(moved(read, starts) - goals, axis=1).max() < 0.35  # the round trip of the inverse itself


def test_the_inverse_field_covers_what_the_fixed_volume_and_the_working_grid_are_mapped_to(registration, tmp_path):
    result = with_other_moving(registration, (25.0, -20.0, 15.0))
    write_inverse(result, tmp_path / "inverse.nrrd")
    field = sitk.ReadImage(str(tmp_path / "inverse.nrrd"))
    starts = np.concatenate([positions(result.fixed), positions(result.displacement)])
    ends = [*moved(result.affine, starts), *positions(result.moving)]
    indices = np.array([field.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in ends])
    assert np.all(indices >= 0) and np.all(indices <= np.array(field.GetSize()) - 1)


def test_a_far_or_huge_moving_volume_does_not_make_the_field_huge(registration):
    alone = with_other_moving(registration, (0.0, 0.0, 0.0))
    far = with_other_moving(registration, (2000.0, 0.0, 0.0))
    for lattice in (field_lattice, inverse_lattice):
        assert np.prod(lattice(far).GetSize()) < 4 * np.prod(lattice(alone).GetSize())
    assert np.linalg.norm(
        moved(as_transform(registration_field(far)), positions(far.fixed))
        - moved(far.transform, positions(far.fixed)), axis=1,
    ).max() < 0.01  # fmt: skip


def test_a_loaded_result_has_the_same_lattice(registration, tmp_path):
    registration.save(tmp_path)
    loaded = Registration.load(tmp_path)
    assert field_lattice(loaded).GetSize() == field_lattice(registration).GetSize()
    assert np.allclose(field_lattice(loaded).GetOrigin(), field_lattice(registration).GetOrigin())


def test_the_vectors_are_those_that_simpleitk_samples(registration):
    lattice = field_lattice(registration)
    expected = sitk.GetArrayFromImage(flattened_field(registration.transform, lattice))
    assert np.abs(whole_field(registration, lattice) - expected).max() < 1e-4


@pytest.mark.parametrize("threads", [2, 7, 100])
def test_field_and_rounding_are_the_same_with_any_number_of_threads(registration, threads):
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    fields = []
    try:
        for count in (1, threads):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            fields.append(rounded_whole_field(registration).vectors)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert np.array_equal(*fields)


@pytest.mark.parametrize("degrees", [0, 90, 25])  # along the axes of the world, and oblique
def test_a_map_is_rounded_as_its_field_is_rounded_afterwards(degrees):
    """Finely at the same nodes, whether steepness is measured in the displacement or in the whole field."""
    vectors = smooth_vectors(size=(24, 22, 20), amplitude=9.0)
    displacement = sitk.GetImageFromArray(vectors, isVector=True)
    displacement.SetSpacing((1.0, 1.5, 2.0))
    displacement.SetDirection(phantoms.rotation((0, 0, degrees)).ravel().tolist())
    matrix = phantoms.rotation((4, 8, 12)) * (1.1, 0.9, 1.05)
    affine = sitk.AffineTransform(matrix.ravel().tolist(), (3.0, -4.0, 5.0))
    fixed = phantoms.regular((30, 30, 30), (2.0, 2.0, 2.0))
    result = Registration(affine, displacement, None, None, None, fixed=fixed, moving=fixed)
    found, lattice = rounded_whole_field(result)
    expected = whole_field(result, lattice)
    round_vectors(expected, lattice, matrix)
    assert np.mean(found != expected) < 1e-3  # where a change is the limit, up to the last bit
    coarse = found / quantum_mm(lattice.GetSpacing())
    finely = np.any(coarse != np.rint(coarse), axis=-1)
    assert 0.01 < finely.mean() < 0.9


@pytest.mark.parametrize("spacing", [0.05, 0.8, 1.0, 3.0])
def test_rounding_moves_no_point_by_more_than_a_hundredth_of_a_millimeter_or_of_a_voxel(spacing):
    lattice = phantoms.regular((32, 36, 40), (spacing,) * 3)
    vectors = smooth_vectors(amplitude=4 * spacing)
    rounded = vectors.copy()
    round_vectors(rounded, lattice)
    error = np.linalg.norm(rounded - vectors, axis=-1).max()
    assert 0 < error < min(0.01, 0.01 * spacing)
    steps = rounded / (quantum_mm(lattice.GetSpacing()) / 4)
    assert np.array_equal(steps, np.rint(steps))


@pytest.mark.parametrize("degrees", [0, 20, 170])
def test_rounding_makes_no_fold(degrees):
    """Voxels compressed to a fiftieth, next to others that are stretched, under any rotation."""
    lattice = phantoms.regular((60, 8, 8), (1.0, 1.0, 1.0))
    position = np.cumsum(np.where(np.arange(60) % 6 < 4, 0.02, 2.5))
    vectors = np.zeros((8, 8, 60, 3), np.float32)
    vectors[..., 0] = position - np.arange(60)
    matrix = phantoms.rotation((0, 0, degrees))
    points = phantoms.physical_points(lattice)
    vectors = ((points + vectors) @ matrix.T - points).astype(np.float32)
    assert folding(field_image(vectors, lattice))["strict_voxels"] == 0
    rounded = vectors.copy()
    round_vectors(rounded, lattice, matrix)
    assert not np.array_equal(rounded, vectors)
    assert folding(field_image(rounded, lattice))["strict_voxels"] == 0


def test_a_rounded_field_takes_less_than_half_the_space():
    lattice = phantoms.regular((32, 36, 40), (1.0, 1.0, 1.0))
    vectors = smooth_vectors(amplitude=6.0)
    rounded = vectors.copy()
    round_vectors(rounded, lattice)
    before, after = (len(gzip.compress(np.moveaxis(v, -1, 0).tobytes())) for v in (vectors, rounded))
    assert after < 0.5 * before


def test_a_linear_map_is_not_rounded(tmp_path):
    affine = sitk.AffineTransform(phantoms.rotation((3, 5, 7)).ravel().tolist(), (0.123456, 1.0, 2.0))
    write_transform(affine, tmp_path / "field.nii.gz", phantoms.regular((20, 20, 20), (2.0, 2.0, 2.0)))
    read = sitk.ReadImage(str(tmp_path / "field.nii.gz"))
    point = read.TransformIndexToPhysicalPoint((3, 4, 5))
    assert np.allclose(np.add(point, read[3, 4, 5]), affine.TransformPoint(point), atol=1e-5)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("seed", [0, 3])  # one of them is left-handed
def test_a_nifti_field_is_five_dimensional_with_the_intent_displacement_vector_and_ras_vectors(
    random_registration, tmp_path, extension, seed
):
    registration = random_registration(seed)
    write_transform(registration, tmp_path / f"field{extension}")
    stored = nibabel.load(tmp_path / f"field{extension}")
    lattice = field_lattice(registration)
    assert stored.shape == (*lattice.GetSize(), 1, 3)
    assert stored.header.get_intent()[0] == "displacement vector"
    assert int(stored.header["intent_code"]) == 1006
    for node in ((4, 5, 6), (10, 9, 8)):
        point = lattice.TransformIndexToPhysicalPoint(node)
        ras = (stored.affine @ [*node, 1])[:3]
        assert np.allclose(ras * [-1, -1, 1], point, atol=1e-3)
        end = ras + np.asarray(stored.dataobj)[node][0]
        assert np.allclose(end * [-1, -1, 1], registration.transform.TransformPoint(point), atol=0.01)


def test_a_nifti_field_that_does_not_fit_on_the_disk_is_one_sentence(registration, tmp_path, monkeypatch):
    from wavemorph.errors import OutputError

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wavemorph.io.outputs.write_nifti_field", full)
    with pytest.raises(OutputError, match="No space left on device; is the disk full"):
        write_transform(registration, tmp_path / "field.nii.gz")
