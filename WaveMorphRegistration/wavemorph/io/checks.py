"""Checks of an image: its kind, axes, voxels and physical size. Each raises an `InputError` of one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from ..errors import InputError

GEOMETRY_TOLERANCE = 1e-3  # in voxels, and of a unit vector: the rounding of float32 headers
# Physical sizes that no scan has: a spacing that is wrong, or not in mm
_MAX_SIDE_MM = 3000.0  # the longest scans, of a whole body, are 2 m long
_MAX_BORE_MM = 1000.0  # two sides of a scan are across the bore of the scanner, 0.85 m at most
_MIN_SIDE_MM = 1.0
_MIN_SPACING_MM = 0.005  # finer than optical sections; a head in meters has 0.001
_MAX_RATIO = 20.0  # of the longest sides of a pair: no part of a subject is registered to one so much larger
_UNUSUAL_RATIO = 3.0
_MAX_ELONGATION = 4.0  # a scan of the legs is 3.3 times as long as it is wide


class Lattice(Protocol):
    """Size and spacing along (i, j, k): a SimpleITK image, or what knows them without its voxels."""

    def GetSize(self) -> Sequence[int]: ...

    def GetSpacing(self) -> Sequence[float]: ...


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


def check_size(image: sitk.Image, name: str) -> None:
    """Raises InputError where a side of the volume is longer than any scan."""
    longest = float(sides_mm(image).max())
    if longest > _MAX_SIDE_MM:
        raise InputError(
            f"The {name} is {longest / 1000:.3g} m long, longer than any scan (its spacing is {_spacing(image)} mm); "
            "its spacing is not in mm: correct it, or the units in the header."
        )


def size_warnings(
    fixed: Lattice, moving: Lattice, names: tuple[str, str] = ("fixed image", "moving image")
) -> tuple[str, ...]:
    """Sentences on sizes of a pair that a user must check; none where they are plausible.

    names: what messages call both.

    Raises:
        InputError: one volume is so much larger than the other that its spacing must be wrong.
    """
    warnings = []
    for image, name in zip((fixed, moving), names):
        sides = sides_mm(image)
        if np.median(sides) > _MAX_BORE_MM:
            warnings.append(
                f"The {name} is {_sides(sides)} mm large, more than a scanner holds; if this is not so, its spacing is "
                "not in mm: correct it, or the units in the header."
            )
        if sides.max() < _MIN_SIDE_MM and min(image.GetSpacing()) < _MIN_SPACING_MM:
            warnings.append(
                f"The {name} is {_sides(sides)} mm large (its spacing is {_spacing(image)} mm); if this is not so, its "
                "spacing is in meters: correct it, or the units in the header."
            )
    first, second = sides_mm(fixed), sides_mm(moving)
    if _ratio(first.max(), second.max()) > _MAX_RATIO:
        raise InputError(
            f"The longest side of the {names[0]} is {first.max():.4g} mm, that of the {names[1]} {second.max():.4g} "
            "mm; the spacing of one of them is wrong: correct it (in Slicer, in the module Volumes), or the units in "
            "its header."
        )
    if _differ_in_scale(first, second):
        warnings.append(
            f"The {names[0]} is {_sides(first)} mm large and the {names[1]} {_sides(second)} mm; if both show the same "
            "part of a body, the spacing of one of them is wrong."
        )
    return tuple(warnings)


def _differ_in_scale(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether sides (mm) differ as after a wrong spacing, not as a slab or a long scan differs from a whole one.

    A slab is short and a whole body long in one direction, so that the middle one of the sides is compared. Where only
    the distance of the slices is wrong, the scan becomes longer than any is.
    """
    if _ratio(np.median(first), np.median(second)) > _UNUSUAL_RATIO:
        return True
    longer = max(first, second, key=np.max)
    return _ratio(first.max(), second.max()) > _UNUSUAL_RATIO and longer.max() > _MAX_ELONGATION * np.median(longer)


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def sides_mm(image: Lattice) -> np.ndarray:
    """(3,), the sides of the volume in mm along (i, j, k)."""
    return np.multiply(image.GetSize(), image.GetSpacing())


def _sides(sides: np.ndarray) -> str:
    return " x ".join(f"{side:.4g}" for side in sides)


def _spacing(image: Lattice) -> str:
    return " x ".join(f"{value:.3g}" for value in image.GetSpacing())


def times(size: Sequence[int]) -> str:
    """A size in words, such as "18 x 20 x 22"."""
    return " x ".join(str(n) for n in size)
