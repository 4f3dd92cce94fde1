"""MetaImage headers, checked before ITK reads them: its parser trusts what they say."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

from ...errors import InputError
from .payload import Payload, refuse_short
from .stated import data_file_names, whole_field, whole_number

_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR", "MET_ASCII_CHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG"), 4),  # as MetaIO has it on all systems
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_LONGEST_HEADER = 1 << 16
_LONGEST_LINE = 4000
_MOST_AXES, _MOST_COMPONENTS = 4, 1024
_LARGEST = 1e9  # of a length in mm, or of a component of an axis
# keys of numbers -> how many of them; n: of axes
_NUMBERS = {
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), lambda n: n * n),
    **dict.fromkeys(("Offset", "Origin", "Position", "CenterOfRotation", "ElementSpacing", "ElementSize"), lambda n: n),
}
_ONCE = ("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "HeaderSize", "BinaryData", "CompressedData")
_PATTERN = re.compile(r"([^%]*%0?\d{0,2}d[^%]*)\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})")


def is_meta(path: Path) -> bool:
    """Whether the name of a file is one of MetaImage."""
    return path.name.lower().endswith((".mha", ".mhd"))


def check_header(path: Path, called: str, count: bool = True) -> None:
    """Check what a header states, and that the voxels are there; see `claims.check_claims`."""
    fields, listed, end = _header(path, called)
    refuse = partial(_damaged, called)
    axes = whole_field(fields, "NDims", refuse)
    if not 1 <= axes <= _MOST_AXES:
        raise _damaged(called, f"NDims is {axes}")
    for key, count_for in _NUMBERS.items():
        if key in fields:
            _check_numbers(key, fields[key], count_for(axes), called)
    size = [whole_number(part, refuse) for part in fields.get("DimSize", "").split()]
    if len(size) != axes or min(size) < 1:
        raise _damaged(called, f"DimSize is {fields.get('DimSize', '')[:80]!r}")
    kind = fields.get("ElementType", "")
    if kind not in _BYTES:
        raise _damaged(called, f"ElementType is {kind[:80]!r}")
    components = whole_field(fields, "ElementNumberOfChannels", refuse, 1)
    if not 1 <= components <= _MOST_COMPONENTS:
        raise _damaged(called, f"ElementNumberOfChannels is {components}")
    payload = _payload(path, fields, listed, end, math.prod(size) * components, _BYTES[kind], called)
    refuse_short(payload, f"{' x '.join(map(str, size))} voxels of {components * _BYTES[kind]} bytes", called, count)


def _header(path: Path, called: str) -> tuple[dict[str, str], list[str], int]:
    """(fields, the lines of a list of data files, bytes up to the end of the header)."""
    with path.open("rb") as stream:
        content = stream.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    place = 0
    while (end := content.find(b"\n", place)) >= 0:
        line, place = content[place:end].decode("utf-8", "replace").strip(), end + 1
        if not line:
            continue
        key, equals, value = re.sub(r"^([^=:]*)[:=]", "\\1=", line, count=1).partition("=")
        key, value = key.strip(), value.strip()
        if not equals or len(line) > _LONGEST_LINE or not line.isprintable():
            raise _damaged(called, f"a line is {line[:80]!r}")
        if key in fields and key in _ONCE:
            raise _damaged(called, f"{key} is stated twice")
        fields[key] = value
        if key == "ElementDataFile":
            return fields, content[place:].decode("utf-8", "replace").splitlines(), place
    raise _damaged(called, "it has no ElementDataFile")


def _payload(
    path: Path, fields: dict[str, str], listed: list[str], end: int, values: int, width: int, called: str
) -> Payload:
    """Where the voxels are."""
    encoding, needed = "raw", values * width
    if _is_true(fields, "CompressedData", called):
        encoding = "zlib"
    elif not _is_true(fields, "BinaryData", called, True):
        encoding, needed = "text", values
    refuse = partial(_damaged, called)
    skip, stored = whole_field(fields, "HeaderSize", refuse, 0), whole_field(fields, "CompressedDataSize", refuse, 0)
    if stored < 0:
        raise _damaged(called, f"CompressedDataSize is {stored}")
    named = fields["ElementDataFile"]
    if named in ("LOCAL", "Local", "local"):
        if encoding == "zlib" and not stored:  # ITK would decompress something else
            raise _damaged(called, "its voxels are compressed, and CompressedDataSize is not stated")
        return Payload([(path, end)], encoding, needed, most=stored)
    wrong = refuse(f"ElementDataFile is {named[:80]!r}")
    files = [path.parent / name for name in data_file_names(named, listed, _PATTERN, wrong)]
    if skip == -1 and encoding == "raw":  # the voxels are at the end
        return Payload([(file, 0) for file in files], encoding, needed)
    if skip < 0:
        raise _damaged(called, f"HeaderSize is {skip}")
    return Payload([(file, skip) for file in files], encoding, needed, most=stored)


def _check_numbers(key: str, text: str, count: int, called: str) -> None:
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(abs(value) <= _LARGEST for value in values):
        raise _damaged(called, f"{key} is {text[:80]!r}")


def _is_true(fields: dict[str, str], key: str, called: str, default: bool = False) -> bool:
    text = fields.get(key, str(default))
    if text[:1] not in ("T", "t", "1", "F", "f", "0"):
        raise _damaged(called, f"{key} is {text[:80]!r}")
    return text[:1] in ("T", "t", "1")


def _damaged(called: str, what: str) -> InputError:
    return InputError(f"The {called} has a MetaImage header that cannot be used: {what}; write the file again.")
