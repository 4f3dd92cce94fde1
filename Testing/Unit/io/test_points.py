"""Landmark files: coordinate systems, what is kept, and how transforms map points."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wavemorph.errors import InputError, OutputError
from wavemorph.io.points import PointList, point_list, read_points, transform_points, write_points

LPS = np.array([[10.0, -20.5, 30.25], [-1.0, 2.0, -3.0]])
RAS = LPS * [-1, -1, 1]
SHIFT = np.array([1.0, 2.0, 3.0])


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def markups(system="LPS", points=LPS, kind="Fiducial"):
    control = [
        {"id": str(n), "label": f"F-{n}", "position": list(map(float, p)), "positionStatus": "defined", "locked": True}
        for n, p in enumerate(points, 1)
    ]
    display = {"visibility": True, "color": [0.4, 1.0, 1.0]}
    return {
        "@schema": "markups-schema-v1.0.3.json#",
        "markups": [{"type": kind, "coordinateSystem": system, "controlPoints": control, "display": display}],
    }


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_points(path, "fixed points")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_points_are_mapped_by_the_transform():
    transform = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.2, 0.3, (4.0, 5.0, 6.0))
    center, matrix = np.array([1.0, 2.0, 3.0]), np.reshape(transform.GetMatrix(), (3, 3))
    expected = (LPS - center) @ matrix.T + center + [4, 5, 6]
    assert np.allclose(transform_points(LPS, transform), expected)
    assert np.allclose(transform_points(transform_points(LPS, transform), transform.GetInverse()), LPS)
    assert transform_points(np.empty((0, 3)), transform).shape == (0, 3)


def test_points_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\(3,\)"):
        transform_points(LPS[0], sitk.Transform())


def test_csv_in_lps_is_read_as_it_is(tmp_path):
    points = read_points(written(tmp_path / "p.csv", "label,x,y,z\nA,10,-20.5,30.25\n\n# none\nB,-1,2,-3\n"))
    assert np.array_equal(points.positions, LPS)
    assert points.names == ["A", "B"]


def test_csv_in_ras_is_converted_to_lps(tmp_path):
    points = read_points(written(tmp_path / "p.csv", "\ufeffS;R;A\n30.25;-10;20.5\n-3;1;-2\n"))
    assert np.array_equal(points.positions, LPS)
    assert points.names == ["", ""]


def test_csv_keeps_its_columns_and_coordinate_system(tmp_path):
    points = read_points(written(tmp_path / "p.csv", 'r,a,s,name,note\n-10,20.5,30.25,A,"left, deep"\n1,-2,-3,B,\n'))
    write_points(points.moved_to(points.positions + SHIFT), tmp_path / "q.csv")
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert lines[0] == "r,a,s,name,note"
    assert lines[1] == '-11.000000,18.500000,33.250000,A,"left, deep"'
    assert lines[2] == "0.000000,-4.000000,0.000000,B,"


@pytest.mark.parametrize(("system", "stored"), [("LPS", LPS), ("RAS", RAS), ("0", RAS), (1, LPS)])
def test_markups_are_read_in_every_coordinate_system(tmp_path, system, stored):
    points = read_points(written(tmp_path / "p.mrk.json", json.dumps(markups(system, stored))))
    assert np.array_equal(points.positions, LPS)
    assert points.names == ["F-1", "F-2"]


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1)])
def test_markups_keep_everything_but_the_positions(tmp_path, system, sign):
    content = markups(system, LPS * [sign, sign, 1])
    undefined = {"id": "3", "label": "later", "position": [0.0, 0.0, 0.0], "positionStatus": "undefined"}
    content["markups"][0]["controlPoints"].insert(1, undefined)
    before = json.dumps(content)
    points = read_points(written(tmp_path / "p.mrk.json", before))
    assert np.array_equal(points.positions, LPS)
    write_points(points.moved_to(LPS + SHIFT), tmp_path / "q.mrk.json")
    for index, position in ((0, LPS[0]), (2, LPS[1])):
        moved = (position + SHIFT) * [sign, sign, 1]
        content["markups"][0]["controlPoints"][index]["position"] = moved.tolist()
    assert json.loads((tmp_path / "q.mrk.json").read_text(encoding="utf-8")) == content
    assert points.source == json.loads(before)


def test_markups_without_a_coordinate_system_are_lps(tmp_path):
    content = markups()
    del content["markups"][0]["coordinateSystem"]
    assert np.array_equal(read_points(written(tmp_path / "p.json", json.dumps(content))).positions, LPS)


def test_points_make_a_round_trip_from_csv_through_markups(tmp_path):
    points = read_points(written(tmp_path / "p.csv", "r,a,s,name\n-10,20.5,30.25,été\n1,-2,-3,\n"))
    write_points(points, tmp_path / "p.mrk.json")
    again = read_points(tmp_path / "p.mrk.json")
    assert np.array_equal(again.positions, LPS)
    assert again.names == ["été", "2"]
    write_points(again, tmp_path / "q.csv")
    assert np.array_equal(read_points(tmp_path / "q.csv").positions, LPS)


def test_old_fiducial_files_are_ras_unless_they_say_otherwise(tmp_path):
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    row = "vtkMRMLMarkupsFiducialNode_0,{},{},{},0,0,0,1,1,1,0,AC,,\n"
    for system, stored in (("0", RAS), ("RAS", RAS), ("LPS", LPS), ("1", LPS)):
        heading = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n{columns}"
        points = read_points(written(tmp_path / "p.fcsv", heading + row.format(*stored[0])))
        assert np.array_equal(points.positions, LPS[:1])
        assert points.names == ["AC"]
    points = read_points(written(tmp_path / "p.fcsv", columns + row.format(*RAS[0])))
    assert np.array_equal(points.positions, LPS[:1])
    assert "'IJK'" in refusal(written(tmp_path / "p.fcsv", "# CoordinateSystem = IJK\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2,3\n4,5,6\n", "Line 1"),
        ("x,y,z,r,a,s\n1,2,3,4,5,6\n", "both"),
        ("x,y,z\n1,2,3\n4,five,6\n", "Line 3"),
        ("x,y,z\n1,2\n", "Line 2"),
        ("x,y,z\n1,2,nan\n", "finite"),
        ("x,y,z\n1,2,\n", "(1, 2, empty)"),
        ("x,y,z\n1,2,1e999\n", "finite"),
        ("x,y,z\n1,5,2,5,3,5\n", "semicolons"),
        ("l,p,s,r,a\n1,2,3,4,5\n", "both"),
        ("x,y,z,X\n1,2,3,4\n", "2 times"),
        ("x,y,z,defined\n1,2,3,maybe\n", "'maybe'"),
        ("x,y,z,defined\n1,2,3,0\n4,5,6,0\n", "none of its 2 is defined"),
        ("x,y,z\n", "no points"),
        ("", "empty"),
    ],
)
def test_malformed_csv_is_refused_with_its_line(tmp_path, text, expected):
    assert expected in refusal(written(tmp_path / "p.csv", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"markups": [\n oops', "Line 2"),
        ("[]", "no markups file"),
        (json.dumps(markups(kind="ROI")), "ROI"),
        (json.dumps(markups("IJK")), "IJK"),
        (json.dumps(markups(points=[(1, 2)])), "Control point 1"),
        ('{"markups": [{"controlPoints": [{"label": "a"}]}]}', "None"),
        ('{"markups": [{"controlPoints": []}]}', "no points"),
        ('{"markups": [{"controlPoints": {}}]}', "no points"),
        ('{"markups": [{"controlPoints": [{"position": [1, 2, NaN]}]}]}', "finite"),
        ('{"markups": [{"controlPoints": [{"position": [1, 2, 3], "positionStatus": "lost"}]}]}', "'lost'"),
        ('{"markups": [{"coordinateUnits": "m", "controlPoints": [{"position": [1, 2, 3]}]}]}', "'m'"),
    ],
)
def test_malformed_markups_are_refused(tmp_path, text, expected):
    assert expected in refusal(written(tmp_path / "p.mrk.json", text))


SLICER_TABLE = (
    '"label","l","p","s","defined","selected","visible","locked","description"\n'
    '"A",10,-20.5,30.25,1,1,1,0,""\n"B",7,7,7,0,1,1,0,""\n"C",-1,2,-3,1,1,1,0,"deep, left"\n'
)


def test_the_table_of_slicer_is_read_in_lps_without_its_undefined_points_and_written_with_them(tmp_path):
    points = read_points(written(tmp_path / "p.csv", SLICER_TABLE))
    assert np.array_equal(points.positions, LPS)
    assert points.names == ["A", "C"]
    assert points.unset == {1: "B"}
    write_points(points.moved_to(LPS + SHIFT), tmp_path / "q.csv")
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert lines[0] == SLICER_TABLE.splitlines()[0]
    assert lines[2] == "B,7,7,7,0,1,1,0,"
    assert lines[3] == 'C,0.000000,4.000000,0.000000,1,1,1,0,"deep, left"'


@pytest.mark.parametrize(
    "text",
    [
        "# note\n\nX (mm),Y [mm],z_mm,Name\n10,-20.5,30.25,A\n,,,B\n-1,2,-3,C\n",
        "sep=;\nName;x;y;z;note, if any\nA;10;-20,5;30,25;\nB;nan;NaN;n/a;\nC;-1;2;-3;\n",
        'name\tr\ta\ts\nA\t-10\t"20,5"\t30,25\nB\nC\t1\t-2\t-3\n',
        "# written by numpy\n# x;y;z;name\n10;-20.5;30.25;A\n;;;B\n-1;2;-3;C\n",
        "#,name,x,y,z\n1,A,10,-20.5,30.25\n# 2,X,1,1,1\n2,B\n3,C,-1,2,-3\n",
        "x,y,z,t,label,positionStatus\r\n10,-20.5,30.25,0,A,defined\r\n9,9,9,0,B,missing\r\n-1,2,-3,0,C,\r\n",
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = 1\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,10,-20.5,30.25,0,0,0,1,1,1,0,A,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,B,,,3,0\n3,-1,2,-3,0,0,0,1,1,1,0,C,,,2,0\n",
    ],
    ids=["empty cells", "semicolons", "tabs", "header in a comment", "numbered", "status", "fcsv called csv"],
)
def test_tables_of_other_programs_are_read_with_their_unset_points(tmp_path, text):
    points = read_points(written(tmp_path / "p.csv", text))
    assert np.array_equal(points.positions, LPS)
    assert points.names == ["A", "C"]
    assert points.unset == {1: "B"}


def test_a_table_with_decimal_commas_and_semicolons_is_written_as_it_was(tmp_path):
    points = read_points(written(tmp_path / "p.csv", "# mine\nName;x;y;z\nA;10;-20,5;30,25\nB;;;\n"))
    write_points(points, tmp_path / "q.csv")
    assert (tmp_path / "q.csv").read_text() == "# mine\nName;x;y;z\nA;10,000000;-20,500000;30,250000\nB;;;\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
def test_text_is_read_in_every_usual_encoding(tmp_path, encoding):
    (tmp_path / "p.csv").write_bytes("name,x,y,z\nété,10,-20.5,30.25\nB,-1,2,-3\n".encode(encoding))
    points = read_points(tmp_path / "p.csv")
    assert np.array_equal(points.positions, LPS)
    assert points.names == ["été", "B"]


@pytest.mark.parametrize("extension", [".csv", ".mrk.json", ".fcsv"])
@pytest.mark.parametrize("source", [".csv", ".mrk.json", ".fcsv"])
def test_points_keep_places_names_and_positions_from_any_format_to_any_other(tmp_path, source, extension):
    points = point_list([("A", LPS[0]), ("B", None), ("C", LPS[1])])
    write_points(points, tmp_path / f"p{source}")
    read = read_points(tmp_path / f"p{source}")
    write_points(read.moved_to(read.positions + SHIFT), tmp_path / f"q{extension}")
    again = read_points(tmp_path / f"q{extension}")
    assert np.allclose(again.positions, LPS + SHIFT)
    assert again.names == ["A", "C"]
    assert again.unset == {1: "B"}


PLAIN_TEXT = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=12).map(str.strip)
COORDINATE = st.floats(-1e4, 1e4).map(lambda value: round(value, 6))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(PLAIN_TEXT, min_size=1, max_size=5),
    data=st.data(),
    extension=st.sampled_from([".csv", ".mrk.json", ".fcsv"]),
)
def test_any_names_and_positions_come_back_from_a_file(tmp_path, names, data, extension):
    """Names with quotes, separators and comment signs too; a list without any position is none."""
    position = st.tuples(COORDINATE, COORDINATE, COORDINATE).map(np.array)
    entries = [(names[0], data.draw(position))]
    entries += [(name, data.draw(st.none() | position)) for name in names[1:]]
    write_points(point_list(entries), tmp_path / f"p{extension}")
    again = read_points(tmp_path / f"p{extension}").entries()
    assert len(again) == len(entries)
    for number, ((name, place), (read_name, read_place)) in enumerate(zip(entries, again), 1):
        assert read_name == name or (not name and extension != ".csv" and read_name == str(number))
        assert (read_place is None) == (place is None)
        assert place is None or np.allclose(read_place, place, atol=1e-6)


def test_fiducial_files_keep_their_comments_and_columns(tmp_path):
    text = "# Fiducial List file mine\n# columns = label,x,y,z,sel,vis\nAC,-10,20.5,30.25,1,0\n"
    points = read_points(written(tmp_path / "p.fcsv", text))
    assert np.array_equal(points.positions, LPS[:1])
    write_points(points.moved_to(LPS[:1] + SHIFT), tmp_path / "q.fcsv")
    lines = (tmp_path / "q.fcsv").read_text().splitlines()
    assert lines[:2] == text.splitlines()[:2]
    assert lines[2:] == ["AC,-11.000000,18.500000,33.250000,1,0"]


@pytest.mark.parametrize("status", ["undefined", "missing", "preview"])
def test_markups_without_a_position_are_unset_whatever_position_they_store(tmp_path, status):
    for stored in ([1.0, 2.0, 3.0], "", None, [float("nan")] * 3):
        content = markups()
        content["markups"][0]["controlPoints"].insert(
            1, {"label": "later", "position": stored, "positionStatus": status}
        )
        points = read_points(written(tmp_path / "p.mrk.json", json.dumps(content)))
        assert np.array_equal(points.positions, LPS)
        assert points.unset == {1: "later"}


def test_measurements_are_dropped_where_points_have_moved_and_kept_where_not(tmp_path):
    content = markups(kind="Line")
    content["markups"][0]["measurements"] = [{"name": "length", "enabled": True, "value": 10.0, "units": "mm"}]
    points = read_points(written(tmp_path / "p.mrk.json", json.dumps(content)))
    write_points(points, tmp_path / "same.mrk.json")
    write_points(points.moved_to(2 * LPS), tmp_path / "moved.mrk.json")
    assert json.loads((tmp_path / "same.mrk.json").read_text()) == content
    assert "measurements" not in json.loads((tmp_path / "moved.mrk.json").read_text())["markups"][0]


def test_missing_and_unknown_files_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "p.csv")
    assert ".fcsv" in refusal(tmp_path / "p.vtk")
    for content in (b"\xff\xfe\x00", b"PK\x03\x04" + bytes(range(256)), b"x,y,z\n1,2,3\x00\n"):
        (tmp_path / "binary.csv").write_bytes(content)
        assert "as text" in refusal(tmp_path / "binary.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.csv")


def test_points_are_written_only_in_known_formats(tmp_path):
    points = PointList(LPS, ["a", "b"])
    with pytest.raises(OutputError, match="csv"):
        write_points(points, tmp_path / "p.vtk")
    with pytest.raises(OutputError, match="could not be written"):
        write_points(points, tmp_path / "missing" / "p.csv")


def test_points_cannot_be_moved_to_another_number_of_positions():
    with pytest.raises(InputError, match="2 points"):
        PointList(LPS, ["a", "b"]).moved_to(LPS[:1])
