"""The whole map as one displacement field, affine included: its lattice, its vectors, their rounding, NIfTI files.

Does not import torch: Slicer's own process uses it. A lattice is an image whose voxels are the nodes of a field; a
field is a float32 vector image, T(x) - x in LPS mm. Beyond its lattice ITK takes a field as zero, and VTK continues
its edge.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError, is_out_of_memory
from ..system.private_folders import private_folder
from .files import quiet_itk
from .result import Registration, box_corners
from .transforms.field_arrays import Field
from .transforms.rounding import Steepness, quantum_mm, round_plane, round_vectors
from .warping import affine_planes, in_parts

_MAX_GROWTH = 3.0  # voxels of a lattice that covers the other volume too, relative to one that does not
_HEADER_BYTES, _DATA_OFFSET = 348, 352
_DIMENSIONS_AT, _INTENT_AT = 42, 68  # bytes in a NIfTI-1 header
_DISPLACEMENT_VECTOR = 1006
_MIN_JACOBIAN_BEYOND_FIELD = 0.3  # at less VTK's iteration for the inverse may not converge
_MAX_INVERSE_ERROR_VOXELS = (0.02, 0.1)  # there and back, mean and 99 %, of the inverse as one field
_MAX_BEYOND = 1e-3  # part of the places where the map bends that it takes beyond the lattice of the inverse
_COMPRESSION = 6  # of zlib; higher levels take longer for a percent


def field_lattice(registration: Registration) -> sitk.Image:
    """The lattice on which one field equals the registration's transform; an image of zeros.

    Its voxels are those of the working grid, continued over the fixed image and over what the affine maps to the moving
    image, so that the map can be inverted all over the moving image. The affine is applied after the displacement, so
    linear interpolation between these voxels is exact.
    """
    grid = on_working_grid(registration)
    fixed = registration.fixed if registration.fixed is not None else registration.jacobian
    to_fixed = registration.affine.GetInverse()
    moving = registration.moving_corners
    reached = [] if moving is None else [to_fixed.TransformPoint(corner) for corner in moving]
    return extended_lattice(grid, box_corners(fixed), reached)


def inverse_lattice(registration: Registration) -> sitk.Image:
    """The lattice of the inverse field: the axes of the moving image, the spacing of the working grid.

    It covers the moving image and what the affine maps the fixed one and the working grid to. Raises OutputError where
    the result does not hold the moving image.
    """
    moving = registration.moving
    if moving is None:
        raise OutputError("The inverse field needs the moving volume, which this result does not hold; write .h5.")
    start = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    start.SetOrigin(moving.TransformContinuousIndexToPhysicalPoint((np.array(moving.GetSize()) / 2 - 0.5).tolist()))
    grid = on_working_grid(registration)
    start.SetSpacing(grid.GetSpacing())
    start.SetDirection(moving.GetDirection())
    fixed = registration.fixed if registration.fixed is not None else registration.jacobian
    starts = [*box_corners(fixed), *box_corners(grid)]
    reached = [registration.affine.TransformPoint(corner) for corner in starts]
    return extended_lattice(start, box_corners(moving), reached)


def extended_lattice(
    lattice: sitk.Image, points: Iterable[Sequence[float]], reached: Iterable[Sequence[float]]
) -> sitk.Image:
    """The lattice continued until it covers `points`, and `reached` as far as this does not make it too large.

    lattice: an image; the result is an image of zeros. points, reached: LPS mm.
    """
    needed = _extent(lattice, points)
    wanted = [*needed, *_extent(lattice, reached)] if reached else needed
    first, last = np.min(needed, axis=0), np.max(needed, axis=0)
    beyond = np.minimum(np.min(wanted, axis=0) - first, 0), np.maximum(np.max(wanted, axis=0) - last, 0)
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        start, end = first + np.ceil(share * beyond[0]), last + np.floor(share * beyond[1])
        if np.prod(end - start + 1) <= _MAX_GROWTH * np.prod(last - first + 1):
            break
    extended = sitk.Image((end - start + 1).astype(int).tolist(), sitk.sitkUInt8)
    extended.SetOrigin(lattice.TransformContinuousIndexToPhysicalPoint(start.tolist()))
    extended.SetSpacing(lattice.GetSpacing())
    extended.SetDirection(lattice.GetDirection())
    return extended


def on_working_grid(registration: Registration) -> sitk.Image:
    """An image whose voxels are those of the working grid. Raises InputError where it was not saved."""
    grid = registration.displacement if registration.displacement is not None else registration.working_jacobian
    if grid is None:
        raise InputError("This result was saved in part, without its working grid; save the whole result.")
    return grid


def flattened_field(transform: sitk.Transform, lattice: sitk.Image) -> sitk.Image:
    """Any transform as one field: transform(x) - x at each voxel of `lattice`, float32, LPS mm."""
    with quiet_itk():
        return sitk.TransformToDisplacementField(
            transform,
            sitk.sitkVectorFloat32,
            lattice.GetSize(),
            lattice.GetOrigin(),
            lattice.GetSpacing(),
            lattice.GetDirection(),
        )


def whole_field(registration: Registration, lattice: sitk.Image) -> np.ndarray:
    """The field of a registration on `field_lattice`: vectors (D, H, W, 3), float32, LPS mm.

    As `flattened_field`, in a third of the time: the nodes are those of the displacement, and elsewhere it is affine.
    """
    vectors = np.empty((*lattice.GetSize()[::-1], 3), np.float32)

    def make_planes(first: int, last: int) -> None:
        make_plane = _plane_maker(registration, lattice)
        for k in range(first, last):
            make_plane(k, vectors[k])

    in_parts(make_planes, len(vectors))
    return vectors


def registration_field(registration: Registration) -> sitk.Image:
    """`rounded_whole_field` as an image."""
    return field_image(*rounded_whole_field(registration))


def rounded_whole_field(registration: Registration) -> Field:
    """The whole map of a registration as one field on `field_lattice`, rounded where it is not linear."""
    if registration.field is not None:
        return registration.field
    lattice = field_lattice(registration)
    if registration.is_linear:
        return Field(whole_field(registration, lattice), lattice)
    return Field(_rounded_planes(registration, lattice), lattice)


def _rounded_planes(registration: Registration, lattice: sitk.Image) -> np.ndarray:
    """`whole_field`, rounded as by `round_vectors`; each plane is made and rounded while it is in the cache."""
    deformation, (k_from, j, i) = _nodes_of_displacement(registration, lattice)
    depth, height, width = deformation.shape[:3]
    vectors = np.empty((*lattice.GetSize()[::-1], 3), np.float32)
    quantum, steepness = quantum_mm(lattice.GetSpacing()), Steepness.of_deformation(lattice, width)

    def make_planes(first: int, last: int) -> None:
        make_plane = _plane_maker(registration, lattice)
        deformed = range(max(first, k_from), min(last, k_from + depth))
        masks = steepness.masks(deformation.__getitem__, (deformed.start - k_from, deformed.stop - k_from), depth)
        nowhere = np.zeros((height, 3 * width), bool)
        memory = np.empty(nowhere.shape, np.float32)
        for k in range(first, last):
            make_plane(k, vectors[k])
            rows = vectors[k].reshape(vectors.shape[1], -1)
            part = rows[j : j + height, 3 * i : 3 * (i + width)]
            round_plane(rows, quantum, part, next(masks) if k in deformed else nowhere, memory)

    in_parts(make_planes, len(vectors))
    return vectors


def _plane_maker(registration: Registration, lattice: sitk.Image) -> Callable[[int, np.ndarray], None]:
    """A function, for one thread, that writes plane k of `whole_field` into an array (H, W, 3)."""
    write_affine = affine_planes(registration.affine, lattice)
    if registration.displacement is None:
        return write_affine
    deformation, (k_from, j, i) = _nodes_of_displacement(registration, lattice)
    depth, height, width = deformation.shape[:3]
    matrix = np.reshape(registration.affine.GetMatrix(), (3, 3)).T.astype(np.float32)
    moved = np.empty((height, width, 3), np.float32)

    def make_plane(k: int, plane: np.ndarray) -> None:
        write_affine(k, plane)
        if k_from <= k < k_from + depth:
            np.matmul(deformation[k - k_from].reshape(-1, 3), matrix, out=moved.reshape(-1, 3))
            rows = plane.reshape(len(plane), -1)[j : j + height, 3 * i : 3 * (i + width)]
            rows += moved.reshape(height, -1)

    return make_plane


def _nodes_of_displacement(registration: Registration, lattice: sitk.Image) -> tuple[np.ndarray, tuple[int, ...]]:
    """(vectors of the displacement, where (k, j, i) on the lattice they begin)."""
    assert registration.displacement is not None
    start = lattice.TransformPhysicalPointToIndex(registration.displacement.GetOrigin())
    return sitk.GetArrayViewFromImage(registration.displacement), start[::-1]


def make_inverse_field(registration: Registration) -> None:
    """Set `Registration.inverse_field`, where one field can stand for both parts and VTK could invert it.

    Needs torch.
    """
    if registration.is_linear or registration.moving is None:
        return
    if _is_one_to_one_beyond(registration.moving, registration.affine.GetInverse()):
        registration.inverse_field = rounded_inverse_field(registration)


def rounded_inverse_field(registration: Registration) -> Field | None:
    """The whole inverse of a map that is not linear as one field on `inverse_lattice`, fitted and rounded.

    None where it would be less exact than the two-part inverse, and than is usual; also where a lattice that holds the
    deformation would be too large, the displacement was not saved, or memory runs out. Needs torch. Raises OutputError
    where the result does not hold the moving image.
    """
    if registration.inverse_field is not None or registration.displacement is None:
        return registration.inverse_field
    lattice = inverse_lattice(registration)
    parts = registration.inverse_parts()
    from ..spatial.inverse_field import fit_inverse_field  # imports torch

    try:
        fitted = fit_inverse_field(registration.displacement, parts, registration.affine, lattice)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    usual = np.multiply(_MAX_INVERSE_ERROR_VOXELS, min(lattice.GetSpacing()))
    if fitted.beyond > _MAX_BEYOND or np.any(np.array(fitted.error) > np.maximum(usual, fitted.two_part_error)):
        return None
    affine = sitk.AffineTransform(registration.affine.GetInverse())
    write_affine = affine_planes(affine, lattice)
    of_affine = np.empty(fitted.vectors.shape[1:], np.float32)
    for k, plane in enumerate(fitted.vectors):
        write_affine(k, of_affine)
        plane += of_affine
    round_vectors(fitted.vectors, lattice, np.reshape(affine.GetMatrix(), (3, 3)))
    return Field(fitted.vectors, lattice)


def is_invertible_beyond_field(registration: Registration) -> bool:
    """Whether the whole map as one field is one-to-one where VTK continues the edge of its lattice."""
    return _is_one_to_one_beyond(on_working_grid(registration), registration.affine)


def _is_one_to_one_beyond(lattice: sitk.Image, affine: sitk.AffineTransform) -> bool:
    """Whether a map that is affine at the edge of a lattice is one-to-one where VTK continues the edge.

    Beyond some faces of the lattice, displacements change along the other axes only: the Jacobian is then the minor of
    the affine for these axes. A map is one-to-one where all of these are positive (Gale and Nikaido, 1965).
    """
    axes = np.reshape(lattice.GetDirection(), (3, 3))
    matrix = axes.T @ np.reshape(affine.GetMatrix(), (3, 3)) @ axes
    axes_kept = [kept for count in (1, 2, 3) for kept in itertools.combinations(range(3), count)]
    return min(np.linalg.det(matrix[np.ix_(kept, kept)]) for kept in axes_kept) > _MIN_JACOBIAN_BEYOND_FIELD


def field_image(vectors: np.ndarray, lattice: sitk.Image) -> sitk.Image:
    """Vectors (D, H, W, 3) on a lattice as an image."""
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.CopyInformation(lattice)
    return image


def rounded_field(field: sitk.Image) -> sitk.Image:
    """`round_vectors` of a field, as another image."""
    vectors = sitk.GetArrayFromImage(field).astype(np.float32, copy=False)
    round_vectors(vectors, field)
    return field_image(vectors, field)


def write_nifti_field(field: sitk.Image, path: str | os.PathLike) -> None:
    """Write a field as .nii or .nii.gz with the intent "displacement vector" (1006), as Slicer expects it.

    The file holds vectors of RAS mm, as NIfTI defines them. ITK 5.4 and later (Slicer, SimpleITK, ANTs) converts
    them to LPS mm when it reads this intent; SimpleITK cannot write it. Raises OSError.
    """
    vectors, header = sitk.GetArrayViewFromImage(field), _nifti_header(field, Path(path).parent)
    with _opened(Path(path)) as stream:
        stream.write(header)
        for component, sign in enumerate((-1, -1, 1)):  # NIfTI stores one component after the other
            values = vectors[..., component] * np.float32(sign)
            values += np.float32(0)  # -0 is stored as 0
            stream.write(values.astype("<f4", copy=False).tobytes())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, compressed where it is .gz; then its header holds neither a name nor the time."""
    with path.open("wb") as stream:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as compressed:
                yield cast(BinaryIO, compressed)
        else:
            yield stream


