"""One registration at a time in a worker process that is kept for the next one: its state and its result."""

from __future__ import annotations

import contextlib
import enum
import shutil
import time
from pathlib import Path
from typing import Callable

from wavemorph.cli.progress import format_duration
from wavemorph.errors import OutputError
from wavemorph.io.files import short_reason
from wavemorph.io.result import Registration

from ..translation import _
from .jobFolders import createJobFolder, temporaryPath
from .jobRequest import JobRequest
from .workerProcess import WorkerProcess

CANCEL_GRACE_SECONDS = 1.2
_MAX_LOG_LINES = 500


class JobState(enum.Enum):
    """State of a job. Idle and Failed accept a new one."""

    Idle = "idle"
    Preparing = "preparing"
    Running = "running"
    Importing = "importing"
    Canceling = "canceling"
    Failed = "failed"


class RegistrationJob:
    """Starts, monitors and cancels a registration. `poll` must be called several times per second.

    `poll` calls the listeners, in its own thread: onResult(registration, context), onFailed(message), onCanceled() and
    onChanged(). An exception of onResult fails the job.

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
        self._jobId = 0
        self._startTime = self._cancelTime = 0.0
        self.state, self.stage, self.message, self.fraction = JobState.Idle, "", "", 0.0
        self.error, self.device = "", ""
        self.log: list[str] = []
        self.onResult = self.onFailed = self.onCanceled = self.onChanged = lambda *arguments: None

    @property
    def active(self) -> bool:
        """Whether a job is under way."""
        return self.state not in (JobState.Idle, JobState.Failed)

    @property
    def workerProcessId(self) -> int | None:
        """The process ID of the worker; None while none runs."""
        return self._worker.processId if self._worker is not None and self._worker.running else None

    @property
    def status(self) -> str:
        """One line: stage, percentage and remaining time."""
        if self.state is JobState.Canceling:
            return _("Canceling")
        parts = [self.stage or _("Starting")]
        if self.fraction > 0:
            parts.append(f"{100 * self.fraction:.0f} %")
        elapsed = time.monotonic() - self._startTime
        if self.fraction > 0.1 and elapsed > 2:
            parts.append(_("{time} left").format(time=format_duration(elapsed / self.fraction - elapsed)))
        return ", ".join(parts)

    def prepareWorker(self) -> None:
        """Start the worker, if none runs, so that it loads torch and the models while the user decides.

        What fails is in the log; the next job reports it.
        """
        if not self.active:
            with contextlib.suppress(OSError):
                self._startWorker()

    def start(self, request: JobRequest) -> None:
        """Write the inputs into a private folder and send the job. Raises RuntimeError while another job runs."""
        if self.active:
            raise RuntimeError("Another registration is running.")
        self._request, self._jobId = request, self._jobId + 1
        self.state, self.stage = JobState.Preparing, _("Preparing")
        self.message, self.fraction, self.error = "", 0.0, ""
        self._startTime = time.monotonic()
        self.onChanged()
        try:
            self._createFolder()
            self._startWorker()
            request.write(self._folder)
        except OutputError as error:
            self._fail(str(error))
            return
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            self._fail(_("The registration process could not be started ({reason}).").format(reason=reason.rstrip(".")))
            return
        self.state, self.stage = JobState.Running, _("Starting the registration process")
        self._worker.send(
            {
                "job": self._jobId,
                "folder": str(self._folder),
                "settings": request.settings,
                "outputs": None if request.outputs is None else list(request.outputs),
                "store_spacing_mm": request.storeSpacingMm,
            }
        )
        self.onChanged()

    def cancel(self) -> None:
        """Ask the worker to stop; `poll` kills it where it does not answer within CANCEL_GRACE_SECONDS."""
        if self.state in (JobState.Preparing, JobState.Running):
            self.state, self._cancelTime = JobState.Canceling, time.monotonic()
            if not self._worker.send({"cancel": self._jobId}):
                self._finishCanceling()
            self.onChanged()

    def poll(self) -> None:
        """Handle the events of the worker, and its end."""
        if self._worker is None:
            return
        running = self._worker.running  # asked first, so that the last events of a process that ended are handled
        for event in self._worker.events():
            self._handle(event)
        if not self.active:
            return
        if self.state is JobState.Canceling and time.monotonic() - self._cancelTime > CANCEL_GRACE_SECONDS:
            self._worker.kill()
            self._finishCanceling()
        elif not running:
            self._onWorkerEnded()

    def close(self) -> None:
        """Stop the running job and the worker."""
        if self.state in (JobState.Preparing, JobState.Running):
            self._worker.kill()
            self._finishCanceling()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self._removeFolder()

    def _createFolder(self) -> None:
        """Raises OutputError."""
        try:
            self._folder = createJobFolder(self._temporaryPath)
        except OSError as error:
            raise OutputError(
                _(
                    'The temporary folder "{folder}" cannot be used ({reason}). Choose another one in the application '
                    "settings."
                ).format(folder=self._temporaryPath or temporaryPath(), reason=short_reason(error))
            ) from error

    def _startWorker(self) -> None:
        if self._worker is None or not self._worker.running:
            self._addToLog(_("Starting the registration process"))
            self._worker = self._makeWorker()
            self._worker.start()

    def _handle(self, event: dict) -> None:
        kind = event.get("event")
        if kind == "ready":
            self.device = event.get("device", "")
            torch = event.get("torch", "?")
            self._addToLog(_("Engine ready on {device}, torch {torch}").format(device=self.device, torch=torch))
        elif kind == "log":
            self._addToLog(event.get("message", ""))
        elif kind == "error" and event.get("job") is None:
            self._addToLog(event.get("details", ""))
            if self.active:
                self._fail(_torchErrorMessage(event.get("message", "")))
        elif event.get("job") != self._jobId or not self.active:
            return  # an event of an earlier job
        elif kind == "progress":
            self._onProgress(event)
        elif kind == "cancelled" or self.state is JobState.Canceling:
            self._finishCanceling()
        elif kind == "error":
            self._addToLog(event.get("details", ""))
            self._fail(_errorMessage(event))
        elif kind == "result":
            self._import(Path(event["folder"]))

    def _onProgress(self, event: dict) -> None:
        if self.state is not JobState.Running:
            return
        if event["stage"] != self.stage:
            self._addToLog(event["stage"])
        self.stage, self.fraction, self.message = event["stage"], event["fraction"], event["message"]
        self.onChanged()

    def _import(self, folder: Path) -> None:
        self.state, self.stage, self.fraction = JobState.Importing, _("Importing"), 1.0
        self.onChanged()
        request = self._request
        try:
            registration = Registration.load(folder)
            registration.fixed, registration.moving = request.fixed, request.moving
            self.onResult(registration, request.context)
        except Exception as error:
            self._fail(_("The result could not be imported into the scene: {reason}").format(reason=error))
            return
        self._end(JobState.Idle)

    def _onWorkerEnded(self) -> None:
        if self.state is JobState.Canceling:
            self._finishCanceling()
            return
        self._addToLog(self._worker.standardError)
        self._fail(
            _(
                "The registration process ended unexpectedly (stage: {stage}). If memory ran out, close other programs "
                "or crop the volumes. Press Register to start it again."
            ).format(stage=self.stage)
        )

    def _fail(self, message: str) -> None:
        self.error = message
        self._addToLog(message)
        self._end(JobState.Failed)
        self.onFailed(message)

    def _finishCanceling(self) -> None:
        self._addToLog(_("Canceled"))
        self._end(JobState.Idle)
        self.onCanceled()

    def _end(self, state: JobState) -> None:
        self.state, self.stage, self._request = state, "", None
        self._removeFolder()
        self.onChanged()

    def _removeFolder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _addToLog(self, text: str) -> None:
        if text:
            self.log.append(f"{time.strftime('%H:%M:%S')}  {text}")
            del self.log[:-_MAX_LOG_LINES]


def _errorMessage(event: dict) -> str:
    if event.get("kind") == "Unexpected":
        return _("An unexpected error occurred in the registration process ({reason}); see the log.").format(
            reason=event.get("message", "")
        )
    return event.get("message", "")


def _torchErrorMessage(reason: str) -> str:
    if "No module named" in reason:
        return _("A Python package is missing ({reason}); press Register and allow its installation.").format(
            reason=reason
        )
    return _(
        "PyTorch is installed but cannot be used ({reason}). Open the module PyTorch Utils, uninstall it, install it "
        "again and restart Slicer."
    ).format(reason=reason)
