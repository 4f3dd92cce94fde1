"""The inverse as one field, by SimpleITK's own transforms: as near to the true inverse as both parts, and no folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from displacements import SIZE, bump, tapered_noise
from wavemorph.evaluation.metrics import folding
from wavemorph.io.fields import (
    field_image,
    flattened_field,
    inverse_lattice,
    make_inverse_field,
    rounded_inverse_field,
)
from wavemorph.io.outputs import write_inverse
from wavemorph.io.result import Registration, displacement_transform
from wavemorph.spatial.folding import remove_folds
from wavemorph.spatial.grid import WorkingGrid
from wavemorph.spatial.inverse_field import _sharpen, fit_inverse_field
from wavemorph.spatial.inversion import invert_displacement_image, regularize_and_invert


@pytest.fixture(scope="module")
def registration():
    """A map that bends everywhere, on an oblique grid, with a rotated, stretched and oblique moving space."""
    turn = phantoms.rotation((5, -10, 20))
    grid = WorkingGrid(SIZE[::-1], (1.5, 1.4, 1.6), (10.0, -20.0, 5.0), turn @ np.diag([-1.0, -1.0, 1.0]))
    displacement, first, second = (grid.to_mm(each) for each in regularize_and_invert(5 * tapered_noise(3, 2.0, 4)))
    matrix = phantoms.rotation((4, 8, 12)) * (1.1, 0.9, 1.05)
    affine = sitk.AffineTransform(matrix.ravel().tolist(), (3.0, -4.0, 5.0))
    fixed = sitk.Image(SIZE[::-1], sitk.sitkUInt8)
    fixed.SetSpacing(grid.spacing)
    fixed.SetOrigin(grid.origin)
    fixed.SetDirection(grid.direction.ravel().tolist())
    moving = phantoms.regular((60, 60, 60), (1.2, 1.3, 1.1))
    moving.SetDirection(phantoms.rotation((0, 15, -8)).ravel().tolist())
    center = affine.TransformPoint(phantoms.center_of(fixed).tolist())
    moving.SetOrigin((np.array(moving.GetOrigin()) + center - phantoms.center_of(moving)).tolist())
    return Registration(affine, displacement, first, second, None, fixed=fixed, moving=moving)


def there_and_back(registration, inverse, margin=2, count=4000):
    """Distances (mm) between random points and where the map and then `inverse` return them.

    The points are in the fixed image, `margin` voxels from its faces.
    """
    last = np.array(registration.fixed.GetSize()) - 1
    indices = np.random.default_rng(1).uniform(margin, last - margin, (count, 3))
    starts = [registration.fixed.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices]
    chain = sitk.CompositeTransform([sitk.Transform(inverse), sitk.Transform(registration.transform)])
    return np.array([np.linalg.norm(np.subtract(chain.TransformPoint(start), start)) for start in starts])


def test_one_field_returns_points_as_exactly_as_both_parts_do(registration):
    both = there_and_back(registration, registration.inverse)
    sampled = flattened_field(registration.inverse, inverse_lattice(registration))
    interpolated = there_and_back(registration, displacement_transform(sampled))
    fitted = there_and_back(registration, displacement_transform(field_image(*rounded_inverse_field(registration))))
    assert interpolated.mean() > 1.5 * both.mean()
    assert fitted.mean() < 1.15 * both.mean()
    assert np.percentile(fitted, 99) < 1.15 * np.percentile(both, 99)
    assert fitted.max() < 1.5 * both.max()


def test_the_errors_that_are_told_are_those_that_simpleitk_finds(registration):
    fitted = fit_inverse_field(
        registration.displacement, registration.inverse_parts(), registration.affine, inverse_lattice(registration)
    )
    field = displacement_transform(field_image(*rounded_inverse_field(registration)))
    for told, inverse in ((fitted.error, field), (fitted.two_part_error, registration.inverse)):
        found = there_and_back(registration, inverse, margin=-1)
        assert told.mean == pytest.approx(found.mean(), rel=0.15)
        assert told.p99 == pytest.approx(np.percentile(found, 99), rel=0.15)


@pytest.fixture
def sharply_bent(registration):
    """A map that neither one field nor two can invert well, after the identity instead of the affine."""
    grid = WorkingGrid.inside_ring_of(registration.displacement)
    displacement = grid.to_mm(remove_folds(bump(9.0) + 6 * tapered_noise(3, 1.0, 2)))
    first, second = invert_displacement_image(displacement)
    return Registration(
        sitk.AffineTransform(3), displacement, first, second, None, fixed=registration.fixed, moving=registration.moving
    )


def test_the_field_has_no_folds_by_both_tests(sharply_bent):
    fitted = fit_inverse_field(
        sharply_bent.displacement, sharply_bent.inverse_parts(), sharply_bent.affine, sharply_bent.moving
    )
    found = folding(field_image(fitted.vectors, sharply_bent.moving))
    assert (found["central_voxels"], found["strict_voxels"]) == (0, 0)
    assert found["min"] < 0.3


def test_there_is_no_field_where_it_would_be_less_exact_than_both_parts(sharply_bent, tmp_path):
    assert rounded_inverse_field(sharply_bent) is None
    make_inverse_field(sharply_bent)
    assert sharply_bent.inverse_field is None
    write_inverse(sharply_bent, tmp_path / "inverse.nrrd")
    written = sitk.ReadImage(str(tmp_path / "inverse.nrrd"), sitk.sitkVectorFloat64)
    node = written.TransformIndexToPhysicalPoint([n // 2 for n in written.GetSize()])
    end = sitk.DisplacementFieldTransform(written).TransformPoint(node)
    assert np.linalg.norm(np.subtract(end, sharply_bent.inverse.TransformPoint(node))) < 0.01


def test_there_is_no_field_where_its_lattice_would_be_too_large_to_hold_the_deformation(registration):
    thin = sitk.Image([60, 60, 4], sitk.sitkUInt8)  # of a moving volume that shows a slab of the fixed one
    thin.CopyInformation(registration.moving[:, :, 28:32])
    slab = replace(registration, moving=thin)
    fitted = fit_inverse_field(slab.displacement, slab.inverse_parts(), slab.affine, inverse_lattice(slab))
    assert fitted.beyond > 0.01
    make_inverse_field(slab)
    assert slab.inverse_field is None
    whole = replace(registration)
    make_inverse_field(whole)
    assert whole.inverse_field is not None
    assert registration.inverse_field is None


def test_the_values_at_the_nodes_of_a_parabola_are_moved_to_its_best_fit_by_lines():
    nodes = torch.arange(12.0).view(1, 1, 1, 1, 12) ** 2
    field = nodes.repeat(1, 3, 1, 1, 1)
    _sharpen(field)
    ends = field[0, 0, 0, 0, 1:-1].numpy()  # those on the faces stay
    steps = np.linspace(0, 1, 1001)
    errors = [np.interp(steps, (0, 1), ends[i : i + 2]) - (i + 1 + steps) ** 2 for i in range(len(ends) - 1)]
    assert np.abs(np.mean(errors, axis=1)).max() < 1e-3  # without a mean, as the residual of least squares
    assert np.sqrt(np.mean(np.square(errors))) < 0.45 * np.sqrt(np.mean((steps * (1 - steps)) ** 2))


def test_the_inverse_of_an_affine_alone_is_exact(registration):
    none = sitk.Image(registration.displacement.GetSize(), sitk.sitkVectorFloat32)
    none.CopyInformation(registration.displacement)
    fitted = fit_inverse_field(none, (none, none), registration.affine, inverse_lattice(registration))
    assert not fitted.vectors.any()
    assert (fitted.error.mean, fitted.two_part_error.p99) == (0.0, 0.0)


def test_inputs_are_not_changed(registration):
    images = (registration.displacement, *registration.inverse_parts())
    before = [sitk.GetArrayFromImage(image) for image in images]
    rounded_inverse_field(registration)
    for image, values in zip(images, before):
        assert np.array_equal(sitk.GetArrayViewFromImage(image), values)
