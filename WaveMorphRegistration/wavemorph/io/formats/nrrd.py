"""NRRD headers: units other than mm, and an orientation that is not stated, neither of which ITK tells."""

from __future__ import annotations

import re
from pathlib import Path

import SimpleITK as sitk

_SEGMENT_KEY = re.compile(r"Segment\d+_(ID|Name|LabelValue)")


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


def _fields(path: Path) -> dict[str, str]:
    """The fields of a NRRD header, by name in lower case."""
    fields = {}
    with path.open("rb") as stream:
        for line in iter(stream.readline, b""):
            text = line.decode("utf-8", "replace").strip()
            if not text:
                break
            name, colon, value = text.partition(":")
            if colon and not text.startswith("#"):
                fields[name.strip().lower()] = value.strip()
    return fields


def _quoted(text: str) -> list[str]:
    return text.split('"')[1::2] if '"' in text else text.split()
