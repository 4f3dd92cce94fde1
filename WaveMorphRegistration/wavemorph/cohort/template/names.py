"""Where the files of a template go: plainly, or as a BIDS derivative."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from ..bids import BidsTemplate
from ..subjects import Subject

TO_SUBJECT, FROM_SUBJECT = "template_to_subject.h5", "subject_to_template.h5"
LABEL = "template"  # in names of BIDS
_PLAIN = {"transform": TO_SUBJECT, "inverse": FROM_SUBJECT}


class Names(Protocol):
    """The names of the files of a template below one folder. template: that of the template itself."""

    folder: Path

    @property
    def template(self) -> Path: ...

    def path(self, subject: Subject, output: str) -> Path:
        """The "transform" (template points -> subject points) or the "inverse" of a subject."""
        ...

    def write_description(self) -> None:
        """Write the files that describe the folder as a whole."""
        ...


class PlainNames:
    """A folder for each subject: FOLDER/NAME/template_to_subject.h5."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def template(self) -> Path:
        """See `Names`."""
        return self.folder / "template.nii.gz"

    def path(self, subject: Subject, output: str) -> Path:
        """See `Names.path`."""
        return self.folder / subject.name / _PLAIN[output]

    def write_description(self) -> None:
        """Nothing: template.json says it all."""


def names_for(folder: Path, bids: str | os.PathLike | None, suffix: str) -> Names:
    """BIDS names where the subjects were read from a BIDS data set, of volumes of this suffix; else plain ones."""
    return PlainNames(folder) if bids is None else BidsTemplate(folder, LABEL, bids, suffix)
