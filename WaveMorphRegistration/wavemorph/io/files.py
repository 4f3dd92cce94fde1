"""Files of images and what ITK says of them: opened, read and refused in one sentence. Does not import torch."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError, OutOfMemoryError, is_out_of_memory
from .formats.claims import check_claims, check_room


def existing(path: str | os.PathLike, name: str) -> tuple[Path, str]:
    """(path, what messages call it), such as 'fixed image "head.nrrd"'. Raises InputError where it cannot be read."""
    path = Path(path)
    called = f'{name} "{_quotable(path.name)}"'
    if not path.exists():
        raise InputError(f'The {name} "{path}" does not exist; check the path.')
    if not os.access(path, os.R_OK):
        raise InputError(f'The {name} "{path}" may not be read; check its permissions.')
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The {called} is empty (0 bytes); copy or write it again.")
    return path, called


def stamp(path: Path) -> object:
    """What changes when a file is replaced or written, or when a file is added to a folder or to those below it."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    states = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            states.append((file, status.st_ino, status.st_size, status.st_mtime_ns))
    return states


def refuse_changed(path: Path, before: object, called: str) -> None:
    """Check that a volume has not changed since its `stamp` was taken. Raises InputError."""
    if stamp(path) != before:
        raise InputError(f"The {called} changed while it was read; wait until it is complete, and read it again.")


def without_names(sentence: str) -> str:
    """A sentence about a file for a report, which others may read: without names of files, folders and series.

    They often have the name of a patient in them. What a file states as its unit of length stays.
    """
    sentence = re.sub(r', such as "[^"]*",', "", sentence)
    return re.sub(r'(?<!lengths in) "[^"]*"', "", sentence)


def open_image(path: Path, called: str, count: bool = True) -> sitk.ImageFileReader:
    """A reader that has read the header, after what it states was checked. Raises InputError.

    count: see `check_claims`.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(check_claims(path, called, count))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        refuse_lack_of_memory(error, called)
        if "orthonormal" in str(error):
            raise InputError(
                f"The {called} has sheared axes, which ITK cannot represent; resample it onto a lattice of right "
                "angles first, for instance with nibabel's resample_from_to."
            ) from error
        raise InputError(
            f"The {called} cannot be read as an image ({short_reason(error)}); give a complete NIfTI, NRRD or "
            "MetaImage file, or a folder of DICOM slices."
        ) from error
    check_room(path, math.prod(reader.GetSize()) * reader.GetNumberOfComponents(), called)
    return reader


def load_image(reader: sitk.ImageFileReader, called: str) -> sitk.Image:
    """The image of a reader that has read the header. Raises InputError."""
    with quiet_itk(), one_sentence(f"The voxels of the {called} cannot be read; copy or write the file again"):
        try:
            return reader.Execute()
        except RuntimeError as error:
            refuse_lack_of_memory(error, called)
            raise


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Suppress ITK's C++ warnings; the checks of this module report what matters."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what the libraries of the formats print of a damaged file or a full disk off standard error."""
    if sys.stderr is not None:
        sys.stderr.flush()
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError):  # a program without a terminal may have no standard error
            before = os.dup(2)
            undo.callback(os.close, before)
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            undo.callback(os.dup2, before, 2)
        yield


@contextlib.contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """SimpleITK's exceptions as an InputError, but a lack of memory as an OutOfMemoryError."""
    try:
        yield
    except RuntimeError as error:
        refuse_lack_of_memory(error, "volume")
        raise InputError(f"{what} ({short_reason(error)}).") from error


def refuse_lack_of_memory(error: Exception, called: str) -> None:
    """Raises OutOfMemoryError where that is the reason of an error while something was read."""
    if is_out_of_memory(error):
        raise OutOfMemoryError(f"Memory ran out while the {called} was read; close other programs.") from error


def stored_length(path: Path) -> int:
    """Bytes in a file, after decompression of .gz. Raises EOFError or OSError where it is truncated or damaged."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    length = 0
    with gzip.open(path) as stream:
        while block := stream.read(1 << 22):
            length += len(block)
    return length


def short_reason(error: Exception) -> str:
    """The reason in an error of the system or of SimpleITK, on one short line, without source files and addresses."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = re.sub(r"\w+ ?\(0x[0-9a-f]+\):?\s*|\bat 0x[0-9a-f]+", "", str(error).rpartition("ERROR:")[2])
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(" .") or type(error).__name__


def _quotable(name: str) -> str:
    return name.replace('"', "'")
