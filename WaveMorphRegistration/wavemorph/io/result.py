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
from .checks import check_axes, check_finite
from .files import load_image, open_image, short_reason
from .labels import warp_label_map
from .transforms import read_transform
from .transforms.field_arrays import Field, read_field_array, write_field_array
from .volumes import VolumeLike, as_image, as_label_map
from .warping import values_at_nodes, warp_at_nodes, warp_image

VOLUMES = ("warped", "jacobian", "expected_error")  # on the fixed lattice
# keys in reports of earlier versions
_LEGACY_REPORT_KEYS = {"anatomy": "segmentation", "turned_degrees": "rotation_deg"}


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
        inverse_field: the whole inverse as one field (`fields.make_inverse_field`), likewise.
        expected_error: distance in mm that the error of the map stays below with 90 % probability, float32 on the
            lattice of the fixed image, 0 outside the subject. None without `Settings.error_map`.
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
    inverse_field: Field | None = None
    expected_error: sitk.Image | None = None
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
        first, second = self.inverse_parts()
        return sitk.CompositeTransform(
            [
                displacement_transform(second),
                displacement_transform(first),
                sitk.Transform(self.affine.GetInverse()),
            ]
        )

    def inverse_parts(self) -> tuple[sitk.Image, sitk.Image]:
        """(inverse_displacement, inverse_correction) of a map that is not linear; see `inverse`."""
        if self.inverse_displacement is None or self.inverse_correction is None:
            from ..spatial.inversion import invert_displacement_image  # imports torch

            self.inverse_displacement, self.inverse_correction = invert_displacement_image(self._deformation())
        return self.inverse_displacement, self.inverse_correction

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
        values: np.ndarray | None
        if self.is_linear:
            values = np.full(self.fixed.GetSize()[::-1], of_affine, np.float32)
        elif self.working_jacobian is None:
            raise InputError(_INCOMPLETE)
        else:
            values = values_at_nodes(self.working_jacobian, self.fixed, of_affine)
            if values is None:
                resampled = sitk.Resample(
                    self.working_jacobian, self.fixed, sitk.Transform(), sitk.sitkLinear, of_affine
                )
                values = sitk.GetArrayFromImage(resampled)
        _shorten(values)
        jacobian = sitk.GetImageFromArray(values)
        jacobian.CopyInformation(self.fixed)
        return jacobian

    def _deformation(self) -> sitk.Image:
        """The displacement of a map that has one. Raises InputError where it was not saved."""
        if self.displacement is None:
            raise InputError(_INCOMPLETE)
        return self.displacement

    def _warp(self, image: sitk.Image, fixed: sitk.Image) -> sitk.Image:
        """`warp_image` through the transform; faster where the fixed voxels are nodes of the displacement."""
        warped = None if self.is_linear else warp_at_nodes(image, fixed, self.affine, self._deformation())
        return warp_image(image, fixed, self.transform) if warped is None else warped

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
            inverse_field=None,
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
            volumes: which of "warped", "jacobian" and "expected_error" are computed and written where they exist; the
                Jacobian not where it is the same everywhere.
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
        for name in _FIELD_ARRAYS:
            if (field := getattr(self, name)) is not None:
                write_field_array(field, folder, name)
        (folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")
        if self.moving_corners is not None:
            (folder / _CORNERS_FILE).write_text(json.dumps(self.moving_corners), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Registration:
        """Read a result that `save` wrote. `fixed` and `moving` are not part of it.

        Raises:
            InputError: a file of it is missing, damaged or cut short.
        """
        folder = Path(folder)
        try:
            return cls._load(folder)
        except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise InputError(
                f'The result "{folder.name}" cannot be read ({type(error).__name__}: {short_reason(error)}); copy it '
                "again, or register again."
            ) from error

    @classmethod
    def _load(cls, folder: Path) -> Registration:
        images: dict[str, Any] = {
            name: _read_volume(path, name) if (path := folder / f"{name}.nrrd").exists() else None
            for name in (*_FIELDS, *VOLUMES)
        }
        affine = sitk.AffineTransform(read_transform(folder / "affine.tfm"))
        report = _with_current_keys(json.loads((folder / "report.json").read_text(encoding="utf-8")))
        fields: dict[str, Any] = {name: read_field_array(folder, name) for name in _FIELD_ARRAYS}
        registration = cls(affine=affine, report=report, **fields, **{name: images[name] for name in _FIELDS})
        if (folder / _CORNERS_FILE).exists():
            corners = np.array(json.loads((folder / _CORNERS_FILE).read_text(encoding="utf-8")), float)
            if corners.shape != (8, 3) or not np.all(np.isfinite(corners)):
                raise ValueError(f"{_CORNERS_FILE} holds no eight corners")
            registration._loaded_corners = [tuple(corner) for corner in corners.tolist()]
        for name in VOLUMES:  # fills the cached properties, and the expected error
            if images[name] is not None:
                registration.__dict__[name] = images[name]
        return registration


_INCOMPLETE = "This result was saved in part, and what is needed is missing; save the whole result."
_FIELDS = ("displacement", "inverse_displacement", "inverse_correction", "working_jacobian", "velocity")
_FIELD_ARRAYS = ("field", "inverse_field")
_CORNERS_FILE = "moving_corners.json"


def _read_volume(path: Path, name: str) -> sitk.Image:
    """A 3D image of a result: of vectors for a displacement or a velocity. Raises InputError or RuntimeError."""
    reader = open_image(path, f"file {path.name}")
    components = 3 if name in _FIELDS and name != "working_jacobian" else 1
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != components:
        raise ValueError(
            f"{path.name} has {reader.GetDimension()} axes and {reader.GetNumberOfComponents()} components"
        )
    image = load_image(reader, f"file {path.name}")
    check_axes(image, f"file {path.name}")
    check_finite(sitk.GetArrayViewFromImage(image), f"file {path.name}")
    return image


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


def _shorten(values: np.ndarray) -> None:
    """Round float32 values to 11 significant bits, in place; their signs and zeros stay."""
    bits = values.view(np.uint32)
    bits += np.uint32(1 << 12)
    bits &= np.uint32(0xFFFFE000)


def _with_current_keys(report: dict[str, Any]) -> dict[str, Any]:
    """The report with the keys of this version, also in the entries that are dictionaries."""
    if not isinstance(report, dict):
        raise ValueError("report.json holds no report")
    return {
        _LEGACY_REPORT_KEYS.get(key, key): _with_current_keys(value) if isinstance(value, dict) else value
        for key, value in report.items()
    }
