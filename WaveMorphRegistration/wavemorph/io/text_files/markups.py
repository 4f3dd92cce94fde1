"""Landmarks in the markups files of Slicer (.mrk.json)."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

from ...errors import InputError
from .encoding import read_json
from .point_list import PointList, in_file_system, is_ras, moved_entries, point_list, position_in_file

_POINT_MARKUPS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
_UNSET = ("undefined", "preview", "missing")
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def from_markups(text: str, called: str) -> PointList:
    """The control points in the text of a markups file: LPS unless the file says RAS. Raises InputError."""
    content = read_json(text, called)
    if not isinstance(content, dict) or not isinstance(content.get("markups"), list):
        raise InputError(f'The {called} is no markups file of Slicer: it has no list "markups".')
    entries = []
    for number, markup in enumerate(content["markups"], 1):
        ras = _system_of(markup, number, called)
        for place, point in enumerate(_control_points(markup, number, called), 1):
            where = f"Control point {place} of markup {number} in the {called}"
            if not isinstance(point, dict):
                raise InputError(f"{where} is no JSON object.")
            position = position_in_file(point.get("position"), where, ras) if _is_defined(point, where) else None
            label = point.get("label")
            entries.append(("" if label is None else str(label), position))
    return point_list(entries, content)


def to_markups(points: PointList) -> str:
    """The text of a markups file: the one that the points were read from with new coordinates, or one list in LPS.

    Measurements, such as the length of a line, are dropped where a control point has moved; Slicer makes them anew.
    """
    content = copy.deepcopy(points.source) if isinstance(points.source, dict) else _new_markups(points)
    positions = moved_entries(points)
    for markup in content["markups"]:
        ras = is_ras(markup.get("coordinateSystem", "LPS"), "markups")
        moved = False
        for point in markup.get("controlPoints") or []:
            position = next(positions)
            if position is not None:
                before = position_in_file(point.get("position"), "markups", ras)
                moved = moved or before is None or not np.array_equal(before, position)
                point["position"] = in_file_system(position, ras).tolist()
        if moved:
            markup.pop("measurements", None)
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _system_of(markup: Any, number: int, called: str) -> bool:
    """Whether the markup is in RAS, after checking that it consists of points in mm."""
    if not isinstance(markup, dict):
        raise InputError(f"Markup {number} of the {called} is no JSON object.")
    kind = markup.get("type", "Fiducial")
    if kind not in _POINT_MARKUPS:
        raise InputError(
            f"The {called} holds a markup of type {kind}, which has more to it than points; only "
            f"{', '.join(_POINT_MARKUPS)} can be transformed."
        )
    units = markup.get("coordinateUnits") or "mm"
    other = [unit for unit in (units if isinstance(units, list) else [units]) if unit != "mm"]
    if other:
        raise InputError(f"The {called} holds coordinates in the unit {other[0]!r}; save it in mm.")
    return is_ras(markup.get("coordinateSystem", "LPS"), called)


def _control_points(markup: dict, number: int, called: str) -> list:
    points = markup.get("controlPoints") or []
    if not isinstance(points, list):
        raise InputError(f"The control points of markup {number} in the {called} are no list.")
    return points


def _is_defined(point: dict, where: str) -> bool:
    if not point.keys() & {"position", "positionStatus"}:
        raise InputError(f"{where} has the position None; three numbers in mm are needed.")
    status = point.get("positionStatus", "defined")
    if status not in ("defined", *_UNSET):
        raise InputError(f"{where} has the status {status!r}; defined, {', '.join(_UNSET)} are known.")
    return status == "defined"


def _new_markups(points: PointList) -> dict:
    control = [
        {
            "id": str(number),
            "label": name or str(number),
            "position": [0.0, 0.0, 0.0],
            "positionStatus": "defined" if position is not None else "undefined",
        }
        for number, (name, position) in enumerate(points.entries(), 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    return {"@schema": _SCHEMA, "markups": [markup]}
