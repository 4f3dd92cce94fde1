"""The process that Slicer talks to: one JSON job per line on standard input, one JSON event per line on its output.

Job:    {"job": ID, "folder": FOLDER, "settings": {...}}, with fixed.nrrd and moving.nrrd in the folder, and where they
        exist fixed_mask.nrrd, moving_mask.nrrd and initial_transform.h5. Optional: "outputs": [...], which of "warped",
        "jacobian", "field" (the whole map as one field, or its displacement where VTK could not invert the field) and
        "inverse" are saved, by default the whole result; "store_spacing_mm": of the transforms.
        {"cancel": ID} stops a job.
Events: {"event": "ready", "device": NAME, "torch": VERSION} once;
        "progress" (job, stage, fraction, message), "log" (message),
        "result" (job, folder: a `Registration` saved into FOLDER/result, only what was asked for), "cancelled" (job),
        "error" (job or null, kind, message: one sentence, details: the traceback, or "").

It loads the default models before the first job, and keeps running between jobs. Half a minute after the last one it
frees what it holds on a GPU. It ends when standard input closes, when its parent process has ended, or after ten
minutes without a job.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .system.process import set_passive_wait

if TYPE_CHECKING:
    from .io.result import Registration

IDLE_SECONDS = 600.0
RELEASE_SECONDS = 30.0  # without a job, after which the memory of a GPU is freed: others may need it
_POLL_SECONDS = 1.0
_INPUTS = ("fixed_mask", "moving_mask")


class Worker:
    """Reads jobs from `source` (lines of JSON), runs one at a time, and writes events to `sink`."""

    def __init__(self, source: TextIO, sink: TextIO):
        self._source, self._sink = source, sink
        self._jobs: queue.Queue = queue.Queue()
        self._cancelled: set = set()
        self._lock = threading.Lock()
        self._parent = os.getppid()

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
            try:
                message = json.loads(line)
                if "cancel" in message:
                    self._cancelled.add(message["cancel"])
                else:
                    self._jobs.put(message)
            except (ValueError, TypeError) as error:
                self._send("log", message=f"not understood: {line.strip()[:200]} ({error})")
        os._exit(0)  # the parent process has ended, so that a running job has no receiver

    def _do(self, job: dict[str, Any]) -> None:
        from .errors import Cancelled, OutOfMemoryError, WaveMorphError

        number = job.get("job")
        try:
            self._send("result", job=number, folder=str(self._register(job)))
        except Cancelled:
            self._send("cancelled", job=number)
        except WaveMorphError as error:
            self._send("error", job=number, kind=type(error).__name__, message=str(error), details="")
        except MemoryError:
            sentence = "Memory ran out; close other programs, crop the volumes, or work on a coarser grid."
            self._send("error", job=number, kind=OutOfMemoryError.__name__, message=sentence, details="")
        except Exception as error:
            self._send(
                "error", job=number, kind="Unexpected", message=_short_reason(error), details=traceback.format_exc()
            )
        finally:
            self._cancelled.discard(number)

    def _register(self, job: dict[str, Any]) -> Path:
        import SimpleITK as sitk

        from .errors import Cancelled, OutputError
        from .io.files import short_reason
        from .registration.pipeline import register
        from .settings import Settings

        folder = Path(job["folder"])

        def progress(stage: str, fraction: float, message: str) -> None:
            if job["job"] in self._cancelled:
                raise Cancelled("Canceled.")
            self._send("progress", job=job["job"], stage=stage, fraction=round(fraction, 4), message=message)

        progress("Reading", 0.0, "")
        extra: dict[str, Any] = {
            name: sitk.ReadImage(str(path)) for name in _INPUTS if (path := folder / f"{name}.nrrd").exists()
        }
        initial = folder / "initial_transform.h5"
        if initial.exists():
            extra["initial_transform"] = sitk.ReadTransform(str(initial))
        registration = register(
            sitk.ReadImage(str(folder / "fixed.nrrd")),
            sitk.ReadImage(str(folder / "moving.nrrd")),
            Settings.from_dict(job.get("settings", {})),
            progress,
            **extra,
        )
        progress("Writing", 1.0, "")
        if job.get("store_spacing_mm") is not None:
            registration = registration.stored_at(job["store_spacing_mm"])
        result = folder / "result"
        try:
            _save(registration, result, job.get("outputs"))
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f'The result could not be written to the temporary folder "{folder.parent}" ({short_reason(error)}); '
                "is the disk full? Free some space, or choose another temporary folder in the application settings."
            ) from error
        return result

    def _send(self, event: str, **content: Any) -> None:
        with self._lock:
            self._sink.write(json.dumps({"event": event, **content}) + "\n")
            self._sink.flush()


def _describe_engine() -> dict[str, Any]:
    """Import torch, and describe the device it will use."""
    import torch

    from .system.machine import choose_device

    device = choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else {"mps": "Apple GPU"}.get(device.type, "CPU")
    return {"device": name, "device_type": device.type, "torch": torch.__version__}


def _save(registration: Registration, folder: Path, wanted: Iterable[str] | None) -> None:
    """`Registration.save` of what is wanted, or of all; volumes and field are made at the same time."""
    from .io.fields import is_invertible_beyond_field, rounded_whole_field
    from .io.result import VOLUMES, write_field_array

    folder.mkdir(exist_ok=True)
    if wanted is None:
        registration.save(folder)
        return
    wanted = set(wanted)
    fields = {"inverse_displacement", "inverse_correction"} if "inverse" in wanted else set()
    makes_field = "field" in wanted and not registration.is_linear and is_invertible_beyond_field(registration)
    if "field" in wanted and not makes_field:
        fields.add("displacement")
    volumes = [name for name in VOLUMES if name in wanted]

    def write_field() -> None:
        write_field_array(rounded_whole_field(registration), folder)

    with ThreadPoolExecutor() as pool:
        tasks: list[Future] = [pool.submit(getattr, registration, name) for name in volumes]  # properties that are kept
        if makes_field:
            tasks.append(pool.submit(write_field))
        for task in tasks:
            task.result()
    registration.save(folder, volumes, sorted(fields))


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
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    source = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="replace")
    return Worker(source, protocol).run(float(os.environ.get("WAVEMORPH_IDLE_SECONDS", IDLE_SECONDS)))


if __name__ == "__main__":
    sys.exit(main())
