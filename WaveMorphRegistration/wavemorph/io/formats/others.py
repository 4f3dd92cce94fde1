"""Headers of VTK, MRC and GIPL files, of which ITK takes sizes that are not there; other formats need no check."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

from ...errors import InputError

_HEAD_BYTES = 4096
_VTK_SIZES = re.compile(rb"^DIMENSIONS[ \t]+[1-9]\d{0,8}[ \t]+[1-9]\d{0,8}[ \t]+[1-9]\d{0,8}[ \t\r]*$", re.MULTILINE)
_MRC_ORDER_AT, _MRC_EXTENDED_AT, _MRC_BYTES = 212, 92, 1024
_GIPL_BYTES, _GIPL_VOXEL_BYTES = 256, {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}  # by the type
_MRC_VOXEL_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 16: 3}  # by the mode


def check_header(path: Path, called: str) -> None:
    """Raise InputError where a VTK file states no sizes, and an MRC or GIPL file more than it holds."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    name = path.name.lower()
    if name.endswith(".vtk") and not _VTK_SIZES.search(head):
        raise InputError(f"The {called} is a VTK file without DIMENSIONS of three whole numbers; write it again.")
    if name.endswith((".mrc", ".rec")):
        _check_mrc(head, path.stat().st_size, called)
    if name.endswith(".gipl"):
        _check_gipl(head, path.stat().st_size, called)


def _check_mrc(head: bytes, length: int, called: str) -> None:
    order = ">" if head[_MRC_ORDER_AT : _MRC_ORDER_AT + 1] == b"\x11" else "<"
    extended = struct.unpack_from(order + "i", head, _MRC_EXTENDED_AT)[0] if len(head) >= _MRC_BYTES else -1
    if not 0 <= extended <= length:
        raise InputError(f"The {called} is an MRC file whose header is longer than the file; copy it again.")
    *size, mode = struct.unpack_from(order + "4i", head)
    needed = math.prod(size) * _MRC_VOXEL_BYTES.get(mode, 1)
    _refuse_short("MRC", size, needed, length - _MRC_BYTES - extended, called)


def _check_gipl(head: bytes, length: int, called: str) -> None:
    *size, kind = struct.unpack_from(">5H", head.ljust(_GIPL_BYTES, b"\0"))
    size = [*size[:3], max(1, size[3])]
    _refuse_short("GIPL", size, math.prod(size) * _GIPL_VOXEL_BYTES.get(kind, 1), length - _GIPL_BYTES, called)


def _refuse_short(form: str, size: list[int], needed: int, stored: int, called: str) -> None:
    if min(size) < 1 or needed > stored:
        raise InputError(
            f"The {called} is a file of {form} that states {' x '.join(map(str, size))} voxels and holds fewer; copy "
            "it again."
        )
