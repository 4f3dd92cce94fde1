"""Where the outputs of a study go. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..io.outputs import USUAL_NAMES
from .subjects import Subject


class Layout(Protocol):
    """The names of the files of a study below one folder.

    report_entry: of the file of a report, that holds it; None where the file is the report.
    """

    folder: Path
    report_entry: str | None

    def path(self, subject: Subject, output: str) -> Path:
        """The file for one of `io.outputs.REGISTRATION_OUTPUTS` of a subject."""
        ...

    def write_description(self) -> None:
        """Write the files that describe the study as a whole."""
        ...


class PlainLayout:
    """A folder for each subject: FOLDER/NAME/registered.nii.gz."""

    report_entry: str | None = None

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, subject: Subject, output: str) -> Path:
        """See `Layout.path`."""
        return self.folder / subject.name / USUAL_NAMES[output]

    def write_description(self) -> None:
        """Nothing: the table of subjects says it all."""
