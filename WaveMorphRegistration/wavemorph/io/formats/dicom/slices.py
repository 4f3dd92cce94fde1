"""One slice of a DICOM file: where it lies, what tells it from others, and how its voxels are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_UNIT_TOLERANCE = 0.01  # of the length of an axis and of the angle between both: headers with two decimals


@dataclass(frozen=True)
class Plane:
    """Where a slice lies, LPS mm.

    position: (3,), of the center of the first voxel. row, column: (3,), unit vectors along a row (axis i) and along a
    column (axis j). spacing: mm along (i, j).
    """

    position: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float]

    @property
    def normal(self) -> np.ndarray:
        """(3,), the unit vector across the slice; right-handed with row and column."""
        return np.cross(self.row, self.column)


@dataclass(frozen=True)
class Slice:
    """One slice of a file.

    file: it is read from. shape: (rows, columns). plane: None where the header does not say where it lies.
    series: number, description and UID of its series, by the names of `SERIES`. traits: what may tell the images of
    one series apart, name -> value. load: reads the voxels, (rows, columns), in the values of the scanner.
    order: its place among others: the number of its frame in a file of several, or its InstanceNumber.
    """

    file: Path
    shape: tuple[int, int]
    plane: Plane | None
    series: dict[str, str]
    traits: dict[str, str]
    load: Callable[[], np.ndarray] = field(compare=False)
    order: int | None = None


def plane_from(
    position: Sequence[float] | None, orientation: Sequence[float] | None, pixel_spacing: Sequence[float] | None
) -> Plane | None:
    """The plane from ImagePositionPatient, ImageOrientationPatient and PixelSpacing; None where one cannot be used."""
    if position is None or orientation is None or pixel_spacing is None:
        return None
    values = [np.asarray(part, float).ravel() for part in (position, orientation, pixel_spacing)]
    if [part.size for part in values] != [3, 6, 2] or not all(np.isfinite(part).all() for part in values):
        return None
    row, column = values[1][:3], values[1][3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > _UNIT_TOLERANCE or values[2].min() <= 0:
        return None
    row = row / lengths[0]
    column = column - (column @ row) * row
    between_rows, between_columns = values[2].tolist()
    return Plane(values[0], row, column / np.linalg.norm(column), (between_columns, between_rows))