def _nifti_header(field: sitk.Image, folder: Path) -> bytes:
    """ITK's header for the geometry of the field, with the field's size and intent; made by a file in `folder`."""
    small = sitk.Image([1, 1, 1], sitk.sitkVectorFloat32, 3)
    for setter, value in (("SetOrigin", "GetOrigin"), ("SetSpacing", "GetSpacing"), ("SetDirection", "GetDirection")):
        getattr(small, setter)(getattr(field, value)())
    with private_folder(folder) as private, quiet_itk():
        path = private / "header.nii"
        sitk.WriteImage(small, str(path))
        header = bytearray(path.read_bytes()[:_DATA_OFFSET])
    if len(header) < _DATA_OFFSET:  # ITK reports no error when the disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    struct.pack_into("<3h", header, _DIMENSIONS_AT, *field.GetSize())
    struct.pack_into("<h", header, _INTENT_AT, _DISPLACEMENT_VECTOR)
    return bytes(header)


def _extent(lattice: sitk.Image, points: Iterable[Sequence[float]]) -> list[np.ndarray]:
    """The first and the last index (i, j, k) that cover the lattice and the points."""
    indices = [lattice.TransformPhysicalPointToContinuousIndex(point) for point in points]
    first = np.minimum(np.floor(np.min(indices, axis=0)), 0)
    last = np.maximum(np.ceil(np.max(indices, axis=0)), np.array(lattice.GetSize()) - 1)
    return [first, last]
