"""The folder in which faults are tried: inputs, outputs and temporary files, and what must hold of them afterwards."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import phantoms
import SimpleITK as sitk
from WaveMorphRegistrationLib.engine.job import JobState, RegistrationJob
from WaveMorphRegistrationLib.engine.jobRequest import JobRequest
from WaveMorphRegistrationLib.engine.workerProcess import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "WaveMorphRegistration"
CHILD = Path(__file__).with_name("child.py")
OUTPUTS = {
    "transform": "transform.h5",
    "inverse": "inverse.nii.gz",
    "warped": "warped.nii.gz",
    "jacobian": "jacobian.nrrd",
    "report": "report.json",
}
QUICK = {"spacing_mm": 4.0, "weights": "none", "threads": 1, "inverse": True}
COMPLETE = (0, 7, 8)  # exit codes with which all outputs are written
KILLED = -9
LIBRARY_ENDED = "OpenBLAS error: Memory allocation still failed"  # then it ends the process
_VARYING = ("seconds", "peak_memory_mb")  # of a report
_SECONDS = 120.0


@dataclass(frozen=True)
class Finished:
    """How a program ended. code: negative where a signal ended it."""

    code: int
    out: str = ""
    err: str = ""


@functools.cache
def pair() -> tuple[sitk.Image, sitk.Image]:
    """Two small heads, the moving one 4 mm to the left and 3 mm up."""
    moving = phantoms.head(phantoms.regular((50, 46, 48), (1.7, 2.0, 1.8)), (4.0, 0.0, 3.0), noise=0.01, seed=1)
    images = phantoms.head(phantoms.regular(), (0.0, 0.0, 0.0)), moving
    return tuple(sitk.Cast(image, sitk.sitkInt16) for image in images)


class Bench:
    """A folder with `inputs`, which never change, `out`, and `tmp`, the folder for temporary files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.inputs, self.out, self.tmp = (folder / name for name in ("inputs", "out", "tmp"))
        for made in (self.inputs, self.out, self.tmp):
            made.mkdir(parents=True)
        for name, image in zip(("fixed", "moving"), pair()):
            sitk.WriteImage(image, str(self.inputs / f"{name}.nii.gz"))
        self._inputs = contents(self.inputs)

    def arguments(self, *extra: str, outputs: dict[str, str] | None = None, spacing: float = 4.0) -> list[str]:
        """Those of `wavemorph register`."""
        named = [f"--{name}={self.out / file}" for name, file in (OUTPUTS if outputs is None else outputs).items()]
        files = ["--fixed", str(self.inputs / "fixed.nii.gz"), "--moving", str(self.inputs / "moving.nii.gz")]
        quick = ["--spacing", str(spacing), "--weights", "none", "--threads", "1", "--quiet"]
        return ["register", *files, *quick, *named, *extra]

    def environment(self, **changes: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WAVEMORPH_")}
        own = {"PYTHONPATH": str(ENGINE), "TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        return {**inherited, **own, **changes}

    def start(self, arguments: list[str], faults: list | None = None, **options) -> subprocess.Popen:
        """Start `wavemorph ARGUMENTS`, with faults as in child.py."""
        program = ["-m", "wavemorph.cli"] if faults is None else [str(CHILD), json.dumps(faults), "cli"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        options = {"env": self.environment(), **streams, **options}
        return subprocess.Popen([sys.executable, *program, *arguments], text=True, **options)

    def run(self, arguments: list[str] | None = None, faults: list | None = None, **options) -> Finished:
        """Run `wavemorph ARGUMENTS`, by default a registration with all outputs, to its end.

        Without options, it is a fork of a process that has imported what it needs, which takes a third of the time.
        """
        arguments = self.arguments() if arguments is None else arguments
        if not options:
            return self._forked(arguments, faults or [])
        process = self.start(arguments, faults, **options)
        out, err = process.communicate(timeout=_SECONDS)
        return Finished(process.returncode, out or "", err or "")

    def _forked(self, arguments: list[str], faults: list) -> Finished:
        server = _server()
        server.stdin.write(json.dumps([faults, arguments, {"TMPDIR": str(self.tmp)}]) + "\n")
        server.stdin.flush()
        code, err = json.loads(server.stdout.readline())
        return Finished(code, err=err)

    def clear(self) -> None:
        """Remove what is in `out` and `tmp`."""
        for folder in (self.out, self.tmp):
            folder.mkdir(exist_ok=True)
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def wrong_after(self, finished: Finished, before: dict[str, str] | None = None) -> list[str]:
        """What is wrong after a run in which something went wrong; before: `contents(self.out)` before it.

        A run that could not do its work leaves `out` as it was. One that was killed, or ended by a library, may leave a
        private folder, which the next run removes, or all outputs.
        """
        before = before or {}
        killed = finished.code < 0 or LIBRARY_ENDED in finished.err
        found = self.changed_inputs() + self.open_folders()
        if finished.code in COMPLETE:
            complete = self.is_complete() and not any(map(_is_private, contents(self.out)))
            found += [] if complete else [f"not all outputs are there: {sorted(contents(self.out))}"]
        else:
            after = {name: digest for name, digest in contents(self.out).items() if not (killed and _is_private(name))}
            written = killed and self.is_complete()  # it was killed later
            found += [] if after == before or written else [f"outputs have changed: {sorted(after)}"]
            found += [] if killed else wrong_words(finished)
        if not killed and contents(self.tmp):
            found.append(f"temporary files are left: {sorted(contents(self.tmp))}")
        return found

    def changed_inputs(self) -> list[str]:
        return [] if contents(self.inputs) == self._inputs else ["an input has changed"]

    def is_complete(self, outputs: dict[str, str] | None = None) -> bool:
        """Whether all outputs are there and can be read, and nothing else is."""
        outputs = OUTPUTS if outputs is None else outputs
        if sorted(path.name for path in self.out.iterdir() if not _is_private(path.name)) != sorted(outputs.values()):
            return False
        try:
            for file in map(self.out.joinpath, outputs.values()):
                if file.suffix == ".json":
                    json.loads(file.read_text())
                elif file.suffix in (".h5", ".tfm"):
                    sitk.ReadTransform(str(file))
                else:
                    sitk.ReadImage(str(file))
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    def open_folders(self) -> list[str]:
        """The folders with temporary files that others may enter."""
        folders = [path for parent in (self.out, self.tmp) if parent.exists() for path in parent.iterdir()]
        private = [path for path in folders if path.is_dir() and "wavemorph" in path.name]
        return [f"others may enter {path.name}" for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077]

    def wrong_in_next_run(self) -> list[str]:
        """What is wrong with the next usual run: it must replace all outputs, and leave nothing else."""
        for folder in (self.out, self.tmp):
            folder.mkdir(exist_ok=True)
        finished = self.run(self.arguments("--aligned", spacing=6.0))
        if finished.code != 0:
            return [f"the next run failed ({finished.code}): {finished.err.strip()[-200:]}"]
        return [f"next run: {fault}" for fault in self.wrong_after(finished)]

    def results(self) -> dict[str, str]:
        """File -> checksum of what an output holds: what differs from run to run is left out."""
        transform = sitk.CompositeTransform(sitk.ReadTransform(str(self.out / OUTPUTS["transform"])))
        numbers = [repr(transform.GetNthTransform(n).GetParameters()) for n in range(transform.GetNumberOfTransforms())]
        report = json.loads((self.out / OUTPUTS["report"]).read_text())
        text = json.dumps({key: value for key, value in report.items() if key not in _VARYING})
        held = {OUTPUTS["transform"]: "".join(numbers), OUTPUTS["report"]: text}
        return {**contents(self.out), **{name: _digest(value.encode()) for name, value in held.items()}}


class WorkerBench(Bench):
    """The same for a job as Slicer's panel starts it, in the worker process."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.results_received: list = []

    def job(self, faults: list | None = None) -> RegistrationJob:
        """A job whose worker has these faults, as in child.py."""
        script = self.folder / "python-with-faults"
        script.write_text(f"#!/bin/sh\nexec {sys.executable} {CHILD} '{json.dumps(faults or [])}' worker\n")
        script.chmod(0o700)
        made = RegistrationJob(lambda: WorkerProcess(str(script)), temporaryPath=str(self.tmp))
        made.onResult = lambda registration, _: self.results_received.append(registration)
        return made

    def run_job(
        self,
        job: RegistrationJob,
        meanwhile: Callable[[RegistrationJob], None] | None = None,
        images: Sequence[sitk.Image] | None = None,
    ) -> Finished:
        """Run one job to its end; the exit code is 0, or 1 with the message that the user sees.

        meanwhile: called again and again while it runs.
        """
        self.results_received.clear()
        job.start(JobRequest(*(images or pair()), QUICK, outputs=("field", "warped", "jacobian", "inverse")))
        deadline = time.monotonic() + _SECONDS
        while job.active:
            if time.monotonic() > deadline:
                raise TimeoutError(job.log)
            job.poll()
            if meanwhile is not None:
                meanwhile(job)
            time.sleep(0.005)
        return Finished(1 if job.state is JobState.Failed else 0, err=job.error)

    def wrong_after_job(self, finished: Finished) -> list[str]:
        """What is wrong after a job: there must be a result or a sentence, and no file."""
        found = [] if self.results_received or finished.code else ["no result and no message"]
        message = finished.err
        if finished.code and (not message.endswith((".", "?")) or "\n" in message or "unexpected error" in message):
            found.append(f"not one sentence: {message!r}")
        return found + ([f"files are left: {sorted(contents(self.tmp))}"] if contents(self.tmp) else [])

    def wrong_in_next_job(self, job: RegistrationJob) -> list[str]:
        """What is wrong with the next job of the same panel; it ends the worker."""
        finished = self.run_job(job)
        found = [f"next job: {finished.err}"] if finished.code else []
        job.close()
        return found + [f"next job: {fault}" for fault in self.wrong_after_job(finished)]


@functools.cache
def _server() -> subprocess.Popen:
    """The process of which runs are forks; it ends with this one."""
    environment = {**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CHILD), "[]", "serve"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> checksum (of a folder: "") of everything in a folder."""
    if not folder.exists():
        return {}
    paths = sorted(folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): "" if p.is_dir() else _digest(p.read_bytes()) for p in paths}


def wrong_words(finished: Finished) -> list[str]:
    """What is wrong with what a program said that could not do its work: it must be one sentence."""
    lines = finished.err.splitlines()
    if len(lines) != 1 or not lines[0].startswith("wavemorph: ") or not lines[0].endswith((".", "?")):
        return [f"not one sentence ({finished.code}): {finished.err.strip()[-300:]!r}"]
    if lines[0].startswith("wavemorph: Unexpected"):
        return [f"not a sentence for users: {lines[0]!r}"]
    return [] if 0 < finished.code < 7 or finished.code > 128 else [f"the exit code {finished.code} is not defined"]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_private(name: str) -> bool:
    """Whether a file is in a folder that the next run removes."""
    return name.startswith(".wavemorph-")
