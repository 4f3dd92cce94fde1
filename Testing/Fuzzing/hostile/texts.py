"""Hostile texts: markups, landmarks in tables, names of labels."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from wavemorph.io.points import read_points, write_points
from wavemorph.io.text_files.label_names import label_names_beside, read_label_names

from .mutations import changed_bytes, changed_text, changed_value, nested
from .runner import Case, Wrong

_MARKUPS = {
    "@schema": "https://example.org/markups-schema-v1.0.3.json#",
    "markups": [
        {
            "type": "Fiducial",
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "controlPoints": [
                {"id": "1", "label": "F-1", "position": [1.5, -2.0, 3.0], "positionStatus": "defined"},
                {"id": "2", "label": "F-2", "position": [4.0, 5.0, -6.0], "positionStatus": "defined"},
                {"id": "3", "label": "F-3", "position": [0.0, 0.0, 0.0], "positionStatus": "undefined"},
            ],
            "measurements": [{"name": "length", "value": 1.0}],
        }
    ],
}
_FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = LPS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,1.5,-2.0,3.0,0,0,0,1,1,1,0,F-1,,,2,0
2,4.0,5.0,-6.0,0,0,0,1,1,1,0,F-2,,,2,0
"""
_TABLES = (
    "name,x,y,z\nnose,1.5,-2,3\near,4,5,-6\n",
    "label;r;a;s;defined\nnose;1,5;-2;3;1\near;;;;0\n",
    'sep=,\n"L","P","S","note"\n1,2,3,"a ""quoted"" note"\n4,5,6,\n',
    "# a comment\n# x y z\nx\ty\tz\n1\t2\t3\n",
    "x (mm),y (mm),z (mm)\n1e1,2,3\nnan,nan,nan\n",
)
_NAMES = (
    "0 background 0 0 0 0\n1 left 255 0 0 255\n2 right 0 255 0 255\n",
    "index\tname\tcolor\n1\tleft\t#ff0000\n2\tright\t#00ff00\n",
    'label;structure\n1;"left; half"\n2;right\n',
    '# ITK-SnAP Label Description File\n    1  255 0 0  1  1  1    "left"\n    2  0 255 0  1  1  1    "right"\n',
)
_JSON_NAMES = (
    {"1": "left", "2": "right"},
    {"labels": {"background": 0, "left": 1, "right": 2}, "file_ending": ".nii.gz"},
    {"labels": [{"value": 1, "name": "left"}, {"value": 2, "name": "right", "color": [1, 2, 3]}]},
    [{"id": 1, "label": "left"}, {"index": 2, "structure": "right"}],
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "cp1252", "latin-1")


def json_text(generator: random.Random, value: object) -> str:
    """The text of a value that was changed, of a text that was changed, or of nothing that JSON can be."""
    what = generator.randrange(10)
    if what <= 5:
        return json.dumps(changed_value(generator, value), ensure_ascii=generator.random() < 0.7)
    if what <= 8:
        return changed_text(generator, json.dumps(value, indent=generator.choice((None, 1))))
    return nested(generator)


def text_bytes(generator: random.Random, text: str) -> bytes:
    """A text in one of the encodings; now and then a few of its bytes are changed."""
    content = text.encode(generator.choice(_ENCODINGS), "surrogatepass" if generator.random() < 0.9 else "replace")
    return changed_bytes(generator, content) if content and generator.random() < 0.1 else content


def _encoded(generator: random.Random, text: str) -> bytes:
    try:
        return text_bytes(generator, text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def points_case(path: Path) -> Case:
    """A file of landmarks: read, written, and read again."""

    def read() -> None:
        points = read_points(path)
        if points.positions.shape != (len(points.names), 3) or not np.all(np.isfinite(points.positions)):
            raise Wrong("positions that are none")
        if len(points.entries()) != len(points.names) + len(points.unset):
            raise Wrong("entries that are lost")
        again = path.with_name("written" + path.name[path.name.index(".") :])
        write_points(points.moved_to(points.positions + 1.0), again)
        if not np.allclose(read_points(again).positions, points.positions + 1.0, rtol=1e-12, atol=1e-5):
            raise Wrong("positions that change when they are written")

    return Case(read)


class Markups:
    """.mrk.json and .fcsv of Slicer."""

    name, title = "markups", "markups (.mrk.json, .fcsv)"

    def prepare(self) -> None:
        """Nothing is to be made."""

    def make(self, generator: random.Random, folder: Path) -> Case:
        if generator.random() < 0.6:
            path, text = folder / "points.mrk.json", json_text(generator, _MARKUPS)
        else:
            path, text = folder / "points.fcsv", changed_text(generator, _FCSV)
        path.write_bytes(_encoded(generator, text))
        return points_case(path)


class Tables:
    """Landmarks as CSV."""

    name, title = "landmarks-csv", "landmarks (.csv)"

    def prepare(self) -> None:
        """Nothing is to be made."""

    def make(self, generator: random.Random, folder: Path) -> Case:
        path = folder / "points.csv"
        path.write_bytes(_encoded(generator, changed_text(generator, generator.choice(_TABLES))))
        return points_case(path)


class LabelNames:
    """Names of labels as text and JSON, named or beside a label map."""

    name, title = "label-names", "names of labels (.ctbl, .txt, .tsv, .csv, .json)"

    def prepare(self) -> None:
        """Nothing is to be made."""

    def make(self, generator: random.Random, folder: Path) -> Case:
        extension = generator.choice((".txt", ".ctbl", ".csv", ".tsv", ".json", ".json"))
        if extension == ".json":
            text = json_text(generator, generator.choice(_JSON_NAMES))
        else:
            text = changed_text(generator, generator.choice(_NAMES))
        path = folder / f"labels{extension}"
        path.write_bytes(_encoded(generator, text))
        beside = generator.random() < 0.3

        def read() -> None:
            names = label_names_beside(folder / "labels.nii.gz") if beside else read_label_names(path)
            for number, name in names.items():
                if not isinstance(number, int) or not isinstance(name, str) or abs(number) >= 2**63:
                    raise Wrong("names or numbers that are none")
                print(name, file=_Nowhere())
            "\n".join(names.values()).encode()

        return Case(read)


class _Nowhere:
    """A stream of UTF-8, as a terminal is."""

    def write(self, text: str) -> Callable | int:
        return len(text.encode("utf-8"))
