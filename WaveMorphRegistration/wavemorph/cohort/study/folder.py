"""The folder of a study, with the hidden folder in it that says what was done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ...errors import OutputError
from ...system.private_folders import lock_folder, unlock


@contextlib.contextmanager
def study_folder(folder: Path, state: str, called: str, resume: bool) -> Iterator[Path]:
    """The folder of a study, which no other process works on within the context.

    Parameters:
        folder: a new or an empty one, or with `resume` that of the study.
        state: the name of the hidden folder in it.
        called: what messages call it: "study".

    Raises:
        OutputError: the folder is not empty, is none of a study, or another process works on it.
    """
    hidden = folder / state
    if folder.exists() and not folder.is_dir():
        raise OutputError(f'The {called} cannot be written: "{folder}" is a file; name a folder.')
    if folder.exists() and any(folder.iterdir()):
        if not hidden.is_dir():
            raise OutputError(f'The folder "{folder}" is not empty, and is not that of a {called}; name a new one.')
        if not resume:
            raise OutputError(
                f'The folder "{folder}" holds a {called} already; continue it with --resume, or name a new one.'
            )
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(hidden)
    except BlockingIOError as error:
        raise OutputError(f'Another process works on the {called} "{folder}"; wait for it, or end it.') from error
    except OSError as error:
        raise OutputError(f'The folder "{folder}" cannot be made ({error.strerror}); name another one.') from error
    try:
        yield folder
    finally:
        unlock(lock)
