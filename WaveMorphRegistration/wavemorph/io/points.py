"""Read, transform and write landmarks. The other content of a landmark file is kept.

Does not import torch: Slicer's own process uses it. Positions in memory are LPS mm, whatever the file uses.

A registration's transform maps *fixed points to moving points*: it moves landmarks of the fixed image to the moving
image. For landmarks of the moving image use the registration's *inverse*.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError
from .text_files.encoding import read_text
from .text_files.fcsv import from_fcsv, to_fcsv
from .text_files.markups import from_markups, to_markups
from .text_files.point_list import PointList, point_list
from .text_files.table import from_csv, to_csv

__all__ = ["POINT_EXTENSIONS", "PointList", "point_list", "read_points", "transform_points", "write_points"]

POINT_EXTENSIONS = (".mrk.json", ".csv", ".fcsv")
_READERS = {".csv": from_csv, ".json": from_markups, ".fcsv": from_fcsv}
_WRITERS = {".csv": to_csv, ".json": to_markups, ".fcsv": to_fcsv}
_FCSV_HEADINGS = ("# Markups fiducial file", "# Fiducial List file")


def transform_points(points: np.ndarray, transform: sitk.Transform) -> np.ndarray:
    """Apply a transform to points.

    Parameters:
        points: (N, 3), LPS mm.
        transform: a registration's `transform` maps fixed points to moving points, its `inverse` the reverse.

    Returns:
        (N, 3), LPS mm.

    Raises:
        InputError: the points are not (N, 3).
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"Points must be an array (N, 3) of LPS mm, not {points.shape}.")
    return np.array([transform.TransformPoint(point) for point in points.tolist()]).reshape(-1, 3)


def read_points(path: str | os.PathLike, name: str = "point list") -> PointList:
    """Read landmarks from a CSV file or from Slicer's markups.

    CSV: a header with the columns x, y, z or l, p, s (LPS mm) or r, a, s (RAS mm), in any case and order, separated by
    comma, semicolon or tab; a column "name" or "label" and Slicer's column "defined" are optional, and other columns
    are kept. Markups: LPS unless the file says RAS; .fcsv: RAS unless the file says LPS. Landmarks without a position
    (undefined, missing or preview, empty or NaN) are in `PointList.unset`, and kept when the list is written.

    Parameters:
        path: .csv, .mrk.json, .json, or the older .fcsv; UTF-8, UTF-16 or Latin-1.
        name: what messages call it.

    Raises:
        InputError: the file cannot be read or no landmark has a position; the message gives the line where possible.
    """
    path = Path(path)
    called = f'{name} "{path.name}"'
    extension = path.suffix.lower()
    if extension not in _READERS:
        raise InputError(f'The {called} must end in .csv, .mrk.json, .json or .fcsv, not "{path.suffix}".')
    text = read_text(path, name)
    if extension == ".csv" and text.startswith(_FCSV_HEADINGS):
        extension = ".fcsv"
    try:
        points = _READERS[extension](text, called)
    except csv.Error as error:
        raise InputError(f"The {called} is no table of text ({error}); save it as CSV again.") from error
    if not len(points.positions):
        unset = f" with a position: none of its {len(points.unset)} is defined" if points.unset else ""
        raise InputError(f"The {called} holds no points{unset}.")
    return points


def write_points(points: PointList, path: str | os.PathLike) -> None:
    """Write landmarks as .csv, .mrk.json or .fcsv, in UTF-8.

    If they were read from the same format, the other content of that file and its coordinate system are kept.
    Otherwise positions are written in LPS mm. A landmark without a position stays in the list without one.

    Raises:
        OutputError: the extension is another one, or the file cannot be written.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise OutputError(f'The points "{path}" must end in one of {", ".join(POINT_EXTENSIONS)}.')
    try:
        path.write_text(writer(points), encoding="utf-8")
    except OSError as error:
        raise OutputError(f'The points "{path}" could not be written ({error.strerror}).') from error
