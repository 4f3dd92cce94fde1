"""The worker process and its pipes. No call here blocks for long, and none needs Qt."""

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

_ENGINE_PATH = Path(__file__).resolve().parents[2]  # the folder that contains the package wavemorph
_CLOSE_TIMEOUT_SECONDS = 2.0
_MAX_ERROR_LINES = 100
_NO_CONSOLE_WINDOW = 0x08000000  # CREATE_NO_WINDOW of Windows


class WorkerProcess:
    """A process that runs `wavemorph.worker`: messages go to it by `send`, and `events` returns what has arrived.

    executable: the Python interpreter; None takes `pythonExecutable`.
    """

    def __init__(self, executable: str | None = None):
        self._executable = executable
        self._process: subprocess.Popen | None = None
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._errorLines: collections.deque = collections.deque(maxlen=_MAX_ERROR_LINES)

    def start(self) -> None:
        """Start the process. Raises OSError where there is no interpreter."""
        command = [self._executable or pythonExecutable(), "-m", "wavemorph.worker"]
        options = {"start_new_session": True} if os.name != "nt" else {"creationflags": _NO_CONSOLE_WINDOW}
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
        for target in (self._readEvents, self._readStandardError):
            threading.Thread(target=target, args=(self._process,), daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether the process has started and not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def processId(self) -> int | None:
        """The process ID; None before `start`."""
        return self._process.pid if self._process is not None else None

    @property
    def exitCode(self) -> int | None:
        """None while the process runs. Slicer's launcher changes the value, so only zero or not zero has a meaning."""
        return self._process.poll() if self._process is not None else None

    @property
    def standardError(self) -> str:
        """The last lines that the process wrote to standard error."""
        return "\n".join(self._errorLines)

    def send(self, message: dict) -> bool:
        """Write one message as a line of JSON; False where the process has ended."""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError, AttributeError):
            return False
        return True

    def events(self) -> list[dict]:
        """The events that have arrived since the last call."""
        arrived = []
        while True:
            try:
                arrived.append(self._events.get_nowait())
            except queue.Empty:
                return arrived

    def kill(self) -> None:
        """End the process and its children at once: Slicer's interpreter is a launcher that starts a child."""
        if not self.running:
            return
        if os.name == "nt":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(self._process.pid)], capture_output=True, check=False)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._waitForExit()

    def close(self) -> None:
        """Close the input, at which the worker ends; kill it where it does not."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not self._waitForExit():
            self.kill()

    def _waitForExit(self) -> bool:
        try:
            self._process.wait(_CLOSE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _readEvents(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                self._errorLines.append(line.rstrip())
                continue
            if isinstance(event, dict):
                self._events.put(event)

    def _readStandardError(self, process: subprocess.Popen) -> None:
        for line in process.stderr:
            self._errorLines.append(line.rstrip())


def pythonExecutable() -> str:
    """The path of Slicer's Python interpreter; outside Slicer, of the running one. Raises OSError where none exists."""
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
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(_ENGINE_PATH), *([inherited] if inherited else [])])
    environment["PYTHONUTF8"] = "1"
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment
