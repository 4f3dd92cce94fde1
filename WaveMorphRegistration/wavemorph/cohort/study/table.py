"""subjects.tsv: a row for each subject of a study, with every number. Does not import torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import OutputError
from ...io.files import short_reason
from ...io.outputs import REGISTRATION_OUTPUTS
from ..finished import MISSING, TABLE

NUMBERS: Mapping[str, tuple[str, ...]] = {  # the columns with numbers, and where the report has them
    "similarity_before": ("similarity", "before"),
    "similarity_after": ("similarity", "after"),
    "folded_voxels_central": ("folding", "central_voxels"),
    "folded_voxels_strict": ("folding", "strict_voxels"),
    "jacobian_min": ("jacobian", "min"),
    "jacobian_max": ("jacobian", "max"),
    "jacobian_sd_log": ("jacobian", "sd_log"),
    "displacement_mean_mm": ("displacement_mm", "mean"),
    "displacement_max_mm": ("displacement_mm", "max"),
    "expected_error_median_mm": ("expected_error", "median_mm"),
    "expected_error_p95_mm": ("expected_error", "p95_mm"),
    "unseen_percent": ("subject", "unseen_percent"),
    "structures_before": ("segmentation", "before"),
    "structures_after": ("segmentation", "after"),
    "seconds": ("seconds", "total"),
    "peak_memory_mb": ("peak_memory_mb", "process"),
}
COLUMNS = ("subject", "status", "error", "verdict", "reasons", *NUMBERS, *REGISTRATION_OUTPUTS)
_LARGEST_PART = 0.05  # of the time that writing may take: a long table is not written after each subject


def row_of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a subject that is done, but for its name, its files and its covariates."""
    verdict = report["verdict"]
    numbers = {column: _number(report, keys) for column, keys in NUMBERS.items()}
    return {"status": "done", "verdict": verdict["level"], "reasons": " ".join(verdict["reasons"]), **numbers}


def failed_row(subject: str, error: Exception | str) -> dict[str, Any]:
    """The cells of a subject that has failed, with one sentence."""
    return {"subject": subject, "status": "failed", "error": str(error)}


class StudyTable:
    """The table of a study, which is written while its subjects are registered.

    subjects: the names in the order of the rows. covariates: further cells by subject.
    """

    def __init__(self, folder: Path, subjects: Sequence[str], covariates: Mapping[str, Mapping[str, str]]):
        self.path = folder / TABLE
        self._subjects = subjects
        self._covariates = covariates
        self._columns = [*COLUMNS, *dict.fromkeys(name for cells in covariates.values() for name in cells)]
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._due = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, and write the table where that takes a small part of the time. Raises OutputError."""
        self._rows[row["subject"]] = row
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the whole table under another name, and then put it in place. Raises OutputError."""
        began = time.monotonic()
        rows = ({**self._covariates[name], **self._rows[name]} for name in self._subjects if name in self._rows)
        lines: list[Sequence[Any]] = [self._columns, *([row.get(column) for column in self._columns] for row in rows)]
        temporary = self.path.with_name(f".{TABLE}.new")
        try:
            temporary.write_text("".join(map(_line, lines)), encoding="utf-8")
            os.replace(temporary, self.path)
        except OSError as error:
            raise OutputError(f'The table "{self.path}" cannot be written ({short_reason(error)}).') from error
        ended = time.monotonic()
        self._due = ended + (ended - began) / _LARGEST_PART


def _line(cells: Iterable[Any]) -> str:
    return "\t".join(map(_text, cells)) + "\n"


def _text(cell: Any) -> str:
    """A cell without what would end it, or be taken for a quotation."""
    if cell is None or cell == "":
        return MISSING
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return " ".join(str(cell).split()).replace('"', "'")


def _number(report: Mapping[str, Any], keys: Sequence[str]) -> float | int | None:
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
