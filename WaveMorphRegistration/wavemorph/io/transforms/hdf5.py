"""The part of HDF5 that ITK's transform files use, read without the HDF5 library, which crashes on damaged files.

Read are groups whose links are in the object header or in a symbol table, and data sets of one axis: text, and
floating-point numbers that are contiguous or in chunks, compressed or not. Links to other places and files are refused.
https://docs.hdfgroup.org/hdf5/develop/_f_m_t3.html
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = 2**64 - 1
_SPACE, _LINK_INFO, _TYPE, _LINK, _EXTERNAL, _LAYOUT, _FILTERS, _CONTINUATION, _TABLE = 1, 2, 3, 6, 7, 8, 11, 16, 17
_USED = (_SPACE, _LINK_INFO, _TYPE, _LINK, _LAYOUT, _FILTERS, _TABLE)
_SHARED = 0x02
_FLOAT, _FIXED_TEXT, _VARIABLE = 1, 3, 9
_COMPACT, _CONTIGUOUS, _CHUNKED = 0, 1, 2
_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3
_MOST_MESSAGES, _MOST_DEPTH, _MOST_ENTRIES, _LONGEST_TEXT = 4096, 16, 1 << 20, 4096
_MOST_INFLATION = 1100  # deflate makes at most 1032 bytes of one
# how IEEE numbers are described: bit offset, precision, place and size of exponent and mantissa, bias
_IEEE = {4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}


class Hdf5Error(ValueError):
    """The file is damaged, or has parts of HDF5 that are not read."""


class _Message(NamedTuple):
    kind: int
    content: bytes


class Hdf5File:
    """The content of a file. Every address and size in it is checked before it is used. Raises Hdf5Error."""

    def __init__(self, content: bytes):
        self._content = content
        if not content.startswith(_SIGNATURE):
            raise Hdf5Error("it does not begin as HDF5 does")
        version = self._number(8, 1)
        if version in (0, 1):
            sizes, start = self._bytes(13, 2), 24 + 4 * version
            base, _, end, _, _, self._root = self._numbers("6Q", start)
        elif version in (2, 3):
            sizes = self._bytes(9, 2)
            base, _, end, self._root = self._numbers("4Q", 12)
            self._check_sum(0, 44)
        else:
            raise Hdf5Error(f"its version is {version}")
        if sizes != b"\x08\x08" or base != 0:
            raise Hdf5Error("its addresses are not of eight bytes from the beginning of the file")
        if end > len(content):
            raise Hdf5Error(f"it is cut short: {end} bytes are stated, and {len(content)} are there")

    def links(self, *names: str) -> dict[str, int]:
        """Name -> address of what a group holds; names: the path to the group from the root."""
        address = self._root
        for name in names:
            address = self._found(self._links_at(address), name)
        return self._links_at(address)

    def text(self, address: int) -> str:
        """The one text of a data set."""
        messages = self._messages(address)
        kind, bits, size, _ = self._type(messages)
        if self._count(messages) != 1 or size > _LONGEST_TEXT:
            raise Hdf5Error("a text is none")
        stored = self._stored(messages, size)
        if kind == _VARIABLE and bits & 0xF == 1 and size == 16:
            length, collection, index = struct.unpack("<IQI", stored)
            stored = self._in_collection(collection, index)[:length]
        elif kind != _FIXED_TEXT:
            raise Hdf5Error("a text is none")
        return stored.split(b"\0")[0].decode("latin-1")

    def values(self, address: int) -> np.ndarray:
        """(N,) float64: the numbers of a data set."""
        messages = self._messages(address)
        kind, bits, size, properties = self._type(messages)
        if kind != _FLOAT or size not in _IEEE or properties != _IEEE[size] or bits & 0x40:
            raise Hdf5Error("its numbers are not of floating point")
        count = self._count(messages)
        if count * size > len(self._content) * _MOST_INFLATION:
            raise Hdf5Error(f"{count} numbers are stated, and the file has {len(self._content)} bytes")
        stored = self._stored(messages, count * size)
        return np.frombuffer(stored, f"{'>' if bits & 1 else '<'}f{size}").astype(np.float64)

    def _found(self, links: dict[str, int], name: str) -> int:
        if name not in links:
            raise Hdf5Error(f"it has no {name}")
        return links[name]

    def _bytes(self, place: int, length: int) -> bytes:
        if not 0 <= place <= place + length <= len(self._content):
            raise Hdf5Error(f"it states something at byte {place}, beyond its end")
        return self._content[place : place + length]

    def _number(self, place: int, width: int) -> int:
        return int.from_bytes(self._bytes(place, width), "little")

    def _numbers(self, form: str, place: int) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self._bytes(place, struct.calcsize("<" + form)))

    def _check_sum(self, start: int, end: int) -> None:
        """Compare the checksum at `end` with that of what is before it."""
        if self._number(end, 4) != _lookup3(self._bytes(start, end - start)):
            raise Hdf5Error("a checksum is wrong")

    def _messages(self, address: int) -> list[_Message]:
        """The messages of an object header, those in its continuations included."""
        second = self._bytes(address, 4) == b"OHDR"
        if second:
            version, flags = self._bytes(address + 4, 2)
            start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            length, start = self._number(start, width), start + width
            self._check_sum(address, start + length)
            header = 6 if flags & 0x04 else 4
        else:
            version, length, start, header = self._number(address, 1), self._number(address + 8, 4), address + 16, 8
        if version != (2 if second else 1):
            raise Hdf5Error("an object has no header")
        blocks, found = [(start, length)], []
        for start, length in blocks:  # grows by continuations
            for message in self._in_block(start, length, header):
                found.append(message)
                if message.kind == _CONTINUATION and len(message.content) >= 16:
                    place, size = struct.unpack_from("<2Q", message.content)
                    if second:
                        self._check_sum(place, place + size - 4)
                        place, size = place + 4, size - 8
                    blocks.append((place, size))
            if len(found) > _MOST_MESSAGES or len(blocks) > _MOST_MESSAGES:
                raise Hdf5Error("an object has too many messages")
        if any(message.kind == _EXTERNAL for message in found):
            raise Hdf5Error("its values are in another file")
        return found

    def _in_block(self, place: int, length: int, header: int) -> Iterator[_Message]:
        end = place + length
        while place + header <= end:
            if header == 8:
                kind, size, flags = self._numbers("2HB", place)
            else:
                kind, size, flags = self._numbers("BHB", place)
            place += header
            if place + size > end or (flags & _SHARED and kind in _USED):
                raise Hdf5Error("a message is longer than its block, or elsewhere")
            yield _Message(kind, self._bytes(place, size))
            place += size

    def _links_at(self, address: int) -> dict[str, int]:
        links: dict[str, int] = {}
        for kind, content in self._messages(address):
            if kind == _LINK:
                name, target = _link(content)
                links[name] = target
            elif kind == _TABLE and len(content) >= 16:
                tree, heap = struct.unpack_from("<2Q", content)
                links.update(self._table(tree, heap))
            elif kind == _LINK_INFO and len(content) >= 10:
                place = 10 if content[1] & 1 else 2
                if struct.unpack_from("<Q", content.ljust(18, b"\0"), place)[0] != _UNDEFINED:
                    raise Hdf5Error("a group has more than eight links, kept in a way that is not read")
        return links

    def _table(self, tree: int, heap: int) -> dict[str, int]:
        """The links of a symbol table."""
        if self._bytes(heap, 4) != b"HEAP":
            raise Hdf5Error("a group has no names")
        size, _, names = self._numbers("3Q", heap + 8)
        links = {}
        for node in self._leaves(tree, 0, 8, 0):
            if self._bytes(node, 4) != b"SNOD":
                raise Hdf5Error("a group has no links")
            for number in range(self._number(node + 6, 2)):
                place, target, cached = self._numbers("2QI", node + 8 + 40 * number)
                if cached == 2 or place >= size:
                    raise Hdf5Error("a link leads elsewhere")
                name = self._bytes(names + place, min(size - place, 255)).split(b"\0")[0]
                links[name.decode("latin-1")] = target
        return links

    def _leaves(self, address: int, kind: int, key: int, depth: int) -> Iterator[int]:
        """The addresses in the leaves of a B-tree."""
        for _, child in self._entries(address, kind, key, depth):
            yield child

    def _entries(self, address: int, kind: int, key: int, depth: int) -> Iterator[tuple[bytes, int]]:
        """(key, address) in the leaves of a B-tree of version 1; key: bytes of a key."""
        if self._bytes(address, 5) != b"TREE" + bytes([kind]) or depth > _MOST_DEPTH:
            raise Hdf5Error("a tree is damaged")
        level, count = self._numbers("BH", address + 5)
        for number in range(count):
            place = address + 24 + number * (key + 8)
            found, child = self._bytes(place, key), self._number(place + key, 8)
            if level:
                if self._number(child + 5, 1) != level - 1:
                    raise Hdf5Error("a tree is damaged")
                yield from self._entries(child, kind, key, depth + 1)
            else:
                yield found, child

    def _count(self, messages: list[_Message]) -> int:
        """The number of elements of a data set of one axis, or of a scalar."""
        content = _the(messages, _SPACE)
        version, axes = content[0], content[1]
        place = {1: 8, 2: 4}.get(version, len(content))
        if axes > 1 or len(content) < place + 8 * axes or (version == 2 and content[3] > 1):
            raise Hdf5Error("a data set has more than one axis")
        return struct.unpack_from("<Q", content, place)[0] if axes else 1

    def _type(self, messages: list[_Message]) -> tuple[int, int, int, tuple]:
        """(class, its bits, bytes of an element, properties of a number)"""
        content = _the(messages, _TYPE).ljust(20, b"\0")
        kind, size = content[0] & 0xF, struct.unpack_from("<I", content, 4)[0]
        return kind, int.from_bytes(content[1:4], "little"), size, struct.unpack_from("<2H4BI", content, 8)

    def _stored(self, messages: list[_Message], needed: int) -> bytes:
        """The bytes of all elements of a data set. Raises Hdf5Error where some were never written."""
        content = _the(messages, _LAYOUT).ljust(40, b"\0")
        version, kind = content[0], content[1]
        if version not in (3, 4) or (version == 4 and kind == _CHUNKED) or kind > _CHUNKED:
            raise Hdf5Error("its values are laid out in a way that is not read")
        if kind == _CHUNKED:
            return self._chunks(content, messages, needed)
        if kind == _COMPACT:
            stored = content[4 : 4 + struct.unpack_from("<H", content, 2)[0]]
        else:
            address, size = struct.unpack_from("<2Q", content, 2)
            stored = self._bytes(address, needed) if size >= needed and address != _UNDEFINED else b""
        if len(stored) < needed:
            raise Hdf5Error("values are missing")
        return stored[:needed]

    def _chunks(self, layout: bytes, messages: list[_Message], needed: int) -> bytes:
        axes, tree, length, width = layout[2], *struct.unpack_from("<Q2I", layout, 3)
        size = length * width
        if axes != 2 or size <= 0 or tree == _UNDEFINED:
            raise Hdf5Error("values are missing")
        if size > len(self._content) * _MOST_INFLATION:
            raise Hdf5Error("a part is larger than the file can hold")
        filters = _filters(messages)
        parts: dict[int, bytes] = {}
        for key, address in self._entries(tree, 1, 24, 0):
            stored, mask, first = struct.unpack_from("<2IQ", key)
            parts[first] = _unfiltered(self._bytes(address, stored), filters, mask, size, width)
            if len(parts) > _MOST_ENTRIES or len(parts) * size > needed + size:
                raise Hdf5Error("it has more parts than values")
        whole = b"".join(parts.get(first, b"") for first in range(0, needed // width, length))
        if sorted(parts) != list(range(0, needed // width, length)) or len(whole) < needed:
            raise Hdf5Error("values are missing")
        return whole[:needed]

    def _in_collection(self, address: int, wanted: int) -> bytes:
        """An object of a global heap."""
        if self._bytes(address, 4) != b"GCOL":
            raise Hdf5Error("a text is missing")
        end, place = address + self._number(address + 8, 8), address + 16
        while place + 16 <= min(end, len(self._content)):
            index, _, _, size = self._numbers("2HIQ", place)
            if index == wanted and size <= _LONGEST_TEXT:
                return self._bytes(place + 16, size)
            if index == 0:
                break
            place += 16 + -(-size // 8) * 8
        raise Hdf5Error("a text is missing")


def _the(messages: list[_Message], kind: int) -> bytes:
    """The content of the only message of a kind."""
    found = [content for other, content in messages if other == kind]
    if len(found) != 1 or len(found[0]) < 4:
        raise Hdf5Error("a data set has no type, size or place")
    return found[0]


def _link(content: bytes) -> tuple[str, int]:
    """(name, address) of a link message."""
    content = content.ljust(4, b"\0")
    flags, place = content[1], 2
    if flags & 0x08:
        if content[place]:
            raise Hdf5Error("a link leads elsewhere")
        place += 1
    place += (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(content[place : place + width], "little")
    place += width
    if content[0] != 1 or len(content) < place + length + 8:
        raise Hdf5Error("a link is damaged")
    name = content[place : place + length].decode("latin-1")
    return name, struct.unpack_from("<Q", content, place + length)[0]


def _filters(messages: list[_Message]) -> list[int]:
    """The filters of chunks, in the order in which they were applied."""
    content = next((content for kind, content in messages if kind == _FILTERS), b"\2\0")
    version, count = content[0], content[1]
    place, found = 8 if version == 1 else 2, []
    for _ in range(count):
        (name,) = struct.unpack_from("<H", content.ljust(place + 8, b"\0"), place)
        place += 2
        named = version == 1 or name >= 256
        length = struct.unpack_from("<H", content.ljust(place + 8, b"\0"), place)[0] if named else 0
        place += 2 if named else 0
        _, values = struct.unpack_from("<2H", content.ljust(place + 8, b"\0"), place)
        place += 4 + (-(-length // 8) * 8 if version == 1 else length) + 4 * values
        place += 4 if version == 1 and values % 2 else 0
        found.append(name)
    if not set(found) <= {_DEFLATE, _SHUFFLE, _CHECKSUM} or place > len(content) or len(found) > 3:
        raise Hdf5Error("its values are compressed in a way that is not read")
    return found


def _unfiltered(stored: bytes, filters: list[int], mask: int, size: int, width: int) -> bytes:
    """A chunk before its filters."""
    for place, each in reversed(list(enumerate(filters))):
        if mask >> place & 1:
            continue
        if each == _CHECKSUM:
            stored = stored[:-4]
        elif each == _DEFLATE:
            try:
                stored = zlib.decompressobj().decompress(stored, size + 4)
            except zlib.error as error:
                raise Hdf5Error("compressed values are damaged") from error
        else:
            whole = len(stored) // width * width
            shuffled = np.frombuffer(stored[:whole], np.uint8).reshape(width, -1)
            stored = shuffled.T.tobytes() + stored[whole:]
    if len(stored) != size:
        raise Hdf5Error("a part has another size than it states")
    return stored


def _lookup3(content: bytes) -> int:
    """The checksum of HDF5's metadata: Bob Jenkins' lookup3, hashlittle, of the year 2006, from 0."""
    a = b = c = (0xDEADBEEF + len(content)) & 0xFFFFFFFF
    words = struct.unpack(f"<{-(-len(content) // 12) * 3}I", content.ljust(-(-len(content) // 12) * 12, b"\0"))
    for place in range(0, len(words) - 3, 3):
        a, b, c = a + words[place], b + words[place + 1], c + words[place + 2]
        a, c = (a - c) & 0xFFFFFFFF ^ _turned(c, 4), c + b
        b, a = (b - a) & 0xFFFFFFFF ^ _turned(a, 6), a + c
        c, b = (c - b) & 0xFFFFFFFF ^ _turned(b, 8), b + a
        a, c = (a - c) & 0xFFFFFFFF ^ _turned(c, 16), c + b
        b, a = (b - a) & 0xFFFFFFFF ^ _turned(a, 19), a + c
        c, b = (c - b) & 0xFFFFFFFF ^ _turned(b, 4), b + a
        a, b, c = a & 0xFFFFFFFF, b & 0xFFFFFFFF, c & 0xFFFFFFFF
    if words:
        a, b, c = (a + words[-3]) & 0xFFFFFFFF, (b + words[-2]) & 0xFFFFFFFF, (c + words[-1]) & 0xFFFFFFFF
        c = ((c ^ b) - _turned(b, 14)) & 0xFFFFFFFF
        a = ((a ^ c) - _turned(c, 11)) & 0xFFFFFFFF
        b = ((b ^ a) - _turned(a, 25)) & 0xFFFFFFFF
        c = ((c ^ b) - _turned(b, 16)) & 0xFFFFFFFF
        a = ((a ^ c) - _turned(c, 4)) & 0xFFFFFFFF
        b = ((b ^ a) - _turned(a, 14)) & 0xFFFFFFFF
        c = ((c ^ b) - _turned(b, 24)) & 0xFFFFFFFF
    return c


def _turned(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF
