"""Read transforms: fixed points -> moving points, LPS mm. Does not import torch: Slicer's own process uses it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ..checks import check_axes, check_finite
from ..files import existing, load_image, open_image, quiet_itk, quiet_libraries, short_reason
from ..formats import nifti
from .foreign import refuse_foreign_field, refuse_foreign_file, refuse_positions

FIELD_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def read_transform(path: str | os.PathLike, name: str = "transform") -> sitk.Transform:
    """Read a 3D transform, fixed points -> moving points, LPS mm.

    Parameters:
        path: a transform file of ITK, ANTs or Slicer (.h5, .tfm, .txt, .mat), or a displacement field: a vector
            image of three LPS components in mm, identity outside it.
        name: what messages call it.

    Raises:
        InputError: it cannot be read, is not 3D and finite, or has the conventions of another program.
    """
    path, called = existing(path, name)
    if path.is_dir():
        raise InputError(f"The {called} is a folder; give a transform file such as .h5, .tfm or .nii.gz.")
    if path.name.lower().endswith(FIELD_EXTENSIONS):
        return _read_field(path, called)
    refuse_foreign_file(path, called)
    _refuse_lists(path, called)
    try:
        with quiet_itk(), quiet_libraries():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = "its format is not known" if "Could not create Transform IO" in str(error) else short_reason(error)
        raise InputError(
            f"The {called} cannot be read as a transform ({reason}); give a complete ITK transform (.h5, .tfm, .txt, "
            ".mat) or a displacement field such as .nii.gz."
        ) from error
    if transform.GetDimension() != 3:
        raise InputError(f"The {called} is {transform.GetDimension()}D; a 3D transform is needed.")
    if not np.all(np.isfinite(transform.TransformPoint((0.0, 0.0, 0.0)))):
        raise InputError(f"The {called} holds parameters that are NaN or infinite; write it again.")
    return transform


def _read_field(path: Path, called: str) -> sitk.Transform:
    with nifti.as_itk_reads_it(path, called) as file:
        reader = open_image(file, called)
        refuse_foreign_field(reader, path, called)
        _check_field(reader, called)
        field, _ = nifti.with_stated_spacing(load_image(reader, file, called), reader, file, called)
    check_axes(field, called)
    check_finite(sitk.GetArrayViewFromImage(field), called)
    refuse_positions(field, called)
    return sitk.Transform(sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64)))


def _check_field(reader: sitk.ImageFileReader, called: str) -> None:
    """A 3D image of three components. Raises InputError."""
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3 or components != 3:
        of_fsl = len(size) == 4 and size[3] == 3
        advice = "; convert a field of FSL with wb_command -convert-warpfield -from-fnirt ... -to-itk" if of_fsl else ""
        raise InputError(
            f"The {called} is not a displacement field: it is {len(size)}D with {components} component(s) a voxel; a "
            f"field is 3D with three components, the displacement in LPS mm{advice}."
        )


def _refuse_lists(path: Path, called: str) -> None:
    """SimpleITK reads only the first of several transforms in a text file."""
    if path.suffix.lower() not in (".tfm", ".txt"):
        return
    with path.open("rb") as stream:
        kinds = [line.split(b":", 1)[1].strip() for line in stream if line.startswith(b"Transform:")]
    if len(kinds) > 1 and not kinds[0].startswith(b"CompositeTransform"):
        raise InputError(
            f"The {called} lists {len(kinds)} transforms without a composite that says how they combine; write them "
            "as one composite transform."
        )
