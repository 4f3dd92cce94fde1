"""The result of a registration, and its form on disk. Free of torch, so that Slicer's own process can read it.

All transforms are in LPS millimetres. The deformable part lives on the working grid as displacements in mm, with a ring
of zeros around it, so that readers that clamp outside (VTK) and readers that give zero there (ITK) agree everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import SettingsError


@dataclass
class Registration:
    """What `register` returns.

    affine: fixed points -> moving points, applied *after* the displacement.
    displacement: float32 vector image on the working grid, LPS mm: fixed point x -> x + u(x).
    inverse_displacement: the same kind, y -> y + w(y): the inverse of that map at the nodes of the lattice. None, as
        the correction, where the inverse was not asked for.
    inverse_correction: the same kind, applied after it: removes what the lattice of the inverse cannot resolve where
        the map compresses, so that there and back ends within a fraction of a voxel.
    working_jacobian: float32 on the working grid: determinant of the whole fixed -> moving map, affine included.
    velocity: the stationary velocity field on the working grid (LPS mm), where the map is one exponential; else None.
    report: numbers, settings, versions and warnings, JSON-ready (ARCHITECTURE.md lists its fields).
    fixed, moving: the inputs, needed only to make `warped` and `jacobian` at their first use.
    """

    affine: sitk.AffineTransform
    displacement: sitk.Image
    inverse_displacement: sitk.Image | None
    inverse_correction: sitk.Image | None
    working_jacobian: sitk.Image
    velocity: sitk.Image | None = None
    report: dict = field(default_factory=dict)
    fixed: sitk.Image | None = None
    moving: sitk.Image | None = None

    @property
    def transform(self) -> sitk.CompositeTransform:
        """Fixed points -> moving points (the resampling direction): first the displacement, then the affine."""
        return sitk.CompositeTransform([sitk.Transform(self.affine), displacement_transform(self.displacement)])

    @property
    def inverse(self) -> sitk.CompositeTransform:
        """Moving points -> fixed points: the inverse affine, then the inverse displacement, then its correction.

        Raises SettingsError where the inverse was not asked for.
        """
        if self.inverse_displacement is None or self.inverse_correction is None:
            raise SettingsError("The inverse was not made; register with Settings(inverse=True).")
        return sitk.CompositeTransform(
            [
                displacement_transform(self.inverse_correction),
                displacement_transform(self.inverse_displacement),
                sitk.Transform(self.affine.GetInverse()),
            ]
        )

    @cached_property
    def warped(self) -> sitk.Image:
        """The moving image on the fixed lattice by `warp_image`, linear."""
        return warp_image(self.moving, self.fixed, self.transform)

    @cached_property
    def jacobian(self) -> sitk.Image:
        """The Jacobian determinant on the fixed lattice; the affine's own outside the working grid."""
        of_affine = float(np.linalg.det(np.reshape(self.affine.GetMatrix(), (3, 3))))
        return sitk.Resample(self.working_jacobian, self.fixed, sitk.Transform(), sitk.sitkLinear, of_affine)

    def save(self, folder: str | Path) -> None:
        """Write the parts as plain files (uncompressed .nrrd, .tfm, .json) into an existing folder."""
        folder = Path(folder)
        sitk.WriteTransform(self.affine, str(folder / "affine.tfm"))
        for name in (*_FIELDS, *_ON_FIXED):
            image = getattr(self, name)
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
        (folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Registration:
        """Read what `save` wrote."""
        folder = Path(folder)
        images = {
            name: sitk.ReadImage(str(path)) if (path := folder / f"{name}.nrrd").exists() else None
            for name in (*_FIELDS, *_ON_FIXED)
        }
        affine = sitk.AffineTransform(sitk.ReadTransform(str(folder / "affine.tfm")))
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        registration = cls(affine=affine, report=report, **{name: images[name] for name in _FIELDS})
        for name in _ON_FIXED:  # fills the cached properties
            registration.__dict__[name] = images[name]
        return registration


_FIELDS = ("displacement", "inverse_displacement", "inverse_correction", "working_jacobian", "velocity")
_ON_FIXED = ("warped", "jacobian")


def warp_image(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> sitk.Image:
    """out(x) = moving(transform(x)) on the fixed lattice, in the moving image's pixel type.

    Outside the moving image it is 0, or the image's darkest value where that lies well below 0, as the air of a CT.
    """
    values = sitk.GetArrayViewFromImage(moving)
    darkest, brightest = float(values.min()), float(values.max())
    outside = darkest if darkest < -0.1 * (brightest - darkest) else 0.0
    return sitk.Resample(moving, fixed, transform, interpolator, outside)


def displacement_transform(image: sitk.Image) -> sitk.Transform:
    """A transform from a displacement image; the image is copied, because SimpleITK would otherwise empty it."""
    return sitk.Transform(sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64)))
