"""Folders for temporary files, which only the user can enter and which do not outlive their process for long."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .process import uninterrupted

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PREFIX = ".wavemorph-"
_POLL_SECONDS = 0.02


@contextlib.contextmanager
def private_folder(parent: str | os.PathLike | None = None) -> Iterator[Path]:
    """A new folder of mode 0700 in `parent`, by default in that of the system for temporary files; removed at the end.

    Where the process was killed, `remove_abandoned_folders` finds it. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        with uninterrupted():
            folder, lock = _make(tempfile.gettempdir() if parent is None else parent)
            stack.callback(_remove, folder, lock)
        yield folder


def remove_abandoned_folders(parent: str | os.PathLike[str] | None = None) -> None:
    """Remove the private folders in `parent` whose process has ended without removing them.

    Each process locks its folders. Where folders cannot be locked (Windows, some network drives), none is removed.
    """
    try:
        entries = list(os.scandir(tempfile.gettempdir() if parent is None else parent))
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False) and _is_own(entry):
                lock = lock_folder(entry.path)
                if lock is not None:
                    _remove(Path(entry.path), lock)


def lock_folder(folder: str | os.PathLike, seconds: float = 0.0) -> int | None:
    """Lock a folder against other processes; returns the descriptor for `unlock`, or None where it cannot be locked.

    Raises BlockingIOError where another process has locked it, and still has after so many seconds.
    """
    if fcntl is None:
        return None
    descriptor, end = None, time.monotonic() + seconds
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        while not _is_locked(descriptor):
            if time.monotonic() >= end:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process uses it")
            time.sleep(_POLL_SECONDS)
    except BaseException as error:
        unlock(descriptor)
        if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def unlock(descriptor: int | None) -> None:
    """End a lock of `lock_folder`."""
    if descriptor is not None:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(parent: str | os.PathLike) -> tuple[Path, int | None]:
    """A new folder and its lock: before it is locked, another process may take it for an abandoned one."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with contextlib.suppress(BlockingIOError):
            lock = lock_folder(folder)
            if folder.exists():
                return folder, lock
            unlock(lock)


def _remove(folder: Path, lock: int | None) -> None:
    with uninterrupted():
        shutil.rmtree(folder, ignore_errors=True)
        unlock(lock)


def _is_own(entry: os.DirEntry) -> bool:
    return not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()
