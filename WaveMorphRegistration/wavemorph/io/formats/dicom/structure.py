"""The structure of a DICOM file, walked before GDCM reads it: lengths, depth of sequences, and room for the pixels.

On sequences of undefined length within others GDCM takes four times as long for each level, and it allocates what Rows
and Columns state. The rules are those of DICOM PS3.5, chapter 7, and of PS3.10.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PREAMBLE = 128
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_PIXELS = ((0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009))
_SYNTAX = (0x0002, 0x0010)
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS = ((0x0028, element) for element in (0x0002, 0x0008, 0x0010, 0x0011, 0x0100))
_IMPLICIT = (b"1.2.840.10008.1.2", b"1.2.840.113619.5.2")
_BIG_ENDIAN, _DEFLATED = b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
_MOST_DEPTH = 64
_MOST_WORK = 1 << 20  # in units of GDCM's work on a sequence of undefined length; about three seconds
_LONGEST_NUMBER = 64
_MOST_DEFLATED = 1 << 28
_ANY_IMAGE, _MOST_COMPRESSION = 1 << 26, 10_000  # bytes of pixels, and for each byte that is stored


class Damaged(RuntimeError):
    """The structure of a file is not that of DICOM."""


class _Encoding(NamedTuple):
    explicit: bool
    order: str


def check_structure(path: Path) -> None:
    """Raise Damaged where lengths, nesting or pixels of a DICOM file are not as its header states."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        stream.seek(_PREAMBLE)
        start = _PREAMBLE + 4 if stream.read(4) == b"DICM" else 0
        walk = _Walk(stream, size)
        start, syntax = walk.file_meta(start)
        if syntax == _DEFLATED:
            stream.seek(start)
            walk = _Walk(*_inflated(stream))
            start = 0
        walk.dataset(start, _encoding(syntax, stream, start))
    walk.check_pixels()


def _encoding(syntax: bytes, stream: BinaryIO, start: int) -> _Encoding:
    """By the transfer syntax; where none is stated, by whether the first element has letters for its type."""
    if syntax == _BIG_ENDIAN:
        return _Encoding(True, ">")
    if not syntax:
        stream.seek(start + 4)
        return _Encoding(_is_type(stream.read(2)), "<")
    return _Encoding(syntax not in _IMPLICIT, "<")


def _inflated(stream: BinaryIO) -> tuple[BinaryIO, int]:
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(stream.read(), _MOST_DEFLATED)
    except zlib.error as error:
        raise Damaged(f"what is deflated cannot be read ({error})") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise Damaged("what is deflated has no end")
    return io.BytesIO(content), len(content)


def _is_type(letters: bytes) -> bool:
    return len(letters) == 2 and letters.isalpha() and letters.isupper()


