"""The forms of a volume in the Python API: a path, a SimpleITK image, or an array with its geometry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Union

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .images import read_mask, validate_image, validate_mask
from .labels import LabelMap, label_map_of, read_label_map
from .reading import ReadVolume, read_volume
from .transforms import read_transform


@dataclass(frozen=True)
class Volume:
    """A numpy array with its geometry.

    Attributes:
        array: (D, H, W) = (k, j, i); integers, booleans, float32 or float64.
        spacing: mm along (i, j, k), the order of SimpleITK.
        origin: LPS mm of the voxel (0, 0, 0).
        direction: (3, 3); its columns are the unit LPS vectors of the axes i, j, k. None is the identity.

    Examples:
        >>> fixed = wavemorph.Volume(array, spacing=(0.9, 0.9, 1.2))
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray | None = None

    def to_image(self, name: str = "volume") -> sitk.Image:
        """A SimpleITK image with a copy of the array. Raises InputError where array or geometry cannot be used."""
        array, spacing = np.asarray(self.array), np.asarray(self.spacing, float)
        direction = np.eye(3) if self.direction is None else np.asarray(self.direction, float)
        shapes = array.ndim, spacing.shape, np.shape(self.origin), direction.shape
        if shapes != (3, (3,), (3,), (3, 3)) or not np.all(spacing > 0):
            raise InputError(
                f"The {name} needs an array of three axes, three positive spacings in mm, an origin of three values "
                f"and a 3x3 direction, not an array {array.shape} with spacing {tuple(spacing.tolist())}, an origin "
                f"{np.shape(self.origin)} and a direction {direction.shape}."
            )
        kind = array.dtype.kind
        if kind not in "fiub" or (kind == "f" and array.dtype.itemsize not in (4, 8)):
            raise InputError(f"The {name} has the pixel type {array.dtype}; give integers, float32 or float64.")
        native = np.dtype(np.uint8) if kind == "b" else array.dtype.newbyteorder("=")  # SimpleITK takes no other order
        image = sitk.GetImageFromArray(array.astype(native, copy=False))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin([float(value) for value in self.origin])
        image.SetDirection(direction.ravel().tolist())
        return image


VolumeLike = Union[str, os.PathLike, sitk.Image, Volume]


def as_image(volume: VolumeLike, name: str) -> sitk.Image:
    """A volume of intensities as a checked SimpleITK image (`images.validate_image`). Raises InputError."""
    return as_volume(volume, name).image


def as_volume(volume: VolumeLike, name: str) -> ReadVolume:
    """The image of `as_image`, with the remarks of the reader where it was read from a file. Raises InputError."""
    if isinstance(volume, (str, os.PathLike)):
        read = read_volume(volume, name)
    else:
        read = ReadVolume(_in_memory(volume, name), name=name)
    validate_image(read.image, read.name)
    return read


def as_label_map(volume: VolumeLike, name: str) -> LabelMap:
    """A label map with the names that its file or image holds (`labels.label_map_of`). Raises InputError."""
    if isinstance(volume, (str, os.PathLike)):
        return read_label_map(volume, name)
    return label_map_of(_in_memory(volume, name), name)


def as_mask(volume: VolumeLike, image: sitk.Image, name: str) -> sitk.Image:
    """A mask for `image`, of 0 and 1 on its lattice (`images.validate_mask`). Raises InputError."""
    if isinstance(volume, (str, os.PathLike)):
        return read_mask(volume, image, name)
    return validate_mask(_in_memory(volume, name), image, name)


def as_transform(transform: str | os.PathLike | sitk.Transform, name: str) -> sitk.Transform:
    """A transform from a path or in memory, LPS mm. Raises InputError."""
    if isinstance(transform, (str, os.PathLike)):
        return read_transform(transform, name)
    if isinstance(transform, sitk.Transform):
        return transform
    raise InputError(f"The {name} is a {type(transform).__name__}, not a path or a SimpleITK transform.")


def _in_memory(volume: sitk.Image | Volume, name: str) -> sitk.Image:
    if isinstance(volume, Volume):
        return volume.to_image(name)
    if isinstance(volume, sitk.Image):
        return volume
    hint = "; give wavemorph.Volume(array, spacing=(x, y, z))" if isinstance(volume, np.ndarray) else ""
    raise InputError(f"The {name} is a {type(volume).__name__}, not a path, a SimpleITK image or a Volume{hint}.")
