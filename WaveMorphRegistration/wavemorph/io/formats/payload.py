"""Whether files hold the voxels that a header states: counted piece by piece, before ITK allocates them.

ITK reads NIfTI, NRRD and MetaImage files that are cut short without an error, with zeros or anything for the rest.
"""

from __future__ import annotations

import bz2
import gzip
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import InputError

_PIECE = 1 << 20
_MOST_INFLATION = {"gzip": 1100, "zlib": 1100, "bzip2": 1 << 20}  # deflate makes at most 1032 bytes of one
_CHECKSUM_WITHIN = 1 << 22  # bytes after the voxels in which the end of a compressed file, with its checksum, is sought
_LONGEST_TOKEN = 400  # characters of a number in text


@dataclass(frozen=True)
class Payload:
    """Where the voxels of a header are.

    files: (file, bytes before the voxels, or before the compressed voxels). encoding: of `ENCODINGS`. skipped: bytes
    before the voxels after decompression. needed: bytes of all voxels, or for texts their number. most: bytes of a file
    that belong to compressed voxels, where the header states it; 0 for all.
    """

    files: Sequence[tuple[Path, int]]
    encoding: str
    needed: int
    skipped: int = 0
    most: int = 0


def refuse_short(payload: Payload, stated: str, called: str, count: bool = True) -> None:
    """Raise InputError where the files hold fewer voxels than needed.

    stated: what the header says, for the message. count: see `check_claims`.
    """
    share = payload.skipped + -(-payload.needed // len(payload.files))
    for path, offset in payload.files:
        _refuse_irregular(path, called)
        if path.stat().st_size < offset + payload.most or not _holds(path, offset, share, payload, count):
            beside = f' in "{path.name}"' if len(payload.files) > 1 or f'"{path.name}"' not in called else ""
            raise InputError(
                f"The {called} is cut short or damaged: its header states {stated}, and the data{beside} hold less; "
                "copy or download it again."
            )


def _refuse_irregular(path: Path, called: str) -> None:
    """A pipe or a device may have no end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name with a NUL character
        mode = 0
    if not stat.S_ISREG(mode):
        raise InputError(
            f"The {called} has its voxels in another file, {path.name[:80]!r}, which is missing or no file; copy all "
            "files of the volume."
        )


def _holds(path: Path, offset: int, needed: int, payload: Payload, count: bool) -> bool:
    """Whether what follows the offset holds as much: bytes after decompression, or numbers of a text."""
    stored = path.stat().st_size - offset
    if payload.encoding == "zlib" and payload.most:
        stored = min(stored, payload.most)
    if needed > stored * _MOST_INFLATION.get(payload.encoding, 1):
        return False
    if not count or payload.encoding not in _COUNTERS:
        return True
    with path.open("rb") as stream:
        stream.seek(offset)
        try:
            return _COUNTERS[payload.encoding](stream, needed, stored)
        except (EOFError, OSError, zlib.error, ValueError):
            return False


def _inflates(stream: BinaryIO, needed: int, _: int) -> bool:
    with gzip.GzipFile(fileobj=stream) as unzipped:
        length = 0
        while length < needed + _CHECKSUM_WITHIN and (piece := unzipped.read(_PIECE)):
            length += len(piece)
    return length >= needed


def _inflates_zlib(stream: BinaryIO, needed: int, stored: int) -> bool:
    """zlib's format, or that of gzip, as MetaImage files have either."""
    inflater, length = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    waiting = stream.read(min(_PIECE, stored))
    while waiting and not inflater.eof and length < needed + _CHECKSUM_WITHIN:
        length += len(inflater.decompress(waiting, _PIECE))
        if not (waiting := inflater.unconsumed_tail):
            stored -= min(stored, _PIECE)
            waiting = stream.read(min(_PIECE, stored))
    return length >= needed and (inflater.eof or length >= needed + _CHECKSUM_WITHIN)


def _inflates_bzip2(stream: BinaryIO, needed: int, _: int) -> bool:
    with bz2.BZ2File(stream) as unzipped:
        length = 0
        while length < needed + _CHECKSUM_WITHIN and (piece := unzipped.read(_PIECE)):
            length += len(piece)
    return length >= needed


def _has_numbers(stream: BinaryIO, needed: int, _: int) -> bool:
    """Whether a text begins with as many numbers."""
    count = 0
    for token in _tokens(stream):
        float(token)
        count += 1
        if count == needed:
            return True
    return count >= needed


def _tokens(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while piece := stream.read(_PIECE):
        *whole, rest = re.split(rb"[\s,]+", rest + piece)
        if len(rest) > _LONGEST_TOKEN:
            raise ValueError("no number")
        yield from filter(None, whole)
    if rest:
        yield rest


def _has_hexadecimal(stream: BinaryIO, needed: int, _: int) -> bool:
    digits = 0
    while digits < 2 * needed and (piece := stream.read(_PIECE)):
        if re.search(rb"[^0-9a-fA-F\s]", piece):
            return False
        digits += len(re.sub(rb"\s+", b"", piece))
    return digits >= 2 * needed


_COUNTERS: dict[str, Callable[[BinaryIO, int, int], bool]] = {
    "gzip": _inflates,
    "zlib": _inflates_zlib,
    "bzip2": _inflates_bzip2,
    "text": _has_numbers,
    "hex": _has_hexadecimal,
}
