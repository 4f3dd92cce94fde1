"""BIDS in and out: the subjects of a data set, and the names of the outputs as BIDS derivatives. Imports no torch.

BIDS has a name for the registered volume. Those of the transforms are in common use (from-, to-, mode-, xfm), and for
maps of numbers, such as the Jacobian, it has none. `.bidsignore` lists what the BIDS validator does not know.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..io.outputs import Outputs, write_image, write_json
from ..io.reading import read_volume
from ..system.version import __version__
from .subjects import Subject, safe_name

_BIDS_VERSION = "1.10.0"
_GENERATED_BY = "WaveMorph"
_DESCRIPTION_FILE = "dataset_description.json"
_VOLUME_EXTENSIONS = (".nii.gz", ".nii")
_OF_DERIVATIVES = ("space", "res", "den", "desc")  # entities that say how a volume was made, not which one it is
# {scan}: entities of the scan, sub-01_ses-2_run-1; {suffix}: of the scan, T1w; {template}: name of the fixed volume
_NAMES: Mapping[str, str] = {
    "transform": "{scan}_from-{suffix}_to-{template}_mode-image_xfm.h5",
    "inverse": "{scan}_from-{template}_to-{suffix}_mode-image_xfm.h5",
    "warped": "{scan}_space-{template}_desc-registered_{suffix}.nii.gz",
    "jacobian": "{scan}_space-{template}_desc-jacobian_map.nii.gz",
    "error_map": "{scan}_space-{template}_desc-expectedError_map.nii.gz",
    "report": "{scan}_from-{suffix}_to-{template}_mode-image_xfm.json",  # the sidecar of the transform
}
_IGNORED = ("*_xfm.h5", "*_xfm.json", "*_map.nii.gz", "/subjects.tsv", "/quality.html")
_TEMPLATE_COPY = "sourcedata/{template}.nii.gz"
_README = """\
# Registrations to {template}

Made by WaveMorph {version}. Each volume of the source data set was registered to one fixed volume, {template}.

- `*_from-{suffix}_to-{template}_mode-image_xfm.h5` resamples the {suffix} volume in the space of {template}. As in ITK,
  ANTs and fMRIPrep, it maps points of {template} to points of the subject, in LPS mm. Its sidecar, `*_xfm.json`, has
  similarity, folding, verdict, settings, versions and checksums in the entry "Registration".
- `*_from-{template}_to-{suffix}_mode-image_xfm.h5`, where it was asked for, is its inverse.
- `*_space-{template}_desc-registered_{suffix}.nii.gz` is the volume on the voxels of {template}.
- `*_space-{template}_desc-jacobian_map.nii.gz` is the Jacobian determinant: the volume of the subject's tissue relative
  to that of {template}. Above 1 the subject has more tissue.
- `*_space-{template}_desc-expectedError_map.nii.gz`, where it was asked for: 90 % of the errors are expected to be
  below it, in mm.
