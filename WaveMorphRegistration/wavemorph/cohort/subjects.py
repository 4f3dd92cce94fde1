"""The subjects of a study, and the volumes that show them. Does not import torch."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InputError

_VOLUME_ENDINGS = re.compile(r"\.(nii\.gz|nii|nrrd|mha|mhd|nhdr|hdr|img|mgz|gipl|tiff?|h5|dcm)$", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Subject:
    """One volume to register.

    Attributes:
        name: unique in the study, and safe as the name of a folder: "sub-01", "sub-01_ses-2".
        volume: the file, or a DICOM folder.
        mask: only voxels where it is not 0 are compared; None for all.
        labels: a label map of the volume; None without.
        entities: of its BIDS name, {"subject": "01", "session": "2", "suffix": "T1w"}; empty outside BIDS.
        covariates: the other columns of its row in a table, as they are written.
    """

    name: str
    volume: Path
    mask: Path | None = None
    labels: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    covariates: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """The volume and the mask, where there is one: what decides a registration."""
        return {"volume": self.volume} if self.mask is None else {"volume": self.volume, "mask": self.mask}

    def absolute(self) -> Subject:
        """The same with absolute paths: workers have other current folders."""
        mask, labels = (None if path is None else Path(os.path.abspath(path)) for path in (self.mask, self.labels))
        return replace(self, volume=Path(os.path.abspath(self.volume)), mask=mask, labels=labels)


def subjects_from_files(paths: Iterable[str | os.PathLike]) -> list[Subject]:
    """A subject for each file, named after it; files of one name are told apart by the folders above them.

    Raises InputError where there is no file, or a file is given twice.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise InputError("There are no volumes; give one file for each subject.")
    repeated = [path for path, count in Counter(os.path.realpath(file) for file in files).items() if count > 1]
    if repeated:
        raise InputError(f'The volume "{repeated[0]}" is given twice; give each subject once.')
    for depth in range(1, 1 + max(len(file.parts) for file in files)):
        names = [safe_name("_".join(file.parts[-depth:])) for file in files]
        if len(set(names)) == len(names):
            return [Subject(name, file) for name, file in zip(names, files)]
    raise InputError("Two of the volumes have names that cannot be told apart; give a table with a column subject.")


def subjects_from_table(path: str | os.PathLike) -> list[Subject]:
    """The subjects of a table, .csv or .tsv, with the columns "volume" and "subject" (optional), "mask", "labels".

    Relative paths begin at the folder of the table. Other columns become covariates. Raises InputError.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'The table "{path}" cannot be read ({type(error).__name__}); give a .csv or .tsv.') from error
    if not rows or "volume" not in rows[0]:
        found = ", ".join(map(str, rows[0])) if rows else "no row"
        raise InputError(f'The table "{path}" needs a column "volume" with a file in each row; it has {found}.')
    subjects = [_subject_of_row(row, number, path) for number, row in enumerate(rows, 2)]
    repeated = [name for name, count in Counter(subject.name for subject in subjects).items() if count > 1]
    if repeated:
        raise InputError(f'The table "{path}" has {repeated[0]!r} twice; give each subject a name of its own.')
    return subjects


def safe_name(text: str) -> str:
    """A text without the ending of a volume, as the name of a folder."""
    return _NOT_IN_NAMES.sub("-", _VOLUME_ENDINGS.sub("", text)).strip("-.") or "volume"


def _subject_of_row(row: Mapping[str, str | None], number: int, table: Path) -> Subject:
    cells = {str(name): (value or "").strip() for name, value in row.items() if isinstance(value, str)}
    files = {name: table.parent / cells.pop(name) for name in ("volume", "mask", "labels") if cells.get(name)}
    if "volume" not in files:
        raise InputError(
            f'Line {number} of the table "{table}" names no volume; fill in the column, or remove the row.'
        )
    name = safe_name(cells.pop("subject", "") or files["volume"].name)
    covariates = {key: value for key, value in cells.items() if key not in ("mask", "labels")}
    return Subject(name, files["volume"], files.get("mask"), files.get("labels"), covariates=covariates)
