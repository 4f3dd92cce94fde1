"""The private folders in which a job exchanges volumes with the worker process. Imports the standard library only.

A folder is removed with its job. What a crashed application left behind is removed at its next start.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "wavemorph-job-"
_MAX_AGE_SECONDS = 24 * 3600.0  # no job takes a day: the process ID was given to another process


def temporaryPath() -> str:
    """The temporary folder that is set in Slicer; outside Slicer, or where it cannot be used, that of the system."""
    with contextlib.suppress(ImportError, AttributeError):
        import slicer

        chosen = slicer.app.temporaryPath
        if chosen and os.path.isdir(chosen) and os.access(chosen, os.W_OK):
            return str(chosen)
    return tempfile.gettempdir()


def createJobFolder(parent: str | None = None) -> Path:
    """A new folder that only the user can read, named after this process. Raises OSError.

    parent: by default `temporaryPath`.
    """
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent or temporaryPath()))


def removeFoldersOfDeadProcesses(parent: str | None = None) -> None:
    """Remove the folders of the user's processes that have ended without removing them: they contain volumes."""
    try:
        entries = list(os.scandir(parent or temporaryPath()))
    except OSError:
        return
    for entry in entries:
        match = re.fullmatch(_PREFIX + r"(\d+)-\w+", entry.name)
        with contextlib.suppress(OSError):
            if match and entry.is_dir(follow_symlinks=False) and _isAbandoned(entry, int(match.group(1))):
                shutil.rmtree(entry.path, ignore_errors=True)


def _isAbandoned(entry: os.DirEntry, processId: int) -> bool:
    status = entry.stat(follow_symlinks=False)
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return False
    return not _isRunning(processId) or time.time() - status.st_mtime > _MAX_AGE_SECONDS


def _isRunning(processId: int) -> bool:
    if os.name == "nt":  # there os.kill ends the process
        import ctypes

        queryLimitedInformation, stillActive = 0x1000, 259
        handle = ctypes.windll.kernel32.OpenProcess(queryLimitedInformation, False, processId)
        if not handle:
            return False
        exitCode = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(exitCode))
        ctypes.windll.kernel32.CloseHandle(handle)
        return exitCode.value == stillActive
    try:
        os.kill(processId, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True
