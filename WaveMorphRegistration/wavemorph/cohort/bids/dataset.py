"""BIDS in: the subjects of a data set, with the columns of its tables. Imports no torch."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..subjects import Subject, safe_name

DESCRIPTION_FILE = "dataset_description.json"
PARTICIPANTS_FILE, PARTICIPANT = "participants.tsv", "participant_id"
_SESSION = "session_id"
_VOLUME_EXTENSIONS = (".nii.gz", ".nii")
_OF_DERIVATIVES = ("space", "res", "den", "desc")  # entities that say how a volume was made, not which one it is


def subjects_from_bids(dataset: str | os.PathLike, suffix: str = "T1w") -> list[Subject]:
    """The volumes of a BIDS data set that have a suffix, one subject of the study for each session and run.

    Nothing is written into the data set, and its sidecars are not read. Volumes that lie in another space already
    (space-) are left out. The columns of participants.tsv and of sessions.tsv become covariates.

    Parameters:
        dataset: the folder with dataset_description.json.
        suffix: such as "T1w".

    Returns:
        Sorted by name: "sub-01_ses-2_run-1". `entities` has the names of PyBIDS ("subject", "session", "run", ...).

    Raises:
        InputError: the folder is no BIDS data set, PyBIDS is missing, or there is no such volume.
    """
    folder = Path(dataset)
    read_description(folder)
    files = [file for file in _volumes(folder) if "space" not in file.get_entities()]
    chosen = [file for file in files if file.get_entities().get("suffix") == suffix]
    if not chosen:
        raise InputError(_no_such_suffix(folder, suffix, Counter(file.get_entities().get("suffix") for file in files)))
    covariates = _Covariates(folder)
    subjects = [_subject(file, covariates) for file in chosen]
    for name, count in Counter(subject.name for subject in subjects).items():
        if count > 1:
            raise InputError(
                f'The data set "{folder}" has {count} volumes {name}_{suffix} that differ in desc- or the file format '
                "alone; keep one, or give a table."
            )
    return sorted(subjects, key=lambda subject: subject.name)


def scans_of_person(dataset: str | os.PathLike, label: str, suffix: str = "T1w") -> list[Subject]:
    """The volumes of one subject of a BIDS data set, sorted by session and run; see `subjects_from_bids`.

    label: "01" or "sub-01". Raises InputError.
    """
    subjects = subjects_from_bids(dataset, suffix)
    label = label.removeprefix("sub-")
    chosen = [subject for subject in subjects if subject.entities.get("subject") == label]
    if not chosen:
        labels = sorted({subject.entities.get("subject", "") for subject in subjects})
        raise InputError(
            f'The data set "{dataset}" has no {suffix} volume of the subject {label!r}; its subjects are '
            f"{', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}."
        )
    return chosen


def read_description(folder: Path) -> dict[str, Any]:
    """dataset_description.json. Raises InputError."""
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        what = "has no file dataset_description.json" if folder.is_dir() else "is not a folder"
        raise InputError(f'"{folder}" is no BIDS data set: it {what}; name the top folder of the data set.')
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'"{path}" cannot be read ({type(error).__name__}); correct the file.') from error
    if not isinstance(description, dict):
        raise InputError(f'"{path}" holds no names with values; correct the file.')
    return description


def _volumes(folder: Path) -> list[Any]:
    """The NIfTI files of a data set, as PyBIDS finds them. Raises InputError."""
    try:
        from bids.layout import BIDSLayout, BIDSLayoutIndexer
    except ImportError as error:
        raise InputError(
            f"BIDS data sets need the package PyBIDS ({error}); install it with: pip install 'wavemorph[cohort]'."
        ) from error
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False)
    try:
        layout = BIDSLayout(folder, validate=False, config=["bids", "derivatives"], indexer=indexer)
        return layout.get(extension=list(_VOLUME_EXTENSIONS))
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f'PyBIDS cannot read the data set "{folder}" ({reason}); run the BIDS validator.') from error


def _no_such_suffix(folder: Path, suffix: str, found: Counter) -> str:
    if not found:
        return f'The data set "{folder}" has no volumes (.nii.gz, .nii).'
    suffixes = ", ".join(f"{name} ({count})" for name, count in sorted(found.items(), key=str))
    return f'The data set "{folder}" has no volume with the suffix {suffix!r}; it has {suffixes}; name one of them.'


def _subject(file: Any, covariates: _Covariates) -> Subject:
    path = Path(file.path)
    entities = {name: str(value) for name, value in file.get_entities().items() if name != "extension"}
    parts = safe_name(path.name).split("_")[:-1]  # without the suffix
    name = "_".join(part for part in parts if part.split("-")[0] not in _OF_DERIVATIVES)
    return Subject(name, path, entities=entities, covariates=covariates.of(entities))


class _Covariates:
    """The columns of participants.tsv and of the sessions.tsv of each subject."""

    def __init__(self, folder: Path):
        """Raises InputError where participants.tsv cannot be used."""
        self._folder = folder
        path = folder / PARTICIPANTS_FILE
        self._participants = read_rows(path, PARTICIPANT, "sub-") if path.is_file() else {}
        self._sessions: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def of(self, entities: Mapping[str, str]) -> dict[str, str]:
        """The columns of one scan; a column of its session stands before one of its subject. Raises InputError."""
        name = f"sub-{entities.get('subject')}"
        found = dict(self._participants.get(name, {}))
        if "session" in entities:
            found.update(self._of_sessions(name).get(f"ses-{entities['session']}", {}))
        return found

    def _of_sessions(self, name: str) -> Mapping[str, Mapping[str, str]]:
        if name not in self._sessions:
            path = self._folder / name / f"{name}_sessions.tsv"
            self._sessions[name] = read_rows(path, _SESSION, "ses-") if path.is_file() else {}
        return self._sessions[name]


def read_rows(path: Path, key: str, prefix: str) -> dict[str, dict[str, str]]:
    """The rows of a table of BIDS by its column `key`, whose cells may lack the prefix. Raises InputError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'"{path}" cannot be read ({type(error).__name__}); correct or remove the file.') from error
    if rows and key not in rows[0]:
        raise InputError(f'"{path}" has no column {key}; correct or remove the file.')
    table = {}
    for row in rows:
        name = prefix + (row.pop(key) or "").strip().removeprefix(prefix)
        table[name] = {column: value.strip() for column, value in row.items() if isinstance(value, str)}
    return table
