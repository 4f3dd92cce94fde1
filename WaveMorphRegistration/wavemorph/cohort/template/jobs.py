"""What is done for one subject in a round of a template, in any process, from files and into files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ...errors import InputError
from ...io.images import read_image, read_mask
from ...io.outputs import Outputs, write_transform
from ...io.result import Registration
from ...registration.pipeline import register
from ...registration.segmentation.remembering import remembering_fixed
from ...settings import Settings
from ...spatial.coarsening import coarsen_displacement_image
from ...spatial.displacement import border_taper
from ...spatial.filters import smooth
from ...spatial.folding import remove_folds
from ...spatial.grid import WorkingGrid, array_from_tensor, tensor_from_array
from ...spatial.intensities import comparable
from ...spatial.preprocessing import foreground
from ...spatial.resampling import antialiased
from ..subjects import Subject
from .shape import displacement_at_nodes, linear_transform

REGISTRATION, DISPLACEMENT, WARPED = "registration", "displacement.npy", "warped.npy"
UPDATE = "update"  # folder of the last `shape.ShapeUpdate`
_ENERGY_SIGMA_VOXELS = 1.0  # a smoothing that removes noise, before gradients are measured
_MOST = 1.2  # of normalized intensities, so that vessels and metal do not dominate a mean


@dataclass(frozen=True)
class RegistrationJob:
    """Register a subject to the template.

    fixed: the volume file of the template. folder: of the subject, for `REGISTRATION` and `DISPLACEMENT`.
    nodes: where the map is needed.
    """

    subject: Subject
    fixed: Path
    folder: Path
    nodes: WorkingGrid
    settings: Settings

    @property
    def inputs(self) -> dict[str, Path]:
        """See `keeping.KeepableJob`."""
        return {"fixed": self.fixed, **self.subject.files}

    @property
    def outputs(self) -> tuple[Path, ...]:
        """See `keeping.KeepableJob`."""
        return self.folder / REGISTRATION, self.folder / DISPLACEMENT

    @property
    def choices(self) -> dict[str, Any]:
        """See `keeping.KeepableJob`."""
        return {"nodes": self.nodes.to_dict()}


@dataclass(frozen=True)
class WarpingJob:
    """Resample a subject on the template's lattice, through its registration after the update of the shape.

    folder: of the subject. update: folder of the update. inside: a mask file (.npy) on the lattice, within which the
    gradient energy is measured.
    """

    subject: Subject
    folder: Path
    update: Path
    lattice: WorkingGrid
    inside: Path
    settings = None  # nothing is registered

    @property
    def inputs(self) -> dict[str, Path]:
        """See `keeping.KeepableJob`."""
        map_files = {"registration": self.folder / REGISTRATION, "update": self.update}
        return {"volume": self.subject.volume, "inside": self.inside, **map_files}

    @property
    def outputs(self) -> tuple[Path, ...]:
        """See `keeping.KeepableJob`."""
        return (self.folder / WARPED,)

    @property
    def choices(self) -> dict[str, Any]:
        """See `keeping.KeepableJob`."""
        return {"lattice": self.lattice.to_dict()}


@dataclass(frozen=True)
class MapJob:
    """Write the final maps of a subject.

    lattice: of the template. store_spacing_mm: of the lattice on which the maps are stored; None for that of the
    template. to_subject, from_subject: .h5 files.
    """

    folder: Path
    update: Path
    lattice: WorkingGrid
    store_spacing_mm: float | None
    to_subject: Path
    from_subject: Path
    settings = None  # nothing is registered

    @property
    def inputs(self) -> dict[str, Path]:
        """See `keeping.KeepableJob`."""
        return {"registration": self.folder / REGISTRATION, "update": self.update}

    @property
    def outputs(self) -> tuple[Path, ...]:
        """See `keeping.KeepableJob`."""
        return self.to_subject, self.from_subject

    @property
    def choices(self) -> dict[str, Any]:
        """See `keeping.KeepableJob`."""
        return {"lattice": self.lattice.to_dict(), "store_spacing_mm": self.store_spacing_mm}


def register_subject(job: RegistrationJob) -> dict[str, Any]:
    """Register, and write the displacement at the nodes. Returns the similarity, the verdict and the spacing."""
    fixed = read_image(job.fixed, "template")
    moving = read_image(job.subject.volume, f"volume of {job.subject.name}")
    mask = None
    if job.subject.mask is not None:
        mask = read_mask(job.subject.mask, moving, f"mask of {job.subject.name}")
    with remembering_fixed():
        registration = register(fixed, moving, job.settings, moving_mask=mask)
    registration.save(job.folder / REGISTRATION, volumes=(), fields=("displacement",))
    np.save(job.folder / DISPLACEMENT, displacement_at_nodes(registration.transform, job.nodes))
    report = registration.report
    return {
        "similarity": report["similarity"]["after"],
        "verdict": report["verdict"],
        "spacing_mm": max(report["subject"]["working_spacing_mm"]),
    }


def warp_subject(job: WarpingJob) -> dict[str, Any]:
    """Write the normalized intensities of the subject on the lattice, NaN where it was not scanned.

    Its voxels are interpolated once, by cubic B-splines, through the composed map. Returns the gradient energy within
    the mask ("energy").
    """
    volume = normalized_volume(job.subject)
    volume = antialiased(volume, max(job.lattice.spacing))
    transform = updated_transform(job.folder, job.update)
    warped = job.lattice.resample(volume, transform, sitk.sitkBSpline)
    values = sitk.GetArrayFromImage(warped)
    scanned = sitk.Image(volume.GetSize(), sitk.sitkUInt8) + 1
    scanned.CopyInformation(volume)
    seen = sitk.GetArrayViewFromImage(job.lattice.resample(scanned, transform, sitk.sitkNearestNeighbor)) > 0
    energy = gradient_energy(values, np.load(job.inside) & seen, job.lattice.spacing)
    values[~seen] = np.nan
    np.save(job.folder / WARPED, values.astype(np.float16))
    return {"energy": energy}


def write_maps(job: MapJob) -> dict[str, Any]:
    """Write the map from the template to the subject, and its inverse."""
    registration = composed_registration(job.folder, job.update, job.lattice, job.store_spacing_mm)
    files = Outputs()
    files.add(job.to_subject, lambda made, path: write_transform(made.transform, path), (".h5",), "map to the subject")
    files.add(job.from_subject, lambda made, path: write_transform(made.inverse, path), (".h5",), "inverse map")
    files.write(registration)
    return {}


def normalized_volume(subject: Subject) -> sitk.Image:
    """The subject's volume as float32: its air is 0, the brightest tissue 1, and 1.2 the most."""
    image = comparable(read_image(subject.volume, f"volume of {subject.name}"))
    low, high = intensity_range(image)
    return sitk.Clamp((sitk.Cast(image, sitk.sitkFloat32) - low) / (high - low), sitk.sitkFloat32, 0.0, _MOST)


