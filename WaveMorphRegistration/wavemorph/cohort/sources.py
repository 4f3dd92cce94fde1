"""Where the subjects of a study come from. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import InputError
from .bids import subjects_from_bids
from .subjects import Subject, subjects_from_files, subjects_from_table


def subjects_from(
    files: Iterable[str | os.PathLike] | None,
    table: str | os.PathLike | None,
    bids: str | os.PathLike | None,
    suffix: str = "T1w",
) -> list[Subject]:
    """The subjects of the one source that is given: files, a table, or a BIDS data set. Raises InputError."""
    if sum(source is not None for source in (files, table, bids)) != 1:
        raise InputError("The subjects come from files, from a table or from a BIDS data set; give one of them.")
    if files is not None:
        return subjects_from_files(files)
    if table is not None:
        return subjects_from_table(table)
    assert bids is not None
    return subjects_from_bids(bids, suffix)
