"""BIDS out: the names of the outputs as BIDS derivatives, and the files that describe them. Imports no torch.

BIDS has a name for the registered volume. Those of the transforms are in common use (from-, to-, mode-, xfm), and for
maps of numbers, such as the Jacobian, it has none. `.bidsignore` lists what the BIDS validator does not know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError, OutputError
from ...io.outputs import Outputs, write_image, write_json
from ...io.reading import read_volume
from ...system.version import __version__
from ..subjects import Subject, safe_name
from .dataset import DESCRIPTION_FILE, read_description

_BIDS_VERSION = "1.10.0"
_GENERATED_BY = "WaveMorph"
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
_TEMPLATE_FILE = "tpl-{template}/anat/tpl-{template}_{suffix}"  # as of TemplateFlow, without an ending
_TEMPLATE_IGNORED = ("*_xfm.h5", "/convergence.tsv", "/subjects.tsv", "/template.json")
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
_TEMPLATE_README = """\
# A template of {suffix} volumes

Made by WaveMorph {version}: the mean of the intensities of the source data set's {suffix} volumes, in their mean shape.

- `tpl-{template}` has the template; its intensities are 0 for air to 1000 for the brightest tissue.
- `*_from-{suffix}_to-{template}_mode-image_xfm.h5` resamples the {suffix} volume in the space of the template. As in
  ITK, ANTs and fMRIPrep, it maps points of the template to points of the subject, in LPS mm.
- `*_from-{template}_to-{suffix}_mode-image_xfm.h5` is its inverse.
- `subjects.tsv` says who was used, `convergence.tsv` what each round changed; `template.json` has the settings.
"""


def template_label(fixed: str | os.PathLike) -> str:
    """The name of a fixed volume as a BIDS label of letters and digits: "mni152.nii.gz" is "mni152"."""
    return re.sub("[^A-Za-z0-9]", "", safe_name(Path(fixed).name)) or "template"


class _Derivative:
    """A BIDS derivative: the names of its files, and its description.

    Parameters:
        folder: of the derivative, such as DATASET/derivatives/wavemorph.
        template_name: of the space of its volumes, in letters and digits (`template_label`).
        source: the data set that was read; its name, authors, license and DOI go into the description.
        suffix: of the volumes that are registered.
    """

    _inputs: tuple[str | os.PathLike, ...] = ()  # which no file may overwrite

    def __init__(
        self, folder: str | os.PathLike, template_name: str, source: str | os.PathLike | None, suffix: str = "T1w"
    ):
        if not re.fullmatch("[A-Za-z0-9]+", template_name):
            raise InputError(
                f"The template's name {template_name!r} has other characters than letters and digits, which BIDS does "
                "not allow; choose another name."
            )
        self.folder = Path(folder)
        self._words = {"template": template_name, "suffix": suffix, "version": __version__}
        self._source = None if source is None else Path(source)

    def path(self, subject: Subject, output: str) -> Path:
        """See `layout.Layout.path`."""
        entities = subject.entities
        if "subject" not in entities:
            raise InputError(f"{subject.name} was not read from a BIDS data set, so that it has no BIDS name.")
        folder = self.folder / f"sub-{entities['subject']}"
        if "session" in entities:
            folder /= f"ses-{entities['session']}"
        words = {**self._words, "suffix": entities.get("suffix", self._words["suffix"])}
        return folder / entities.get("datatype", "anat") / _NAMES[output].format(scan=subject.name, **words)

    def _files(self, title: str, readme: str, ignored: tuple[str, ...], sidecar: dict[str, dict]) -> Outputs:
        """The files that describe the derivative, ready to be written.

        title: what follows the name of the source. sidecar: file name -> its content.

        Raises OutputError where the folder has the description of another data set.
        """
        self._refuse_another_dataset()
        files = Outputs(inputs=self._inputs)
        texts = {"README.md": readme.format(**self._words), ".bidsignore": "\n".join(ignored) + "\n"}
        for name, text in texts.items():
            files.add(self.folder / name, _text_writer(text), (".md", "ignore"), "description")
        for name, document in {DESCRIPTION_FILE: self._description(title), **sidecar}.items():
            files.add(self.folder / name, _json_writer(document), (".json",), "description")
        return files

    def _refuse_another_dataset(self) -> None:
        path = self.folder / DESCRIPTION_FILE
        if not path.exists():
            return
        makers = read_description(self.folder).get("GeneratedBy") or []
        if not any(isinstance(maker, Mapping) and maker.get("Name") == _GENERATED_BY for maker in makers):
            raise OutputError(
                f'The folder "{self.folder}" is another BIDS data set; name a new one, such as '
                f'"{self.folder / "derivatives" / "wavemorph"}".'
            )

    def _description(self, title: str) -> dict[str, Any]:
        source = {} if self._source is None else read_description(self._source)
        description = {
            "Name": f"{source.get('Name') or 'a study'}: {title}",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": _GENERATED_BY, "Version": __version__}],
        }
        description.update({key: source[key] for key in ("License", "Authors") if source.get(key)})
        if self._source is not None:
            doi = source.get("DatasetDOI")
            description["SourceDatasets"] = [{"DOI": doi} if doi else {"URL": self._source.resolve().as_uri()}]
        return description


class BidsLayout(_Derivative):
    """The outputs of a study as a BIDS derivative; see `layout.Layout` and `_Derivative`.

    fixed: the fixed volume. A copy is put into sourcedata, because BIDS demands a reference to the space of the
    registered volumes.
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
        super().__init__(folder, template_name, source, suffix)
        self._fixed = fixed
        self._inputs = (fixed,)

    def write_description(self) -> None:
        """Write dataset_description.json, README.md, .bidsignore, a sidecar, and the copy of the fixed volume.

        Raises OutputError where the folder has the description of another data set.
        """
        copy = _TEMPLATE_COPY.format(**self._words)
        sidecar = {  # what BIDS requires of every registered volume, once for all of them
            "Description": f"The volume, resampled on the voxels of {self._words['template']}; nothing was masked.",
            "SkullStripped": False,
            "SpatialReference": f"bids::{copy}",
        }
        name = "space-{template}_desc-registered_{suffix}.json".format(**self._words)
        title = f"registrations to {self._words['template']}"
        files = self._files(title, _README, _IGNORED, {name: sidecar})
        fixed = read_volume(self._fixed, "fixed volume").image
        files.add(
            self.folder / copy, lambda _, path: write_image(fixed, path), (".nii.gz",), "copy of the fixed volume"
        )
        files.write()


class BidsTemplate(_Derivative):
    """The outputs of a template as a BIDS derivative; see `_Derivative` and `template.names.PlainNames`."""

    @property
    def template(self) -> Path:
        """The file of the template."""
        return self.folder / (_TEMPLATE_FILE.format(**self._words) + ".nii.gz")

    def write_description(self) -> None:
        """Write dataset_description.json, README.md, .bidsignore and the sidecar of the template.

        Raises OutputError where the folder has the description of another data set.
        """
        sidecar = {
            "Description": "The mean of the normalized intensities of the subjects, in their mean shape.",
            "SkullStripped": False,
        }
        name = _TEMPLATE_FILE.format(**self._words) + ".json"
        title = f"a template of {self._words['suffix']} volumes"
        self._files(title, _TEMPLATE_README, _TEMPLATE_IGNORED, {name: sidecar}).write()


def _text_writer(text: str) -> Any:
    return lambda _, path: Path(path).write_text(text, encoding="utf-8")


def _json_writer(document: Mapping[str, Any]) -> Any:
    return lambda _, path: write_json(document, path)