class _Walk:
    """One walk over the elements of a file of `size` bytes."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._size = stream, size
        self._numbers: dict[tuple[int, int], int] = {}
        self._pixel_bytes = self._work = 0
        self._is_encapsulated = False

    def file_meta(self, place: int) -> tuple[int, bytes]:
        """(place of the data set, transfer syntax) after the elements of group 2, which are explicit."""
        syntax = b""
        # the data set that follows may have no types
        while place + 8 <= self._size and self._read(place, 2) == struct.pack("<H", _SYNTAX[0]):
            tag, _, length, value = self._element(place, _Encoding(True, "<"))
            if tag == _SYNTAX:
                syntax = self._read(value, min(length, _LONGEST_NUMBER)).strip(b" \0")
            place = self._after(value, length, self._size)
        return place, syntax

    def dataset(self, place: int, encoding: _Encoding) -> None:
        """The elements of the file from a place on."""
        while place < self._size:
            if self._size - place < 8:  # padding
                return
            tag, kind, length, value = self._element(place, encoding)
            if tag in (_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS):
                self._note(tag, kind, value, length, encoding)
            if tag in _PIXELS and length != _UNDEFINED:
                self._pixel_bytes = max(self._pixel_bytes, length)
            place = self._skip(tag, kind, length, value, self._size, encoding, 0, None)

    def check_pixels(self) -> None:
        """Raise Damaged where the pixels are fewer than stated."""
        sides = [self._numbers.get(tag, 1) for tag in (_ROWS, _COLUMNS, _SAMPLES, _FRAMES)]
        needed = math.prod(sides) * self._numbers.get(_BITS, 8) // 8
        room = self._pixel_bytes
        if self._is_encapsulated:
            room = _ANY_IMAGE + _MOST_COMPRESSION * room
        if needed > room and self._pixel_bytes:
            raise Damaged(f"its pixels need {needed} bytes and {self._pixel_bytes} are there")

    def _element(self, place: int, encoding: _Encoding) -> tuple[tuple[int, int], bytes, int, int]:
        """(tag, type, length of the value, place of the value)"""
        head = self._read(place, 12)
        group, element = struct.unpack_from(encoding.order + "2H", head)
        if group == _ITEM[0] or not encoding.explicit:
            return (group, element), b"", struct.unpack_from(encoding.order + "I", head, 4)[0], place + 8
        kind = head[4:6]
        if not _is_type(kind):
            raise Damaged(f"at byte {place} an element has no type")
        if kind not in _LONG:
            return (group, element), kind, struct.unpack_from(encoding.order + "H", head, 6)[0], place + 8
        if len(head) < 12:
            raise Damaged("it ends within an element")
        return (group, element), kind, struct.unpack_from(encoding.order + "I", head, 8)[0], place + 12

    def _skip(
        self,
        tag: tuple[int, int],
        kind: bytes,
        length: int,
        value: int,
        end: int,
        encoding: _Encoding,
        depth: int,
        undefined: int | None,
    ) -> int:
        """The place after an element.

        depth: sequences around it. undefined: how many of them have no length, since one that has; None without one.
        """
        if length == _UNDEFINED:
            if tag in _PIXELS or kind not in (b"SQ", b"UN", b""):
                self._is_encapsulated = True
                return self._fragments(value, end, encoding)
            if kind == b"UN":
                encoding = _Encoding(False, "<")
            return self._sequence(value, end, True, encoding, depth + 1, None if undefined is None else undefined + 1)
        after = self._after(value, length, end)
        if kind == b"SQ":
            self._sequence(value, after, False, encoding, depth + 1, 0 if undefined is None else undefined)
        return after

    def _sequence(
        self, place: int, end: int, open_ended: bool, encoding: _Encoding, depth: int, undefined: int | None
    ) -> int:
        """The place after the items of a sequence, which ends there, or where an element says so."""
        self._work += 1 if undefined is None else 4**undefined
        if depth > _MOST_DEPTH or self._work > _MOST_WORK:
            raise Damaged("its sequences are nested too deeply")
        while place < end:
            tag, _, length, value = self._element(place, encoding)
            if tag == _END_OF_SEQUENCE and open_ended:
                return value
            if tag != _ITEM:
                raise Damaged(f"at byte {place} a sequence has no item")
            stop = end if length == _UNDEFINED else self._after(value, length, end)
            place = self._item(value, stop, length == _UNDEFINED, encoding, depth, undefined)
        if open_ended:
            raise Damaged("a sequence has no end")
        return place

    def _item(
        self, place: int, end: int, open_ended: bool, encoding: _Encoding, depth: int, undefined: int | None
    ) -> int:
        while place < end:
            tag, kind, length, value = self._element(place, encoding)
            if tag == _END_OF_ITEM and open_ended:
                return value
            if tag[0] == _ITEM[0]:
                raise Damaged(f"at byte {place} an item ends that did not begin")
            place = self._skip(tag, kind, length, value, end, encoding, depth, undefined)
        if open_ended:
            raise Damaged("an item has no end")
        return place

    def _fragments(self, place: int, end: int, encoding: _Encoding) -> int:
        while place < end:
            tag, _, length, value = self._element(place, encoding)
            if tag == _END_OF_SEQUENCE:
                return value
            if tag != _ITEM:
                raise Damaged(f"at byte {place} compressed pixels have no item")
            place = self._after(value, length, end)
            self._pixel_bytes += length
        raise Damaged("compressed pixels have no end")

    def _note(self, tag: tuple[int, int], kind: bytes, value: int, length: int, encoding: _Encoding) -> None:
        """Keep the largest number that is stated for a tag."""
        content = self._read(value, min(length, _LONGEST_NUMBER))
        number = 1
        if tag == _FRAMES or kind in (b"IS", b"DS"):
            text = content.split(b"\\")[0].strip(b" \0")
            number = int(text) if text.isdigit() else 1
        elif len(content) >= 2:
            number = max(struct.unpack(f"{encoding.order}{len(content) // 2}H", content[: len(content) // 2 * 2]))
        self._numbers[tag] = max(number, self._numbers.get(tag, 0))

    def _after(self, value: int, length: int, end: int) -> int:
        if value + length > end:
            raise Damaged(f"at byte {value} an element has {length} bytes, and {max(0, end - value)} are there")
        return value + length

    def _read(self, place: int, length: int) -> bytes:
        self._stream.seek(place)
        content = self._stream.read(length)
        if len(content) < min(length, 8):
            raise Damaged("it ends within an element")
        return content
