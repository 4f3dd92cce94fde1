"""Runs a study: the files of all subjects in one folder, with a table and a page of quality."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, OutputError, SettingsError, WaveMorphError
from ...io.images import validate_image
from ...io.outputs import Outputs
from ...io.reading import read_volume
from ...io.result import check_store_spacing
from ...settings import Settings
from ...system.private_folders import lock_folder, unlock
from ..finished import MISSING
from ..layout import OUTPUTS, Layout, PlainLayout
from ..quality import write_quality_page
from ..runner import Runner
from ..subjects import Subject, subjects_from_files, subjects_from_table
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
    subjects = _subjects(moving, table, bids, suffix)
    settings = _complete(settings or Settings(), outputs, store_spacing)
    fixed = Path(os.path.abspath(fixed))
    validate_image(read_volume(fixed, "fixed image").image, "fixed image")
    with _study_folder(Path(os.path.abspath(output)), resume) as folder:
        layout = _layout(folder, fixed, bids, suffix)
        layout.write_description()
        jobs = {
            subject.name: SubjectJob(
                subject=_absolute(subject),
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


def _subjects(
    moving: Iterable[str | os.PathLike] | None,
    table: str | os.PathLike | None,
    bids: str | os.PathLike | None,
    suffix: str,
) -> list[Subject]:
    """The subjects of the one source that is given. Raises InputError."""
    if sum(source is not None for source in (moving, table, bids)) != 1:
        raise InputError("The subjects come from files, from a table or from a BIDS data set; give one of them.")
    if moving is not None:
        return subjects_from_files(moving)
    if bids is not None:
        from ..bids import subjects_from_bids

        return subjects_from_bids(bids, suffix)
    assert table is not None
    subjects = subjects_from_table(table)
    clash = sorted({name for subject in subjects for name in subject.covariates} & {*COLUMNS})
    if clash:
        raise InputError(f'The table "{table}" has a column "{clash[0]}", which the results have too; rename it.')
    return subjects


def _absolute(subject: Subject) -> Subject:
    """Workers have other current folders."""
    mask = None if subject.mask is None else Path(os.path.abspath(subject.mask))
    return replace(subject, volume=Path(os.path.abspath(subject.volume)), mask=mask)


def _complete(settings: Settings, outputs: Sequence[str], store_spacing: float | None) -> Settings:
    """The settings that the outputs need, with an absolute path of the weights. Raises SettingsError."""
    unknown = sorted(set(outputs) - set(OUTPUTS))
    if unknown or not outputs:
        found = f"the unknown output {unknown[0]!r}" if unknown else "no output"
        raise SettingsError(f"There is {found}; choose of {', '.join(OUTPUTS)}.")
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


@contextlib.contextmanager
def _study_folder(folder: Path, resume: bool) -> Iterator[Path]:
    """The folder of the study, which no other process works on within the context. Raises OutputError."""
    state = folder / STATE_FOLDER
    if folder.exists() and not folder.is_dir():
        raise OutputError(f'The study cannot be written: "{folder}" is a file; name a folder.')
    if folder.exists() and any(folder.iterdir()):
        if not state.is_dir():
            raise OutputError(f'The folder "{folder}" is not empty, and is not that of a study; name a new one.')
        if not resume:
            raise OutputError(
                f'The folder "{folder}" holds a study already; continue it with --resume, or name a new one.'
            )
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(state)
    except BlockingIOError as error:
        raise OutputError(f'Another process works on the study "{folder}"; wait for it, or end it.') from error
    except OSError as error:
        raise OutputError(f'The folder "{folder}" cannot be made ({error.strerror}); name another one.') from error
    try:
        yield folder
    finally:
        unlock(lock)


def _layout(folder: Path, fixed: Path, bids: str | os.PathLike | None, suffix: str) -> Layout:
    if bids is None:
        return PlainLayout(folder)
    from ..bids import BidsLayout, template_label

    return BidsLayout(folder, template_label(fixed), fixed, bids, suffix)


def _default_runner(settings: Settings) -> contextlib.AbstractContextManager[Runner]:
    from ..cluster.opening import local_runner

    return local_runner(device=settings.device)
