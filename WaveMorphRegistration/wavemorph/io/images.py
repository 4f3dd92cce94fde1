"""Read and check volumes, masks and label maps. Does not import torch: Slicer's own process uses it.

An input that cannot be used raises an `InputError` before any work begins, with one sentence: what is wrong, the values
found, what to do. Physical points are LPS mm.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError

_MIN_SIDE_VOXELS = 4
_GEOMETRY_TOLERANCE = 1e-3  # in voxels, and of a unit vector: the rounding of float32 headers


def read_image(path: str | os.PathLike, name: str = "image") -> sitk.Image:
    """Read a 3D scalar volume and check it with `validate_image`.

    Parameters:
        path: a file, or a folder with exactly one DICOM series.
        name: what messages call it, such as "fixed image".

    Raises:
        InputError: it cannot be read or registered.
    """
    image, called = _read_volume(path, name)
    validate_image(image, called)
    return image


def read_mask(path: str | os.PathLike, image: sitk.Image, name: str = "mask") -> sitk.Image:
    """Read a mask for `image`; see `validate_mask`. Raises InputError."""
    mask, called = _read_volume(path, name)
    return validate_mask(mask, image, called)


def read_labels(path: str | os.PathLike, name: str = "label map") -> sitk.Image:
    """Read a 3D label map; see `validate_labels`. Raises InputError."""
    labels, called = _read_volume(path, name)
    return validate_labels(labels, called)


def validate_image(image: sitk.Image, name: str = "image") -> None:
    """Check that a volume can be registered.

    It must be a finite 3D scalar volume that is not constant, with at least 4 voxels along each axis and orthonormal
    axes. Pixel type, spacing and orientation are free.

    Raises:
        InputError: one of these does not hold.
    """
    _check_volume(image, name)
    size = image.GetSize()
    if min(size) < _MIN_SIDE_VOXELS:
        raise InputError(
            f"The {name} has only {min(size)} voxels along one axis ({_times(size)}), and at least "
            f"{_MIN_SIDE_VOXELS} are needed; give the whole volume rather than a slice or a slab."
        )
    array = sitk.GetArrayViewFromImage(image)
    _check_finite(array, name)
    low, high = array.min(), array.max()
    if low == high:
        raise InputError(f"The {name} is constant: every voxel is {low:g}; it cannot be aligned.")


def validate_mask(mask: sitk.Image, image: sitk.Image, name: str = "mask") -> sitk.Image:
    """The mask on the lattice of `image`, uint8: 1 where the mask is not 0.

    A mask with another lattice is resampled in physical space with nearest neighbor.

    Raises:
        InputError: the mask is empty, or marks no voxel of the image.
    """
    _check_volume(mask, name)
    array = sitk.GetArrayViewFromImage(mask)
    _check_finite(array, name)
    marked = np.not_equal(array, 0)
    count = int(np.count_nonzero(marked))
    if not count:
        raise InputError(f"The {name} is empty: all its {marked.size} voxels are 0; mark the region to compare.")
    binary = sitk.GetImageFromArray(marked.view(np.uint8))
    binary.CopyInformation(mask)
    if same_lattice(mask, image):
        binary.CopyInformation(image)
        return binary
    resampled = sitk.Resample(binary, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    if not np.any(sitk.GetArrayViewFromImage(resampled)):
        raise InputError(
            f"The {name} marks {count} voxels, but none of them is in the image; check that the mask was "
            "drawn on this image."
        )
    return resampled


def validate_labels(labels: sitk.Image, name: str = "label map") -> sitk.Image:
    """The label map in an integer pixel type; 0 is background. Whole numbers in floating point are accepted.

    Raises:
        InputError: it is not a 3D scalar map of whole numbers, or has background only.
    """
    _check_volume(labels, name)
    array = sitk.GetArrayViewFromImage(labels)
    _check_finite(array, name)
    if np.issubdtype(array.dtype, np.floating):
        broken = array[(array != np.rint(array)) | (np.abs(array) >= 2**31)]
        if broken.size:
            raise InputError(
                f"The {name} holds {broken.size} voxels that are not label numbers, such as {broken[0]:g}; a label map "
                "holds whole numbers and must be resampled with nearest neighbor."
            )
        labels = sitk.Cast(labels, sitk.sitkInt32)
    if not np.any(array):
        raise InputError(f"The {name} is empty: all its {array.size} voxels are 0.")
    return labels


def same_lattice(first: sitk.Image, second: sitk.Image) -> bool:
    """Whether the voxels of two volumes have the same positions, within a thousandth of a voxel."""
    if first.GetSize() != second.GetSize():
        return False
    corners = [(0, 0, 0), *np.diag(np.subtract(first.GetSize(), 1)).tolist()]
    apart = [
        np.subtract(first.TransformIndexToPhysicalPoint(corner), second.TransformIndexToPhysicalPoint(corner))
        for corner in corners
    ]
    return bool(np.abs(apart).max() <= _GEOMETRY_TOLERANCE * min(first.GetSpacing()))


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Suppress ITK's C++ warnings; the checks of this module report what matters."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def stored_length(path: Path) -> int:
    """Bytes in a file, after decompression of .gz. Raises EOFError or OSError where it is truncated or damaged."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    length = 0
    with gzip.open(path) as stream:
        while block := stream.read(1 << 22):
            length += len(block)
    return length


