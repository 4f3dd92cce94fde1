"""Checks that every image must pass: its kind, its axes, its voxels. Each raises an `InputError` of one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import InputError

GEOMETRY_TOLERANCE = 1e-3  # in voxels, and of a unit vector: the rounding of float32 headers


def check_kind(size: Sequence[int], components: int, pixel: int, name: str) -> None:
    """A scalar 3D volume of real numbers. Raises InputError."""
    if len(size) == 4:
        raise InputError(
            f"The {name} is 4D with {size[3]} frames of {times(size[:3])} voxels; extract one frame and give that."
        )
    if len(size) != 3:
        raise InputError(f"The {name} is {len(size)}D ({times(size)}); a 3D volume is needed.")
    if components != 1:
        raise InputError(
            f"The {name} has {components} components a voxel (a color, vector or multi-layer image); give a volume "
            "with one value a voxel."
        )
    if pixel in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(f"The {name} has complex voxels; give their magnitude.")


def check_axes(image: sitk.Image, name: str) -> None:
    """A finite geometry with axes of unit length at right angles. Raises InputError."""
    geometry = (*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection())
    if not np.all(np.isfinite(geometry)) or min(image.GetSpacing()) <= 0:
        raise InputError(
            f"The {name} has no usable geometry (origin {image.GetOrigin()}, spacing {image.GetSpacing()} mm); "
            "correct its header."
        )
    axes = np.reshape(image.GetDirection(), (3, 3))
    angles = axes.T @ axes - np.eye(3)
    if np.abs(angles).max() > GEOMETRY_TOLERANCE:
        raise InputError(
            f"The {name} has axes that are sheared or not of unit length (off by {np.abs(angles).max():.3f}); resample "
            "it onto a lattice of right angles first."
        )


def check_finite(array: np.ndarray, name: str) -> None:
    """No voxel is NaN or infinite. Raises InputError."""
    if not np.issubdtype(array.dtype, np.floating):
        return
    # plane by plane: flags for a large volume would need a quarter of its memory
    broken = array.size - sum(int(np.count_nonzero(np.isfinite(plane))) for plane in array)
    if broken:
        raise InputError(
            f"The {name} holds {broken} values that are NaN or infinite (of {array.size}); replace them, for instance "
            "by 0, and try again."
        )


def times(size: Sequence[int]) -> str:
    """A size in words, such as "18 x 20 x 22"."""
    return " x ".join(str(n) for n in size)
