"""The registration of one subject of a study: from a job that can be pickled to files, a record and a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import register
from ...io.outputs import REGISTRATION_OUTPUTS, Outputs, Writer, write_json
from ...io.result import Registration
from ...settings import Settings
from ..subjects import Subject
from .records import Record, checksum, provenance, record_path
from .table import row_of_report


@dataclass(frozen=True)
class SubjectJob:
    """What a worker needs to register a subject. All paths are absolute, and seen by all workers.

    Attributes:
        subject: with the moving volume and its mask.
        fixed: the volume that all subjects are registered to.
        fixed_mask: compared only where it is not 0; None for everywhere.
        settings: of the registration.
        study: the folder of the study.
        outputs: the files to write, by their names in `io.outputs.REGISTRATION_OUTPUTS`.
        report_entry: see `layout.Layout`.
        store_spacing: of the transforms, in mm; None for that of the working grid.
        resume: leave a subject alone that is complete and was made from the same.
    """

    subject: Subject
    fixed: Path
    fixed_mask: Path | None
    settings: Settings
    study: Path
    outputs: Mapping[str, Path]
    report_entry: str | None = None
    store_spacing: float | None = None
    resume: bool = False

    @property
    def inputs(self) -> dict[str, Path]:
        """The files that decide the result."""
        named = {
            "fixed": self.fixed,
            "moving": self.subject.volume,
            "fixed_mask": self.fixed_mask,
            "moving_mask": self.subject.mask,
        }
        return {name: path for name, path in named.items() if path is not None}

    @property
    def files(self) -> dict[str, str]:
        """The outputs as they are named in the table: below the folder of the study."""
        return {name: path.relative_to(self.study).as_posix() for name, path in self.outputs.items()}


def register_subject(job: SubjectJob) -> dict[str, Any]:
    """Register a subject and write its files, all or none; returns its row without covariates.

    "files_written" in it is not a column: the number of new files, 0 where the subject was left alone.

    Raises a `WaveMorphError` where it cannot be registered or written.
    """
    from ...registration.segmentation.remembering import remembering_fixed  # imports torch, too early above

    made_from = provenance(job.inputs, job.settings, store_spacing=job.store_spacing)
    record = Record.read(record_path(job.study, job.subject.name)) if job.resume else None
    if record is not None and record.holds(made_from, list(job.files.values()), job.study):
        return {**record.row, **job.files, "files_written": 0}
    outputs = _Recorded(job, made_from)
    with remembering_fixed():
        registration = register(
            job.fixed, job.subject.volume, job.settings, fixed_mask=job.fixed_mask, moving_mask=job.subject.mask
        )
    if job.store_spacing is not None:
        registration = registration.stored_at(job.store_spacing)
    return outputs.write(registration)


def remove_outputs(job: SubjectJob) -> None:
    """Remove what an earlier run has left of a subject that has failed now: it was made from something else."""
    path = record_path(job.study, job.subject.name)
    record = Record.read(path)
    for file in [path, *(job.study / name for name in (record.outputs if record is not None else ()))]:
        file.unlink(missing_ok=True)


class _Recorded:
    """The files of a subject, and the record of them, which are put in place together."""

    def __init__(self, job: SubjectJob, made_from: Mapping[str, Any]):
        """Raises OutputError where a file cannot be written."""
        self._job, self._made_from = job, made_from
        self._checksums: dict[str, str] = {}
        self._row: dict[str, Any] = {}
        self._outputs = Outputs(inputs=job.inputs.values())
        for name, (writer, extensions, called) in REGISTRATION_OUTPUTS.items():
            if name in job.outputs:
                if name == "report" and job.report_entry is not None:
                    writer = self._write_report_entry
                self._outputs.add(job.outputs[name], self._noted(writer, job.files[name]), extensions, called)
        self._outputs.add(record_path(job.study, job.subject.name), self._write_record, (".json",), "record")

    def write(self, registration: Registration) -> dict[str, Any]:
        """Write all files; returns the row."""
        self._row = {"subject": self._job.subject.name, **row_of_report(registration.report)}
        written = self._outputs.write(registration)
        return {**self._row, **self._job.files, "files_written": len(written)}

    def _noted(self, writer: Writer, file: str) -> Writer:
        def write(registration: Registration, path: str) -> None:
            writer(registration, path)
            self._checksums[file] = checksum(Path(path))

        return write

    def _write_report_entry(self, registration: Registration, path: str) -> None:
        write_json({self._job.report_entry: registration.report}, path)

    def _write_record(self, registration: Registration, path: str) -> None:
        Record(self._made_from, self._checksums, self._row).write(path)
