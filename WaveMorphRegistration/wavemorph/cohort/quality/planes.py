"""Three planes through the fixed volume, side by side: the frame of all pictures of a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

WIDTH = 640  # pixels of three planes side by side: sharp at twice the resolution of a usual screen
_GAP = 4  # pixels between two planes
_MARGIN = 0.04  # around the subject, relative to its extent
# where the planes lie in the box around the subject: the sagittal one beside the midline, which shows little in a head
_SAGITTAL, _CORONAL, _AXIAL = 0.4, 0.5, 0.5


@dataclass(frozen=True)
class Planes:
    """Three lattices of one slice each, in LPS mm: axial, coronal and sagittal along the axes of the fixed volume.

    Right is on the left in the first two, anterior on the left in the third, and superior is up. Each pixel has the
    same size in mm.
    """

    lattices: tuple[sitk.Image, sitk.Image, sitk.Image]

    def montage(self, image: sitk.Image, outside: float = 0.0, finer: int = 1) -> np.ndarray:
        """The planes of an image on any lattice, side by side: (rows, columns), float32. finer: pixels for one."""
        slices = [self._slice(image, lattice, outside, finer) for lattice in self.lattices]
        rows = max(len(each) for each in slices)
        padded = []
        for each in slices:
            above = (rows - len(each)) // 2
            below = rows - len(each) - above
            padded.append(np.pad(each, ((above, below), (0, _GAP * finer)), constant_values=outside))
        return np.concatenate(padded, axis=1)[:, : -_GAP * finer]

    @staticmethod
    def _slice(image: sitk.Image, lattice: sitk.Image, outside: float, finer: int) -> np.ndarray:
        if finer > 1:
            lattice = sitk.Expand(lattice, [finer, finer, 1])
        sampled = sitk.Resample(image, lattice, sitk.Transform(), sitk.sitkLinear, outside, sitk.sitkFloat32)
        return sitk.GetArrayFromImage(sampled)[0]


def planes_through(fixed: sitk.Image, inside: sitk.Image) -> Planes:
    """The planes for a fixed volume. inside: 1 where the subject is, on its lattice; all of it where this is empty."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    oriented = sitk.DICOMOrient(sitk.Cast(inside, sitk.sitkUInt8), "LPS")
    statistics.Execute(oriented)
    box = statistics.GetBoundingBox(1) if statistics.HasLabel(1) else (0, 0, 0, *oriented.GetSize())
    size = np.array(box[3:]) * (1 + 2 * _MARGIN)
    first = np.array(box[:3]) - _MARGIN * np.array(box[3:]) - 0.5
    extent = size * np.array(oriented.GetSpacing())
    pixel = (2 * extent[0] + extent[1]) / (WIDTH - 2 * _GAP)
    axes = np.reshape(oriented.GetDirection(), (3, 3)).T

    def lattice(across: np.ndarray, down: np.ndarray, through: dict[int, float], corner: np.ndarray) -> sitk.Image:
        """A slice from a corner, given as parts of the box; `through` fixes the coordinate of its plane."""
        parts = corner.copy()
        for axis, part in through.items():
            parts[axis] = part
        start = oriented.TransformContinuousIndexToPhysicalPoint((first + parts * size).tolist())
        counts = [max(1, round(abs(float(step @ axes.T @ extent)) / pixel)) for step in (across, down)]
        image = sitk.Image([*counts, 1], sitk.sitkUInt8)
        image.SetOrigin((np.array(start) + (across + down) * pixel / 2).tolist())
        image.SetSpacing([pixel] * 3)
        image.SetDirection(np.stack([across, down, np.cross(across, down)], axis=1).ravel().tolist())
        return image

    left, posterior, superior = axes
    top = np.array([0.0, 0.0, 1.0])
    return Planes(
        (
            lattice(left, posterior, {2: _AXIAL}, np.zeros(3)),
            lattice(left, -superior, {1: _CORONAL}, top),
            lattice(posterior, -superior, {0: _SAGITTAL}, top),
        )
    )