def short_reason(error: Exception) -> str:
    """The reason in an error of the system or of SimpleITK, on one short line, without source files and addresses."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = re.sub(r"\w+\(0x[0-9a-f]+\):\s*", "", str(error).rpartition("ERROR:")[2])
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(" .") or type(error).__name__


def _read_volume(path: str | os.PathLike, name: str) -> tuple[sitk.Image, str]:
    """(volume, what messages call it): 3D and scalar; its voxels are not yet checked."""
    path, called = _existing(path, name)
    if path.is_dir():
        return _read_series(path, called), called
    reader = _open(path, called)
    size = reader.GetSize()
    if len(size) == 4 and size[3] == 1:
        reader.SetExtractSize([*size[:3], 0])
        size = size[:3]
    _check_kind(size, reader.GetNumberOfComponents(), reader.GetPixelID(), called)
    return _load(reader, path, called), called


def _existing(path: str | os.PathLike, name: str) -> tuple[Path, str]:
    path = Path(path)
    called = f'{name} "{path.name}"'
    if not path.exists():
        raise InputError(f'The {name} "{path}" does not exist; check the path.')
    if not os.access(path, os.R_OK):
        raise InputError(f'The {name} "{path}" may not be read; check its permissions.')
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The {called} is empty (0 bytes); copy or write it again.")
    return path, called


def _open(path: Path, called: str) -> sitk.ImageFileReader:
    """A reader that has read the header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise InputError(
                f"The {called} has sheared axes, which ITK cannot represent; resample it onto a lattice of right "
                "angles first, for instance with nibabel's resample_from_to."
            ) from error
        raise InputError(
            f"The {called} cannot be read as an image ({short_reason(error)}); give a complete NIfTI, NRRD or "
            "MetaImage file, or a folder of DICOM slices."
        ) from error
    return reader


def _load(reader: sitk.ImageFileReader, path: Path, called: str) -> sitk.Image:
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _refuse_cut_nifti(reader, path, called)
    with quiet_itk(), _one_sentence(f"The voxels of the {called} cannot be read; copy or write the file again"):
        return reader.Execute()


def _refuse_cut_nifti(reader: sitk.ImageFileReader, path: Path, called: str) -> None:
    """ITK reads a truncated NIfTI file without an error and fills the rest with zeros."""
    if not reader.HasMetaDataKey("bitpix"):
        return
    dimensions = int(reader.GetMetaData("dim[0]"))
    voxels = math.prod(max(1, int(reader.GetMetaData(f"dim[{axis}]"))) for axis in range(1, dimensions + 1))
    needed = voxels * int(reader.GetMetaData("bitpix")) // 8 + int(float(reader.GetMetaData("vox_offset")))
    try:
        cut = stored_length(path) < needed
    except (EOFError, OSError, zlib.error):
        cut = True
    if cut:
        raise InputError(f"The {called} is cut short or damaged; copy or download it again.")


