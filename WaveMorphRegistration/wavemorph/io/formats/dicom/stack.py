"""Slices of one image as a volume on a regular lattice, each voxel where the header of its own slice says it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ....errors import InputError
from .grouping import SAME_DEPTH_MM, UNEVEN, DicomImage, depths
from .slices import Plane, Slice

# what rounding of headers explains, and what is not worth an interpolation
_DEPTH_TOLERANCE = 0.02  # of the distance between slices
_SHIFT_TOLERANCE = 0.1  # of a pixel
_DRIFT_TOLERANCE = 1e-3  # of the length of the stack: three decimals in the orientation
_ROUNDING_MM = 0.01
_MAX_TILT_DEG = 45.0


def volume_of(image: DicomImage, called: str, labels: bool = False) -> tuple[sitk.Image, tuple[str, ...]]:
    """(volume, remarks): the slices on a regular lattice in LPS mm.

    Slices that are shifted along their planes (gantry tilt), or not quite evenly spaced, are resampled: along their
    planes first, then across them. labels: by nearest neighbor instead of linearly.

    Raises:
        InputError: slices have no positions, some are missing or doubled, or a file cannot be read.
    """
    _refuse_without_plane(image, called)
    slices = sorted(image.slices, key=lambda one: float(_plane(image.slices[0]).normal @ _plane(one).position))
    first, depth = _plane(slices[0]), depths(slices)
    depth = depth - depth[0]
    _refuse_gaps(depth, image, called)
    step = float(depth[-1] / (len(slices) - 1))
    offsets = np.array([_plane(one).position for one in slices]) - first.position
    shifts = offsets @ np.column_stack([first.row, first.column])  # (N, 2), mm along i and j
    tolerance = _SHIFT_TOLERANCE * np.array(first.spacing) + _DRIFT_TOLERANCE * depth[-1]
    shifts = np.where(np.abs(shifts).max(axis=0) > tolerance, shifts, 0.0)
    regular = np.arange(len(slices)) * step
    uneven_mm = float(np.abs(depth - regular).max())
    planes = _voxels(slices, called)
    remarks: list[str] = []
    origin = first.position
    if shifts.any():
        remarks.append(_shift_remark(shifts, depth, uneven_mm, called))
        planes, origin = _shifted(planes, shifts, first, labels)
    if uneven_mm > _DEPTH_TOLERANCE * step + _ROUNDING_MM:
        steps = np.diff(depth)
        remarks.append(
            f"The slices of the {called} are {steps.min():.2f} to {steps.max():.2f} mm apart; they were interpolated "
            f"at even distances of {step:.2f} mm."
        )
        planes = _evenly(planes, depth, regular, labels)
    if image.left_out:
        remarks.append(_left_out(image, called))
    volume = sitk.GetImageFromArray(planes)
    volume.SetOrigin(origin.tolist())
    volume.SetSpacing([*first.spacing, step])
    volume.SetDirection(np.column_stack([first.row, first.column, first.normal]).ravel().tolist())
    return volume, tuple(remarks)


def _plane(one: Slice) -> Plane:
    assert one.plane is not None
    return one.plane


def _refuse_without_plane(image: DicomImage, called: str) -> None:
    without = [one for one in (*image.slices, *image.left_out) if one.plane is None]
    if without:
        count = len(image.slices) + len(image.left_out)
        raise InputError(
            f"The {called} has {count} DICOM slices, of which {len(without)} do not say where they lie, such as "
            f'"{without[0].file.name}" (ImagePositionPatient, ImageOrientationPatient or PixelSpacing is missing or '
            "not valid); export the series again with full headers."
        )


def _refuse_gaps(depth: np.ndarray, image: DicomImage, called: str) -> None:
    """depth: (N,), mm, ascending."""
    if len(depth) == 1:
        raise InputError(f"The {called} holds one DICOM slice only; give the folder that holds all of its series.")
    steps = np.diff(depth)
    if steps.min() > SAME_DEPTH_MM and steps.max() <= UNEVEN * steps.min():
        return
    reason = "some are missing or doubled, or spacing varies"
    if image.left_out:
        reason = f'some are missing, as of another orientation or size ("{image.left_out[0].file.name}"), or doubled'
    elif steps.min() <= SAME_DEPTH_MM:
        twice = int((steps <= SAME_DEPTH_MM).sum())
        reason = f"{twice} are at the position of another one, and nothing in their headers tells them apart"
    raise InputError(
        f"The {called} is a DICOM series with slices {steps.min():.2f} to {steps.max():.2f} mm apart: {reason}; open "
        "it in Slicer, which can regularize it, and save it as .nrrd."
    )


def _voxels(slices: Sequence[Slice], called: str) -> np.ndarray:
    """(N, rows, columns), in a type that holds the values of every slice: slopes may differ from slice to slice."""
    planes = [one.load() for one in slices]
    for one, plane in zip(slices, planes):
        if plane.shape != one.shape:
            raise InputError(
                f"The {called} has slices of {plane.shape[-1]} components a voxel (a color image), such as "
                f'"{one.file.name}"; give a series with one value a voxel.'
            )
    return np.stack(planes)


def _shift_remark(shifts: np.ndarray, depth: np.ndarray, uneven_mm: float, called: str) -> str:
    """shifts: (N, 2), mm. Raises InputError where they are too large for a tilt."""
    slope = depth @ shifts / (depth @ depth)  # mm of shift for a mm of depth
    tilt_deg = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    largest = float(np.linalg.norm(shifts, axis=1).max())
    if tilt_deg > _MAX_TILT_DEG:
        raise InputError(
            f"The {called} is a DICOM series whose slices are shifted along their own planes by up to {largest:.0f} mm "
            f"({tilt_deg:.0f} degrees from a stack); it is not one volume: open it in Slicer."
        )
    remaining = float(np.linalg.norm(shifts - np.outer(depth, slope), axis=1).max())
    if remaining < 0.5 * largest:
        return (
            f"The slices of the {called} are tilted by {tilt_deg:.1f} degrees against their stack (gantry tilt), up to "
            f"{largest:.1f} mm; each was put where its own header says, on a lattice of right angles."
        )
    return (
        f"The slices of the {called} are shifted along their planes by up to {largest:.2f} mm; each was put where its "
        "own header says."
    )


def _shifted(planes: np.ndarray, shifts: np.ndarray, first: Plane, labels: bool) -> tuple[np.ndarray, np.ndarray]:
    """(planes, origin): every slice moved along its plane onto one lattice that holds all, dark around them.

    planes: (N, rows, columns). shifts: (N, 2), mm along i and j.
    """
    pixels = shifts / np.array(first.spacing)
    low, high = np.floor(pixels.min(axis=0)).astype(int), np.ceil(pixels.max(axis=0)).astype(int)
    columns, rows = (np.array(planes.shape[:0:-1]) + high - low).tolist()
    darkest = 0.0 if labels else float(planes.min())
    interpolator = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    moved = np.empty((len(planes), rows, columns), planes.dtype)
    for number, (plane, pixel) in enumerate(zip(planes, pixels)):
        piece = sitk.GetImageFromArray(plane.astype(np.float64))
        back = sitk.TranslationTransform(2, (low - pixel).tolist())
        piece = sitk.Resample(piece, (columns, rows), back, interpolator, (0.0, 0.0), (1.0, 1.0), (1, 0, 0, 1), darkest)
        moved[number] = _in_type(sitk.GetArrayViewFromImage(piece), planes.dtype)
    origin = first.position + first.row * (low[0] * first.spacing[0]) + first.column * (low[1] * first.spacing[1])
    return moved, origin


def _evenly(planes: np.ndarray, depth: np.ndarray, regular: np.ndarray, labels: bool) -> np.ndarray:
    """Planes at the depths `regular`, between the two nearest of those at `depth` (mm, ascending)."""
    even = np.empty_like(planes)
    for number, wanted in enumerate(regular):
        below = int(np.clip(np.searchsorted(depth, wanted, side="right") - 1, 0, len(depth) - 2))
        part = float(np.clip((wanted - depth[below]) / (depth[below + 1] - depth[below]), 0, 1))
        if labels:
            even[number] = planes[below + (part > 0.5)]
        else:
            between = (1 - part) * planes[below].astype(np.float64) + part * planes[below + 1]
            even[number] = _in_type(between, planes.dtype)
    return even


def _in_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Interpolated values, rounded where the type is of integers; they stay within the range of their neighbors."""
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)


def _left_out(image: DicomImage, called: str) -> str:
    count = len(image.left_out)
    return (
        f"{count} slice{'s' if count > 1 else ''} of another orientation or size (a localizer), such as "
        f'"{image.left_out[0].file.name}", {"were" if count > 1 else "was"} left out of the {called}.'
    )
