"""Image files of rare formats, decoded in a process of their own, which may crash, hang or run out of memory (ours)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError, OutOfMemoryError
from ...system.private_folders import private_folder
from . import nifti
from .claims import has_checked_format

REFUSAL = "refusal.txt"  # beside the decoded file: the sentence of an error
_ROOT = Path(__file__).resolve().parents[3]  # of the package
_SECONDS, _SECONDS_PER_MB = 60.0, 5.0  # of waiting; `decoding` limits the processor time
_TOO_SLOW = -1000  # beside the negative numbers of signals


@contextlib.contextmanager
def as_itk_reads_it(path: Path, called: str) -> Iterator[Path]:
    """The file itself, or a temporary copy or link that ITK reads rightly and safely in this process.

    Raises:
        InputError: it cannot be read; see also `nifti.as_itk_reads_it`.
        OutOfMemoryError: memory ran out.
    """
    if has_checked_format(path):
        with nifti.as_itk_reads_it(path, called) as file:
            yield file
        return
    with private_folder() as folder:
        yield _decoded(path, folder / "volume.nrrd", called)


def _decoded(path: Path, target: Path, called: str) -> Path:
    refusal = target.with_name(REFUSAL)
    code = run_decoder(path, target, called, _SECONDS + _SECONDS_PER_MB * path.stat().st_size / 1e6)
    if code == 0 and target.exists():
        return target
    if code > 0 and refusal.exists():
        error = OutOfMemoryError if code == OutOfMemoryError.exit_code else InputError
        raise error(refusal.read_text(encoding="utf-8"))
    raise InputError(
        f"The {called} cannot be read: the library of its format {_what_happened(code)}; the file is damaged, or "
        "write it as .nii.gz or .nrrd with the program that made it."
    )


def run_decoder(path: Path, target: Path, called: str, seconds: float) -> int:
    """Decode a file in a new process: its exit code, the negative number of the signal that ended it, or `_TOO_SLOW`.

    Raises InputError where no process can be started.
    """
    command = [sys.executable, "-m", "wavemorph.io.formats.decoding", str(path.absolute()), str(target), called]
    inherited = os.environ.get("PYTHONPATH")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(_ROOT), *([inherited] if inherited else [])]))
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.run(
            command, env=environment, timeout=seconds, check=False, stdin=nowhere, stdout=nowhere, stderr=nowhere
        ).returncode
    except subprocess.TimeoutExpired:
        return _TOO_SLOW
    except OSError as error:
        raise InputError(
            f"The {called} is read in a process of its own, which could not be started ({error.strerror}); write the "
            "file as .nii.gz or .nrrd."
        ) from error


def _what_happened(code: int) -> str:
    if code == _TOO_SLOW or code == -getattr(signal, "SIGXCPU", 0):
        return "took too long"
    with contextlib.suppress(ValueError):
        return f"crashed ({signal.Signals(-code).name})"
    return f"ended with code {code}"
