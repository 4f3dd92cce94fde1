"""View, measure, apply and export a result, without changing the inputs."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import qt
import SimpleITK as sitk
import slicer
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


def test_flickering_shows_the_moving_volume_before_and_after(done):
    ui, outcome = done.ui, done.outcome
    ui.flickerButton.checked = True
    shown = set()
    for _ in range(2):
        done.panel.result._onFlicker()
        shown.add((layers(done)[1].GetName(), ui.flickerButton.text))
    assert shown == {("Atlas", "Before / after: before"), ("Atlas registered", "Before / after: after")}
    ui.flickerButton.checked = False
    assert layers(done)[1] is outcome.nodes.warped


def test_the_opacity_slider_goes_to_the_slices(done):
    done.ui.opacitySlider.value = 0.2
    assert layers(done)[2].GetForegroundOpacity() == pytest.approx(0.2)


def test_the_checkerboard_contains_both_volumes_and_is_removed_again(done):
    before = done.nodeIds()
    done.ui.checkerboardCheckBox.checked = True
    board, _none, _composite = layers(done)
    array = slicer.util.arrayFromVolume(board)
    fixed = slicer.util.arrayFromVolume(done.outcome.fixedNode)
    assert array.shape == fixed.shape
    assert 0 <= array.min() < array.max() <= 1
    done.ui.checkerboardCheckBox.checked = False
    assert layers(done)[0] is done.outcome.fixedNode
    assert done.nodeIds() == before


def test_the_warp_slider_goes_from_the_moving_volume_to_the_registered_one(done):
    transform = done.outcome.nodes.transform.GetTransformFromParent()
    placed = []
    for value in (0.0, 50.0):
        done.ui.warpSlider.value = value
        shown = layers(done)[1]
        on = shown.GetParentTransformNode().GetTransformFromParent()
        placed.append(np.array(on.TransformPoint((0.0, 0.0, 0.0))))
        assert transform.GetDisplacementScale() == 1.0
    assert np.allclose(placed[0], 0, atol=1e-6)
    assert np.allclose(placed[1], 0.5 * np.array(transform.TransformPoint((0.0, 0.0, 0.0))), atol=1e-3)
    assert done.outcome.movingNode.GetParentTransformNode() is None
    done.ui.warpSlider.value = 100.0
    assert layers(done)[1] is done.outcome.nodes.warped


def test_the_grid_goes_on_and_off_in_2d_and_3d_with_its_spacing(done):
    shown = done.outcome.nodes.transform.GetDisplayNode()
    done.ui.gridSpacingSlider.value = 15.0
    assert shown.GetGridSpacingMm() == 15.0
    done.ui.grid3DCheckBox.checked = True
    assert shown.GetVisibility3D() and shown.GetVisibility2D()
    done.ui.gridCheckBox.checked = False
    assert shown.GetVisibility3D() and not shown.GetVisibility2D()
    done.ui.grid3DCheckBox.checked = False
    assert not shown.GetVisibility()


def test_the_jacobian_is_shown_in_front_with_a_legend_and_hidden_again(done):
    jacobian = done.outcome.nodes.jacobian
    done.ui.jacobianCheckBox.checked = True
    done.ui.jacobianOpacitySlider.value = 0.4
    legend = done.headless.logics["Colors"].GetColorLegendDisplayNode(jacobian)
    assert layers(done)[1] is jacobian
    assert layers(done)[2].GetForegroundOpacity() == pytest.approx(0.4)
    assert legend.GetVisibility()
    done.ui.jacobianCheckBox.checked = False
    assert layers(done)[1] is done.outcome.nodes.warped
    assert not legend.GetVisibility()


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
    assert done.dialogs == []
    overlap = rowsOf(ui.tableView.mrmlTableNode())
    assert overlap[0][0] == "brain"
    before, after = float(overlap[0][1]), float(overlap[0][2])
    assert after > max(before + 0.05, 0.95)
    landmarks = rowsOf(done.scene.GetFirstNodeByName("Atlas to Patient landmarks"))
    assert float(landmarks[-1][1]) == pytest.approx(5.0, abs=0.01)
    assert float(landmarks[-1][2]) < 1.0
    volumes = rowsOf(done.scene.GetFirstNodeByName("Atlas to Patient volumes"))
    assert volumes[0][0] == "brain"
    assert abs(float(volumes[0][3])) < 8.0


def test_measuring_without_a_selection_says_what_to_choose(done):
    done.ui.measureButton.click()
    assert "Choose a segmentation" in done.dialogs[0]


def test_checked_nodes_are_put_under_the_transform_and_hardened(done, tiny_pair):
    points = done.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks on the atlas")
    points.AddControlPointWorld(*SHIFT_RAS)
    ui = done.ui
    ui.refreshNodesButton.click()
    names = [ui.nodeList.item(row).text() for row in range(ui.nodeList.count)]
    assert "Landmarks on the atlas" in names
    assert "Atlas registered" not in names
    ui.nodeList.item(names.index("Landmarks on the atlas")).setCheckState(qt.Qt.Checked)
    ui.hardenCheckBox.checked = True
    ui.applyButton.click()
    assert done.dialogs == []
    assert points.GetParentTransformNode() is None
    place = [0.0] * 3
    points.GetNthControlPointPositionWorld(0, place)
    assert np.linalg.norm(place) < 1.0


def test_nodes_in_the_fixed_space_are_transformed_in_the_other_direction(done):
    points = done.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks on the patient")
    points.AddControlPointWorld(0.0, 0.0, 0.0)
    ui = done.ui
    ui.refreshNodesButton.click()
    names = [ui.nodeList.item(row).text() for row in range(ui.nodeList.count)]
    ui.nodeList.item(names.index("Landmarks on the patient")).setCheckState(qt.Qt.Checked)
    ui.fixedSpaceCheckBox.checked = True
    ui.applyButton.click()
    place = [0.0] * 3
    points.GetNthControlPointPositionWorld(0, place)
    assert np.linalg.norm(np.array(place) - SHIFT_RAS) < 1.0


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
    # the inverse has three parts, which a displacement field on voxels of 1.8 mm only approximates
    tolerance = 0.05 if inverse and extension not in (".h5", ".tfm") else 0.01
    inScene = node.GetTransformFromParent()
    for point in np.random.default_rng(0).uniform(-25, 25, (50, 3)):
        expected = np.array(inScene.TransformPoint(point * flip)) * flip
        assert np.linalg.norm(read.TransformPoint(point.tolist()) - expected) < tolerance
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
    with pytest.raises(OutputError, match="sampled on the voxels of a volume"):
        exportTransform(done.outcome.nodes.inverse, tmp_path / "t.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_closing_the_result_removes_the_nodes_created_for_viewing(done):
    before = done.nodeIds()
    done.ui.checkerboardCheckBox.checked = True
    done.ui.warpSlider.value = 30.0
    assert done.nodeIds() > before
    done.panel.result.close()
    assert done.nodeIds() == before


def test_an_initial_transform_may_be_a_grid_or_a_composite(headless):
    """A grid is exact and a composite is sampled; both move points as the node does."""
    import vtk

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


def test_the_table_tells_warnings_then_notes_then_what_was_taken_for_the_subject(done):
    report = {**done.outcome.report, "warnings": ["Look."], "notes": ["Coarser."]}
    report["subject"] = {
        "kind": "body",
        "extent_mm": [311.2, 219.8, 7.25],
        "working_spacing_mm": [2.0, 2.0, 2.04],
        "unseen_percent": 4.4,
    }
    rows = reportRows(report)
    assert rows[:2] == [("Warning", "!", "Look."), ("Note", "", "Coarser.")]
    assert rows[2][:2] == ("Subject", "body, 311 x 220 x 7.2 mm")
    assert "worked at 2 mm" in rows[2][2]
    assert "4 % of it is not in the moving volume" in rows[2][2]
