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
        heading: the lines up to the header, which is the last one.
        rows: one for each landmark, also for those without a position.
        columns: the three columns of the coordinates.
    """

    heading: list[str]
    rows: list[list[str]]
    columns: tuple[int, int, int]
    ras: bool
    delimiter: str = ","
    decimal_comma: bool = False


def from_csv(text: str, called: str) -> PointList:
    """The landmarks in the text of a CSV file. Raises InputError."""
    lines = text.split("\n")
    place = _place_of_header(lines)
    if place is None:
        raise InputError(f"The {called} is empty; it needs a header {_NEEDED}.")
    line = lines[place].lstrip("# ")
    delimiter = _delimiter(line)
    header = _cells(line, delimiter)
    titles = [_plain(title) for title in header]
    columns, ras = _coordinate_columns(titles, f"Line {place + 1} of the {called}", line)
    named, status = _column(titles, _NAME_TITLES), _column(titles, _STATUS_TITLES)
    below = ["" if _is_comment(line) else line for line in lines[place + 1 :]]
    reader = csv.reader(io.StringIO("\n".join(below), newline=""), delimiter=delimiter, skipinitialspace=True)
    rows, entries = [], []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        where = f"Line {place + 1 + reader.line_num} of the {called}"
        position = None
        row = _completed(row, header, columns, where)
        if _is_defined(row[status] if status is not None else "", where):
            position = position_in_file([row[column] for column in columns], where, ras)
        entries.append((row[named].strip() if named is not None else "", position))
        rows.append(row)
    commas = any(has_decimal_comma(row[column]) for row in rows for column in columns)
    return point_list(entries, Table(lines[: place + 1], rows, columns, ras, delimiter, commas))


def to_csv(points: PointList) -> str:
    """The text of a CSV file: the table that the points were read from with new coordinates, or name,x,y,z in LPS."""
    table = points.source if isinstance(points.source, Table) else _new_table(points)
    out = io.StringIO(newline="")
    for line in table.heading:
        out.write(line + "\n")
    writer = csv.writer(out, lineterminator="\n", delimiter=table.delimiter)
    quoting = csv.writer(out, lineterminator="\n", delimiter=table.delimiter, quoting=csv.QUOTE_ALL)
    for row, position in zip(table.rows, moved_entries(points)):
        row = row if position is None else _with_position(row, position, table)
        (quoting if _is_comment(row[0]) else writer).writerow(row)
    return out.getvalue()


def _new_table(points: PointList) -> Table:
    # a row without any content would not count as a landmark when it is read
    rows = [[name, *([""] * 3 if name else ["nan"] * 3)] for name, _ in points.entries()]
    return Table(["name,x,y,z"], rows, (1, 2, 3), False)


def _place_of_header(lines: list[str]) -> int | None:
    """The first line that is no comment, or the comment above it where only that names coordinates, as numpy writes."""
    place = next((n for n, line in enumerate(lines) if not _is_heading(line)), None)
    if place and _is_comment(lines[place - 1]) and not _names_axes(lines[place]):
        return place - 1 if _names_axes(lines[place - 1].lstrip("# ")) else place
    return place


def _names_axes(line: str) -> bool:
    titles = {_plain(title) for title in _cells(line, _delimiter(line))}
    return any(set(axes) <= titles for axes in _AXES)


def _with_position(row: list[str], position: np.ndarray, table: Table) -> list[str]:
    row = list(row)
    for column, value in zip(table.columns, in_file_system(position, table.ras)):
        written = f"{value:.6f}"
        row[column] = written.replace(".", ",") if table.decimal_comma else written
    return row


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _is_heading(line: str) -> bool:
    """A comment, an empty line, or the line in which Excel names the separator."""
    return not line.strip() or _is_comment(line) or re.fullmatch(r"\s*\"?sep=.\"?\s*", line) is not None


def _delimiter(header: str) -> str:
    """The separator with which the header names coordinates, or the first that it holds."""
    present = [mark for mark in ",;\t" if mark in header]
    for mark in present:
        titles = {_plain(title) for title in _cells(header, mark)}
        if any(set(axes) <= titles for axes in _AXES):
            return mark
    return present[0] if present else ","


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]


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
