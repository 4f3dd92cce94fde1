"""What image files state of themselves, checked before a C++ library trusts it: sizes, numbers, and room for voxels."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from . import meta, nifti, nrrd, others

_MAGIC = b"NRRD"
_LARGEST_INFLATION = 1100  # values for a byte of a file, whatever its compression


def check_claims(path: Path, called: str, count: bool = True) -> str:
    """Check the header of an image file; returns the name of the one ITK class that may read it, "" for others.

    count: whether voxels are counted where they are compressed, which takes as long as decompressing them.

    Raises:
        InputError: the header cannot be used, or states more voxels than the file holds.
    """
    with path.open("rb") as stream:
        start = stream.read(len(_MAGIC))
    if start == _MAGIC or nrrd.is_nrrd(path):
        nrrd.check_header(path, called, count)
        return "NrrdImageIO"
    if meta.is_meta(path):
        meta.check_header(path, called, count)
        return "MetaImageIO"
    if nifti.is_nifti(path):
        nifti.check_header(path, called, count)
        return "NiftiImageIO"
    others.check_header(path, called)
    return ""


def has_checked_format(path: Path) -> bool:
    """Whether a file is NRRD, MetaImage or NIfTI, whose headers and voxels are checked before ITK reads them."""
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC or _has_other_files(path)


def check_room(path: Path, values: int, called: str) -> None:
    """Raise InputError where the file is too small for so many values of voxels, compressed or not."""
    if values > path.stat().st_size * _LARGEST_INFLATION and not _has_other_files(path):
        raise InputError(
            f"The {called} is cut short or damaged: its header states {values} values of voxels, and the file has "
            f"{path.stat().st_size} bytes; copy or download it again."
        )


def _has_other_files(path: Path) -> bool:
    """Whether the voxels may be in other files, which `check_claims` has looked at."""
    return nrrd.is_nrrd(path) or meta.is_meta(path) or nifti.is_nifti(path)
