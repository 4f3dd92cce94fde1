"""View, measure, apply and export a result, without changing the inputs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import phantoms
import pytest
import qt
import SimpleITK as sitk
import slicer
import vtk
from sceneVolumes import addVolume
from wavemorph.errors import InputError, OutputError
from WaveMorphRegistrationLib.panel.exportDialog import askForExportPath
from WaveMorphRegistrationLib.results.reportTable import reportRows
from WaveMorphRegistrationLib.results.transformApplication import applyTransform
from WaveMorphRegistrationLib.results.transformExport import FILE_FILTER, exportTransform
from WaveMorphRegistrationLib.scene.coordinates import vtkMatrix
from WaveMorphRegistrationLib.scene.transforms import gridTransform, transformFromNode

SHIFT_RAS = np.array([-4.0, 0.0, 3.0])  # of the tiny pair, fixed -> moving


@pytest.fixture
def done(opened, tiny_pair):
    """A finished registration, with a slice composite node as every slice view has one."""
    opened.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode").SetLayoutName("Red")
    opened.choose(*tiny_pair)
    opened.ui.wantInverseCheckBox.checked = True
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    opened.outcome = opened.logic.outcome
    opened.ui.measureBox.collapsed = opened.ui.applyBox.collapsed = False
    return opened


def layers(opened):
    composite = opened.scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    find = opened.scene.GetNodeByID
    return find(composite.GetBackgroundVolumeID()), find(composite.GetForegroundVolumeID() or ""), composite


def rowsOf(tableNode):
    table = tableNode.GetTable()
    columns = range(table.GetNumberOfColumns())
    return [[table.GetValue(row, column).ToString() for column in columns] for row in range(table.GetNumberOfRows())]


def segmented(done, image, name, threshold=300):
    labels = addVolume(done.headless, sitk.Cast(image > threshold, sitk.sitkUInt8), name, "vtkMRMLLabelMapVolumeNode")
    segmentation = done.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, segmentation)
    segmentation.GetSegmentation().GetNthSegment(0).SetName("brain")
    return segmentation


def test_structures_landmarks_and_volumes_are_measured(done, tiny_pair):
    ui = done.ui
    ui.fixedSegmentationSelector.setCurrentNode(segmented(done, tiny_pair[0], "drawn on patient"))
    ui.movingSegmentationSelector.setCurrentNode(segmented(done, tiny_pair[1], "drawn on atlas"))
    for selector, offset in ((ui.fixedLandmarksSelector, 0.0), (ui.movingLandmarksSelector, 1.0)):
        points = done.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        for place in ((10.0, 5.0, 0.0), (-8.0, 4.0, 6.0)):
            points.AddControlPointWorld(*(np.array(place) + offset * SHIFT_RAS))
        selector.setCurrentNode(points)
    ui.measureButton.click()
    assert ui.measureButton.text == "Stop measuring"
    done.until(lambda: ui.measureButton.text == "Measure")
    assert done.dialogs == []
    titles = [ui.tableSelector.itemText(index) for index in range(ui.tableSelector.count)]
    assert titles == [
        "Report of the registration",
        "Overlap of structures",
        "Distance of landmarks",
        "Volumes of structures",
    ]
    assert ui.tableSelector.currentText == "Overlap of structures"
    overlap = rowsOf(ui.tableView.mrmlTableNode())
    assert overlap[0][0] == "brain"
    before, after = float(overlap[0][1]), float(overlap[0][2])
    assert after > max(before + 0.05, 0.95)
    ui.tableSelector.setCurrentIndex(2)
    landmarks = rowsOf(ui.tableView.mrmlTableNode())
    assert float(landmarks[-1][1]) == pytest.approx(5.0, abs=0.01)
    assert float(landmarks[-1][2]) < 1.0
    ui.tableSelector.setCurrentIndex(3)
    volumes = rowsOf(ui.tableView.mrmlTableNode())
    assert volumes[0][0] == "brain"
    assert abs(float(volumes[0][3])) < 8.0
    ui.tableSelector.setCurrentIndex(0)
    assert rowsOf(ui.tableView.mrmlTableNode())[0][0] == "Verdict"


def test_with_the_expected_error_and_no_jacobian_a_segmentation_of_the_fixed_volume_has_its_errors(opened, tiny_pair):
    ui = opened.ui
    opened.choose(*tiny_pair)
    ui.wantJacobianCheckBox.checked, ui.wantExpectedErrorCheckBox.checked = False, True
    opened.processEvents()
    opened.register()
    ui.measureBox.collapsed = False
    ui.fixedSegmentationSelector.setCurrentNode(segmented(opened, tiny_pair[0], "drawn on patient"))
    ui.measureButton.click()
    opened.until(lambda: ui.measureButton.text == "Measure")
    assert opened.dialogs == []
    assert ui.tableSelector.currentText == "Volumes of structures"
    table = ui.tableView.mrmlTableNode()
    assert [table.GetTable().GetColumnName(i) for i in range(3)] == ["Structure", "Fixed, ml", "Expected error, mm"]
    error = sitk.GetArrayFromImage(phantoms.expected_error(tiny_pair[0]))
    median = np.median(error[sitk.GetArrayFromImage(tiny_pair[0]) > 300])
    assert rowsOf(table)[0][0] == "brain"
    assert float(rowsOf(table)[0][2]) == pytest.approx(median, abs=0.051)


def test_measuring_works_in_pieces_and_can_be_stopped(done, tiny_pair):
    """Between two pieces the application handles its events."""
    ui = done.ui
    ui.fixedSegmentationSelector.setCurrentNode(segmented(done, tiny_pair[0], "drawn on patient"))
    ui.movingSegmentationSelector.setCurrentNode(segmented(done, tiny_pair[1], "drawn on atlas"))
    ui.measureButton.click()
    pieces = 0
    while done.panel.result.measure._pending:
        done.panel.result.measure._step()
        pieces += 1
    assert pieces > 10
    before = done.nodeIds()
    ui.measureButton.click()
    ui.measureButton.click()
    assert ui.measureButton.text == "Measure"
    done.processEvents()
    assert done.nodeIds() == before
    ui.measureButton.click()
    done.scene.RemoveNode(done.outcome.nodes.transform)
    done.until(lambda: ui.measureButton.text == "Measure")
    assert len(done.dialogs) <= 1


def test_what_a_measure_needs_and_was_not_requested_is_said(done, tiny_pair):
    done.ui.fixedSegmentationSelector.setCurrentNode(segmented(done, tiny_pair[0], "drawn on patient"))
    done.scene.RemoveNode(done.outcome.nodes.jacobian)
    done.ui.measureButton.click()
    assert "Volumes are measured with the Jacobian" in done.dialogs[0]


def test_measuring_without_a_selection_says_what_to_choose(done):
    done.ui.measureButton.click()
    assert "Choose a segmentation" in done.dialogs[0]


def listed(done) -> dict:
    """Name of each node in the tree -> its item."""
    tree = done.ui.nodeTree
    groups = [tree.topLevelItem(index) for index in range(tree.topLevelItemCount)]
    return {group.child(row).text(0): group.child(row) for group in groups for row in range(group.childCount())}


def pointsNode(done, name, place):
    points = done.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    points.AddControlPointWorld(*place)
    return points


def test_checked_nodes_are_put_under_the_transform_and_hardened(done, tiny_pair):
    points = pointsNode(done, "Landmarks on the atlas", SHIFT_RAS)
    done.processEvents()
    assert "Atlas registered" not in listed(done) and "Patient" not in listed(done)
    listed(done)["Landmarks on the atlas"].setCheckState(0, qt.Qt.Checked)
    done.ui.hardenCheckBox.checked = True
    done.ui.applyButton.click()
    assert done.dialogs == []
    assert points.GetParentTransformNode() is None
    place = [0.0] * 3
    points.GetNthControlPointPositionWorld(0, place)
    assert np.linalg.norm(place) < 1.0


def test_nodes_in_the_fixed_space_are_transformed_in_the_other_direction(done):
    points = pointsNode(done, "Landmarks on the patient", (0.0, 0.0, 0.0))
    done.processEvents()
    listed(done)["Landmarks on the patient"].setCheckState(0, qt.Qt.Checked)
    done.ui.fixedSpaceCheckBox.checked = True
    done.ui.applyButton.click()
    place = [0.0] * 3
    points.GetNthControlPointPositionWorld(0, place)
    assert np.linalg.norm(np.array(place) - SHIFT_RAS) < 1.0


def test_nodes_in_the_fixed_space_follow_a_transform_that_another_module_changes(done):
    points = pointsNode(done, "Landmarks on the patient", (0.0, 0.0, 0.0))
    done.processEvents()
    listed(done)["Landmarks on the patient"].setCheckState(0, qt.Qt.Checked)
    done.ui.fixedSpaceCheckBox.checked = True
    done.ui.applyButton.click()
    done.outcome.nodes.transform.Inverse()
    place = np.zeros(3)
    points.GetNthControlPointPositionWorld(0, place)
    assert np.linalg.norm(place + SHIFT_RAS) < 1.0


def test_the_tree_follows_the_scene_and_keeps_its_check_marks(done):
    first = pointsNode(done, "First", (0.0, 0.0, 0.0))
    done.processEvents()
    listed(done)["First"].setCheckState(0, qt.Qt.Checked)
    second = pointsNode(done, "Second", (0.0, 0.0, 0.0))
    hidden = pointsNode(done, "Hidden", (0.0, 0.0, 0.0))
    hidden.SetHideFromEditors(True)
    done.processEvents()
    assert {"First", "Second", "Atlas"} == set(listed(done))
    assert listed(done)["First"].checkState(0) == qt.Qt.Checked
    done.scene.RemoveNode(second)
    done.processEvents()
    assert set(listed(done)) == {"First", "Atlas"}
    done.ui.applyButton.click()
    assert first.GetParentTransformNode() is done.outcome.nodes.transform
    assert done.outcome.movingNode.GetParentTransformNode() is None


def test_what_was_chosen_for_one_pair_is_not_applied_to_or_measured_with_another(done, tiny_pair):
    points = pointsNode(done, "Landmarks of patient 1", SHIFT_RAS)
    segmentation = segmented(done, tiny_pair[0], "drawn on patient 1")
    done.processEvents()
    ui = done.ui
    for selector, node in ((ui.fixedSegmentationSelector, segmentation), (ui.movingLandmarksSelector, points)):
        selector.setCurrentNode(node)
    ui.hardenCheckBox.checked = ui.fixedSpaceCheckBox.checked = True
    listed(done)["Landmarks of patient 1"].setCheckState(0, qt.Qt.Checked)
    done.register()  # the same pair: the choices are kept
    assert listed(done)["Landmarks of patient 1"].checkState(0) == qt.Qt.Checked
    assert ui.fixedSegmentationSelector.currentNode() is segmentation
    done.choose(*tiny_pair)
    done.register()
    assert listed(done)["Landmarks of patient 1"].checkState(0) == qt.Qt.Unchecked
    assert not ui.hardenCheckBox.checked and not ui.fixedSpaceCheckBox.checked
    assert ui.fixedSegmentationSelector.currentNode() is None
    assert ui.movingLandmarksSelector.currentNode() is None
    ui.applyButton.click()
    assert "Check the nodes" in done.dialogs[0]


def test_the_tree_follows_a_new_name_and_a_new_folder(done):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(done.scene)
    points = pointsNode(done, "First", (0.0, 0.0, 0.0))
    item = hierarchy.GetItemByDataNode(points) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), points)
    done.processEvents()
    listed(done)["First"].setCheckState(0, qt.Qt.Checked)
    points.SetName("Renamed")
    done.processEvents()
    assert listed(done)["Renamed"].checkState(0) == qt.Qt.Checked
    hierarchy.SetItemParent(item, hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Folder"))
    done.processEvents()
    tree = done.ui.nodeTree
    assert "Folder" in [tree.topLevelItem(index).text(0) for index in range(tree.topLevelItemCount)]
    assert listed(done)["Renamed"].checkState(0) == qt.Qt.Checked


def test_all_in_the_folder_of_the_moving_volume_are_one_tick(done):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(done.scene)
    root = hierarchy.GetSceneItemID()
    atlas, inner = (hierarchy.CreateFolderItem(root, name) for name in ("Atlas study", "Structures"))
    hierarchy.SetItemParent(inner, atlas)
    done_ = done.outcome
    hierarchy.CreateItem(atlas, done_.movingNode)
    nodes = {name: pointsNode(done, name, (0.0, 0.0, 0.0)) for name in ("near", "deep", "elsewhere")}
    hierarchy.SetItemParent(
        hierarchy.GetItemByDataNode(nodes["near"]) or hierarchy.CreateItem(root, nodes["near"]), atlas
    )
    hierarchy.SetItemParent(
        hierarchy.GetItemByDataNode(nodes["deep"]) or hierarchy.CreateItem(root, nodes["deep"]), inner
    )
    done.processEvents()
    tree = done.ui.nodeTree
    folders = [tree.topLevelItem(index).text(0) for index in range(tree.topLevelItemCount)]
    assert folders[0] == "Atlas study"
    assert "Atlas study / Structures" in folders
    done.ui.studyCheckBox.checked = True
    checked = {name for name, item in listed(done).items() if item.checkState(0) == qt.Qt.Checked}
    assert checked == {"Atlas", "near", "deep"}
    done.ui.applyButton.click()
    assert done.dialogs == []
    for node in (done_.movingNode, nodes["near"], nodes["deep"]):
        assert node.GetParentTransformNode() is done_.nodes.transform
    assert nodes["elsewhere"].GetParentTransformNode() is None
    done.ui.studyCheckBox.checked = False
    assert not any(item.checkState(0) == qt.Qt.Checked for item in listed(done).values())


def test_a_node_under_another_transform_is_refused_before_any_node_is_changed(done):
    other = done.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Other")
    free, bound = (done.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("free", "bound"))
    bound.SetAndObserveTransformNodeID(other.GetID())
    with pytest.raises(InputError, match="bound is under the transform Other"):
        applyTransform(done.outcome.nodes.transform, [free, bound])
    assert free.GetParentTransformNode() is None


@pytest.mark.parametrize("extension", [".h5", ".tfm", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("inverse", [False, True])
def test_an_exported_transform_moves_points_in_simpleitk_as_in_the_scene(done, tmp_path, extension, inverse):
    outcome = done.outcome
    node, over = (
        (outcome.nodes.inverse, outcome.movingNode) if inverse else (outcome.nodes.transform, outcome.fixedNode)
    )
    path = tmp_path / f"Übung 1{extension}"
    exportTransform(node, path, over)
    if extension in (".h5", ".tfm"):
        read = sitk.ReadTransform(str(path))
    else:
        read = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    flip = np.array([-1.0, -1.0, 1.0])
    inScene = node.GetTransformFromParent()
    for point in np.random.default_rng(0).uniform(-25, 25, (50, 3)):
        expected = np.array(inScene.TransformPoint(point * flip)) * flip
        assert np.linalg.norm(read.TransformPoint(point.tolist()) - expected) < 0.01
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("chosen", "position", "written"),
    [
        ("map", 0, "map.h5"),
        ("map", 1, "map.nii.gz"),
        ("map.nrrd", 0, "map.nrrd"),
        ("patient 1.5", 1, "patient 1.5.nii.gz"),
    ],
)
def test_a_name_without_extension_gets_that_of_the_filter(done, tmp_path, monkeypatch, chosen, position, written):
    filters = FILE_FILTER.split(";;")
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None, raising=False)
    monkeypatch.setattr(qt.QFileDialog, "exec_", lambda dialog: 1, raising=False)
    monkeypatch.setattr(qt.QFileDialog, "selectedFiles", lambda dialog: [str(tmp_path / chosen)])
    monkeypatch.setattr(qt.QFileDialog, "selectedNameFilter", lambda dialog: filters[position])
    done.ui.exportTransformButton.click()
    assert done.dialogs == []
    assert [path.name for path in tmp_path.iterdir()] == [written]


def test_a_file_that_the_extension_makes_the_target_is_replaced_only_after_a_question(tmp_path, monkeypatch):
    (tmp_path / "map.h5").write_text("old")
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None, raising=False)
    monkeypatch.setattr(qt.QFileDialog, "exec_", lambda dialog: 1, raising=False)
    monkeypatch.setattr(qt.QFileDialog, "selectedFiles", lambda dialog: [str(tmp_path / "map")])
    questions = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: questions.append(text), raising=False)
    assert askForExportPath("map.h5") == ""
    assert questions == [f"{tmp_path / 'map.h5'} exists. Replace it?"]
    monkeypatch.setattr(qt.QFileDialog, "exec_", lambda dialog: 0, raising=False)
    assert askForExportPath("map.h5") == ""
    assert len(questions) == 1


def test_exporting_prints_nothing(done, tmp_path, capfd):
    capfd.readouterr()
    for name in ("t.h5", "t.nii.gz", "t.tfm"):
        exportTransform(done.outcome.nodes.transform, tmp_path / name, done.outcome.fixedNode)
    assert "".join(capfd.readouterr()) == ""


def test_an_export_that_cannot_be_written_is_a_message(done, tmp_path):
    with pytest.raises(OutputError, match="must end in one of"):
        exportTransform(done.outcome.nodes.transform, tmp_path / "t.xyz")
    composite = done.outcome.nodes.inverse
    composite.SetAndObserveTransformFromParent(vtk.vtkGeneralTransform())
    with pytest.raises(OutputError, match="sampled on the voxels of a volume"):
        exportTransform(composite, tmp_path / "t.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_an_initial_transform_may_be_a_grid_or_a_composite(headless):
    """A grid is exact and a composite is sampled; both move points as the node does."""
    fixed = phantoms.head(phantoms.random_geometry(3))
    field = sitk.GetImageFromArray(
        np.random.default_rng(0).normal(0, 1.0, (30, 36, 40, 3)).astype(np.float32), isVector=True
    )
    field.CopyInformation(fixed)
    field = sitk.SmoothingRecursiveGaussian(field, 8.0)
    grid = headless.scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    grid.SetAndObserveTransformFromParent(gridTransform(field))
    whole = vtk.vtkGeneralTransform()
    whole.Concatenate(gridTransform(field))
    matrix = np.eye(4)
    matrix[:3, :3] = phantoms.rotation((0, 0, 10))
    whole.Concatenate(vtkMatrix(matrix))
    composite = headless.scene.AddNewNodeByClass("vtkMRMLTransformNode")
    composite.SetAndObserveTransformFromParent(whole)
    flip = np.array([-1.0, -1.0, 1.0])
    center = phantoms.center_of(fixed)
    for node, tolerance in ((grid, 1e-4), (composite, 0.02)):
        made = transformFromNode(node, fixed)
        for point in center + np.random.default_rng(1).uniform(-20, 20, (30, 3)):
            expected = np.array(node.GetTransformFromParent().TransformPoint(point * flip)) * flip
            assert np.linalg.norm(np.subtract(made.TransformPoint(point.tolist()), expected)) < tolerance


def shownWith(done, level, reasons, warnings=()):
    """The panel with a result of this verdict; what the verdict line shows as plain text, and its color."""
    verdict = {"level": level, "reasons": reasons, "probability_wrong": 0.5}
    report = {**done.outcome.report, "verdict": verdict, "warnings": [*warnings]}
    done.outcome.nodes.node.SetParameter("report", json.dumps(report))
    done.panel.result.open(done.outcome.nodes, show=False)
    done.processEvents()
    document = qt.QTextDocument()
    document.setHtml(done.ui.verdictLabel.text)
    color = document.begin().begin().fragment().charFormat().background().color()
    return document.toPlainText().replace("\xa0", " ").strip(), color


@pytest.mark.parametrize(
    ("level", "title", "hues"),
    [("good", "Good", (90, 150)), ("check", "Check", (25, 60)), ("do not trust", "Do not trust", (0, 20))],
)
def test_the_verdict_is_a_colored_line_with_its_first_reason(done, level, title, hues):
    reasons = [] if level == "good" else ["A < B.", "The outlines overlap by only 0.41 (Dice)."]
    text, color = shownWith(done, level, reasons)
    assert text.startswith(title)
    assert hues[0] <= color.hue() <= hues[1]
    assert not done.ui.verdictLabel.isHidden()
    if reasons:
        assert text == f"{title}  A < B. (1 more in the tool tip)"
        assert done.ui.verdictLabel.toolTip.splitlines() == reasons


def test_a_warning_that_is_a_reason_of_the_verdict_is_said_once(done):
    folded, unseen = "7 voxels are folded.", "40 % of the fixed subject is not in the moving volume."
    text, _color = shownWith(done, "check", [folded], [folded, unseen])
    assert folded in text
    assert done.ui.warningLabel.text == unseen
    shownWith(done, "check", [folded], [folded])
    assert done.ui.warningLabel.isHidden()


def test_the_table_tells_the_expected_error_and_where_it_does_not_hold(done):
    entry = {"median_mm": 0.83, "p95_mm": 1.94, "probability_percent": 90}
    report = {**done.outcome.report, "expected_error": entry}
    rows = {row[0]: row[1:] for row in reportRows(report)}
    assert rows["Expected error"][0] == "median 0.8 mm, 95 % 1.9 mm"
    assert rows["Expected error"][1].startswith("90 % of the errors are estimated to be below these")
    assert "trust" not in rows["Expected error"][1]
    report["verdict"] = {"level": "do not trust", "reasons": ["A."], "probability_wrong": 0.9}
    rows = {row[0]: row[1:] for row in reportRows(report)}
    assert "does not hold here, because the verdict is do not trust" in rows["Expected error"][1]
    small = {**report, "expected_error": {**entry, "median_mm": 0.031, "p95_mm": 0.12}}
    assert {row[0]: row[1] for row in reportRows(small)}["Expected error"] == "median 0.03 mm, 95 % 0.1 mm"
    for none in (None, "absent"):
        report = {name: value for name, value in report.items() if name != "expected_error"}
        report = report if none == "absent" else {**report, "expected_error": None}
        assert "Expected error" not in [row[0] for row in reportRows(report)]


def test_without_a_result_there_is_no_verdict(done):
    assert not done.ui.verdictLabel.isHidden()
    for node in done.outcome.nodes.all():
        done.scene.RemoveNode(node)
    done.processEvents()
    assert done.ui.verdictLabel.isHidden()


def test_table_and_status_line_tell_the_error_of_a_transform_that_is_stored_coarsely(done):
    stored = {"spacing_mm": 2.0, "error_mm": {"mean": 0.0123, "p99": 0.2, "max": 0.41}}
    report = {**done.outcome.report, "stored": stored}
    rows = {row[0]: row[1:] for row in reportRows(report)}
    assert rows["Stored"][0] == "at 2 mm"
    assert "0.012 mm on average" in rows["Stored"][1] and "0.410 mm at most" in rows["Stored"][1]
    assert "Stored" not in done.ui.statusLabel.text
    done.logic.onFinished(dataclasses.replace(done.outcome, report=report))
    done.panel.update()
    assert "off by 0.01 mm on average, 0.41 mm at most" in done.ui.statusLabel.text


def test_the_table_tells_the_verdict_then_warnings_then_notes_then_what_was_taken_for_the_subject(done):
    report = {**done.outcome.report, "warnings": ["Look."], "notes": ["Coarser."]}
    report["verdict"] = {"level": "check", "reasons": ["Look.", "Twice."], "probability_wrong": 0.5}
    report["subject"] = {
        "kind": "body",
        "extent_mm": [311.2, 219.8, 7.25],
        "working_spacing_mm": [2.0, 2.0, 2.04],
        "unseen_percent": 4.4,
    }
    rows = reportRows(report)
    assert rows.pop(0) == ("Verdict", "Check", "Look. Twice.")
    assert rows[:2] == [("Warning", "!", "Look."), ("Note", "", "Coarser.")]
    assert rows[2][:2] == ("Subject", "body, 311 x 220 x 7.2 mm")
    assert "worked at 2 mm" in rows[2][2]
    assert "4 % of it is not in the moving volume" in rows[2][2]
