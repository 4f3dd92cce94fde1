"""Runs a study: the files of all subjects in one folder, with a table and a page of quality."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, SettingsError, WaveMorphError
from ...io.images import validate_image
from ...io.outputs import REGISTRATION_OUTPUTS, Outputs
from ...io.reading import read_volume
from ...io.result import check_store_spacing
from ...settings import Settings
from ..finished import MISSING
from ..layout import Layout, PlainLayout
from ..quality import write_quality_page
from ..runner import Runner
from ..sources import subjects_from
from ..subjects import Subject
from .folder import study_folder
from .records import STATE_FOLDER
from .registering import SubjectJob, register_subject, remove_outputs
from .table import COLUMNS, StudyTable, failed_row

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_OUTPUTS = ("transform", "warped", "jacobian", "report")
_STAGE = "registering"


def run(
    fixed: str | os.PathLike,
    moving: Iterable[str | os.PathLike] | None = None,
    *,
    output: str | os.PathLike,
    table: str | os.PathLike | None = None,
    bids: str | os.PathLike | None = None,
    suffix: str = "T1w",
    fixed_mask: str | os.PathLike | None = None,
    settings: Settings | None = None,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    store_spacing: float | None = None,
    resume: bool = False,
    runner: Runner | None = None,
) -> pd.DataFrame:
    """Register every subject to `fixed`; its files, the table subjects.tsv and a page of quality go to `output`.

    A subject that fails has one sentence in its row, and stops nobody.

    Parameters:
        fixed: the volume that all subjects are registered to: a file or a DICOM folder.
        moving: a file for each subject; or `table`, or `bids`.
        output: a new or an empty folder, or with `resume` that of the study.
        table: .csv or .tsv with the column "volume", and optionally "subject", "mask" and covariates.
        bids: a BIDS data set; the outputs are then a BIDS derivative.
        suffix: which volumes of the data set: "T1w", "T2w", ...
        fixed_mask: only voxels of `fixed` where it is not 0 are compared.
        settings: see `Settings`; "inverse" and "error_map" are set where `outputs` has them.
        outputs: which of "transform", "inverse", "warped", "jacobian", "error_map" and "report" are written.
        store_spacing: spacing in mm at which the transforms are stored; None for that of the working grid.
        resume: leave subjects alone that are complete and made from the same volumes, settings and weights by the
            same version; all others are done again.
        runner: where the work is done; by default processes on this machine (`cluster.opening.local_runner`), for
            which a script needs `if __name__ == "__main__":`.

    Returns:
        The table: a row for each subject, with paths relative to `output`.

    Raises:
        InputError: the fixed volume cannot be used, or there are no subjects.
        SettingsError: settings contradict each other.
        OutputError: the folder is not empty, is no study, or another process works on it.
        ClusterError: the processes that do the work cannot be started, or were lost.

    Examples:
        >>> import wavemorph.cohort
        >>> table = wavemorph.cohort.run("template.nii.gz", ["a.nii.gz", "b.nii.gz"], output="study")
        >>> print(table[["subject", "verdict", "similarity_after"]])
    """
    subjects = subjects_from(moving, table, bids, suffix)
    if table is not None:
        _check_columns(subjects, table)
    settings = _complete(settings or Settings(), outputs, store_spacing)
    fixed = Path(os.path.abspath(fixed))
    validate_image(read_volume(fixed, "fixed image").image, "fixed image")
    with study_folder(Path(os.path.abspath(output)), STATE_FOLDER, "study", resume) as folder:
        layout = _layout(folder, fixed, bids, suffix)
        layout.write_description()
        jobs = {
            subject.name: SubjectJob(
                subject=subject.absolute(),
                fixed=fixed,
                fixed_mask=None if fixed_mask is None else Path(os.path.abspath(fixed_mask)),
                settings=settings,
                study=folder,
                outputs={name: layout.path(subject, name) for name in outputs},
                report_entry=layout.report_entry,
                store_spacing=store_spacing,
                resume=resume,
            )
            for subject in subjects
        }
        rows = StudyTable(folder, list(jobs), {subject.name: subject.covariates for subject in subjects})
        with contextlib.nullcontext(runner) if runner is not None else _default_runner(settings) as chosen:
            _register_all(jobs, rows, chosen)
        write_quality_page(folder, fixed)
        return read_table(rows.path)


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """The table of a study."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", na_values=MISSING, keep_default_na=False, dtype={"subject": str})


def _register_all(jobs: dict[str, SubjectJob], rows: StudyTable, runner: Runner) -> None:
    """Fill the table; it holds what was done until then whatever ends this."""
    try:
        for name, outcome in runner.run(register_subject, jobs, _STAGE):
            if isinstance(outcome, Exception):
                remove_outputs(jobs[name])
                outcome = failed_row(name, _sentence(outcome))
            Outputs.files_written += outcome.get("files_written", 0)  # by other processes, for this one
            rows.add(outcome)
    finally:
        rows.write()


def _sentence(error: Exception) -> str:
    if isinstance(error, WaveMorphError):
        return str(error)
    return f"Unexpected {type(error).__name__} ({' '.join(str(error).split())[:200] or 'no details'})."


def _check_columns(subjects: Sequence[Subject], table: str | os.PathLike) -> None:
    """Raises InputError where a column of a table is one of the results."""
    clash = sorted({name for subject in subjects for name in subject.covariates} & {*COLUMNS})
    if clash:
        raise InputError(f'The table "{table}" has a column "{clash[0]}", which the results have too; rename it.')


def _complete(settings: Settings, outputs: Sequence[str], store_spacing: float | None) -> Settings:
    """The settings that the outputs need, with an absolute path of the weights. Raises SettingsError."""
    unknown = sorted(set(outputs) - set(REGISTRATION_OUTPUTS))
    if unknown or not outputs:
        found = f"the unknown output {unknown[0]!r}" if unknown else "no output"
        raise SettingsError(f"There is {found}; choose of {', '.join(REGISTRATION_OUTPUTS)}.")
    if store_spacing is not None:
        check_store_spacing(store_spacing)
    weights = settings.weights
    if os.path.exists(weights):
        weights = os.path.abspath(weights)
    return replace(
        settings,
        weights=weights,
        inverse=settings.inverse or "inverse" in outputs,
        error_map=settings.error_map or "error_map" in outputs,
    )


def _layout(folder: Path, fixed: Path, bids: str | os.PathLike | None, suffix: str) -> Layout:
    if bids is None:
        return PlainLayout(folder)
    from ..bids import BidsLayout, template_label

    return BidsLayout(folder, template_label(fixed), fixed, bids, suffix)


def _default_runner(settings: Settings) -> contextlib.AbstractContextManager[Runner]:
    from ..cluster.opening import local_runner

    return local_runner(device=settings.device)
