"""Check volumes, masks and label maps, in memory and from files. Does not import torch.

An input that cannot be used raises an `InputError` before any work begins, with one sentence: what is wrong, the values
found, what to do. Physical points are LPS mm.
"""

from __future__ import annotations

import os

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .checks import GEOMETRY_TOLERANCE, check_axes, check_finite, check_kind, check_size, times
from .reading import read_foreground, read_volume

_MIN_SIDE_VOXELS = 4
_LABEL_TOLERANCE = 1e-3  # of whole numbers that were stored with a slope in float32


def read_image(path: str | os.PathLike, name: str = "image", series: str | None = None) -> sitk.Image:
    """The image of `read_volume`, checked with `validate_image`. Raises InputError."""
    volume = read_volume(path, name, series)
    validate_image(volume.image, volume.name)
    return volume.image


def read_mask(path: str | os.PathLike, image: sitk.Image, name: str = "mask") -> sitk.Image:
    """Read a mask for `image`; see `validate_mask`. Raises InputError."""
    mask = read_foreground(path, name)
    return validate_mask(mask.image, image, mask.name)


def read_labels(path: str | os.PathLike, name: str = "label map") -> sitk.Image:
    """Read a 3D label map; see `validate_labels`. Raises InputError."""
    labels = read_volume(path, name, labels=True)
    return validate_labels(labels.image, labels.name)


def validate_image(image: sitk.Image, name: str = "image") -> None:
    """Check that a volume can be registered.

    It must be a finite 3D scalar volume that is not constant, with at least 4 voxels along each axis and orthonormal
    axes, and no side may be longer than any scan. Pixel type, spacing and orientation are free.

    Raises:
        InputError: one of these does not hold.
    """
    _check_volume(image, name)
    check_size(image, name)
    size = image.GetSize()
    if min(size) < _MIN_SIDE_VOXELS:
        raise InputError(
            f"The {name} has only {min(size)} voxels along one axis ({times(size)}), and at least "
            f"{_MIN_SIDE_VOXELS} are needed; give the whole volume rather than a slice or a slab."
        )
    array = sitk.GetArrayViewFromImage(image)
    check_finite(array, name)
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
    check_finite(array, name)
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
    """The label map in an integer pixel type; 0 is background. Whole numbers in floating point are accepted, within
    0.001 as after a slope of the header.

    Raises:
        InputError: it is not a 3D scalar map of whole numbers, or has background only.
    """
    _check_volume(labels, name)
    array = sitk.GetArrayViewFromImage(labels)
    check_finite(array, name)
    if np.issubdtype(array.dtype, np.floating):
        numbers = np.rint(array)
        broken = array[(np.abs(array - numbers) > _LABEL_TOLERANCE) | (np.abs(array) >= 2**31)]
        if broken.size:
            raise InputError(
                f"The {name} holds {broken.size} voxels that are not label numbers, such as {broken[0]:.9g}; a label "
                "map holds whole numbers and must be resampled with nearest neighbor."
            )
        whole = sitk.GetImageFromArray(numbers.astype(np.int32))
        whole.CopyInformation(labels)
        labels, array = whole, numbers
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
    return bool(np.abs(apart).max() <= GEOMETRY_TOLERANCE * min(first.GetSpacing()))


def _check_volume(image: sitk.Image, name: str) -> None:
    if not isinstance(image, sitk.Image):
        raise InputError(f"The {name} is a {type(image).__name__}; give a SimpleITK image.")
    check_kind(image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID(), name)
    check_axes(image, name)
