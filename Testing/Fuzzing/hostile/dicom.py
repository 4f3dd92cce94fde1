"""Hostile DICOM: folders of slices, and enhanced files of many frames."""

from __future__ import annotations

import functools
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from dicom_files import write_enhanced, write_slice
from wavemorph.io.images import validate_image
from wavemorph.io.labels import read_label_map
from wavemorph.io.reading import read_lattice, read_volume

from .images import check_geometry
from .mutations import FLOATS, NUMBERS, TEXTS, changed_bytes, extreme, some_bytes
from .runner import Case, Wrong

_SLICES, _ROWS, _COLUMNS = 5, 6, 7
_START = 132  # the preamble and DICM
_LONG = (b"OB", b"OW", b"OF", b"OD", b"SQ", b"UT", b"UN", b"UC", b"UR", b"OL", b"OV")  # lengths of four bytes
_PIXELS = b"\xe0\x7f\x10\x00"
_SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"),
    *(
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.4.100",
        "1.2.3",
        "",
    ),
)
_CLASSES = (
    *("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"),
    *("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.2"),
    *(
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.840.10008.5.1.4.1.1.88.11",
        "1.2.840.10008.1.3.10",
        "1.2.840.10008.5.1.4.1.1.20",
    ),
)
_TAGS = (
    (0x0028, 8),
    (0x0028, 2),
    (0x0028, 4),
    (0x3004, 12),
    (0x3004, 14),
    (0x0028, 0x1053),
    (0x0028, 0x1052),
    (0x20, 0x37),
)


def planes() -> np.ndarray:
    """(slices, rows, columns): values that differ."""
    return (np.arange(_SLICES * _ROWS * _COLUMNS).reshape(_SLICES, _ROWS, _COLUMNS) * 7 % 501).astype(np.uint16)


@functools.cache
def _slices() -> tuple[bytes, ...]:
    """Valid files of one series."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.dcm"
        found = []
        for number, plane in enumerate(planes()):
            tags = {"InstanceNumber": number + 1, "SeriesNumber": 3, "SeriesDescription": "T1", "RescaleSlope": "1"}
            write_slice(path, plane, (3.0, -4.0, 2.0 * number), RescaleIntercept="0", **tags)
            found.append(path.read_bytes())
    return tuple(found)


@functools.cache
def _enhanced() -> bytes:
    """A valid file of many frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "enhanced.dcm"
        positions = [(3.0, -4.0, 2.0 * number) for number in range(_SLICES)]
        write_enhanced(path, list(planes()), positions, rescale=[(1.0, 0.0)] * _SLICES)
        return path.read_bytes()


class DicomSeries:
    """A folder of slices, of which some are changed."""

    name, title = "dicom-series", "DICOM series (folders of slices)"

    def prepare(self) -> None:
        _slices()

    def make(self, generator: random.Random, folder: Path) -> Case:
        files = list(_slices())
        what, reason = generator.randrange(10), ""
        for at in generator.sample(range(_SLICES), generator.choice((1, 1, 2, _SLICES))):
            if what == 0:
                files[at] = changed_bytes(generator, files[at])
            elif what == 1:
                files[at], is_short = _cut(generator, files[at])
                reason = reason or is_short
            else:
                files[at] = changed_elements(generator, files[at])
        if generator.random() < 0.02:
            files.append(some_bytes(generator, 500))
        names = [f"IM{number}.dcm" for number in range(len(files))]
        for name, content in zip(names, files):
            (folder / name).write_bytes(content)
        given = folder if generator.random() < 0.95 else folder / names[0]
        return Case(_reading(given, generator), reason)


class DicomFrames:
    """An enhanced file."""

    name, title = "dicom-enhanced", "enhanced DICOM files (many frames)"

    def prepare(self) -> None:
        import pydicom.pixels  # noqa: F401

        _enhanced()

    def make(self, generator: random.Random, folder: Path) -> Case:
        content, reason = _enhanced(), ""
        what = generator.randrange(6)
        if what == 0:
            content = changed_bytes(generator, content)
        elif what == 1:
            content, reason = _cut(generator, content)
        else:
            content = changed_elements(generator, content)
        path = folder / generator.choice(("enhanced.dcm", "enhanced"))
        path.write_bytes(content)
        return Case(_reading(path if generator.random() < 0.7 else folder, generator), reason)


