"""The log-Jacobian maps of a finished study, smoothed in the space of its template."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ...io.images import validate_mask
from ...io.reading import read_foreground, read_volume
from ..finished import file_of
from ..outline import subject_mask

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_VOXELS_PER_FWHM = 3  # of the lattice of the test: what a Gaussian of this width leaves is then sampled densely enough
_SMALLEST_JACOBIAN = 0.01  # below, where voxels are folded, the logarithm says nothing


@dataclass(frozen=True)
class LogJacobians:
    """The maps of all subjects at the voxels of the mask.

    values: (subjects, voxels), float32, natural logarithm of the Jacobian determinant: above 0 the subject has more
    tissue than the template. mask: uint8, on the lattice of the test. background: mean of the registered volumes.
    """

    values: np.ndarray
    mask: sitk.Image
    background: sitk.Image

    def image(self, values: np.ndarray) -> sitk.Image:
        """(voxels,) as a float32 volume, 0 outside the mask."""
        inside = sitk.GetArrayViewFromImage(self.mask) > 0
        array = np.zeros(inside.shape, np.float32)
        array[inside] = values
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(self.mask)
        return image


def read_log_jacobians(
    study: Path,
    rows: Sequence[Mapping[str, str]],
    smoothing_mm: float,
    mask: str | os.PathLike | None = None,
    progress: Callable[[str, float, str], None] | None = None,
) -> LogJacobians:
    """Read and smooth the maps of `rows` of subjects.tsv, one after the other.

    Parameters:
        study: the folder of the study.
        rows: those of subjects that are done.
        smoothing_mm: full width at half maximum of the Gaussian; 0 for none.
        mask: where to test, in the space of the template; None for where the mean of the registered volumes has tissue.
        progress: called as progress(stage, fraction, message).

    Raises:
        InputError: a map or the mask cannot be read, or the maps are on different lattices.
    """
    maps, total, lattice, first_lattice = [], None, None, None
    for number, row in enumerate(rows):
        if progress is not None:
            progress("reading", number / len(rows), row["subject"])
        jacobian, registered = (_volume(study, row, column) for column in ("jacobian", "warped"))
        if lattice is None or first_lattice is None:
            first_lattice, lattice = _lattice_of(jacobian), _coarser(jacobian, smoothing_mm / _VOXELS_PER_FWHM)
        if _lattice_of(jacobian) != first_lattice or _lattice_of(registered) != first_lattice:
            raise InputError(
                f"The volumes of {row['subject']} are on another lattice than those of {rows[0]['subject']}; register "
                "all subjects to one template."
            )
        maps.append(_log_map(jacobian, lattice, smoothing_mm))
        share = registered / _brightness(registered)
        total = share if total is None else total + share
    assert total is not None and lattice is not None
    background = total / len(rows)
    inside = _mask(mask, background, lattice)
    inside = _varying(maps, inside)
    marked = sitk.GetArrayViewFromImage(inside) > 0
    return LogJacobians(np.stack([each[marked] for each in maps]), inside, background)


def _volume(study: Path, row: Mapping[str, str], column: str) -> sitk.Image:
    path = file_of(study, row, column)
    if path is None:
        raise InputError(
            f"The study has no file {column!r} of {row['subject']} ({row.get(column)}); run it again, or leave the "
            "subject out of the design."
        )
    return sitk.Cast(read_volume(path, column).image, sitk.sitkFloat32)


def _log_map(jacobian: sitk.Image, lattice: sitk.Image, smoothing_mm: float) -> np.ndarray:
    log = sitk.Log(sitk.Maximum(jacobian, _SMALLEST_JACOBIAN))
    if smoothing_mm > 0:
        log = sitk.SmoothingRecursiveGaussian(log, smoothing_mm / FWHM_PER_SIGMA)
    return sitk.GetArrayFromImage(sitk.Resample(log, lattice, sitk.Transform(), sitk.sitkLinear))


def _mask(path: str | os.PathLike | None, background: sitk.Image, lattice: sitk.Image) -> sitk.Image:
    """On the lattice of the test."""
    if path is None:
        mask = sitk.Resample(subject_mask(background), lattice, sitk.Transform(), sitk.sitkNearestNeighbor)
        if not sitk.GetArrayViewFromImage(mask).any():
            raise InputError("The registered volumes show no tissue; give a mask.")
        return mask
    volume = read_foreground(path, "mask")
    return validate_mask(volume.image, lattice, volume.name)


def _varying(maps: Sequence[np.ndarray], mask: sitk.Image) -> sitk.Image:
    """The mask where subjects differ at all. Raises InputError where they do nowhere."""
    marked = sitk.GetArrayViewFromImage(mask) > 0
    differs = (np.maximum.reduce(maps) > np.minimum.reduce(maps)) & marked
    if not differs.any():
        raise InputError("The Jacobians of all subjects are equal, so that nothing can be tested.")
    varying = sitk.GetImageFromArray(differs.astype(np.uint8))
    varying.CopyInformation(mask)
    return varying


def _brightness(image: sitk.Image) -> float:
    return max(float(np.percentile(sitk.GetArrayViewFromImage(image), 99)), 1e-6)


def _coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """An empty lattice over the same box. Its voxels are at least as large as this, and as those of the image."""
    factors = np.maximum(spacing_mm / np.array(image.GetSpacing()), 1.0)
    size = np.maximum(np.floor(np.array(image.GetSize()) / factors), 1).astype(int)
    spacing = np.array(image.GetSize()) * np.array(image.GetSpacing()) / size
    start = (spacing / np.array(image.GetSpacing()) - 1) / 2
    lattice = sitk.Image(size.tolist(), sitk.sitkFloat32)
    lattice.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(start.tolist()))
    lattice.SetSpacing(spacing.tolist())
    lattice.SetDirection(image.GetDirection())
    return lattice


def _lattice_of(image: sitk.Image) -> tuple:
    numbers = (*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection())
    return image.GetSize(), tuple(round(number, 4) for number in numbers)
