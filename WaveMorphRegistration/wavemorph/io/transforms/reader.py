"""Read transforms: fixed points -> moving points, LPS mm. Does not import torch: Slicer's own process uses it."""

from __future__ import annotations

import os
from pathlib import Path

import SimpleITK as sitk

from ...errors import InputError
from ..checks import check_axes, check_finite
from ..files import existing, load_image, open_image, quiet_libraries, refuse_lack_of_memory, short_reason
from ..formats import nifti
from .foreign import refuse_foreign_field, refuse_foreign_file, refuse_positions
from .itk_files import DimensionError, SeveralError, UnreadableError, read_itk_transform

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
    try:
        with quiet_libraries():
            return read_itk_transform(path)
    except SeveralError as error:
        raise InputError(
            f"The {called} lists {error.count} transforms without a composite that says how they combine; write them "
            "as one composite transform."
        ) from error
    except DimensionError as error:
        raise InputError(f"The {called} is {error.dimension}D; a 3D transform is needed.") from error
    except (UnreadableError, RuntimeError) as error:
        if isinstance(error, RuntimeError):
            refuse_lack_of_memory(error, called)
        reason = str(error) if isinstance(error, UnreadableError) else short_reason(error)
        raise InputError(
            f"The {called} cannot be read as a transform ({reason}); give a complete ITK transform (.h5, .tfm, .txt, "
            ".mat) or a displacement field such as .nii.gz."
        ) from error


def _read_field(path: Path, called: str) -> sitk.Transform:
    with nifti.as_itk_reads_it(path, called) as file:
        reader = open_image(file, called)
        refuse_foreign_field(reader, path, called)
        _check_field(reader, called)
        field, _ = nifti.with_stated_spacing(load_image(reader, called), reader, file, called)
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