def _read_series(folder: Path, called: str) -> sitk.Image:
    with quiet_itk():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise InputError(
                f"The {called} is a folder without DICOM slices; give a file such as .nii.gz, .nrrd or .mha."
            )
        if len(series) > 1:
            raise InputError(
                f"The {called} is a folder with {len(series)} DICOM series; open the one you need in Slicer, save it "
                "as .nrrd, and give that file."
            )
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        _refuse_gaps(files, called)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        with _one_sentence(f"The {called} is a DICOM series that cannot be read; open it in Slicer and save it"):
            image = reader.Execute()
    _check_kind(image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID(), called)
    return image


def _refuse_gaps(files: Sequence[str], called: str) -> None:
    """ITK stacks slices at one spacing even where some are missing, which would deform the anatomy."""
    positions = []
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(file)
        with _one_sentence(f"The {called} is a DICOM series that cannot be read; open it in Slicer and save it"):
            reader.ReadImageInformation()
        if len(reader.GetOrigin()) >= 3:
            positions.append(reader.GetOrigin()[:3])
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1) if len(positions) > 1 else np.ones(1)
    if steps.max() > 1.05 * steps.min() + 0.01:
        raise InputError(
            f"The {called} is a DICOM series with slices {steps.min():.2f} to {steps.max():.2f} mm apart: some are "
            "missing or doubled, or spacing varies; open it in Slicer, which can regularize it, and save it as .nrrd."
        )


def _check_volume(image: sitk.Image, name: str) -> None:
    if not isinstance(image, sitk.Image):
        raise InputError(f"The {name} is a {type(image).__name__}; give a SimpleITK image.")
    _check_kind(image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID(), name)
    _check_axes(image, name)


def _check_kind(size: Sequence[int], components: int, pixel: int, name: str) -> None:
    if len(size) == 4:
        raise InputError(
            f"The {name} is 4D with {size[3]} frames of {_times(size[:3])} voxels; extract one frame and give that."
        )
    if len(size) != 3:
        raise InputError(f"The {name} is {len(size)}D ({_times(size)}); a 3D volume is needed.")
    if components != 1:
        raise InputError(
            f"The {name} has {components} components a voxel (a color, vector or multi-layer image); give a volume "
            "with one value a voxel."
        )
    if pixel in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(f"The {name} has complex voxels; give their magnitude.")


def _check_axes(image: sitk.Image, name: str) -> None:
    geometry = (*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection())
    if not np.all(np.isfinite(geometry)) or min(image.GetSpacing()) <= 0:
        raise InputError(
            f"The {name} has no usable geometry (origin {image.GetOrigin()}, spacing {image.GetSpacing()} mm); "
            "correct its header."
        )
    axes = np.reshape(image.GetDirection(), (3, 3))
    angles = axes.T @ axes - np.eye(3)
    if np.abs(angles).max() > _GEOMETRY_TOLERANCE:
        raise InputError(
            f"The {name} has axes that are sheared or not of unit length (off by {np.abs(angles).max():.3f}); resample "
            "it onto a lattice of right angles first."
        )


def _check_finite(array: np.ndarray, name: str) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        return
    # plane by plane: flags for a large volume would need a quarter of its memory
    broken = array.size - sum(int(np.count_nonzero(np.isfinite(plane))) for plane in array)
    if broken:
        raise InputError(
            f"The {name} holds {broken} values that are NaN or infinite (of {array.size}); replace them, for instance "
            "by 0, and try again."
        )


@contextlib.contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """SimpleITK's exceptions as an InputError."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"{what} ({short_reason(error)}).") from error


def _times(size: Sequence[int]) -> str:
    return " x ".join(str(n) for n in size)
