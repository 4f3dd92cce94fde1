"""Landmarks in CSV files: columns x,y,z or l,p,s (LPS mm) or r,a,s (RAS mm), as Slicer and spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from .point_list import PointList, has_decimal_comma, in_file_system, moved_entries, point_list, position_in_file

_AXES = ("xyz", "lps", "ras")
_NEEDED = "x,y,z or l,p,s (LPS mm) or r,a,s (RAS mm)"
_NAME_TITLES = ("name", "label")
_STATUS_TITLES = ("defined", "positionstatus", "position status", "position_status")
_STATUS = {
    **dict.fromkeys(("", "1", "1.0", "true", "yes", "defined"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", "undefined", "missing", "preview"), False),
}


@dataclass(frozen=True)
class Table:
    """The content of a CSV file beside its coordinates.

    Attributes:
        heading: the lines above the header.
        rows: one for each landmark, also for those without a position.
        columns: the three columns of the coordinates.
    """

    heading: list[str]
    header: list[str]
    rows: list[list[str]]
    columns: tuple[int, int, int]
    ras: bool
    delimiter: str = ","
    decimal_comma: bool = False


def from_csv(text: str, called: str) -> PointList:
    """The landmarks in the text of a CSV file. Raises InputError."""
    lines = text.split("\n")
    start = next((n for n, line in enumerate(lines) if not _is_heading(line)), None)
    if start is None:
        raise InputError(f"The {called} is empty; it needs a header {_NEEDED}.")
    delimiter = _delimiter(lines[start])
    reader = csv.reader(io.StringIO("\n".join(lines[start:]), newline=""), delimiter=delimiter, skipinitialspace=True)
    header = [title.strip() for title in next(reader)]
    titles = [_plain(title) for title in header]
    columns, ras = _coordinate_columns(titles, f"Line {start + 1} of the {called}", lines[start])
    named, status = _column(titles, _NAME_TITLES), _column(titles, _STATUS_TITLES)
    rows, entries = [], []
    for row in reader:
        if not any(cell.strip() for cell in row) or row[0].startswith("#"):
            continue
        where = f"Line {start + reader.line_num} of the {called}"
        position = None
        row = _completed(row, header, columns, where)
        if _is_defined(row[status] if status is not None else "", where):
            position = position_in_file([row[column] for column in columns], where, ras)
        entries.append((row[named].strip() if named is not None else "", position))
        rows.append(row)
    commas = any(has_decimal_comma(row[column]) for row in rows for column in columns)
    return point_list(entries, Table(lines[:start], header, rows, columns, ras, delimiter, commas))


def to_csv(points: PointList) -> str:
    """The text of a CSV file: the table that the points were read from with new coordinates, or name,x,y,z in LPS."""
    table = points.source if isinstance(points.source, Table) else _new_table(points)
    out = io.StringIO(newline="")
    for line in table.heading:
        out.write(line + "\n")
    writer = csv.writer(out, lineterminator="\n", delimiter=table.delimiter)
    writer.writerow(table.header)
    for row, position in zip(table.rows, moved_entries(points)):
        writer.writerow(row if position is None else _with_position(row, position, table))
    return out.getvalue()


def _new_table(points: PointList) -> Table:
    rows = [[name, "", "", ""] for name, _ in points.entries()]
    return Table([], ["name", "x", "y", "z"], rows, (1, 2, 3), False)


def _with_position(row: list[str], position: np.ndarray, table: Table) -> list[str]:
    row = list(row)
    for column, value in zip(table.columns, in_file_system(position, table.ras)):
        written = f"{value:.6f}"
        row[column] = written.replace(".", ",") if table.decimal_comma else written
    return row


def _is_heading(line: str) -> bool:
    """A comment, an empty line, or the line in which Excel names the separator."""
    line = line.strip().strip('"')
    return not line or line.startswith("#") or re.fullmatch(r"sep=.", line) is not None


def _delimiter(header: str) -> str:
    """The separator with which the header names coordinates, or the first that it holds."""
    present = [mark for mark in ",;\t" if mark in header]
    for mark in present:
        titles = [_plain(title) for title in next(csv.reader([header], delimiter=mark, skipinitialspace=True))]
        if any(set(axes) <= set(titles) for axes in _AXES):
            return mark
    return present[0] if present else ","


def _plain(title: str) -> str:
    """A title in lower case, without the unit mm."""
    return re.sub(r"[\s_]*[(\[]?mm[)\]]?$", "", title.strip().lower())


def _coordinate_columns(titles: list[str], where: str, line: str) -> tuple[tuple[int, int, int], bool]:
    """(columns, whether they are RAS) of the one coordinate system that the header names."""
    found = [axes for axes in _AXES if set(axes) <= set(titles)]
    if len(found) != 1:
        seen = "both" if found else f'"{line[:60].strip()}"'
        raise InputError(f"{where} must name the columns {_NEEDED}, not {seen}.")
    axes = found[0]
    for axis in axes:
        if titles.count(axis) > 1:
            raise InputError(f"{where} names the column {axis} {titles.count(axis)} times; name it once.")
    first, second, third = (titles.index(axis) for axis in axes)
    return (first, second, third), axes == "ras"


def _column(titles: list[str], wanted: tuple[str, ...]) -> int | None:
    return next((titles.index(title) for title in wanted if title in titles), None)


def _completed(row: list[str], header: list[str], columns: tuple[int, int, int], where: str) -> list[str]:
    """The row with a cell for every column. Raises InputError where it seems to have shifted."""
    has_coordinates = any(row[column].strip() for column in columns if column < len(row))
    if len(row) <= max(columns) and has_coordinates:
        raise InputError(f"{where} has {len(row)} columns; the header names {len(header)}.")
    if any(_is_number(cell) for cell in row[len(header) :]):
        raise InputError(
            f"{where} has {len(row)} columns, and the header names {len(header)}; numbers with a decimal comma need "
            "semicolons between the columns."
        )
    return row + [""] * (len(header) - len(row))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_defined(cell: str, where: str) -> bool:
    known = _STATUS.get(cell.strip().lower())
    if known is None:
        raise InputError(f"{where} says {cell.strip()!r} where 1 (defined) or 0 (undefined) is needed.")
    return known
