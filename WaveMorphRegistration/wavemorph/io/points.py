"""Read, transform and write landmarks. The other content of a landmark file is kept.

Does not import torch: Slicer's own process uses it. Positions in memory are LPS mm, whatever the file uses.

A registration's transform maps *fixed points to moving points*: it moves landmarks of the fixed image to the moving
image. For landmarks of the moving image use the registration's *inverse*.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError

POINT_EXTENSIONS = (".mrk.json", ".csv")
_FLIP = np.array([-1.0, -1.0, 1.0])  # LPS <-> RAS
_POINT_MARKUPS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


@dataclass(frozen=True)
class PointList:
    """Landmarks, and the file that they were read from.

    Attributes:
        positions: (N, 3) float64, LPS mm.
        names: N texts; "" where the file gives no name.
        source: the other content of the file, which `write_points` keeps if the format stays the same.
    """

    positions: np.ndarray
    names: list[str]
    source: Any = field(default=None, repr=False)

    def moved_to(self, positions: np.ndarray) -> PointList:
        """The same list with new positions, (N, 3) LPS mm. Raises InputError where their number differs."""
        positions = np.asarray(positions, float)
        if positions.shape != self.positions.shape:
            raise InputError(f"{len(self.positions)} points cannot be moved to {len(positions)} positions.")
        return PointList(positions, self.names, self.source)


@dataclass(frozen=True)
class _Table:
    """A CSV file: all its columns, and which of them hold the three coordinates."""

    header: list[str]
    rows: list[list[str]]
    columns: tuple[int, int, int]
    ras: bool


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

    CSV: a header with the columns x, y, z (LPS mm) or r, a, s (RAS mm), in any case and order, separated by comma,
    semicolon or tab; a column "name" or "label" is optional, and other columns are kept. Markups: LPS unless the file
    says RAS; points without a defined position are left out here, and kept when the list is written.

    Parameters:
        path: .csv, .mrk.json, .json, or the older .fcsv.
        name: what messages call it.

    Raises:
        InputError: the file cannot be read or has no points; the message gives the line where possible.
    """
    path = Path(path)
    called = f'{name} "{path.name}"'
    extension = _extension(path)
    if extension not in (".csv", ".json", ".fcsv"):
        raise InputError(f'The {called} must end in .csv, .mrk.json, .json or .fcsv, not "{path.suffix}".')
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f'The {name} "{path}" does not exist; check the path.') from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The {called} cannot be read as text ({error}).") from error
    points = {".csv": _from_csv, ".json": _from_markups, ".fcsv": _from_fcsv}[extension](text, called)
    if not len(points.positions):
        raise InputError(f"The {called} holds no points.")
    return points


def write_points(points: PointList, path: str | os.PathLike) -> None:
    """Write landmarks as .csv or .mrk.json.

    If they were read from the same format, the other content of that file and its coordinate system are kept.
    Otherwise positions are written in LPS mm.

    Raises:
        OutputError: the extension is another one, or the file cannot be written.
    """
    path = Path(path)
    extension = _extension(path)
    if extension == ".csv":
        text = _to_csv(points)
    elif extension == ".json":
        text = _to_markups(points)
    else:
        raise OutputError(f'The points "{path}" must end in one of {", ".join(POINT_EXTENSIONS)}.')
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f'The points "{path}" could not be written ({error.strerror}).') from error


def _extension(path: Path) -> str:
    return path.suffix.lower()


def _from_csv(text: str, called: str) -> PointList:
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if start is None:
        raise InputError(f"The {called} is empty; it needs a header x,y,z (LPS mm) or r,a,s (RAS mm).")
    delimiter = next((mark for mark in ",;\t" if mark in lines[start]), ",")
    reader = csv.reader(io.StringIO("\n".join(lines[start:]), newline=""), delimiter=delimiter)
    header = [title.strip() for title in next(reader)]
    titles = [title.lower() for title in header]
    lps, ras = (all(title in titles for title in axes) for axes in ("xyz", "ras"))
    if lps == ras:
        found = "both" if lps else f'"{lines[start][:60]}"'
        raise InputError(
            f"Line {start + 1} of the {called} must name the columns x,y,z (LPS mm) or r,a,s (RAS mm), not {found}."
        )
    first, second, third = (titles.index(title) for title in ("ras" if ras else "xyz"))
    columns = (first, second, third)
    named = next((titles.index(title) for title in ("name", "label") if title in titles), None)
    rows, positions = [], []
    for row in reader:
        if not any(cell.strip() for cell in row) or row[0].startswith("#"):
            continue
        where = f"Line {start + reader.line_num} of the {called}"
        if len(row) <= max(columns):
            raise InputError(f"{where} has {len(row)} columns; the header names {len(header)}.")
        positions.append(_position([row[column] for column in columns], where, ras))
        rows.append(row)
    names = [row[named].strip() if named is not None and named < len(row) else "" for row in rows]
    return PointList(_stacked(positions), names, _Table(header, rows, columns, ras))