def _reading(path: Path, generator: random.Random) -> Callable[[], None]:
    reader = generator.choice((read_volume, read_volume, read_volume, read_lattice, read_label_map))

    def read() -> None:
        result = reader(path)
        image = {read_lattice: lambda: result, read_label_map: lambda: result.layers[0]}.get(
            reader, lambda: result.image
        )()
        check_geometry(image)
        if np.prod([float(n) for n in image.GetSize()]) > 1e7:
            raise Wrong("more voxels than bytes")
        if reader is read_volume:
            validate_image(image, result.name)

    return read


def _cut(generator: random.Random, content: bytes) -> tuple[bytes, str]:
    """(the beginning of a file, why it may not be read): from the pixels on; before, it may be no image any more."""
    place = generator.randrange(max(_START, content.rfind(_PIXELS)), len(content))
    return content[:place], "its pixels are cut short"


def changed_elements(generator: random.Random, content: bytes) -> bytes:
    """A file with one to a few of its data elements changed, removed, doubled, swapped, or with others put in."""
    head, elements = content[:_START], _elements(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        at = generator.randrange(len(elements))
        tag, kind, value = elements[at]
        what = generator.randrange(12)
        if what <= 4:
            elements[at] = (tag, kind, _value(generator, kind, value))
        elif what == 5:
            del elements[at]
        elif what == 6:
            elements.insert(at, elements[at])
        elif what == 7:
            other = generator.randrange(len(elements))
            elements[at], elements[other] = (
                (tag, kind, elements[other][2]),
                (*elements[other][:2], value),
            )
        elif what == 8:
            elements[at] = (tag, generator.choice((b"UN", b"SQ", b"US", b"DS", b"OB", b"AT", b"FD", b"??")), value)
        elif what == 9:
            group, element = generator.choice(_TAGS)
            text = generator.choice((*NUMBERS, "\\".join(["1"] * 5), *map(str, FLOATS))).encode()[:200]
            elements.append((struct.pack("<2H", group, element), b"DS", text))
            elements.sort(key=lambda each: struct.unpack("<2H", each[0]))
        elif what == 10:
            elements.insert(at, (b"\x08\x00\x40\x11", b"SQ", _nested(generator)))
        else:
            elements[at] = (tag, kind, changed_bytes(generator, value) if value else some_bytes(generator))
        if not elements:
            break
    return head + b"".join(_written(generator, *each) for each in elements)


def _elements(content: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(tag, value representation, value) of the elements of a valid file in explicit little endian."""
    place, found = _START, []
    while place < len(content):
        tag, kind = content[place : place + 4], content[place + 4 : place + 6]
        long = kind in _LONG
        (length,) = struct.unpack_from("<I" if long else "<H", content, place + (8 if long else 6))
        place += 12 if long else 8
        if length == 0xFFFFFFFF:
            length = len(content) - place if kind != b"SQ" else content.index(b"\xfe\xff\xdd\xe0", place) + 8 - place
        found.append((tag, kind, content[place : place + length]))
        place += length
    return found


def _value(generator: random.Random, kind: bytes, value: bytes) -> bytes:
    """Another value for an element."""
    if kind == b"UI" and generator.random() < 0.7:
        return generator.choice((*_SYNTAXES, *_CLASSES)).encode()
    if kind in (b"US", b"UL", b"SS", b"FD"):
        code = {b"US": "H", b"UL": "I", b"SS": "h", b"FD": "d"}[kind]
        return struct.pack("<" + code, extreme(generator, code)) * generator.choice((0, 1, 1, 1, 2))
    if kind in (b"DS", b"IS") and generator.random() < 0.8:
        parts = value.split(b"\\")
        parts[generator.randrange(len(parts))] = generator.choice(NUMBERS).encode()
        return b"\\".join(parts)
    if kind == b"SQ" and value:
        return changed_bytes(generator, value)
    return generator.choice((*TEXTS, *NUMBERS)).encode("utf-8", "surrogatepass")


def _nested(generator: random.Random) -> bytes:
    """Sequences in sequences."""
    depth = generator.choice((2, 100, 3000))
    opening = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
    closing = b"\xfe\xff\xdd\xe0\0\0\0\0" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return opening * depth + closing * generator.choice((depth, depth, 0, depth + 1))


def _written(generator: random.Random, tag: bytes, kind: bytes, value: bytes) -> bytes:
    """An element in explicit little endian; now and then its length is wrong."""
    length = len(value)
    if generator.random() < 0.005:
        length = generator.choice((0, length + 1, length + 1000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF))
    if kind in _LONG:
        return tag + kind + b"\0\0" + struct.pack("<I", length & 0xFFFFFFFF) + value
    return tag + kind + struct.pack("<H", length & 0xFFFF) + value
