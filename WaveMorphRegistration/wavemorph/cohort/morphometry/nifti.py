"""A volume as nilearn takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

if TYPE_CHECKING:
    from nibabel import Nifti1Image


def as_nifti(image: sitk.Image) -> Nifti1Image:
    """A SimpleITK volume, LPS mm, as an image of nibabel, RAS mm."""
    from nibabel import Nifti1Image

    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return Nifti1Image(sitk.GetArrayFromImage(image).transpose(2, 1, 0), to_ras @ affine)