def _to_csv(points: PointList) -> str:
    table = points.source if isinstance(points.source, _Table) else None
    if table is None:
        table = _Table(["name", "x", "y", "z"], [[name, "", "", ""] for name in points.names], (1, 2, 3), False)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.header)
    for row, position in zip(table.rows, _as_written(points.positions, table.ras)):
        row = list(row)
        for column, value in zip(table.columns, position):
            row[column] = f"{value:.6f}"
        writer.writerow(row)
    return out.getvalue()


def _from_markups(text: str, called: str) -> PointList:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"Line {error.lineno} of the {called} is no valid JSON ({error.msg}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("markups"), list):
        raise InputError(f'The {called} is no markups file of Slicer: it has no list "markups".')
    positions, names = [], []
    for number, markup in enumerate(content["markups"], 1):
        if not isinstance(markup, dict):
            raise InputError(f"Markup {number} of the {called} is no JSON object.")
        kind = markup.get("type", "Fiducial")
        if kind not in _POINT_MARKUPS:
            raise InputError(
                f"The {called} holds a markup of type {kind}, which has more to it than points; only "
                f"{', '.join(_POINT_MARKUPS)} can be transformed."
            )
        ras = _is_ras(markup.get("coordinateSystem", "LPS"), called)
        for place, point in enumerate(markup.get("controlPoints", []), 1):
            where = f"Control point {place} of markup {number} in the {called}"
            if not isinstance(point, dict):
                raise InputError(f"{where} is no JSON object.")
            if _is_defined(point):
                positions.append(_position(point.get("position"), where, ras))
                names.append(str(point.get("label", "")))
    return PointList(_stacked(positions), names, content)


def _to_markups(points: PointList) -> str:
    content = copy.deepcopy(points.source) if isinstance(points.source, dict) else _new_markups(points)
    positions = iter(points.positions)
    for markup in content["markups"]:
        ras = _is_ras(markup.get("coordinateSystem", "LPS"), "markups")
        for point in markup.get("controlPoints", []):
            if _is_defined(point):
                point["position"] = _as_written(next(positions), ras).tolist()
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _new_markups(points: PointList) -> dict:
    control = [
        {"id": str(number), "label": name or str(number), "position": [], "positionStatus": "defined"}
        for number, name in enumerate(points.names, 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    return {"@schema": _SCHEMA, "markups": [markup]}


def _from_fcsv(text: str, called: str) -> PointList:
    """Slicer 4's format: RAS unless the comment lines above the points say otherwise."""
    columns = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
    ras, positions, names = True, [], []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, _, value = (part.strip() for part in line[1:].partition("="))
            if key == "CoordinateSystem":
                ras = _is_ras(value, called)
            elif key == "columns":
                columns = [title.strip() for title in value.split(",")]
            continue
        if not line.strip():
            continue
        cells = dict(zip(columns, next(csv.reader([line]))))
        where = f"Line {number} of the {called}"
        if not {"x", "y", "z"} <= cells.keys():
            raise InputError(f"{where} has no coordinates; the columns are {', '.join(columns[:4])}, ...")
        positions.append(_position([cells["x"], cells["y"], cells["z"]], where, ras))
        names.append(cells.get("label", ""))
    return PointList(_stacked(positions), names)


def _position(values: Any, where: str, ras: bool) -> np.ndarray:
    """Three numbers of a file as LPS mm."""
    try:
        position = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} has the position {values!r}; three numbers in mm are needed.") from error
    if position.shape != (3,) or not np.all(np.isfinite(position)):
        raise InputError(f"{where} has the position {values!r}; three finite numbers in mm are needed.")
    return position * _FLIP if ras else position


def _as_written(positions: np.ndarray, ras: bool) -> np.ndarray:
    """LPS mm in the coordinate system of the file, without negative zeros."""
    return (positions * _FLIP if ras else positions) + 0.0


def _is_ras(system: Any, called: str) -> bool:
    """Slicer writes the coordinate system as a name, and wrote it as a number before."""
    known = {"LPS": False, "1": False, "RAS": True, "0": True}
    if str(system).upper() not in known:
        raise InputError(f"The {called} is in the coordinate system {system!r}; save it in LPS or RAS.")
    return known[str(system).upper()]


def _is_defined(point: dict) -> bool:
    return point.get("positionStatus", "defined") == "defined"


def _stacked(positions: list[np.ndarray]) -> np.ndarray:
    return np.array(positions).reshape(-1, 3)
