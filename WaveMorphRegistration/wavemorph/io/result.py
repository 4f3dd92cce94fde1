"""The result of a registration, and its form on disk. Free of torch, so that Slicer's own process can read it.

All transforms are in LPS millimeters. The deformation is a displacement in mm on the working grid with a ring of zeros
around it, so that readers that clamp outside (VTK) and readers that give zero there (ITK) agree everywhere.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .volumes import VolumeLike, as_image, as_labels

# Report keys of earlier versions
_LEGACY_REPORT_KEYS = {"anatomy": "segmentation", "turned_degrees": "rotation_deg"}


@dataclass
class Registration:
    """What `register` returns.

    affine: fixed points -> moving points, applied *after* the displacement; of `Settings.transform_type` "rigid", a
        rotation and a translation.
    displacement: float32 vector image on the working grid, LPS mm: fixed point x -> x + u(x). None where the transform
        type is rigid or affine: the affine is then the whole map.
    inverse_displacement: of the same kind, y -> y + w(y), the inverse of that map at the nodes of the lattice.
    inverse_correction: of the same kind, applied after it; corrects what the lattice of the inverse cannot resolve
        where the map compresses. Both are None until the inverse is made: by `register` with `Settings.inverse`, or
        when `inverse` is first read.
    working_jacobian: float32 on the working grid, the determinant of the whole map, affine included.
    velocity: the stationary velocity field on the working grid, LPS mm, where the map is one exponential; else None.
    report: numbers, settings, versions and warnings, JSON-ready (ARCHITECTURE.md lists its entries).
    fixed, moving: the inputs, from which `warped` and `jacobian` are made when they are first read.

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
    report: dict[str, Any] = field(default_factory=dict)
    fixed: sitk.Image | None = None
    moving: sitk.Image | None = None

    @property
    def is_linear(self) -> bool:
        """Whether the affine is the whole map."""
        return self.displacement is None

    @property
    def transform(self) -> sitk.Transform:
        """Fixed points -> moving points (the resampling direction): first the displacement, then the affine.

        A CompositeTransform, or the affine itself where it is the whole map.
        """
        if self.displacement is None:
            return sitk.AffineTransform(self.affine)
        return sitk.CompositeTransform([sitk.Transform(self.affine), displacement_transform(self.displacement)])

    @property
    def inverse(self) -> sitk.Transform:
        """Moving points -> fixed points: the inverse affine, then the inverse displacement, then its correction.

        The inverse affine alone where the affine is the whole map. Otherwise made when it is first read, which needs
        torch. It is most exact after `Settings(inverse=True)`, which also smooths the map where its inverse would be
        inexact.
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
        """The moving image on the lattice of the fixed image, by linear interpolation; see `warp_image`."""
        if self.fixed is None or self.moving is None:
            raise InputError("The fixed and the moving image are not at hand; set `fixed` and `moving` to them first.")
        return warp_image(self.moving, self.fixed, self.transform)

    @cached_property
    def jacobian(self) -> sitk.Image:
        """The Jacobian determinant on the lattice of the fixed image; that of the affine outside the working grid."""
        of_affine = float(np.linalg.det(np.reshape(self.affine.GetMatrix(), (3, 3))))
        return sitk.Resample(self.working_jacobian, self.fixed, sitk.Transform(), sitk.sitkLinear, of_affine)

    def warp(self, image: VolumeLike, *, labels: bool = False) -> sitk.Image:
        """Another volume in the moving space, such as a label map, on the lattice of the fixed image.

        image: a path, a SimpleITK image or a `Volume`. labels: nearest-neighbor interpolation for a label map instead
        of linear interpolation for intensities. Raises InputError where the volume cannot be used, or where the fixed
        image is not at hand, as after `load`.
        """
        if self.fixed is None:
            raise InputError("The fixed image is not at hand; set `fixed` to it first.")
        if labels:
            return sitk.Resample(as_labels(image, "label map"), self.fixed, self.transform, sitk.sitkNearestNeighbor, 0)
        return warp_image(as_image(image, "image"), self.fixed, self.transform)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the parts as plain files (uncompressed .nrrd, .tfm, .json) into a folder, which is made if missing.

        The Jacobian on the fixed lattice is left out where it is the same everywhere.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteTransform(self.affine, str(folder / "affine.tfm"))
        on_fixed_lattice = ("warped",) if self.is_linear else _ON_FIXED_LATTICE
        for name in (*_FIELDS, *on_fixed_lattice):
            image = getattr(self, name)
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
        (folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Registration:
        """Read what `save` wrote; `fixed` and `moving` are not part of it."""
        folder = Path(folder)
        images: dict[str, Any] = {
            name: sitk.ReadImage(str(path)) if (path := folder / f"{name}.nrrd").exists() else None
            for name in (*_FIELDS, *_ON_FIXED_LATTICE)
        }
        affine = sitk.AffineTransform(sitk.ReadTransform(str(folder / "affine.tfm")))
        report = _with_current_keys(json.loads((folder / "report.json").read_text(encoding="utf-8")))
        registration = cls(affine=affine, report=report, **{name: images[name] for name in _FIELDS})
        for name in _ON_FIXED_LATTICE:  # fills the cached properties
            if images[name] is not None:
                registration.__dict__[name] = images[name]
        return registration


_FIELDS = ("displacement", "inverse_displacement", "inverse_correction", "working_jacobian", "velocity")
_ON_FIXED_LATTICE = ("warped", "jacobian")


def warp_image(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> sitk.Image:
    """out(x) = moving(transform(x)) on the lattice of the fixed image, in the pixel type of the moving image.

    Outside the moving image it is 0, or its darkest value where that lies well below 0, as the air of a CT.
    """
    values = sitk.GetArrayViewFromImage(moving)
    darkest, brightest = float(values.min()), float(values.max())
    outside = darkest if darkest < -0.1 * (brightest - darkest) else 0.0
    return sitk.Resample(moving, fixed, transform, interpolator, outside)


def displacement_transform(image: sitk.Image) -> sitk.Transform:
    """A transform from a displacement image; the image is copied, because SimpleITK would otherwise empty it."""
    return sitk.Transform(sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64)))


def _with_current_keys(report: dict[str, Any]) -> dict[str, Any]:
    """The report with the keys of this version, also in the entries that are dictionaries."""
    return {
        _LEGACY_REPORT_KEYS.get(key, key): _with_current_keys(value) if isinstance(value, dict) else value
        for key, value in report.items()
    }
