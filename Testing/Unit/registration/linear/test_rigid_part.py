"""The rotation nearest to an affine, against analytic transforms."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.registration.linear.mutual_information import rigid_part

CENTROID = np.array([11.0, -7.0, 5.0])


@pytest.fixture
def mask():
    """Two voxels around the centroid."""
    image = sitk.Image([21, 21, 21], sitk.sitkUInt8)
    image.SetOrigin((CENTROID - 10).tolist())
    image[9, 10, 10] = image[11, 10, 10] = 1
    return image


def affine_of(matrix: np.ndarray, translation=(4.0, 5.0, -6.0)) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix.ravel().tolist())
    affine.SetTranslation(translation)
    return affine


def test_of_a_rotation_with_scale_the_rotation_remains_and_the_centroid_maps_as_before(mask):
    rotation = phantoms.rotation((20.0, -10.0, 30.0))
    stretch = phantoms.rotation((5.0, 40.0, 0.0))
    symmetric = stretch @ np.diag([1.1, 0.9, 1.05]) @ stretch.T
    affine = affine_of(rotation @ symmetric)
    rigid = rigid_part(affine, mask)
    assert np.allclose(np.reshape(rigid.GetMatrix(), (3, 3)), rotation, atol=1e-12)
    center = CENTROID.tolist()
    assert np.allclose(rigid.TransformPoint(center), affine.TransformPoint(center), atol=1e-12)


def test_a_rigid_transform_is_its_own_rigid_part(mask):
    affine = affine_of(phantoms.rotation((-15.0, 3.0, 8.0)))
    rigid = rigid_part(affine, mask)
    for point in np.random.default_rng(0).uniform(-100, 100, (20, 3)).tolist():
        assert np.allclose(rigid.TransformPoint(point), affine.TransformPoint(point), atol=1e-10)


def test_a_mirror_has_no_rigid_part(mask):
    with pytest.raises(InputError, match="mirrors"):
        rigid_part(affine_of(np.diag([1.0, -1.0, 1.0])), mask)
