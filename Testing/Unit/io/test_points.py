"""Landmark files: coordinate systems, what is kept, and how transforms map points."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError, OutputError
from wavemorph.io.points import PointList, read_points, transform_points, write_points

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
    ],
)
def test_malformed_markups_are_refused(tmp_path, text, expected):
    assert expected in refusal(written(tmp_path / "p.mrk.json", text))


def test_missing_and_unknown_files_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "p.csv")
    assert ".fcsv" in refusal(tmp_path / "p.vtk")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert "as text" in refusal(tmp_path / "binary.csv")


def test_points_are_written_only_in_known_formats(tmp_path):
    points = PointList(LPS, ["a", "b"])
    with pytest.raises(OutputError, match="csv"):
        write_points(points, tmp_path / "p.vtk")
    with pytest.raises(OutputError, match="could not be written"):
        write_points(points, tmp_path / "missing" / "p.csv")


def test_points_cannot_be_moved_to_another_number_of_positions():
    with pytest.raises(InputError, match="2 points"):
        PointList(LPS, ["a", "b"]).moved_to(LPS[:1])
