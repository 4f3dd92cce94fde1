"""Files of images and what ITK says of them: opened, read and refused in one sentence. Does not import torch."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from .formats.claims import check_claims, check_room


def existing(path: str | os.PathLike, name: str) -> tuple[Path, str]:
    """(path, what messages call it), such as 'fixed image "head.nrrd"'. Raises InputError where it cannot be read."""
    path = Path(path)
    called = f'{name} "{path.name}"'
    if not path.exists():
        raise InputError(f'The {name} "{path}" does not exist; check the path.')
    if not os.access(path, os.R_OK):
        raise InputError(f'The {name} "{path}" may not be read; check its permissions.')
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The {called} is empty (0 bytes); copy or write it again.")
    return path, called


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
        return reader.Execute()


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
def one_sentence(what: str) -> Iterator[None]:
    """SimpleITK's exceptions as an InputError."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"{what} ({short_reason(error)}).") from error


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
    text = re.sub(r"\w+\(0x[0-9a-f]+\):\s*|\bat 0x[0-9a-f]+", "", str(error).rpartition("ERROR:")[2])
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(" .") or type(error).__name__
