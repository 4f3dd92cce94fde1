"""The result of a registration, in memory and on disk. Does not import torch: Slicer's own process reads it.

All transforms are in LPS mm. The deformation is a displacement in mm on the working grid, with a border of zeros one
voxel wide: outside the grid VTK continues the edge and ITK takes zero, so that both agree.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, SettingsError
from .labels import warp_label_map
from .volumes import VolumeLike, as_image, as_label_map

VOLUMES = ("warped", "jacobian")  # on the fixed lattice
# keys in reports of earlier versions
_LEGACY_REPORT_KEYS = {"anatomy": "segmentation", "turned_degrees": "rotation_deg"}


@dataclass
class Registration:
    """The result of `register`.

    Attributes:
        affine: fixed points -> moving points, LPS mm; applied *after* the displacement. A rotation and a translation
            for the transform type "rigid".
        displacement: u on the working grid, a float32 vector image, LPS mm: fixed point x -> x + u(x). None for the
            transform types "rigid" and "affine": the affine is then the whole map.
        inverse_displacement: the inverse of that map at the nodes of the working grid, a float32 vector image, LPS mm.
            None until the inverse is computed: by `register` with `Settings.inverse`, or when `inverse` is first read.
        inverse_correction: applied after `inverse_displacement`, of the same kind; corrects what the lattice of the
            inverse cannot resolve where the map compresses.
        working_jacobian: determinant of the whole map, affine included, float32 on the working grid.
        velocity: the stationary velocity field on the working grid, LPS mm, if the map is one exponential; else None.
        report: numbers, settings, versions, warnings and notes, ready for JSON (ARCHITECTURE.md lists the entries).
        fixed: the fixed image; `warped` and `jacobian` are computed on its lattice when they are first read.
        moving: the moving image.
        field: the whole map as one displacement field (`fields.registration_field`), where it was made with the result.
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
    working_jacobian: sitk.Image
    velocity: sitk.Image | None = None
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    fixed: sitk.Image | None = None
    moving: sitk.Image | None = None
    field: sitk.Image | None = None
    _loaded_corners: list[tuple[float, ...]] | None = None

    @property
    def moving_corners(self) -> list[tuple[float, ...]] | None:
        """See the attributes."""
        return box_corners(self.moving) if self.moving is not None else self._loaded_corners

    @property
    def is_linear(self) -> bool:
        """Whether the affine is the whole map."""
        return self.displacement is None

    @property
    def transform(self) -> sitk.Transform:
        """Fixed points -> moving points, LPS mm: first the displacement, then the affine.

        A CompositeTransform, or the affine itself where it is the whole map.
        """
        if self.displacement is None:
            return sitk.AffineTransform(self.affine)
        return sitk.CompositeTransform([sitk.Transform(self.affine), displacement_transform(self.displacement)])

    @property
    def inverse(self) -> sitk.Transform:
        """Moving points -> fixed points, LPS mm: inverse affine, inverse displacement, correction.

        The inverse affine alone where the affine is the whole map. Otherwise computed when it is first read, which
        needs torch. It is most accurate after `Settings(inverse=True)`, which also smooths the map where its inverse
        would be inaccurate.
        """
        if self.displacement is None:
            return sitk.AffineTransform(self.affine.GetInverse())
        if self.inverse_displacement is None or self.inverse_correction is None:
            from ..spatial.inversion import invert_displacement_image  # imports torch

            self.inverse_displacement, self.inverse_correction = invert_displacement_image(self.displacement)
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
        return warp_image(self.moving, self.fixed, self.transform)

    @cached_property
    def jacobian(self) -> sitk.Image:
        """The Jacobian determinant on the lattice of the fixed image; outside the working grid, that of the affine.

        Rounded to within 0.05 %, so that it compresses threefold.
        """
        of_affine = float(np.linalg.det(np.reshape(self.affine.GetMatrix(), (3, 3))))
        jacobian = sitk.Resample(self.working_jacobian, self.fixed, sitk.Transform(), sitk.sitkLinear, of_affine)
        return _with_shortened_values(jacobian)

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
        return warp_image(as_image(image, "image"), self.fixed, self.transform)

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

    def save(self, folder: str | os.PathLike, volumes: Iterable[str] = VOLUMES) -> None:
        """Write the result into a folder (uncompressed .nrrd, .tfm, .json), which is created if missing.

        volumes: which of "warped" and "jacobian" are computed and written; the Jacobian not where it is the same
            everywhere.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteTransform(self.affine, str(folder / "affine.tfm"))
        on_fixed_lattice = [name for name in VOLUMES if name in volumes and (name == "warped" or not self.is_linear)]
        for name in (*_FIELDS, *on_fixed_lattice):
            image = getattr(self, name)
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
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
        registration = cls(affine=affine, report=report, **{name: images[name] for name in _FIELDS})
        if (folder / _CORNERS_FILE).exists():
            registration._loaded_corners = json.loads((folder / _CORNERS_FILE).read_text(encoding="utf-8"))
        for name in VOLUMES:  # fills the cached properties
            if images[name] is not None:
                registration.__dict__[name] = images[name]
        return registration


_SLAB_VOXELS = 2**24  # 128 MiB of float64
_FIELDS = ("displacement", "inverse_displacement", "inverse_correction", "working_jacobian", "velocity", "field")
_CORNERS_FILE = "moving_corners.json"


def warp_image(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> sitk.Image:
    """Resample the moving image on the lattice of the fixed image: out(x) = moving(transform(x)), in its pixel type.

    Integers are interpolated in floating point, rounded, and limited to the range of their type; ITK would truncate
    them. Outside the moving image the value is 0, or its minimum where that is well below 0, as for air in a CT.
    """
    values = sitk.GetArrayViewFromImage(moving)
    darkest, brightest = float(values.min()), float(values.max())
    outside = darkest if darkest < -0.1 * (brightest - darkest) else 0.0
    if not np.issubdtype(values.dtype, np.integer) or interpolator == sitk.sitkNearestNeighbor:
        return sitk.Resample(moving, fixed, transform, interpolator, outside)
    return _warp_integers(moving, fixed, transform, interpolator, outside)


def _warp_integers(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int, outside: float
) -> sitk.Image:
    """Resampled in float64, in slabs of the lattice that bound its memory; rounded and limited to the integer type."""
    dtype = sitk.GetArrayViewFromImage(moving).dtype
    limits = np.iinfo(dtype)
    # the largest 64-bit integers have no equal among floating-point numbers, and those beyond them would wrap around
    highest = limits.max if limits.bits < 64 else np.nextafter(float(limits.max), 0)
    width, height, depth = fixed.GetSize()
    planes = max(1, _SLAB_VOXELS // (width * height))
    whole = np.empty((depth, height, width), dtype)
    for first in range(0, depth, planes):
        size = (width, height, min(planes, depth - first))
        geometry = fixed.TransformIndexToPhysicalPoint((0, 0, first)), fixed.GetSpacing(), fixed.GetDirection()
        slab = sitk.Resample(moving, size, transform, interpolator, *geometry, outside, sitk.sitkFloat64)
        for plane, values in zip(whole[first:], sitk.GetArrayViewFromImage(slab)):
            plane[...] = np.clip(np.rint(values), limits.min, highest)
    warped = sitk.GetImageFromArray(whole)
    warped.CopyInformation(fixed)
    return warped


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
