"""Keeps what is complete of a template, so that a run that was ended loses nothing: the jobs, and whole rounds."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...settings import Settings
from ..runner import Outcome, Runner
from ..study.records import Record, checksum, provenance


class KeepableJob(Protocol):
    """A job that says what decides its result, and where it writes.

    inputs: files and folders by name. outputs: files and folders. settings: of a registration; None where nothing is
    registered. choices: what else decides the result, ready for JSON.
    """

    @property
    def inputs(self) -> Mapping[str, Path]: ...

    @property
    def outputs(self) -> Sequence[Path]: ...

    @property
    def settings(self) -> Settings | None: ...

    @property
    def choices(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class KeptJob:
    """A job with the file of its record, and the folder that all outputs lie in."""

    function: Callable[[Any], dict[str, Any]]
    job: KeepableJob
    record: Path
    folder: Path


class KeepingRunner:
    """A `Runner` that leaves jobs alone that are complete and made from the same, and records all others.

    Parameters:
        runner: does the work. Its jobs are `KeepableJob`s, and their results ready for JSON.
        folder: that all outputs lie in, absolute.
        records: the folder of the records.
    """

    def __init__(self, runner: Runner, folder: Path, records: Path):
        self._runner, self._folder, self._records = runner, folder, records

    def run(self, function: Callable[[Any], Any], jobs: Mapping[str, Any], stage: str) -> Iterator[Outcome]:
        """See `Runner.run`."""
        folder = self._records / function.__name__
        kept = {key: KeptJob(function, job, folder / f"{key}.json", self._folder) for key, job in jobs.items()}
        yield from self._runner.run(run_kept, kept, stage)


def run_kept(kept: KeptJob) -> dict[str, Any]:
    """The result of a job: the one in its record where that holds, else a new one, which is recorded.

    Outputs of an earlier run are removed first: of another round, there may be files that this one does not write.
    """
    job = kept.job
    made_from = provenance(job.inputs, job.settings, **job.choices)
    names = {path.relative_to(kept.folder).as_posix(): path for path in job.outputs}
    record = Record.read(kept.record)
    if record is not None and record.holds(made_from, list(names), kept.folder):
        return dict(record.row)
    for path in job.outputs:
        remove(path)
    result = kept.function(job)
    Record(made_from, {name: checksum(path) for name, path in names.items()}, result).put(kept.record)
    return result


class RoundStore:
    """The last complete round of a template that has more to come; the next one overwrites what it was made of.

    Parameters:
        folder: where it is kept.
        paths: the files and folders that the next round begins with.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]):
        self._folder, self._paths = folder, paths

    def save(self, number: int, made_from: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Keep copies of the paths, and then forget the round before. Raises OSError.

        made_from: what the round was made from. row: what is to be known of it, ready for JSON.
        """
        before = {path for path in self._folder.glob("*") if path.is_dir()}
        names = sorted(path.name for path in before)
        copy = self._folder / f"{int(names[-1]) + 1 if names else 0:04}"
        copy.mkdir(parents=True)
        for path in self._paths:
            _copy(path, copy / path.name)
        checksums = {f"{copy.name}/{path.name}": checksum(path) for path in self._paths}
        Record(made_from, checksums, {**row, "number": number}).put(self._folder / "round.json")
        for path in before:
            remove(path)

    def restore(self, made_from: Mapping[str, Any], last: int) -> dict[str, Any] | None:
        """What is known of the round that was kept, with its files in place; None where there is none.

        made_from: what it must have been made from. last: the number of the last round, which is not restored, because
        the maps of the subjects belong to it.
        """
        record = Record.read(self._folder / "round.json")
        if record is None or not record.holds(made_from, [], self._folder) or record.row["number"] >= last:
            return None
        for name in record.outputs:
            kept = self._folder / name
            for path in self._paths:
                if path.name == kept.name:
                    remove(path)
                    _copy(kept, path)
        return dict(record.row)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one. Raises OSError."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
