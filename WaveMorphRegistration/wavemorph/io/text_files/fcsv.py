"""Landmarks in the .fcsv files of Slicer 3 and 4."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from .point_list import PointList, in_file_system, is_ras, moved_entries, point_list, position_in_file

_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]
_DEFINED = "2"  # Slicer appends the status of the position without naming its column


@dataclass(frozen=True)
class FiducialFile:
    """The content of a .fcsv file beside its coordinates: its comment lines and its rows, one for each landmark."""

    comments: list[str]
    columns: list[str]
    rows: list[list[str]]
    ras: bool


def from_fcsv(text: str, called: str) -> PointList:
    """The landmarks in the text of a .fcsv file: RAS unless its comments say otherwise. Raises InputError."""
    columns, ras, comments, entries = _COLUMNS, True, [], []
    rows: list[list[str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#"):
            comments.append(line)
            key, _, value = (part.strip() for part in line[1:].partition("="))
            if rows and key in ("CoordinateSystem", "columns"):
                raise InputError(f"Line {number} of the {called} states {key} after landmarks; it belongs before them.")
            if key == "CoordinateSystem":
                ras = is_ras(value, called)
            elif key == "columns":
                columns = [title.strip() for title in value.split(",")]
            continue
        if not line.strip():
            continue
        row = next(csv.reader([line]))
        cells = dict(zip(columns, row))
        where = f"Line {number} of the {called}"
        if not {"x", "y", "z"} <= cells.keys():
            raise InputError(f"{where} has no coordinates; the columns are {', '.join(columns[:4])}, ...")
        status = row[len(columns)] if columns == _COLUMNS and len(row) > len(columns) else _DEFINED
        values = [cells["x"], cells["y"], cells["z"]]
        defined = status.strip() in ("", _DEFINED)
        entries.append((cells.get("label", ""), position_in_file(values, where, ras) if defined else None))
        rows.append(row)
    return point_list(entries, FiducialFile(comments, columns, rows, ras))


def to_fcsv(points: PointList) -> str:
    """The text of a .fcsv file: the file that the points were read from with new coordinates, or one in LPS."""
    source = points.source if isinstance(points.source, FiducialFile) else _new_file(points)
    places = [source.columns.index(axis) for axis in "xyz"]
    out = io.StringIO(newline="")
    for line in source.comments:
        out.write(line + "\n")
    writer = csv.writer(out, lineterminator="\n")
    for row, position in zip(source.rows, moved_entries(points)):
        writer.writerow(row if position is None else _with_position(row, position, places, source.ras))
    return out.getvalue()


def _new_file(points: PointList) -> FiducialFile:
    comments = [
        "# Markups fiducial file version = 4.11",
        "# CoordinateSystem = LPS",
        f"# columns = {','.join(_COLUMNS)}",
    ]
    rows = []
    for number, (name, position) in enumerate(points.entries(), 1):
        status = _DEFINED if position is not None else "0"
        rows.append([str(number), *"0000001110", " ".join(name.split()) or str(number), "", "", status, "0"])
    return FiducialFile(comments, _COLUMNS, rows, False)


def _with_position(row: list[str], position: np.ndarray, places: list[int], ras: bool) -> list[str]:
    row = list(row)
    for place, value in zip(places, in_file_system(position, ras)):
        row[place] = f"{value:.6f}"
    return row