- `subjects.tsv` has a row for each volume, also for those that failed; `quality.html` shows them.
"""


def subjects_from_bids(dataset: str | os.PathLike, suffix: str = "T1w") -> list[Subject]:
    """The volumes of a BIDS data set that have a suffix, one subject of the study for each session and run.

    Nothing is written into the data set, and its sidecars are not read. Volumes that lie in another space already
    (space-) are left out. The columns of participants.tsv become covariates.

    Parameters:
        dataset: the folder with dataset_description.json.
        suffix: such as "T1w".

    Returns:
        Sorted by name: "sub-01_ses-2_run-1". `entities` has the names of PyBIDS ("subject", "session", "run", ...).

    Raises:
        InputError: the folder is no BIDS data set, PyBIDS is missing, or there is no such volume.
    """
    folder = Path(dataset)
    _read_description(folder)
    files = [file for file in _volumes(folder) if "space" not in file.get_entities()]
    chosen = [file for file in files if file.get_entities().get("suffix") == suffix]
    if not chosen:
        raise InputError(_no_such_suffix(folder, suffix, Counter(file.get_entities().get("suffix") for file in files)))
    participants = _participants(folder)
    subjects = [_subject(file, participants) for file in chosen]
    for name, count in Counter(subject.name for subject in subjects).items():
        if count > 1:
            raise InputError(
                f'The data set "{folder}" has {count} volumes {name}_{suffix} that differ in desc- or the file format '
                "alone; keep one, or give a table."
            )
    return sorted(subjects, key=lambda subject: subject.name)


def template_label(fixed: str | os.PathLike) -> str:
    """The name of a fixed volume as a BIDS label of letters and digits: "mni152.nii.gz" is "mni152"."""
    return re.sub("[^A-Za-z0-9]", "", safe_name(Path(fixed).name)) or "template"


class BidsLayout:
    """The outputs of a study as a BIDS derivative; see `layout.Layout`.

    Parameters:
        folder: the derivative, such as DATASET/derivatives/wavemorph.
        template_name: of the fixed volume, in letters and digits (`template_label`).
        fixed: the fixed volume. A copy is put into sourcedata, because BIDS demands a reference to the space of the
            registered volumes.
        source: the data set that was read; its name, authors, license and DOI go into the description.
        suffix: of the volumes that are registered.
    """

    # readers take the keys of a sidecar for entities, and a report has one that is called "subject"
    report_entry: str | None = "Registration"

    def __init__(
        self,
        folder: str | os.PathLike,
        template_name: str,
        fixed: str | os.PathLike,
        source: str | os.PathLike | None = None,
        suffix: str = "T1w",
    ):
        if not re.fullmatch("[A-Za-z0-9]+", template_name):
            raise InputError(
                f"The template's name {template_name!r} has other characters than letters and digits, which BIDS does "
                "not allow; choose another name."
            )
        self.folder = Path(folder)
        self._template, self._suffix = template_name, suffix
        self._fixed, self._source = fixed, None if source is None else Path(source)

    def path(self, subject: Subject, output: str) -> Path:
        """See `Layout.path`."""
        entities = subject.entities
        if "subject" not in entities:
            raise InputError(f"{subject.name} was not read from a BIDS data set, so that it has no BIDS name.")
        folder = self.folder / f"sub-{entities['subject']}"
        if "session" in entities:
            folder /= f"ses-{entities['session']}"
        suffix = entities.get("suffix", self._suffix)
        name = _NAMES[output].format(scan=subject.name, suffix=suffix, template=self._template)
        return folder / entities.get("datatype", "anat") / name

    def write_description(self) -> None:
        """Write dataset_description.json, README.md, .bidsignore, a sidecar, and the copy of the fixed volume.

        Raises OutputError where the folder has the description of another data set.
        """
        self._refuse_another_dataset()
        words = {"template": self._template, "suffix": self._suffix, "version": __version__}
        texts = {
            self.folder / "README.md": _README.format(**words),
            self.folder / ".bidsignore": "\n".join(_IGNORED) + "\n",
        }
        documents = {
            self.folder / _DESCRIPTION_FILE: self._description(),
            self.folder / f"space-{self._template}_desc-registered_{self._suffix}.json": self._sidecar(),
        }
        files = Outputs(inputs=[self._fixed])
        for path, text in texts.items():
            files.add(path, _text_writer(text), (".md", "ignore"), "description")
        for path, document in documents.items():
            files.add(path, _json_writer(document), (".json",), "description")
        fixed = read_volume(self._fixed, "fixed volume").image
        copy = self.folder / _TEMPLATE_COPY.format(template=self._template)
        files.add(copy, lambda _, path: write_image(fixed, path), (".nii.gz",), "copy of the fixed volume")
        files.write()

    def _refuse_another_dataset(self) -> None:
        path = self.folder / _DESCRIPTION_FILE
        if not path.exists():
            return
        makers = _read_description(self.folder).get("GeneratedBy") or []
        if not any(isinstance(maker, Mapping) and maker.get("Name") == _GENERATED_BY for maker in makers):
            raise OutputError(
                f'The folder "{self.folder}" is another BIDS data set; name a new one, such as '
                f'"{self.folder / "derivatives" / "wavemorph"}".'
            )

    def _description(self) -> dict[str, Any]:
        source = {} if self._source is None else _read_description(self._source)
        name = source.get("Name") or "a study"
        description = {
            "Name": f"{name}: registrations to {self._template}",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": _GENERATED_BY, "Version": __version__}],
        }
        description.update({key: source[key] for key in ("License", "Authors") if source.get(key)})
        if self._source is not None:
            doi = source.get("DatasetDOI")
            description["SourceDatasets"] = [{"DOI": doi} if doi else {"URL": self._source.resolve().as_uri()}]
        return description

    def _sidecar(self) -> dict[str, Any]:
        """What BIDS requires of every registered volume, once for all of them."""
        return {
            "Description": f"The volume, resampled on the voxels of {self._template}; nothing was masked.",
            "SkullStripped": False,
            "SpatialReference": "bids::" + _TEMPLATE_COPY.format(template=self._template),
        }


def _read_description(folder: Path) -> dict[str, Any]:
    """dataset_description.json. Raises InputError."""
    path = folder / _DESCRIPTION_FILE
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


def _subject(file: Any, participants: Mapping[str, Mapping[str, str]]) -> Subject:
    path = Path(file.path)
    entities = {name: str(value) for name, value in file.get_entities().items() if name != "extension"}
    parts = safe_name(path.name).split("_")[:-1]  # without the suffix
    name = "_".join(part for part in parts if part.split("-")[0] not in _OF_DERIVATIVES)
    return Subject(name, path, entities=entities, covariates=participants.get(f"sub-{entities.get('subject')}", {}))


def _participants(folder: Path) -> dict[str, dict[str, str]]:
    """The columns of participants.tsv by participant_id; empty where there is no such file. Raises InputError."""
    path = folder / "participants.tsv"
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'"{path}" cannot be read ({type(error).__name__}); correct or remove the file.') from error
    if rows and "participant_id" not in rows[0]:
        raise InputError(f'"{path}" has no column participant_id; correct or remove the file.')
    table = {}
    for row in rows:
        name = "sub-" + (row.pop("participant_id") or "").strip().removeprefix("sub-")
        table[name] = {key: value.strip() for key, value in row.items() if isinstance(value, str)}
    return table


def _text_writer(text: str) -> Any:
    return lambda _, path: Path(path).write_text(text, encoding="utf-8")


def _json_writer(document: Mapping[str, Any]) -> Any:
    return lambda _, path: write_json(document, path)
