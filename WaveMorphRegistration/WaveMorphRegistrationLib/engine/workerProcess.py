"""The worker process and the pipes to it. Nothing here waits, and nothing here needs Qt."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

_ENGINE = Path(__file__).resolve().parents[2]  # the folder that holds the package wavemorph
_CLOSING_SECONDS = 2.0


class WorkerProcess:
    """One `wavemorph.worker`. Start it, `send` messages, and take what has arrived from `events` now and then."""

    def __init__(self, executable: str | None = None):
        self._executable = executable
        self._process: subprocess.Popen | None = None
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._printed: collections.deque = collections.deque(maxlen=100)

    def start(self) -> None:
        """Raises OSError where there is no interpreter to run."""
        command = [self._executable or pythonExecutable(), "-m", "wavemorph.worker"]
        options = {"start_new_session": True} if os.name != "nt" else {"creationflags": 0x08000000}  # no console window
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            **options,
        )
        for target in (self._readEvents, self._readPrinted):
            threading.Thread(target=target, args=(self._process,), daemon=True).start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def processId(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def exitCode(self) -> int | None:
        """None while it runs. A launcher may stand between, so only 0 and not 0 mean something."""
        return self._process.poll() if self._process is not None else None

    @property
    def printed(self) -> str:
        """The last lines that the worker wrote to standard error."""
        return "\n".join(self._printed)

    def send(self, message: dict) -> bool:
        """False where the worker is gone."""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError, AttributeError):
            return False
        return True

    def events(self) -> list[dict]:
        """What has arrived since the last call."""
        arrived = []
        while True:
            try:
                arrived.append(self._events.get_nowait())
            except queue.Empty:
                return arrived

    def kill(self) -> None:
        """At once, with everything that it started: the interpreter of Slicer is a launcher with a child."""
        if not self.running:
            return
        if os.name == "nt":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(self._process.pid)], capture_output=True, check=False)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """Closing its input makes the worker leave; should it not, it is killed."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not self._reap():
            self.kill()

    def _reap(self) -> bool:
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _readEvents(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                self._printed.append(line.rstrip())
                continue
            if isinstance(event, dict):
                self._events.put(event)

    def _readPrinted(self, process: subprocess.Popen) -> None:
        for line in process.stderr:
            self._printed.append(line.rstrip())


def pythonExecutable() -> str:
    """Slicer's Python interpreter, and outside Slicer the one that runs."""
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    candidates = [shutil.which("PythonSlicer"), sys.executable]
    with contextlib.suppress(ImportError, AttributeError):
        import slicer

        candidates.append(str(Path(slicer.app.slicerHome) / "bin" / name))
    for path in candidates:
        if path and Path(path).is_file() and "python" in Path(path).name.lower():
            return path
    raise OSError("Slicer's Python interpreter (PythonSlicer) was not found.")


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    known = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(_ENGINE), *([known] if known else [])])
    environment["PYTHONUTF8"] = "1"
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment
