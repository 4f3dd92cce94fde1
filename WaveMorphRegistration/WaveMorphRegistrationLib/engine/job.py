"""One registration at a time in a warm worker: what state it is in, and what comes of it."""

from __future__ import annotations

import enum
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import SimpleITK as sitk
from wavemorph.progress import spoken
from wavemorph.result import Registration

from ..translation import _
from .workerProcess import WorkerProcess

CANCEL_GRACE_SECONDS = 1.2


class JobState(enum.Enum):
    """Where a job stands. Idle and Failed take a new one."""

    Idle = "idle"
    Preparing = "preparing"
    Running = "running"
    Importing = "importing"
    Cancelling = "cancelling"
    Failed = "failed"


@dataclass
class JobRequest:
    """What the engine gets, copied from the scene; `context` is handed back with the result."""

    fixed: sitk.Image
    moving: sitk.Image
    settings: dict[str, Any] = field(default_factory=dict)
    fixedMask: sitk.Image | None = None
    movingMask: sitk.Image | None = None
    initialTransform: sitk.Transform | None = None
    context: Any = None


class RegistrationJob:
    """Starts, watches and cancels. `poll` is to be called some times a second; it calls the listeners, in its thread.

    onResult(registration, context), onFailed(sentence), onCancelled(), onChanged(): what they raise is the caller's.

    >>> job = RegistrationJob()
    >>> job.onResult = lambda registration, context: print(registration.report["seconds"])
    >>> job.start(JobRequest(fixed, moving))
    >>> while job.active: job.poll()
    """

    def __init__(self, makeWorker: Callable[[], WorkerProcess] = WorkerProcess, temporaryPath: str | None = None):
        self._makeWorker, self._temporaryPath = makeWorker, temporaryPath
        self._worker: WorkerProcess | None = None
        self._request: JobRequest | None = None
        self._folder: Path | None = None
        self._number = 0
        self._began = self._cancelledAt = 0.0
        self.state, self.stage, self.message, self.fraction = JobState.Idle, "", "", 0.0
        self.error, self.device = "", ""
        self.log: list[str] = []
        self.onResult = self.onFailed = self.onCancelled = self.onChanged = lambda *arguments: None

    @property
    def active(self) -> bool:
        return self.state not in (JobState.Idle, JobState.Failed)

    @property
    def workerProcessId(self) -> int | None:
        return self._worker.processId if self._worker is not None and self._worker.running else None

    @property
    def status(self) -> str:
        """One line: stage, percentage and time left."""
        parts = [self.stage or _("Starting")]
        if self.state is JobState.Cancelling:
            return _("Cancelling")
        if self.fraction > 0:
            parts.append(f"{100 * self.fraction:.0f} %")
        elapsed = time.monotonic() - self._began
        if self.fraction > 0.1 and elapsed > 2:
            parts.append(_("{time} left").format(time=spoken(elapsed / self.fraction - elapsed)))
        return ", ".join(parts)

    def start(self, request: JobRequest) -> None:
        """Write the inputs into a private folder and ask the worker. Raises RuntimeError while another job runs."""
        if self.active:
            raise RuntimeError("A registration is running already.")
        self._request, self._number = request, self._number + 1
        self.state, self.stage = JobState.Preparing, _("Preparing")
        self.message, self.fraction, self.error = "", 0.0, ""
        self._began = time.monotonic()
        self.onChanged()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="wavemorph-", dir=self._temporaryPath))
            _writeInputs(request, self._folder)
            if self._worker is None or not self._worker.running:
                self._note(_("Starting the engine"))
                self._worker = self._makeWorker()
                self._worker.start()
        except (OSError, RuntimeError) as error:
            self._fail(_("The engine could not be started: {reason}").format(reason=" ".join(str(error).split())[:300]))
            return
        self.state, self.stage = JobState.Running, _("Starting the engine")
        self._worker.send({"job": self._number, "folder": str(self._folder), "settings": request.settings})
        self.onChanged()

    def cancel(self) -> None:
        """A message first; `poll` kills the worker should it not answer in time."""
        if self.state in (JobState.Preparing, JobState.Running):
            self.state, self._cancelledAt = JobState.Cancelling, time.monotonic()
            if not self._worker.send({"cancel": self._number}):
                self._finishCancelling()
            self.onChanged()

    def poll(self) -> None:
        """Take in what the worker said, and whether it still lives."""
        if self._worker is None:
            return
        alive = self._worker.running  # asked first: what it said before it ended is then among the events
        for event in self._worker.events():
            self._take(event)
        if not self.active:
            return
        if self.state is JobState.Cancelling and time.monotonic() - self._cancelledAt > CANCEL_GRACE_SECONDS:
            self._worker.kill()
            self._finishCancelling()
        elif not alive and self.active:
            self._workerEnded()

    def close(self) -> None:
        """Stop whatever runs, and the worker."""
        if self.state in (JobState.Preparing, JobState.Running):
            self._worker.kill()
            self._finishCancelling()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self._removeFolder()

    def _take(self, event: dict) -> None:
        kind = event.get("event")
        if kind == "ready":
            self.device = event.get("device", "")
            self._note(_("Engine ready on {device}, torch {torch}").format(
                device=self.device, torch=event.get("torch", "?")
            ))  # fmt: skip
        elif kind == "log":
            self._note(event.get("message", ""))
        elif kind == "error" and event.get("job") is None:
            self._note(event.get("details", ""))
            self._fail(_torchSentence(event.get("message", "")))
        elif event.get("job") != self._number or not self.active:
            return  # an answer to a job that is over
        elif kind == "progress":
            if self.state is JobState.Running:
                if event["stage"] != self.stage:
                    self._note(event["stage"])
                self.stage, self.fraction, self.message = event["stage"], event["fraction"], event["message"]
                self.onChanged()
        elif kind == "cancelled" or self.state is JobState.Cancelling:
            self._finishCancelling()
        elif kind == "error":
            self._note(event.get("details", ""))
            self._fail(_sentence(event))
        elif kind == "result":
            self._import(Path(event["folder"]))

    def _import(self, folder: Path) -> None:
        self.state, self.stage, self.fraction = JobState.Importing, _("Importing"), 1.0
        self.onChanged()
        request = self._request
        try:
            registration = Registration.load(folder)
            registration.fixed, registration.moving = request.fixed, request.moving
            self.onResult(registration, request.context)
        except Exception as error:
            self._fail(_("The result could not be brought into the scene: {reason}").format(reason=error))
            return
        self._end(JobState.Idle)

    def _workerEnded(self) -> None:
        if self.state is JobState.Cancelling:
            self._finishCancelling()
            return
        self._note(self._worker.printed)
        self._fail(
            _(
                "The engine stopped in the middle of its work ({stage}). If memory ran out, close other programs or "
                "crop the volumes; Register starts it again."
            ).format(stage=self.stage)
        )

    def _fail(self, sentence: str) -> None:
        self.error = sentence
        self._note(sentence)
        self._end(JobState.Failed)
        self.onFailed(sentence)

    def _finishCancelling(self) -> None:
        self._note(_("Cancelled"))
        self._end(JobState.Idle)
        self.onCancelled()

    def _end(self, state: JobState) -> None:
        self.state, self.stage, self._request = state, "", None
        self._removeFolder()
        self.onChanged()

    def _removeFolder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _note(self, text: str) -> None:
        if text:
            self.log.append(f"{time.strftime('%H:%M:%S')}  {text}")
            del self.log[:-500]


def _writeInputs(request: JobRequest, folder: Path) -> None:
    for name, image in (
        ("fixed", request.fixed),
        ("moving", request.moving),
        ("fixed_mask", request.fixedMask),
        ("moving_mask", request.movingMask),
    ):
        if image is not None:
            sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
    if request.initialTransform is not None:
        sitk.WriteTransform(request.initialTransform, str(folder / "initial_transform.h5"))


def _sentence(event: dict) -> str:
    if event.get("kind") == "Unexpected":
        return _("The engine met an unexpected error ({gist}); see the log.").format(gist=event.get("message", ""))
    return event.get("message", "")


def _torchSentence(gist: str) -> str:
    if "No module named" in gist:
        return _("A Python package is missing ({gist}); press Register and let it be installed.").format(gist=gist)
    return _(
        "PyTorch is installed but cannot be used ({gist}). Open the module PyTorch Utils, uninstall it, install it "
        "again and restart Slicer."
    ).format(gist=gist)
