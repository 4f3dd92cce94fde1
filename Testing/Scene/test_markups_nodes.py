"""Landmark files that Slicer writes, and control points of its nodes: which have a position, and where it is."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from wavemorph.io.points import read_points, write_points
from WaveMorphRegistrationLib.results.qualityTable import finish, landmarkTable
from WaveMorphRegistrationLib.scene.landmarks import landmarksFromNode

RAS = np.array([[10.0, -20.5, 30.25], [-1.0, 2.0, -3.0], [4.0, 5.0, 6.0], [7.0, -8.0, 9.0], [1.0, 1.0, 2.0]])
LPS = RAS * [-1, -1, 1]
SHIFT = np.array([1.0, 2.0, 3.0])
NAMES = ["AC", "undefined", "missing", "preview", "left, deep"]


@pytest.fixture
def markupsNode(headless):
    node = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks")
    for name, position in zip(NAMES, RAS):
        node.AddControlPoint(position, name)
    node.UnsetNthControlPointPosition(1)
    node.SetNthControlPointPositionMissing(2)
    node.SetNthControlPointPosition(3, *RAS[3], slicer.vtkMRMLMarkupsNode.PositionPreview)
    return node


def writtenBySlicer(node, path):
    if path.suffix == ".csv":
        assert slicer.vtkSlicerMarkupsLogic().ExportControlPointsToCSV(node, str(path), "LPS" in path.name)
    else:
        assert storageFor(path).WriteData(node)
    return path


def storageFor(path):
    json = path.suffix == ".json"
    storage = slicer.vtkMRMLMarkupsJsonStorageNode() if json else slicer.vtkMRMLMarkupsFiducialStorageNode()
    storage.SetFileName(str(path))
    return storage


def test_control_points_without_a_position_are_known_and_the_others_are_in_world_coordinates(headless, markupsNode):
    parent = headless.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Parent")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 5.0)
    parent.SetMatrixTransformToParent(matrix)
    markupsNode.SetAndObserveTransformNodeID(parent.GetID())
    points = landmarksFromNode(markupsNode)
    assert np.allclose(points.positions, LPS[[0, 4]] - np.array([5.0, 0.0, 0.0]))
    assert points.names == ["AC", "left, deep"]
    assert points.unset == {1: "undefined", 2: "missing", 3: "preview"}


@pytest.mark.parametrize("name", ["p.mrk.json", "p.fcsv", "LPS.csv", "r.csv"])
def test_files_of_slicer_are_read_with_the_places_of_their_unset_points(markupsNode, tmp_path, name):
    points = read_points(writtenBySlicer(markupsNode, tmp_path / name))
    assert np.allclose(points.positions, LPS[[0, 4]])
    assert points.names == ["AC", "left, deep"]
    assert dict(points.unset) == {1: "undefined", 2: "missing", 3: "preview"}


@pytest.mark.parametrize("extension", [".mrk.json", ".fcsv"])
def test_files_that_are_written_are_read_by_slicer_with_the_same_points(markupsNode, headless, tmp_path, extension):
    points = read_points(writtenBySlicer(markupsNode, tmp_path / "p.mrk.json"))
    write_points(points.moved_to(points.positions + SHIFT), tmp_path / f"q{extension}")
    again = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Again")
    assert storageFor(tmp_path / f"q{extension}").ReadData(again)
    read = landmarksFromNode(again)
    assert np.allclose(read.positions, LPS[[0, 4]] + SHIFT)
    assert read.names == ["AC", "left, deep"]
    assert list(read.unset) == [1, 2, 3]


def test_the_table_pairs_by_label_and_lists_what_has_no_position(headless, registered, markupsNode):
    result = registered[1]
    moving = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Other")
    for index in (4, 2, 0, 1, 3):
        moving.AddControlPoint(RAS[index], NAMES[index])
    table = finish(landmarkTable(result, markupsNode, moving)).GetTable()
    rows = [[table.GetValue(row, column).ToString() for column in range(3)] for row in range(table.GetNumberOfRows())]
    assert [row[:2] for row in rows[:2]] == [["AC", "0.00"], ["left, deep", "0.00"]]
    assert [row[0] for row in rows[2:5]] == ["undefined", "missing", "preview"]
    assert {row[1] for row in rows[2:5]} == {"-"}
    assert "no position" in rows[5][0]
    assert rows[-1][:2] == ["mean", "0.00"]
