"""NRRD headers: checked before ITK reads them; units other than mm and an orientation not stated, which ITK hides."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import SimpleITK as sitk

from ...errors import InputError
from .payload import Payload, refuse_short
from .stated import data_file_names, whole_field, whole_number

_SEGMENT_KEY = re.compile(r"Segment\d+_(ID|Name|LabelValue)")
_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
}
_ENCODINGS = {"raw": "raw", "txt": "text", "text": "text", "ascii": "text", "hex": "hex"}
_ENCODINGS |= {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
_ALIASES = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}
_LONGEST_HEADER = 1 << 24  # segmentations keep much in it
_LONGEST_FIELD = 800  # beyond 990 characters ITK's parser writes over its own memory when it reports an error
_MOST_AXES = 4
_LARGEST_MM = 1e9
_OF_LENGTHS = ("space directions", "space origin", "spacings", "axis mins", "axis maxs", "thicknesses")
_OF_TEXT = ("content", "labels")  # as long as they like
_PATTERN = re.compile(r"([^%]*%0?\d{0,2}d[^%]*)\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})(\s+\d)?")


class _Header(NamedTuple):
    """fields: by name in lower case. listed: the lines of a list of data files. end: bytes up to the voxels."""

    fields: dict[str, str]
    listed: list[str]
    end: int


def is_nrrd(path: Path) -> bool:
    """Whether the name of a file is one of NRRD."""
    return path.name.lower().endswith((".nrrd", ".nhdr"))


def is_segmentation(reader: sitk.ImageFileReader) -> bool:
    """Whether the header has Slicer's keys of segments."""
    return any(_SEGMENT_KEY.fullmatch(key) for key in reader.GetMetaDataKeys())


def units_of(path: Path) -> list[str]:
    """The units that a header states for the axes of its space, or for its own axes."""
    fields = _fields(path)
    return _quoted(fields.get("space units", "")) or _quoted(fields.get("units", ""))[-3:]


def remarks_of(reader: sitk.ImageFileReader, called: str) -> tuple[str, ...]:
    """NRRD files need not say to which axes of the patient their axes belong."""
    space = reader.GetMetaData("NRRD_space") if reader.HasMetaDataKey("NRRD_space") else ""
    if space.lower().startswith("left-posterior-superior"):  # ITK converts RAS and LAS to it
        return ()
    return (
        f"The {called} does not state its orientation (its NRRD header has no anatomical space); it was read as if its "
        "axes were those of the patient, and left and right may be exchanged, which no registration can tell.",
    )


def check_header(path: Path, called: str, count: bool = True) -> None:
    """Check what a header states, and that the voxels are there; see `claims.check_claims`."""
    header = _header(path, called)
    fields, refuse = header.fields, partial(_damaged, called)
    for name, value in fields.items():
        if name not in _OF_TEXT and len(name) + len(value) > _LONGEST_FIELD:
            raise _damaged(called, f"the field {name[:40]!r} has {len(value)} characters")
        if name in _OF_LENGTHS:
            _check_lengths(name, value, called)
    axes = whole_field(fields, "dimension", refuse)
    size = [whole_number(part, refuse) for part in fields.get("sizes", "").split()]
    if not 1 <= axes <= _MOST_AXES or len(size) != axes or min(size) < 1:
        raise _damaged(called, f"its dimension is {axes} and its sizes are {fields.get('sizes', '')[:80]!r}")
    width = _BYTES.get(fields.get("type", "").lower())
    if width is None:
        raise _damaged(called, f"its type is {fields.get('type', '')[:80]!r}")
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise _damaged(called, f"its encoding is {fields.get('encoding', '')[:80]!r}")
    payload = _payload(path, header, encoding, math.prod(size) * (1 if encoding == "text" else width), called)
    refuse_short(payload, f"{' x '.join(map(str, size))} values of {width} bytes", called, count)


def _fields(path: Path) -> dict[str, str]:
    """The fields of a NRRD header, by name in lower case."""
    return _header(path, f'file "{path.name}"').fields


def _header(path: Path, called: str) -> _Header:
    """The header, after checks of its form. Raises InputError."""
    with path.open("rb") as stream:
        content = stream.read(_LONGEST_HEADER)
    if not re.match(rb"NRRD000[1-6]\r?\n", content):
        raise _damaged(called, "it does not begin with NRRD0004 or the like")
    end = re.search(rb"\r?\n\r?\n", content)
    text = content[: end.start() if end else len(content)].decode("utf-8", "replace")
    fields: dict[str, str] = {}
    lines = text.splitlines()[1:]
    for place, line in enumerate(lines):
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        name = _ALIASES.get(name.strip().lower(), name.strip().lower())
        value = value.strip()
        if not colon or not value or not line.replace("\t", " ").isprintable():
            raise _damaged(called, f"a line is {line[:80]!r}")
        if name in fields:
            raise _damaged(called, f"the field {name[:40]!r} is stated twice")
        fields[name] = value
        if name == "data file" and value.split()[0] == "LIST":
            return _Header(fields, lines[place + 1 :], len(content))
    if end is None and "data file" not in fields:
        raise _damaged(called, "it has no end")
    return _Header(fields, [], end.end() if end else len(content))


def _payload(path: Path, header: _Header, encoding: str, needed: int, called: str) -> Payload:
    """Where the voxels are."""
    fields, refuse = header.fields, partial(_damaged, called)
    lines, skipped = whole_field(fields, "line skip", refuse, 0), whole_field(fields, "byte skip", refuse, 0)
    if not 0 <= lines <= _LONGEST_HEADER or skipped < (-1 if encoding == "raw" else 0):
        raise _damaged(called, f"it skips {lines} lines and {skipped} bytes")
    if "data file" in fields:
        if list(fields)[-1] != "data file":
            raise _damaged(called, "fields follow that of the data file")
        named = fields["data file"]
        wrong = refuse(f"its data file is {named[:80]!r}")
        files = [path.parent / name for name in data_file_names(named, header.listed, _PATTERN, wrong)]
        places = [(file, _after_lines(file, 0, lines)) for file in files]
    else:
        places = [(path, _after_lines(path, header.end, lines))]
    if skipped == -1:  # the voxels are at the end
        return Payload([(file, 0 if "data file" in fields else header.end) for file, _ in places], encoding, needed)
    if encoding == "gzip":
        return Payload(places, encoding, needed, skipped)
    return Payload([(file, start + skipped) for file, start in places], encoding, needed)


def _after_lines(path: Path, start: int, count: int) -> int:
    """The place after so many lines; the end of the file where it has fewer."""
    if not count or not path.is_file():
        return start
    with path.open("rb") as stream:
        stream.seek(start)
        for _ in range(count):
            if not stream.readline(_LONGEST_HEADER):
                break
        return stream.tell()


def _check_lengths(name: str, text: str, called: str) -> None:
    """Numbers in mm, of which an axis that is none may have none or NaN."""
    for part in re.split(r"[\s(),]+", text):
        if part and part.lower() not in ("none", "nan"):
            try:
                is_length = abs(float(part)) <= _LARGEST_MM
            except ValueError:
                is_length = False
            if not is_length:
                raise _damaged(called, f"its {name} are {text[:80]!r}")


def _damaged(called: str, what: str) -> InputError:
    return InputError(f"The {called} has a NRRD header that cannot be used: {what}; write the file again.")


def _quoted(text: str) -> list[str]:
    return text.split('"')[1::2] if '"' in text else text.split()