def intensity_range(image: sitk.Image) -> tuple[float, float]:
    """The 0.5th percentile of the volume and the 99.5th of its foreground.

    Not the darkest of the foreground: it may lack fluid, whose contrast to tissue a template must keep.
    """
    values = sitk.GetArrayViewFromImage(image)[::2, ::2, ::2]
    inside = sitk.GetArrayFromImage(foreground(image))[::2, ::2, ::2] > 0
    low, high = float(np.percentile(values, 0.5)), float(np.percentile(values[inside], 99.5))
    return low, max(high, low + 1e-6)


def updated_transform(folder: Path, update: Path) -> sitk.Transform:
    """The map from the updated template to a subject, LPS mm: first the inverse update, then the registration."""
    registration, shape = Registration.load(folder / REGISTRATION), Registration.load(update)
    composed = sitk.CompositeTransform([sitk.Transform(registration.transform), sitk.Transform(shape.inverse)])
    composed.FlattenTransform()
    return composed


def updated_affine(folder: Path, update: Path) -> sitk.AffineTransform:
    """The affine part of `updated_transform`."""
    registration, shape = Registration.load(folder / REGISTRATION), Registration.load(update)
    inner, outer = shape.affine.GetInverse(), registration.affine
    matrix = np.reshape(outer.GetMatrix(), (3, 3)) @ np.reshape(inner.GetMatrix(), (3, 3))
    return linear_transform(matrix, np.array(outer.TransformPoint(inner.TransformPoint((0.0, 0.0, 0.0)))))


def composed_registration(
    folder: Path, update: Path, lattice: WorkingGrid, store_spacing_mm: float | None = None
) -> Registration:
    """`updated_transform` as an affine and one displacement on `lattice`, or on a coarser one.

    Its inverse is computed when it is first read.
    """
    affine = updated_affine(folder, update)
    to_template = sitk.CompositeTransform([sitk.Transform(affine.GetInverse()), updated_transform(folder, update)])
    with torch.inference_mode():
        displacement = lattice.from_mm(to_template)
        displacement = displacement * border_taper(lattice.shape, displacement.device)
        image = lattice.to_mm(remove_folds(displacement))
    if store_spacing_mm is not None:
        image = coarsen_displacement_image(image, store_spacing_mm)
    return Registration(affine, image, None, None, None, report={"transform_type": "deformable"})


def gradient_energy(values: np.ndarray, inside: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Mean squared gradient (1/mm^2) of (D, H, W) in the mask, after a smoothing that leaves hardly any noise.

    spacing: mm along (i, j, k). Raises InputError where the mask has no voxel.
    """
    if not inside.any():
        raise InputError("The subject and the template have no voxel in common; check that they show the same region.")
    image = tensor_from_array(np.nan_to_num(values))[None, None]
    smoothed = array_from_tensor(smooth(image, _ENERGY_SIGMA_VOXELS))[0]
    total = sum(np.gradient(smoothed, side, axis=axis) ** 2 for axis, side in enumerate(spacing[::-1]))
    return float(np.mean(total[inside]))
