"""The result of a registration, in memory and on disk. Does not import torch: Slicer's own process reads it.

All transforms are in LPS mm. The deformation is a displacement in mm on the working grid, with a border of zeros one
voxel wide: outside the grid VTK continues the edge and ITK takes zero, so that both agree.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, SettingsError
from .labels import warp_label_map
from .volumes import VolumeLike, as_image, as_label_map

VOLUMES = ("warped", "jacobian")  # on the fixed lattice
# keys in reports of earlier versions
_LEGACY_REPORT_KEYS = {"anatomy": "segmentation", "turned_degrees": "rotation_deg"}


class Field(NamedTuple):
    """A displacement field: vectors (D, H, W, 3), float32, LPS mm, on the voxels of the image `lattice`."""

    vectors: np.ndarray
    lattice: sitk.Image


@dataclass
class Registration:
    """The result of `register`.

    Attributes:
        affine: fixed points -> moving points, LPS mm; applied *after* the displacement. A rotation and a translation
            for the transform type "rigid".
        displacement: u on the working grid, a float32 vector image, LPS mm: fixed point x -> x + u(x). None for the
            transform types "rigid" and "affine": the affine is then the whole map. None too where it was not saved.
        inverse_displacement: the inverse of that map at the nodes of the working grid, a float32 vector image, LPS mm.
            None until the inverse is computed: by `register` with `Settings.inverse`, or when `inverse` is first read.
        inverse_correction: applied after `inverse_displacement`, of the same kind; corrects what the lattice of the
            inverse cannot resolve where the map compresses.
        working_jacobian: determinant of the whole map, affine included, float32 on the working grid. None where it was
            not saved.
        velocity: the stationary velocity field on the working grid, LPS mm, if the map is one exponential; else None.
        report: numbers, settings, versions, warnings and notes, ready for JSON (ARCHITECTURE.md lists the entries).
        fixed: the fixed image; `warped` and `jacobian` are computed on its lattice when they are first read.
        moving: the moving image.
        field: the whole map as one field (`fields.rounded_whole_field`), where it was made with the result.
        moving_corners: the eight corners of the box of the moving image and one voxel around it, LPS mm; also known
            after `load`. None where neither is.

    Examples:
        >>> result = wavemorph.register("fixed.nii.gz", "moving.nii.gz")
        >>> labels_on_fixed = result.warp("moving_labels.nii.gz", labels=True)
        >>> result.save("result")
    """

    affine: sitk.AffineTransform
    displacement: sitk.Image | None
    inverse_displacement: sitk.Image | None
    inverse_correction: sitk.Image | None
    working_jacobian: sitk.Image | None
    velocity: sitk.Image | None = None
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    fixed: sitk.Image | None = None
    moving: sitk.Image | None = None
    field: Field | None = None
    _loaded_corners: list[tuple[float, ...]] | None = None

    @property
    def moving_corners(self) -> list[tuple[float, ...]] | None:
        """See the attributes."""
        return box_corners(self.moving) if self.moving is not None else self._loaded_corners

    @property
    def is_linear(self) -> bool:
        """Whether the affine is the whole map."""
        return self.displacement is None and self.report.get("transform_type") != "deformable"

    @property
    def transform(self) -> sitk.Transform:
        """Fixed points -> moving points, LPS mm: first the displacement, then the affine.

        A CompositeTransform, or the affine itself where it is the whole map. Raises InputError where the result was
        saved without its displacement.
        """
        if self.is_linear:
            return sitk.AffineTransform(self.affine)
        return sitk.CompositeTransform([sitk.Transform(self.affine), displacement_transform(self._deformation())])

    @property
    def inverse(self) -> sitk.Transform:
        """Moving points -> fixed points, LPS mm: inverse affine, inverse displacement, correction.

        The inverse affine alone where the affine is the whole map. Otherwise computed when it is first read, which
        needs torch. It is most accurate after `Settings(inverse=True)`, which also smooths the map where its inverse
        would be inaccurate.
        """
        if self.is_linear:
            return sitk.AffineTransform(self.affine.GetInverse())
        if self.inverse_displacement is None or self.inverse_correction is None:
            from ..spatial.inversion import invert_displacement_image  # imports torch

            self.inverse_displacement, self.inverse_correction = invert_displacement_image(self._deformation())
        return sitk.CompositeTransform(
            [
                displacement_transform(self.inverse_correction),
                displacement_transform(self.inverse_displacement),
                sitk.Transform(self.affine.GetInverse()),
            ]
        )

    @cached_property
    def warped(self) -> sitk.Image:
        """The moving image on the lattice of the fixed image, by linear interpolation, in its pixel type."""
        if self.fixed is None or self.moving is None:
            raise InputError("This result does not hold its fixed and moving image; set `fixed` and `moving` first.")
        return self._warp(self.moving, self.fixed)

    @cached_property
    def jacobian(self) -> sitk.Image:
        """The Jacobian determinant on the lattice of the fixed image; outside the working grid, that of the affine.

        Rounded to within 0.05 %, so that it compresses threefold.
        """
        if self.fixed is None:
            raise InputError("This result does not hold its fixed image; set `fixed` first.")
        of_affine = float(np.linalg.det(np.reshape(self.affine.GetMatrix(), (3, 3))))
        if self.is_linear:
            jacobian = sitk.Image(self.fixed.GetSize(), sitk.sitkFloat32) + of_affine
            jacobian.CopyInformation(self.fixed)
            return _with_shortened_values(jacobian)
        if self.working_jacobian is None:
            raise InputError(_INCOMPLETE)
        jacobian = sitk.Resample(self.working_jacobian, self.fixed, sitk.Transform(), sitk.sitkLinear, of_affine)
        return _with_shortened_values(jacobian)

    def _deformation(self) -> sitk.Image:
        """The displacement of a map that has one. Raises InputError where it was not saved."""
        if self.displacement is None:
            raise InputError(_INCOMPLETE)
        return self.displacement

    def _warp(self, image: sitk.Image, fixed: sitk.Image) -> sitk.Image:
        """`warp_image` through the transform; faster where the fixed voxels are nodes of the displacement."""
        if not self.is_linear and not _is_large_integer(image):
            at_voxels = _at_voxels(self._deformation(), fixed)
            if at_voxels is not None:
                return _warp_at_nodes(image, fixed, self.affine, *at_voxels)
        return warp_image(image, fixed, self.transform)

    def warp(self, image: VolumeLike, *, labels: bool = False) -> sitk.Image:
        """Resample another volume of the moving space, such as a label map, on the lattice of the fixed image.

        Parameters:
            image: a path, a SimpleITK image or a `Volume`.
            labels: True for a label map (nearest neighbor), False for intensities (linear interpolation).

        Returns:
            A label map keeps the keys with which Slicer stores names and colors of segments; overlapping segments are
            the components of the image.

        Raises:
            InputError: the volume cannot be used, or `fixed` is None, as after `load`.
        """
        if self.fixed is None:
            raise InputError("This result does not hold the fixed image; set `fixed` first.")
        if labels:
            return warp_label_map(as_label_map(image, "label map"), self.fixed, self.transform).image()
        return self._warp(as_image(image, "image"), self.fixed)

    def stored_at(self, spacing_mm: float) -> Registration:
        """The same result with its transforms on a coarser lattice, for files of an eighth of the size at 2 mm.

        The report gets the entry "stored": the spacing, and the errors (mean, p99, max) of points of the fixed subject
        in mm. The inverse is computed again, if there is one. The result itself is returned where the map is linear or
        its lattice no finer. Needs torch.

        Raises:
            SettingsError: see `check_store_spacing`.
        """
        check_store_spacing(spacing_mm)
        if self.displacement is None or 1.5 * max(self.displacement.GetSpacing()) > spacing_mm:
            return self
        from ..spatial.coarsening import coarsen_displacement_image  # imports torch
        from ..spatial.inversion import invert_displacement_image

        displacement = coarsen_displacement_image(self.displacement, spacing_mm)
        inverse = (None, None) if self.inverse_displacement is None else invert_displacement_image(displacement)
        stored = {"spacing_mm": max(displacement.GetSpacing()), "error_mm": self._error_of(displacement)}
        return replace(
            self,
            displacement=displacement,
            inverse_displacement=inverse[0],
            inverse_correction=inverse[1],
            velocity=None,
            field=None,
            report={**self.report, "stored": stored},
        )

    def _error_of(self, displacement: sitk.Image) -> dict[str, float]:
        """How far (mm) the nodes of the subject are from where they belong, with another displacement."""
        assert self.displacement is not None
        interpolated = sitk.Resample(displacement, self.displacement, sitk.Transform(), sitk.sitkLinear)
        errors = sitk.GetArrayViewFromImage(interpolated) - sitk.GetArrayViewFromImage(self.displacement)
        lengths = np.linalg.norm(errors @ np.reshape(self.affine.GetMatrix(), (3, 3)).T, axis=-1)
        if self.fixed is not None:
            subject = sitk.OtsuThreshold(sitk.Cast(self.fixed, sitk.sitkFloat32), 0, 1)
            subject = sitk.Resample(subject, self.displacement, sitk.Transform(), sitk.sitkNearestNeighbor)
            inside = sitk.GetArrayViewFromImage(subject) > 0
            lengths = lengths[inside] if inside.any() else lengths
        return {
            "mean": float(lengths.mean()),
            "p99": float(np.percentile(lengths, 99)),
            "max": float(lengths.max()),
        }

    def save(
        self, folder: str | os.PathLike, volumes: Iterable[str] = VOLUMES, fields: Iterable[str] | None = None
    ) -> None:
        """Write the result into a folder (uncompressed .nrrd, .npy, .tfm, .json), which is created if missing.

        Parameters:
            folder: where to.
            volumes: which of "warped" and "jacobian" are computed and written; the Jacobian not where it is the same
                everywhere.
            fields: which of the attributes "displacement", "inverse_displacement", "inverse_correction",
                "working_jacobian" and "velocity" are written where they exist; by default all.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteTransform(self.affine, str(folder / "affine.tfm"))
        on_fixed_lattice = [name for name in VOLUMES if name in volumes and (name == "warped" or not self.is_linear)]
        for name in (*(_FIELDS if fields is None else fields), *on_fixed_lattice):
            image = getattr(self, name)
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
        if self.field is not None:
            write_field_array(self.field, folder)
        (folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")
        if self.moving_corners is not None:
            (folder / _CORNERS_FILE).write_text(json.dumps(self.moving_corners), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Registration:
        """Read a result that `save` wrote. `fixed` and `moving` are not part of it."""
        folder = Path(folder)
        images: dict[str, Any] = {
            name: sitk.ReadImage(str(path)) if (path := folder / f"{name}.nrrd").exists() else None
            for name in (*_FIELDS, *VOLUMES)
        }
        affine = sitk.AffineTransform(sitk.ReadTransform(str(folder / "affine.tfm")))
        report = _with_current_keys(json.loads((folder / "report.json").read_text(encoding="utf-8")))
        field = read_field_array(folder) if (folder / _FIELD_FILE).exists() else None
        registration = cls(affine=affine, report=report, field=field, **{name: images[name] for name in _FIELDS})
        if (folder / _CORNERS_FILE).exists():
            registration._loaded_corners = json.loads((folder / _CORNERS_FILE).read_text(encoding="utf-8"))
        for name in VOLUMES:  # fills the cached properties
            if images[name] is not None:
                registration.__dict__[name] = images[name]
        return registration


_SLAB_VOXELS = 2**24  # 128 MiB of float64
_NODE_SLAB_VOXELS = 2**18  # vectors of float64 that stay in the cache
_MAX_OFF_NODE = 1e-5  # voxels
_MAX_THREADS = 8  # each holds a slab
_INCOMPLETE = "This result was saved in part, and what is needed is missing; save the whole result."
_FIELDS = ("displacement", "inverse_displacement", "inverse_correction", "working_jacobian", "velocity")
_FIELD_FILE, _FIELD_LATTICE_FILE = "field.npy", "field_lattice.json"
_CORNERS_FILE = "moving_corners.json"


def warp_image(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> sitk.Image:
    """Resample the moving image on the lattice of the fixed image: out(x) = moving(transform(x)), in its pixel type.

    Integers are interpolated in floating point, rounded, and limited to the range of their type; ITK would truncate
    them. Outside the moving image the value is 0, or its minimum where that is well below 0, as for air in a CT.
    """
    outside = _value_outside(moving)
    values = sitk.GetArrayViewFromImage(moving)
    if not np.issubdtype(values.dtype, np.integer) or interpolator == sitk.sitkNearestNeighbor:
        return sitk.Resample(moving, fixed, transform, interpolator, outside)
    return _warp_integers(moving, fixed, transform, interpolator, outside)


def _warp_integers(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int, outside: float
) -> sitk.Image:
    """Resampled in float64, in slabs of the lattice that bound its memory; rounded and limited to the integer type."""
    dtype = sitk.GetArrayViewFromImage(moving).dtype
    width, height, depth = fixed.GetSize()
    planes = max(1, _SLAB_VOXELS // (width * height))
    whole = np.empty((depth, height, width), dtype)
    for first in range(0, depth, planes):
        size = (width, height, min(planes, depth - first))
        geometry = fixed.TransformIndexToPhysicalPoint((0, 0, first)), fixed.GetSpacing(), fixed.GetDirection()
        slab = sitk.Resample(moving, size, transform, interpolator, *geometry, outside, sitk.sitkFloat64)
        for plane, values in zip(whole[first:], sitk.GetArrayViewFromImage(slab)):
            plane[...] = _as_type(values, dtype)
    warped = sitk.GetImageFromArray(whole)
    warped.CopyInformation(fixed)
    return warped


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Interpolated values for a volume of `dtype`: of an integer type, rounded and limited to its range."""
    if not np.issubdtype(dtype, np.integer):
        return values
    limits = np.iinfo(dtype)
    # the largest 64-bit integers have no equal among floating-point numbers, and those beyond them would wrap around
    highest = limits.max if limits.bits < 64 else np.nextafter(float(limits.max), 0)
    return np.clip(np.rint(values), limits.min, highest)


def _value_outside(moving: sitk.Image) -> float:
    """The value outside a volume: 0, or its minimum where that is well below 0, as for air in a CT."""
    values = sitk.GetArrayViewFromImage(moving)
    darkest, brightest = float(values.min()), float(values.max())
    return darkest if darkest < -0.1 * (brightest - darkest) else 0.0


def _is_large_integer(image: sitk.Image) -> bool:
    """Whether a copy in float64, which exact rounding needs, would take much memory."""
    is_integer = np.issubdtype(sitk.GetArrayViewFromImage(image).dtype, np.integer)
    return is_integer and image.GetNumberOfPixels() > 2 * _SLAB_VOXELS


def _at_voxels(displacement: sitk.Image, fixed: sitk.Image) -> tuple[np.ndarray, np.ndarray] | None:
    """The displacement in the order of the fixed voxels, where these are nodes of its lattice; else None.

    Returns (vectors (D', H', W', 3) as a view along the fixed array axes, the place (k, j, i) in them of the first
    fixed voxel, which may be outside).
    """
    axes, fixed_axes = (
        np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing()) for image in (displacement, fixed)
    )
    steps = np.linalg.solve(axes, fixed_axes)  # one voxel along each fixed axis, in nodes
    nearest = np.rint(steps)
    size = np.array(displacement.GetSize())
    first = np.array(displacement.TransformPhysicalPointToContinuousIndex(fixed.GetOrigin()))
    off = np.abs(steps - nearest) @ (np.array(fixed.GetSize()) - 1) + np.abs(first - np.rint(first))
    is_permutation = np.array_equal(np.abs(nearest).sum(0), (1, 1, 1)) and np.array_equal(
        np.abs(nearest).sum(1), (1, 1, 1)
    )
    if not is_permutation or off.max() > _MAX_OFF_NODE:
        return None
    along = np.abs(nearest).argmax(0)  # fixed axis -> axis of the displacement
    forward = nearest[along, (0, 1, 2)] > 0
    first = np.rint(first).astype(int)[along]
    first = np.where(forward, first, size[along] - 1 - first)
    vectors = sitk.GetArrayViewFromImage(displacement).transpose(*(2 - along[::-1]), 3)
    return vectors[tuple(slice(None, None, 1 if f else -1) for f in forward[::-1])], first[::-1]


def _warp_at_nodes(
    moving: sitk.Image, fixed: sitk.Image, affine: sitk.AffineTransform, vectors: np.ndarray, first: np.ndarray
) -> sitk.Image:
    """`warp_image` through displacement and affine, where both are known at the fixed voxels: in half the time.

    vectors, first: of `_at_voxels`. Slabs of planes bound the memory, and run at the same time.
    """
    dtype, outside = sitk.GetArrayViewFromImage(moving).dtype, _value_outside(moving)
    source = sitk.Cast(moving, sitk.sitkFloat64) if np.issubdtype(dtype, np.integer) else moving
    width, height, depth = fixed.GetSize()
    planes = max(1, _NODE_SLAB_VOXELS // (width * height))
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    (j_to, i_to), (j_from, i_from) = _overlap(first[1:], (height, width), vectors.shape[1:3])
    whole = np.empty((depth, height, width), dtype)

    def warp_planes(start: int, end: int) -> None:
        corner = fixed.TransformIndexToPhysicalPoint((0, 0, start))
        lattice = sitk.Image([width, height, end - start], sitk.sitkUInt8)
        lattice.SetOrigin(corner)
        lattice.SetSpacing(fixed.GetSpacing())
        lattice.SetDirection(fixed.GetDirection())
        moved = affine_vectors(affine, lattice, np.float64)
        (k_to,), (k_from,) = _overlap(first[:1] + start, (end - start,), vectors.shape[:1])
        moved[k_to, j_to, i_to] += vectors[k_from, j_from, i_from].astype(np.float64) @ matrix.T
        field = sitk.GetImageFromArray(moved, isVector=True)
        field.CopyInformation(lattice)
        geometry = lattice.GetSize(), corner, fixed.GetSpacing(), fixed.GetDirection()
        slab = sitk.Warp(source, field, sitk.sitkLinear, *geometry, outside)
        whole[start:end] = _as_type(sitk.GetArrayViewFromImage(slab), dtype)

    in_parts(warp_planes, depth, planes)
    warped = sitk.GetImageFromArray(whole)
    warped.CopyInformation(fixed)
    return warped


def _overlap(
    first: np.ndarray, sizes: tuple[int, ...], available: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(where in arrays of `sizes`, where in those of `available`) both are, if the former begin at `first`."""
    starts = [min(max(0, -int(f)), n) for f, n in zip(first, sizes)]
    ends = [max(s, min(n, a - int(f))) for s, f, n, a in zip(starts, first, sizes, available)]
    to = tuple(slice(s, e) for s, e in zip(starts, ends))
    return to, tuple(slice(s + int(f), e + int(f)) if e > s else slice(0, 0) for s, e, f in zip(starts, ends, first))


def affine_vectors(affine: sitk.AffineTransform, lattice: sitk.Image, dtype: type) -> np.ndarray:
    """affine(x) - x in LPS mm at each voxel of `lattice`: (D, H, W, 3)."""
    size = lattice.GetSize()
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    steps = (matrix - np.eye(3)) @ (np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing()))
    start = np.subtract(affine.TransformPoint(lattice.GetOrigin()), lattice.GetOrigin())
    along_i, along_j, along_k = (np.arange(n)[:, None] * steps[:, axis] for axis, n in enumerate(size))
    plane = (start + along_j[:, None] + along_i[None, :]).astype(dtype).reshape(size[1], -1)
    vectors = np.empty((*size[::-1], 3), dtype)
    rows = vectors.reshape(size[2], size[1], -1)  # long rows, in which NumPy is fast
    for k, step in enumerate(along_k.astype(dtype)):
        np.add(plane, np.tile(step, size[0]), out=rows[k])
    return vectors


def thread_count() -> int:
    """As many threads as SimpleITK uses, but no more than memory allows."""
    return min(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), _MAX_THREADS)


def in_parts(work: Callable[[int, int], None], count: int, size: int | None = None) -> None:
    """Call work(first, last) for parts of range(count) at the same time, in `thread_count` threads.

    size: of a part; by default there is one part a thread.
    """
    threads = thread_count()
    size = size or max(1, -(-count // threads))
    starts = range(0, count, size)
    with ThreadPoolExecutor(min(threads, max(1, len(starts)))) as pool:
        for done in [pool.submit(work, start, min(start + size, count)) for start in starts]:
            done.result()


def write_field_array(field: Field, folder: Path) -> None:
    """Write a field into a folder: its vectors as .npy, its lattice as .json. Raises OSError."""
    lattice = field.lattice
    geometry = {name: list(getattr(lattice, f"Get{name}")()) for name in ("Size", "Origin", "Spacing", "Direction")}
    (folder / _FIELD_LATTICE_FILE).write_text(json.dumps(geometry), encoding="utf-8")
    np.save(folder / _FIELD_FILE, field.vectors)


def read_field_array(folder: Path) -> Field:
    """The field that `write_field_array` wrote."""
    geometry = json.loads((folder / _FIELD_LATTICE_FILE).read_text(encoding="utf-8"))
    lattice = sitk.Image(geometry.pop("Size"), sitk.sitkUInt8)
    for name, values in geometry.items():
        getattr(lattice, f"Set{name}")(values)
    return Field(np.load(folder / _FIELD_FILE), lattice)


def check_store_spacing(spacing_mm: float) -> None:
    """Check a spacing for `Registration.stored_at`. Raises SettingsError where it is not a positive number."""
    if not isinstance(spacing_mm, (int, float)) or not 0 < spacing_mm < math.inf:
        raise SettingsError(
            f"Transforms are stored at a spacing above 0 mm, not {spacing_mm} mm; choose for instance 2."
        )


def box_corners(image: sitk.Image) -> list[tuple[float, ...]]:
    """The eight corners of the box that holds an image and one voxel more on each side, LPS mm."""
    size = np.array(image.GetSize())
    return [
        image.TransformContinuousIndexToPhysicalPoint((np.array(corner) * (size + 1) - 1.0).tolist())
        for corner in np.ndindex(2, 2, 2)
    ]


def displacement_transform(image: sitk.Image) -> sitk.Transform:
    """A transform from a displacement image, LPS mm. The image is copied: SimpleITK would otherwise empty it."""
    return sitk.Transform(sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64)))


def _with_shortened_values(image: sitk.Image) -> sitk.Image:
    """A float32 image whose values are rounded to 11 significant bits; their signs and zeros stay."""
    values = sitk.GetArrayFromImage(image)
    bits = values.view(np.uint32)
    bits += np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)
    shortened = sitk.GetImageFromArray(values)
    shortened.CopyInformation(image)
    return shortened


def _with_current_keys(report: dict[str, Any]) -> dict[str, Any]:
    """The report with the keys of this version, also in the entries that are dictionaries."""
    return {
        _LEGACY_REPORT_KEYS.get(key, key): _with_current_keys(value) if isinstance(value, dict) else value
        for key, value in report.items()
    }
