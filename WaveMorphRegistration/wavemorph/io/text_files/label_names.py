"""Names of labels from the files that other programs keep beside label maps. Does not import torch."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from .encoding import read_json, read_text

_NUMBER_TITLES = ("index", "label", "labelvalue", "value", "id", "number", "key", "no")
_NUMBER = "[0-9]{1,18}"
_LARGEST = 10**18  # labels are integers of 64 bits at most
_NAME_TITLES = ("name", "labelname", "label_name", "structure", "segment", "region")


def read_label_names(path: str | os.PathLike) -> dict[int, str]:
    """Names of labels from a text file with a number and a name in each line, or from JSON.

    Read are Slicer's .ctbl, FreeSurfer's color table, ITK-SNAP's label descriptions, CSV and TSV with or without a
    header (also BIDS' dseg.tsv), and JSON: {"1": "name"}, {"name": 1}, a list of objects with a number and a name, or
    any of them under "labels", as in nnU-Net's dataset.json. Colors and lines that start with # are ignored.

    Returns:
        Label -> name.

    Raises:
        InputError: the file cannot be read, or a line has no number and name; the message gives the line.
    """
    path = Path(path)
    text = read_text(path, "file of label names")
    names = _from_json(text, path.name) if path.suffix.lower() == ".json" else _from_lines(text, path.name)
    if not names:
        raise InputError(f'The label names "{path.name}" hold no line of a number and a name.')
    return names


def label_names_beside(path: Path) -> dict[int, str]:
    """Names in the file that belongs to a label map: brain_dseg.tsv (BIDS) or brain_dseg.json beside brain_dseg.nii.gz.

    A JSON file beside a volume mostly describes the scan, so that it must have label numbers as keys, or "labels".
    Empty where there is no such file, or none with names.
    """
    if path.is_dir():
        return {}
    ending = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    stem = path.name[: len(path.name) - len(ending)]
    for extension in (".tsv", ".json"):
        beside = path.with_name(stem + extension)
        with contextlib.suppress(InputError):
            if beside.is_file() and (extension == ".tsv" or _describes_labels(read_text(beside, "file beside"))):
                return read_label_names(beside)
    return {}


def _describes_labels(text: str) -> bool:
    with contextlib.suppress(InputError):
        content = read_json(text, "file beside")
        if isinstance(content, dict):
            keys = [str(key).lower() for key in content]
            return bool(keys) and ("labels" in keys or all(key.isdecimal() for key in keys))
    return False


def _from_lines(text: str, called: str) -> dict[int, str]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    header = _header(lines[0][1]) if lines else None
    first, names = (lines[0][0] if lines else 0), {}
    for number, line in lines[1:] if header else lines:
        found = _by_header(line, *header) if header else _by_form(line)
        if found is not None:
            names[found[0]] = found[1]
        elif number != first:  # the first line may be a header of other titles
            raise InputError(
                f'Line {number} of the label names "{called}" is "{line[:40]}"; a number and a name are needed.'
            )
    return names


def _header(line: str) -> tuple[str, int, int] | None:
    """(separator, column of the numbers, column of the names) of a header that names both."""
    for mark in "\t;,":
        titles = [title.strip().strip('"').lower() for title in line.split(mark)]
        places = [
            next((titles.index(t) for t in wanted if t in titles), None) for wanted in (_NUMBER_TITLES, _NAME_TITLES)
        ]
        if places[0] is not None and places[1] is not None:
            return mark, places[0], places[1]
    return None


def _by_header(line: str, mark: str, number: int, name: int) -> tuple[int, str] | None:
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=mark, skipinitialspace=True))]
    if len(cells) <= max(number, name) or not re.fullmatch(_NUMBER, cells[number]):
        return None
    return int(cells[number]), cells[name]


def _by_form(line: str) -> tuple[int, str] | None:
    match = re.match(rf"({_NUMBER})(?:\s*[,;]\s*|\s+)(.+)", line)
    return (int(match[1]), _name_in(match[2])) if match else None


def _name_in(text: str) -> str:
    """The name in what follows the number: quoted, or the words before the first number of the color."""
    quoted = re.search(r'"([^"]+)"', text)
    if quoted:
        return quoted[1]
    if re.search(r"[,;\t]", text):
        return re.split(r"\s*[,;\t]\s*", text)[0]
    return re.sub(r"(\s+[-+.\d]+)+$", "", text)


def _from_json(text: str, called: str) -> dict[int, str]:
    content = read_json(text, f'label names "{called}"')
    if isinstance(content, dict):
        content = next((value for key, value in content.items() if key.lower() in ("labels", "segments")), content)
    if isinstance(content, list):
        return dict(pair for entry in content if (pair := _in_object(entry)) is not None)
    pairs = content.items() if isinstance(content, dict) else ()
    return {number: name for key, value in pairs for number, name in _number_and_name(key, value)}


def _number_and_name(key: str, value: Any) -> list[tuple[int, str]]:
    """{"1": "name"} and {"name": 1}; anything else is no name of a label."""
    if re.fullmatch(_NUMBER, key):
        value = value.get("name") if isinstance(value, Mapping) else value
        return [(int(key), value)] if isinstance(value, str) else []
    return [(value, key)] if _is_label(value) else []


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def _in_object(entry: Any) -> tuple[int, str] | None:
    if not isinstance(entry, Mapping):
        return None
    keys = {str(key).lower(): value for key, value in entry.items()}
    number = next((keys[title] for title in _NUMBER_TITLES if _is_label(keys.get(title))), None)
    name = next((keys[title] for title in (*_NAME_TITLES, "label") if isinstance(keys.get(title), str)), None)
    return (number, name) if number is not None and name is not None else None
