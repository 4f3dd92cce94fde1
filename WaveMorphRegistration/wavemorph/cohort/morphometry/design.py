"""The design of a test: which subjects, which regressors, and which contrast of them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError

INTERCEPT = "intercept"
_LEAST_FREEDOM = 3  # degrees: with fewer a t statistic says nothing
_RANK_TOLERANCE = 1e-7  # of a singular value, relative to the largest, with columns of length 1


@dataclass(frozen=True)
class Design:
    """A matrix with a row for each of `subjects` and a column for each of `columns`, of full rank."""

    subjects: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: np.ndarray

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the residuals."""
        return self.matrix.shape[0] - self.matrix.shape[1]


def read_design(path: str | os.PathLike, columns: Sequence[str] | None = None) -> Design:
    """Read a table, .tsv or .csv: the first column names subjects, the others are regressors.

    columns: which of the others; None for all.

    Raises:
        InputError: the table cannot be read, a column is not there, a value is no number, a subject is there twice, or
            see `design_of`.
    """
    path = Path(path)
    names, rows = _read_table(path)
    chosen = names[1:] if columns is None else list(columns)
    unknown = [name for name in chosen if name not in names[1:]]
    if unknown:
        raise InputError(f'The design "{path}" has no column {unknown[0]!r}; it has {", ".join(names[1:])}.')
    subjects = tuple(row[0] for row in rows)
    repeated = [name for name, count in Counter(subjects).items() if count > 1]
    if repeated:
        raise InputError(f'The design "{path}" has the subject {repeated[0]!r} twice; keep one row.')
    places = [names.index(name, 1) for name in chosen]
    matrix = np.array(
        [_numbers([row[place] for place in places], chosen, line, path) for line, row in enumerate(rows, 2)]
    )
    return design_of(subjects, tuple(chosen), matrix.reshape(len(rows), len(chosen)), os.fspath(path))


def design_of(subjects: tuple[str, ...], columns: tuple[str, ...], matrix: np.ndarray, called: str) -> Design:
    """The design of these regressors; an intercept is added where no combination of them is one.

    matrix: (subjects, columns). called: what messages call the table.

    Raises:
        InputError: columns are collinear, or there are too few subjects for so many columns.
    """
    if not _in_span(np.ones(len(subjects)), matrix):
        columns, matrix = (*columns, INTERCEPT), np.column_stack([matrix, np.ones(len(subjects))])
    _check_rank(matrix, columns, called)
    design = Design(subjects, columns, matrix)
    if design.freedom < _LEAST_FREEDOM:
        raise InputError(
            f'The design "{called}" has {len(subjects)} subjects and {len(columns)} columns with the intercept, which '
            f"leaves {design.freedom} degrees of freedom; at least {_LEAST_FREEDOM} are needed: add subjects, or "
            "remove columns."
        )
    return design


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many there are besides."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} others"


def contrast_of(text: str, design: Design) -> np.ndarray:
    """A contrast by the name of a column, or as numbers with commas, one for each column of the design.

    The number for an intercept that was added may be left out. Raises InputError.
    """
    columns = list(design.columns)
    if text in columns:
        return np.eye(len(columns))[columns.index(text)]
    listed = ", ".join(columns)
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(
            f"The contrast {text!r} is no column of the design, which has {listed}; name one of them, or give a number "
            "for each."
        ) from error
    if len(numbers) == len(columns) - 1 and columns[-1] == INTERCEPT:
        numbers.append(0.0)
    if len(numbers) != len(columns):
        raise InputError(
            f"The contrast {text!r} has {len(numbers)} numbers, but the design has the columns {listed}; give a number "
            "for each."
        )
    if not np.all(np.isfinite(numbers)) or not np.any(numbers):
        raise InputError(f"The contrast {text!r} must have finite numbers, and one that is not 0.")
    return np.array(numbers)


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream, delimiter="," if path.suffix.lower() == ".csv" else "\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f'The design "{path}" cannot be read ({type(error).__name__}); give a .tsv or .csv.'
        ) from error
    lines = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise InputError(f'The design "{path}" needs a line of names and a line for each subject.')
    names = lines[0]
    repeated = [name for name, count in Counter(names).items() if count > 1 or not name]
    if repeated:
        raise InputError(f'The design "{path}" has the column {repeated[0]!r} twice or without a name; name each once.')
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise InputError(f'Line {number} of the design "{path}" has {len(line)} values for {len(names)} columns.')
    return names, lines[1:]


def _numbers(cells: list[str], names: list[str], line: int, path: Path) -> list[float]:
    numbers = []
    for name, cell in zip(names, cells):
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise InputError(
                f'Line {line} of the design "{path}" has {cell!r} for {name!r}, which is no number; code groups as 0 '
                "and 1, and leave out subjects of whom a value is missing."
            )
        numbers.append(value)
    return numbers


def _in_span(vector: np.ndarray, matrix: np.ndarray) -> bool:
    if not matrix.size:
        return False
    scaled = _scaled(matrix)
    residual = vector - scaled @ np.linalg.lstsq(scaled, vector, rcond=_RANK_TOLERANCE)[0]
    return bool(np.linalg.norm(residual) < 1e-6 * np.linalg.norm(vector))


def _check_rank(matrix: np.ndarray, columns: tuple[str, ...], called: str) -> None:
    """Raises InputError where a column is a combination of others; the sentence names those that take part."""
    empty = [name for name, column in zip(columns, matrix.T) if not column.any()]
    if empty:
        raise InputError(f'The column {empty[0]!r} of the design "{called}" is 0 for each subject; remove it.')
    _, values, directions = np.linalg.svd(_scaled(matrix))
    smallest = values[-1] if len(values) == len(columns) else 0.0
    if smallest < _RANK_TOLERANCE * values[0]:
        involved = [name for name, weight in zip(columns, directions[-1]) if abs(weight) > 1e-4]
        raise InputError(
            f'The columns {", ".join(involved)} of the design "{called}" are collinear: one follows from the others; '
            "remove one of them, or add subjects."
        )


def _scaled(matrix: np.ndarray) -> np.ndarray:
    """Columns of length 1, so that the rank does not depend on units."""
    lengths = np.linalg.norm(matrix, axis=0)
    return matrix / np.where(lengths > 0, lengths, 1)
