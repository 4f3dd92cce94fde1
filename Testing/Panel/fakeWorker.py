"""A stand-in for the worker process, so that a test of the panel waits neither for a process nor for a registration.

It replays what the engine's `Worker` answered to the same job. Each job is recorded once per session, on small volumes,
without the expected error, which is added to the answers that ask for it: one whose values are known.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
from pathlib import Path

import phantoms
import SimpleITK as sitk
from wavemorph.worker import Worker


class WorkerRecordings:
    """The answers of the engine's worker, by the content of the input files and by what a job asks for."""

    def __init__(self, folder: Path):
        self._folder, self._events = folder, {}

    def replay(self, job: dict) -> list[dict]:
        """The events that answer a job; where there is a result, it is written into the folder of the job."""
        recordedJob = _withoutExpectedError(job)
        key = _key(recordedJob)
        if key not in self._events:
            self._events[key] = self._record(recordedJob, self._folder / key)
        recorded, folder = self._folder / key / "result", Path(job["folder"]) / "result"
        if recorded.is_dir():
            shutil.copytree(recorded, folder)
            if job["settings"].get("error_map"):
                _addExpectedError(folder)
        return [_addressed(event, job["job"], folder) for event in self._events[key]]

    @staticmethod
    def _record(job: dict, folder: Path) -> list[dict]:
        shutil.copytree(job["folder"], folder)
        output = io.StringIO()
        Worker(io.StringIO(), output)._do({**job, "folder": str(folder)})
        return [json.loads(line) for line in output.getvalue().splitlines()]


class FakeWorker:
    """Has the methods of `WorkerProcess`; a test steers it.

    holdAt: the stage after whose first event nothing more arrives, until `resume`.
    answersCancel: whether it answers a cancel message, or has to be killed.
    """

    _processIds = itertools.count(1)

    def __init__(self, recordings: WorkerRecordings, holdAt: str | None = None, answersCancel: bool = True):
        self._recordings, self._pending, self._held = recordings, [], False
        self.holdAt, self.answersCancel = holdAt, answersCancel
        self.processId, self.running, self.killed, self.standardError = next(self._processIds), False, False, ""
        self.messages: list[dict] = []

    def start(self) -> None:
        self.running = True
        self._pending = [{"event": "ready", "device": "CPU", "device_type": "cpu", "torch": "2"}]

    def send(self, message: dict) -> bool:
        if not self.running:
            return False
        self.messages.append(message)
        if "cancel" not in message:
            self._pending += self._recordings.replay(message)
        elif self.answersCancel:
            self._pending, self._held = [{"event": "cancelled", "job": message["cancel"]}], False
        return True

    def events(self) -> list[dict]:
        arrived = []
        while self._pending and not self._held:
            arrived.append(self._pending.pop(0))
            self._held = self.holdAt is not None and arrived[-1].get("stage") == self.holdAt
        return arrived

    def resume(self) -> None:
        self.holdAt, self._held = None, False

    def answer(self, *events: dict) -> None:
        """Let these events arrive instead of the recorded ones."""
        self._pending, self._held = list(events), False

    def crash(self, standardError: str = "") -> None:
        self.running, self._pending, self.standardError = False, [], standardError

    def kill(self) -> None:
        self.killed = True
        self.crash()

    def close(self) -> None:
        self.crash()


def _withoutExpectedError(job: dict) -> dict:
    outputs = job.get("outputs")
    others = outputs if outputs is None else [output for output in outputs if output != "expected_error"]
    settings = {name: value for name, value in job["settings"].items() if name != "error_map"}
    return {**job, "settings": settings, "outputs": others}


def _addExpectedError(folder: Path) -> None:
    """Add an expected error to a result, as `Registration.save` would."""
    error = phantoms.expected_error(sitk.ReadImage(str(folder.parent / "fixed.nrrd")))
    sitk.WriteImage(error, str(folder / "expected_error.nrrd"))
    report = json.loads((folder / "report.json").read_text())
    report["expected_error"] = phantoms.expected_error_entry(error)
    (folder / "report.json").write_text(json.dumps(report))


def _key(job: dict) -> str:
    asked = {name: value for name, value in job.items() if name not in ("job", "folder")}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for path in sorted(Path(job["folder"]).iterdir()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _addressed(event: dict, jobId: int, folder: Path) -> dict:
    addressed = {**event, "job": jobId} if "job" in event else dict(event)
    if "folder" in event:
        addressed["folder"] = str(folder)
    return addressed
