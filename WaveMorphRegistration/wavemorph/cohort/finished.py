"""The table of a finished study, subjects.tsv, as the quality page and morphometry read it. Does not import torch."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

TABLE = "subjects.tsv"
MISSING = "n/a"  # of BIDS


def read_finished(study: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of subjects.tsv in the folder of a study, as text by column; a missing value is "n/a".

    Raises:
        InputError: there is no such table, or it cannot be read.
    """
    path = Path(study) / TABLE
    if not path.is_file():
        raise InputError(
            f'"{study}" is no finished study: it has no file {TABLE}; name the output of wavemorph cohort.'
        )
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'The table "{path}" cannot be read ({type(error).__name__}); run the study again.') from error
    if not rows or not {"subject", "status"} <= set(rows[0]):
        raise InputError(f'The table "{path}" has no subjects with a status; run the study again.')
    return [
        {str(name): (value or MISSING) for name, value in row.items() if isinstance(value, (str, type(None)))}
        for row in rows
    ]


def number(row: Mapping[str, str], column: str) -> float | None:
    """A finite number of a row; None where there is none."""
    try:
        value = float(row.get(column, MISSING))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def file_of(study: Path, row: Mapping[str, str], column: str) -> Path | None:
    """A file that a row names; None where it names none, or one outside the study, or one that is gone."""
    name = row.get(column, MISSING)
    if name in ("", MISSING):
        return None
    path = study / name
    inside = os.path.realpath(path).startswith(os.path.realpath(study) + os.sep)
    return path if inside and path.is_file() else None
