"""The result of a registration, and its form on disk. Free of torch, so that Slicer's own process can read it.

All transforms are in LPS millimetres. The deformable part lives on the working grid as displacements in mm, with a ring
of zeros around it, so that readers that clamp outside (VTK) and readers that give zero there (ITK) agree everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk


@dataclass
class Registration:
    """What `register` returns.

    affine: fixed points -> moving points, applied *after* the displacement.
    displacement: float32 vector image on the working grid, LPS mm: fixed point x -> x + u(x).
    inverse_displacement: the same lattice, y -> y + w(y), the inverse of the map above.
    warped: the moving image on the fixed lattice, in the moving image's pixel type.
    jacobian: float32, on the fixed lattice: determinant of the whole fixed -> moving map, affine included.
    velocity: the stationary velocity field on the working grid (LPS mm), where the map is one exponential; else None.
    report: numbers, settings, versions and warnings, JSON-ready (see ARCHITECTURE.md for its fields).
    """

    affine: sitk.AffineTransform
    displacement: sitk.Image
    inverse_displacement: sitk.Image
    warped: sitk.Image
    jacobian: sitk.Image
    velocity: sitk.Image | None = None
    report: dict = field(default_factory=dict)

    @property
    def transform(self) -> sitk.CompositeTransform:
        """Fixed points -> moving points (the resampling direction): first the displacement, then the affine."""
        return sitk.CompositeTransform([sitk.Transform(self.affine), displacement_transform(self.displacement)])

    @property
    def inverse(self) -> sitk.CompositeTransform:
        """Moving points -> fixed points: first the inverse affine, then the inverse displacement."""
        affine = sitk.Transform(self.affine.GetInverse())
        return sitk.CompositeTransform([displacement_transform(self.inverse_displacement), affine])

    def save(self, folder: str | Path) -> None:
        """Write the parts as plain files (uncompressed .nrrd, .tfm, .json) into an existing folder."""
        folder = Path(folder)
        sitk.WriteTransform(self.affine, str(folder / "affine.tfm"))
        for name in _IMAGES:
            image = getattr(self, name)
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
        (folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Registration:
        """Read what `save` wrote."""
        folder = Path(folder)
        images = {
            name: sitk.ReadImage(str(path)) if (path := folder / f"{name}.nrrd").exists() else None for name in _IMAGES
        }
        affine = sitk.AffineTransform(sitk.ReadTransform(str(folder / "affine.tfm")))
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return cls(affine=affine, report=report, **images)


_IMAGES = ("displacement", "inverse_displacement", "warped", "jacobian", "velocity")


def displacement_transform(image: sitk.Image) -> sitk.Transform:
    """A transform from a displacement image; the image is copied, because SimpleITK would otherwise empty it."""
    return sitk.Transform(sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64)))
