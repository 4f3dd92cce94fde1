"""A design from the columns that came into a study with its subjects: participants.tsv, sessions.tsv, or its table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..bids.dataset import PARTICIPANT, read_rows
from ..finished import MISSING
from ..study.table import COLUMNS
from .design import Design, design_of, some

Cells = Mapping[str, Mapping[str, str]]  # subject -> column -> text


def is_participants_table(path: str | os.PathLike) -> bool:
    """Whether a file is a participants.tsv: its first column is participant_id."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return stream.readline().split("\t")[0].strip() == PARTICIPANT
    except (OSError, UnicodeDecodeError):
        return False


def covariates_of(rows: Sequence[Mapping[str, str]], participants: str | os.PathLike | None = None) -> Cells:
    """The columns of all subjects that are done, but for those of the results.

    rows: of subjects.tsv. participants: a participants.tsv, whose columns stand before those of the study.
    """
    cells = {
        row["subject"]: {name: cell for name, cell in row.items() if name not in COLUMNS}
        for row in rows
        if row["status"] == "done"
    }
    if participants is None:
        return cells
    table = read_rows(Path(participants), PARTICIPANT, "sub-")
    return {name: {**own, **table.get(_participant(name), {})} for name, own in cells.items()}


def design_of_covariates(cells: Cells, columns: Sequence[str], called: str) -> tuple[Design, tuple[str, ...]]:
    """The design of all subjects that have a value in each column, and sentences on it that a user should see.

    A column of words becomes one of 0 and 1 for each word but the first in the alphabet: sex_M for F and M.

    Parameters:
        cells: see `covariates_of`.
        columns: the regressors.
        called: what messages call the table.

    Raises:
        InputError: a column is not there or mixes words and numbers, or see `design_of`.
    """
    known = list(dict.fromkeys(name for row in cells.values() for name in row))
    unknown = [name for name in columns if name not in known]
    if unknown or not columns:
        what = f"no column {unknown[0]!r}" if unknown else "no column without a name"
        raise InputError(f'The design "{called}" has {what}; it has {", ".join(known) or "none"}.')
    lacking = {name: [each for each in columns if row.get(each, "") in ("", MISSING)] for name, row in cells.items()}
    subjects = tuple(name for name, columns_lacking in lacking.items() if not columns_lacking)
    regressors: dict[str, list[float]] = {}
    for name in columns:
        regressors.update(_regressors(name, [cells[subject][name] for subject in subjects], called))
    matrix = np.array(list(regressors.values())).reshape(len(regressors), len(subjects)).T
    left_out = [name for name in cells if lacking[name]]
    notes = _repeated(subjects)
    if left_out:
        missing = ", ".join(dict.fromkeys(each for name in left_out for each in lacking[name]))
        notes = (f"{some(left_out)} have no value of {missing}, and are left out.", *notes)
    return design_of(subjects, tuple(regressors), matrix, called), notes


def _regressors(column: str, cells: Sequence[str], called: str) -> dict[str, list[float]]:
    """A column of numbers as it is; one of words as 0 and 1 for each word but the first. Raises InputError."""
    numbers = [_number(cell) for cell in cells]
    words = sorted({cell for cell, number in zip(cells, numbers) if number is None})
    if not words:
        return {column: [float(number) for number in numbers if number is not None]}
    if any(number is not None for number in numbers):
        raise InputError(
            f'The column {column!r} of the design "{called}" mixes numbers with {words[0]!r}; write n/a where a value '
            "is missing, or words alone."
        )
    return {f"{column}_{word}": [float(cell == word) for cell in cells] for word in words[1:]}


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _participant(subject: str) -> str:
    """sub-01_ses-2 belongs to sub-01; names that are none of BIDS are people of their own."""
    return subject.split("_")[0] if subject.startswith("sub-") else subject


def _repeated(subjects: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(map(_participant, subjects))
    repeated = [name for name, count in counts.items() if count > 1]
    if not repeated:
        return ()
    return (
        f"{some(repeated)} are there with several scans, which the test takes for those of different people, so that p "
        "is too small; test one scan of each, or changes.",
    )
