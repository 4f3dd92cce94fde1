"""The process that Slicer talks to: one JSON job per line on standard input, one JSON event per line on its output.

Job:    {"job": ID, "folder": FOLDER, "settings": {...}}, with fixed.nrrd and moving.nrrd in the folder, and where they
        exist fixed_mask.nrrd, moving_mask.nrrd and initial_transform.h5. Optional: "outputs": [...], which of "warped",
        "jacobian", "expected_error", "field" (the whole map as one field, or its displacement where VTK could not
        invert the field) and "inverse" (likewise, or two fields where one would be less exact) are saved, by default
        the whole result; "store_spacing_mm": of the transforms.
        {"cancel": ID} stops a job.
Events: {"event": "ready", "device": NAME, "torch": VERSION} once;
        "progress" (job, stage, fraction, message), "log" (message),
        "result" (job, folder: a `Registration` saved into FOLDER/result, only what was asked for), "cancelled" (job),
        "error" (job or null, kind, message: one sentence, details: the traceback, or "").

It loads the default models before the first job, and keeps running between jobs. Half a minute after the last one it
frees what it holds on a GPU. It ends when standard input closes, when its parent process has ended, or after ten
minutes without a job. Where its parent ends during a job, it removes the folder of that job, which is Slicer's private
one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .errors import OutOfMemoryError, is_out_of_memory
from .system.private_folders import remove_abandoned_folders
from .system.process import open_closed_streams, set_passive_wait

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .io.result import Registration

IDLE_SECONDS = 600.0
RELEASE_SECONDS = 30.0  # without a job, after which the memory of a GPU is freed: others may need it
_POLL_SECONDS = 1.0
_MAX_VOXELS_MADE_EARLY = 2**25  # of both volumes; of larger ones the registration needs the memory itself
_INPUTS = ("fixed_mask", "moving_mask")
_PRIVATE_FOLDER = re.compile(r"wavemorph-job-\d+-\w+")  # as Slicer's side names those that it makes for a job


class Worker:
    """Reads jobs from `source` (lines of JSON), runs one at a time, and writes events to `sink`."""

    def __init__(self, source: TextIO, sink: TextIO):
        self._source, self._sink = source, sink
        self._jobs: queue.Queue = queue.Queue()
        self._cancelled: set = set()
        self._lock = threading.Lock()
        self._parent = os.getppid()
        self._folder: Path | None = None  # of the running job

    def run(self, idle_seconds: float = IDLE_SECONDS) -> int:
        """Run jobs until the input ends, or until `idle_seconds` pass without a job; returns the exit code."""
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._send("ready", **_describe_engine())
        except Exception as error:  # torch may fail in many ways: a partial installation, a missing library
            self._send(
                "error", job=None, kind="TorchError", message=_short_reason(error), details=traceback.format_exc()
            )
            return 1
        if self._jobs.empty():
            load_default_models()
        idle_since, released = time.monotonic(), False
        while time.monotonic() - idle_since < idle_seconds and os.getppid() == self._parent:
            try:
                job = self._jobs.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if not released and time.monotonic() - idle_since > RELEASE_SECONDS:
                    release_gpu()
                    released = True
                continue
            self._do(job)
            idle_since, released = time.monotonic(), False
        return 0

    def _listen(self) -> None:
        """Read messages in a thread of its own: a running job must notice a cancellation and the end of its parent."""
        for line in self._source:
            job = self._understood(line)
            if job is not None:
                self._jobs.put(job)
        self._abandon()

    def _abandon(self) -> None:
        """End at once: the parent process has ended, so that nobody receives the running job or removes its folder."""
        if self._folder is not None:
            _remove_private_folder(self._folder)
        os._exit(0)

    def _understood(self, line: str) -> dict[str, Any] | None:
        """The job in a line; None after a cancellation, or where the line is neither and was reported."""
        try:
            message = json.loads(line)
            if isinstance(message, dict) and "cancel" in message:
                self._cancelled.add(message["cancel"])
                return None
            hash(message["job"])
            Path(message["folder"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            self._send("log", message=f"not understood: {line.strip()[:200]} ({type(error).__name__}: {reason})")
            return None
        return message

    def _do(self, job: dict[str, Any]) -> None:
        from .errors import Cancelled, WaveMorphError

        number = job.get("job")
        try:
            self._folder = Path(job["folder"])
            self._send("result", job=number, folder=str(self._register(job)))
        except Cancelled:
            self._send("cancelled", job=number)
        except WaveMorphError as error:
            self._send("error", job=number, kind=type(error).__name__, message=str(error), details="")
        except Exception as error:
            kind, sentence, details = "Unexpected", _short_reason(error), traceback.format_exc()
            if is_out_of_memory(error):
                sentence = "Memory ran out; close other programs, crop the volumes, or work on a coarser grid."
                kind, details = OutOfMemoryError.__name__, ""
            self._send("error", job=number, kind=kind, message=sentence, details=details)
        finally:
            self._folder = None
            self._cancelled.discard(number)

    def _register(self, job: dict[str, Any]) -> Path:
        import SimpleITK as sitk

        from .errors import Cancelled, InputError, OutputError
        from .io.files import one_sentence, short_reason
        from .io.result import check_store_spacing
        from .registration.pipeline import register
        from .settings import Settings
        from .system.machine import freed_memory_kept

        folder = Path(job["folder"])

        def progress(stage: str, fraction: float, message: str) -> None:
            if job["job"] in self._cancelled:
                raise Cancelled("Canceled.")
            self._send("progress", job=job["job"], stage=stage, fraction=round(fraction, 4), message=message)

        if not os.path.isdir(folder):
            raise InputError(f'The folder of the job, "{str(folder)[:200]}", does not exist.')
        progress("Reading", 0.0, "")
        settings, outputs = Settings.from_dict(job.get("settings", {})), _known_outputs(job.get("outputs"))
        if job.get("store_spacing_mm") is not None:
            check_store_spacing(job["store_spacing_mm"])
        initial = folder / "initial_transform.h5"
        with one_sentence("The inputs of the job cannot be read"):
            extra: dict[str, Any] = {
                name: sitk.ReadImage(str(path)) for name in _INPUTS if (path := folder / f"{name}.nrrd").exists()
            }
            if initial.exists():
                extra["initial_transform"] = sitk.ReadTransform(str(initial))
            fixed, moving = (sitk.ReadImage(str(folder / f"{name}.nrrd")) for name in ("fixed", "moving"))
        # what is wanted is made in memory that the registration has freed, and files take the place of the rest of it
        with freed_memory_kept(), ThreadPoolExecutor() as pool:
            making = _Making(outputs or (), pool)
            if job.get("store_spacing_mm") is None and _number_of_voxels(fixed, moving) <= _MAX_VOXELS_MADE_EARLY:
                extra["on_map"] = making.begin
            registration = register(fixed, moving, settings, progress, **extra)
            progress("Writing", 1.0, "")
            if job.get("store_spacing_mm") is not None:
                registration = registration.stored_at(job["store_spacing_mm"])
            making.finish(registration)
        result = folder / "result"
        try:
            _save(registration, result, outputs)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f'The result could not be written to the temporary folder "{folder.parent}" ({short_reason(error)}); '
                "is the disk full? Free some space, or choose another temporary folder in the application settings."
            ) from error
        return result

    def _send(self, event: str, **content: Any) -> None:
        try:
            with self._lock:
                self._sink.write(json.dumps({"event": event, **content}) + "\n")
                self._sink.flush()
        except BrokenPipeError:
            self._abandon()


def _describe_engine() -> dict[str, Any]:
    """Import torch, and describe the device it will use."""
    import torch

    from .system.machine import choose_device

    device = choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else {"mps": "Apple GPU"}.get(device.type, "CPU")
    return {"device": name, "device_type": device.type, "torch": torch.__version__}


def _known_outputs(wanted: Any) -> list[str] | None:
    """The names of the outputs of a job; None for all. Raises SettingsError."""
    if wanted is None or (isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)):
        return wanted
    from .errors import SettingsError

    raise SettingsError(f"The outputs of a job are a list of names, not {str(wanted)[:80]}.")


class _Making:
    """Makes the volumes that are wanted of a registration, and its fields where they can stand for it, in threads.

    It begins as soon as the map is known: while it is measured, cores are idle at times.
    """

    def __init__(self, wanted: Iterable[str], pool: ThreadPoolExecutor):
        self._wanted, self._pool = set(wanted), pool
        self._registration: Registration | None = None
        self._tasks: list[Future] = []

    def begin(self, registration: Registration) -> None:
        """Start, after what was begun with another registration has ended; that is given up."""
        wait(self._tasks)
        self._registration = registration
        made = (getattr, "warped"), (getattr, "jacobian"), (_make_field, "field"), (_make_inverse_field, "inverse")
        self._tasks = [self._pool.submit(make, registration, name) for make, name in made if name in self._wanted]

    def finish(self, registration: Registration) -> None:
        """Wait until everything is kept in the registration. Raises what went wrong."""
        if registration is not self._registration:
            self.begin(registration)
        for task in self._tasks:
            task.result()


def _make_field(registration: Registration, name: str) -> None:
    """Set `Registration.field`, unless the map is linear or VTK could not invert the field."""
    from .io.fields import is_invertible_beyond_field, rounded_whole_field

    if not registration.is_linear and is_invertible_beyond_field(registration):
        setattr(registration, name, rounded_whole_field(registration))


def _make_inverse_field(registration: Registration, _: str) -> None:
    """`make_inverse_field`, where the registration has its inverse: made here, it would change under the report."""
    from .io.fields import make_inverse_field

    if registration.inverse_correction is not None:
        make_inverse_field(registration)


def _number_of_voxels(*images: sitk.Image) -> int:
    return sum(image.GetNumberOfPixels() for image in images)


def _save(registration: Registration, folder: Path, wanted: Iterable[str] | None) -> None:
    """`Registration.save` of what is wanted, or of all. Where no field was made, what it is made of is saved."""
    from .io.result import VOLUMES

    folder.mkdir(exist_ok=True)
    if wanted is None:
        registration.save(folder)
        return
    in_parts = "inverse" in wanted and registration.inverse_field is None
    fields = ["inverse_displacement", "inverse_correction"] if in_parts else []
    if "field" in wanted and registration.field is None:
        fields.append("displacement")
    registration.save(folder, [name for name in VOLUMES if name in wanted], fields)


def _remove_private_folder(folder: Path) -> None:
    """Remove the folder of a job, if it was made for one, also while another thread writes into it."""
    if _PRIVATE_FOLDER.fullmatch(folder.name) and not folder.is_symlink():
        gone = folder.with_name(f"{folder.name}_gone")
        with contextlib.suppress(OSError):  # from now on nothing new can be written into it
            folder = folder.rename(gone)
        shutil.rmtree(folder, ignore_errors=True)


def load_default_models() -> None:
    """Import the engine and load the default models, so that the first job does not wait for them.

    Errors are left to the job that needs a model.
    """
    from .errors import WaveMorphError
    from .models.weights import resolve, resolve_segmentation_model
    from .registration import pipeline  # noqa: F401
    from .system.machine import choose_device

    with contextlib.suppress(WaveMorphError):
        device = choose_device("auto")
        resolve_segmentation_model(device)
        resolve("auto", device)


def release_gpu() -> None:
    """Free what the process holds on a GPU, its models too; the next job loads them again."""
    from .models.weights import unload
    from .system.machine import choose_device, release_device_memory

    device = choose_device("auto")
    if device.type != "cpu":
        unload()
        release_device_memory(device)


def _short_reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no details'}"


def main() -> int:
    """Run a worker. Standard output is kept for events; other output goes to standard error. Returns the exit code."""
    set_passive_wait()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it without a traceback
    open_closed_streams()
    remove_abandoned_folders()
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    source = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="replace")
    return Worker(source, protocol).run(float(os.environ.get("WAVEMORPH_IDLE_SECONDS", IDLE_SECONDS)))


if __name__ == "__main__":
    sys.exit(main())
