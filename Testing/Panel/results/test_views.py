"""What the slice views draw of a result, by Slicer's own displayable managers, and when the panel touches them."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import slicer
import vtk
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.headless.offscreenSliceView import OffscreenSliceView
from WaveMorphRegistrationLib.results.resultView import ViewMode
from WaveMorphRegistrationLib.results.sceneResult import SceneResult
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode

MODES = [mode.name for mode in ViewMode]


@pytest.fixture
def view(opened):
    view = OffscreenSliceView(opened.scene, opened.headless.applicationLogic, "Red", "Axial", (240, 240))
    yield view
    view.close()


@pytest.fixture
def done(opened, view, tiny_pair):
    """A finished registration of a deformed head, seen in a slice view."""
    fixed, _moving = opened.choose(*tiny_pair)
    view.lookAt(fixed, (0.0, 0.0, 0.0))
    opened.ui.wantExpectedErrorCheckBox.checked = True
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    opened.view, opened.result = view, SceneResult.allIn(opened.scene)[0]
    return opened


def press(opened, mode: str):
    getattr(opened.ui, f"view{mode}Button").click()
    opened.processEvents()


def layers(view):
    find = view.composite.GetScene().GetNodeByID
    return [
        find(nodeId) if nodeId else None
        for nodeId in (view.composite.GetBackgroundVolumeID(), view.composite.GetForegroundVolumeID())
    ]


def differs(a, b, limit: int = 12) -> int:
    """The number of pixels in which two pictures differ by more than `limit` of 255."""
    return int(np.count_nonzero(np.abs(a.astype(int) - b.astype(int)).max(axis=2) > limit))


def colorfulness(picture) -> float:
    return float(np.ptp(picture.astype(int), axis=2).mean())


def pressed(opened) -> list[str]:
    return [mode for mode in MODES if getattr(opened.ui, f"view{mode}Button").checked]


def test_a_new_result_is_shown_after_registration_without_grid_and_the_slice_stays_where_it_was(
    opened, view, tiny_pair
):
    fixed, _moving = opened.choose(*tiny_pair)
    view.lookAt(fixed, (0.0, 0.0, 7.0))
    view.node.SetFieldOfView(40.0, 40.0, 1.0)
    place = view.node.GetSliceOffset(), view.node.GetFieldOfView()
    opened.register()
    assert (view.node.GetSliceOffset(), view.node.GetFieldOfView()) == place
    result = SceneResult.allIn(opened.scene)[0]
    assert layers(view) == [fixed, result.warped]
    assert pressed(opened) == ["After"]
    assert not opened.ui.gridCheckBox.checked
    assert colorfulness(view.image()) < 1  # no line of a grid


def test_every_mode_draws_something_else_and_no_mode_leaves_a_trace(done):
    """Each mode after each other one draws what it draws alone."""
    press(done, "After")
    before, alone = done.nodeIds(), {}
    for mode in MODES:
        press(done, "After")
        if mode == "Warp":
            done.ui.warpSlider.value = 40.0
        press(done, mode)
        alone[mode] = done.view.image()
        assert pressed(done) == [mode]
    for first in MODES:
        for second in MODES:
            press(done, first)
            press(done, second)
            assert differs(done.view.image(), alone[second]) < 40, f"{second} after {first}"
            assert pressed(done) == [second]
    press(done, "After")
    assert differs(alone["Flicker"], alone["After"]) == 0
    for mode in ("Before", "Jacobian", "ExpectedError", "Warp"):
        assert differs(alone[mode], alone["After"]) > 300, mode
    for mode in ("Checkerboard", "Colors"):  # of an aligned pair, squares and colors show in the noise only
        assert differs(alone[mode], alone["After"], 2) > 300, mode
    legends = [legendOf(done, node) for node in (done.result.jacobian, done.result.expectedError)]
    assert done.nodeIds() - before == {legend.GetID() for legend in legends}
    assert done.dialogs == []


def test_colors_are_gray_where_the_volumes_agree_and_green_and_magenta_where_they_do_not(done):
    press(done, "Colors")
    after = done.view.image().astype(int)
    opposite = done.result.warped
    shifted = slicer.util.arrayFromVolume(opposite)
    shifted[:] = np.roll(shifted, 6, axis=2)
    slicer.util.arrayFromVolumeModified(opposite)
    before = done.view.image().astype(int)
    assert colorfulness(after) < 0.5 * colorfulness(before)
    green, magenta = before[..., 1] - before[..., 0], before[..., 0] - before[..., 1]
    assert np.count_nonzero(green > 60) > 200 and np.count_nonzero(magenta > 60) > 200
    for node in (done.result.fixedNode, done.result.warped):  # the user's volumes are as they were
        assert "Green" not in node.GetDisplayNode().GetColorNode().GetName()
    press(done, "After")
    assert done.view.composite.GetCompositing() == slicer.vtkMRMLSliceCompositeNode.Alpha
    assert colorfulness(done.view.image()) < 1


def legendOf(opened, node):
    return opened.headless.logics["Colors"].GetColorLegendDisplayNode(node)


MAPS = {"Jacobian": "jacobian", "ExpectedError": "expectedError"}  # mode: output


@pytest.mark.parametrize("mode", MAPS)
def test_the_legend_of_a_map_is_drawn_in_its_mode_only(done, mode):
    other = next(each for each in MAPS if each != mode)
    press(done, other)
    press(done, mode)
    assert not legendOf(done, done.result.output(MAPS[other])).GetVisibility()
    withLegend = done.view.image()
    legend = legendOf(done, done.result.output(MAPS[mode]))
    legend.SetVisibility(False)
    without = done.view.image()
    assert differs(withLegend, without) > 200
    legend.SetVisibility(True)
    press(done, "After")
    assert not legend.GetVisibility()
    press(done, mode)
    assert differs(done.view.image(), withLegend) < 40


@pytest.mark.parametrize("mode", MAPS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_legend_of_a_map_that_is_deleted_goes_with_it(done, mode, elsewhere, tmp_path):
    press(done, "After")
    plain = done.view.image()
    press(done, mode)
    if elsewhere:  # in another module
        done.widget.exit()
    else:  # after the scene was saved and read again
        done.headless.saveBundle(tmp_path / "case.mrb")
        done.scene.Clear(0)
        done.processEvents()
        done.headless.loadBundle(tmp_path / "case.mrb")
        done.processEvents()
        (done.result,) = SceneResult.allIn(done.scene)
    legend = legendOf(done, done.result.output(MAPS[mode]))
    assert legend.GetVisibility()
    done.scene.RemoveNode(done.result.output(MAPS[mode]))
    done.processEvents()
    assert legend.GetScene() is None
    if elsewhere:
        done.view.composite.SetForegroundVolumeID(done.result.warped.GetID())
        assert differs(done.view.image(), plain) < 40


def test_the_legend_goes_with_the_last_output_of_a_result(done):
    press(done, "ExpectedError")
    legend = legendOf(done, done.result.expectedError)
    for node in done.result.all():
        done.scene.RemoveNode(node)
    done.processEvents()
    assert legend.GetScene() is None
    assert colorfulness(done.view.image()) < 1


def test_the_expected_error_is_colored_in_the_subject_alone_and_explained(done):
    press(done, "After")
    plain = done.view.image().astype(int)
    press(done, "ExpectedError")
    legendOf(done, done.result.expectedError).SetVisibility(False)
    shown = done.view.image().astype(int)
    colored = np.ptp(shown, axis=2) > 12
    inSubject = plain.max(axis=2) > 20
    assert 0.9 < np.count_nonzero(colored) / np.count_nonzero(inSubject) < 1.1
    assert np.count_nonzero(colored & ~inSubject) < 0.05 * np.count_nonzero(inSubject)
    entry = done.result.report["expected_error"]
    for value in (entry["median_mm"], entry["p95_mm"]):
        assert f"{value:.1f} mm" in done.ui.shownLabel.text
    assert "trust" not in done.ui.shownLabel.text
    report = {**done.result.report, "verdict": {"level": "do not trust", "reasons": ["A."], "probability_wrong": 1.0}}
    done.result.node.SetParameter("report", json.dumps(report))
    press(done, "ExpectedError")
    assert "does not hold here, because the verdict is do not trust" in done.ui.shownLabel.text


def test_the_opacity_slider_belongs_to_the_mode(done):
    ui, composite = done.ui, done.view.composite
    ui.opacitySlider.value = 0.2
    assert composite.GetForegroundOpacity() == pytest.approx(0.2)
    for mode in MAPS:
        press(done, mode)
        assert ui.opacitySlider.value == pytest.approx(0.6)
    press(done, "Jacobian")
    ui.opacitySlider.value = 0.8
    assert composite.GetForegroundOpacity() == pytest.approx(0.8)
    for mode in ("Checkerboard", "Colors"):
        press(done, mode)
        assert not ui.opacitySlider.enabled
        shown = done.view.image()
        ui.opacitySlider.value = 0.1
        assert differs(done.view.image(), shown) == 0
    press(done, "After")
    assert (composite.GetForegroundOpacity(), ui.opacitySlider.value) == (pytest.approx(0.2), pytest.approx(0.2))
    press(done, "Jacobian")
    assert composite.GetForegroundOpacity() == pytest.approx(0.8)


def test_the_flicker_alternates_and_says_what_it_shows(done):
    press(done, "Flicker")
    seen = []
    for _ in range(2):
        done.panel.result.view._onFlicker()
        seen.append((layers(done.view)[1], done.ui.shownLabel.text))
    assert seen == [(done.result.movingNode, "Now: before."), (done.result.warped, "Now: after.")]
    assert done.panel.result.view.flickers
    press(done, "Checkerboard")
    assert not done.panel.result.view.flickers


def test_the_checkerboard_holds_both_volumes(done):
    press(done, "Checkerboard")
    board, nothing = layers(done.view)
    assert nothing is None
    array = slicer.util.arrayFromVolume(board)
    assert array.shape == slicer.util.arrayFromVolume(done.result.fixedNode).shape
    assert 0 <= array.min() < array.max() <= 1
    assert board.GetHideFromEditors() and not board.GetSaveWithScene()


def test_the_warp_slider_goes_from_the_moving_volume_to_the_registered_one(done):
    transform = done.result.transform.GetTransformFromParent()
    placed = []
    for value in (0.0, 50.0):
        done.ui.warpSlider.value = value
        assert pressed(done) == ["Warp"]
        shown = layers(done.view)[1]
        on = shown.GetParentTransformNode().GetTransformFromParent()
        placed.append(np.array(on.TransformPoint((0.0, 0.0, 0.0))))
        assert transform.GetDisplacementScale() == 1.0
    assert np.allclose(placed[0], 0, atol=1e-6)
    assert np.allclose(placed[1], 0.5 * np.array(transform.TransformPoint((0.0, 0.0, 0.0))), atol=1e-3)
    done.ui.warpSlider.value = 100.0
    whole = done.view.image()
    press(done, "After")
    assert differs(whole, done.view.image()) < 0.02 * 240 * 240
    assert done.result.movingNode.GetParentTransformNode() is None


def test_window_and_level_of_what_is_derived_are_those_of_the_moving_volume(opened, view, tiny_pair):
    _fixed, moving = opened.choose(*tiny_pair)
    display = moving.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(321.0, 123.0)
    opened.register()
    result = SceneResult.allIn(opened.scene)[0]
    press(opened, "Warp")
    for node in (result.warped, layers(view)[1]):
        assert (node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()) == (321.0, 123.0)
        assert not node.GetDisplayNode().GetAutoWindowLevel()
    result.warped.GetDisplayNode().SetWindowLevel(200.0, 100.0)
    opened.register()
    assert result.warped.GetDisplayNode().GetWindow() == 200.0  # of a node that is filled again, the user's choice


def test_the_layers_stay_when_something_is_loaded(done, tiny_pair):
    """The application gives its selection to the slice views whenever it loads something."""
    for mode in ("After", "Before", *MAPS, "Checkerboard"):
        press(done, mode)
        shown = layers(done.view)
        labels = addVolume(
            done.headless, sitk.Cast(tiny_pair[0] > 300, sitk.sitkUInt8), "Seg", "vtkMRMLLabelMapVolumeNode"
        )
        done.scene.GetFirstNodeByClass("vtkMRMLSelectionNode").SetReferenceActiveLabelVolumeID(labels.GetID())
        done.headless.applicationLogic.PropagateVolumeSelection(0)
        done.processEvents()
        assert layers(done.view) == shown, mode


def test_a_view_that_does_not_follow_the_selection_is_left_alone(done):
    own = OffscreenSliceView(done.scene, done.headless.applicationLogic, "Own", "Axial", (50, 50))
    own.composite.SetDoPropagateVolumeSelection(False)
    own.composite.SetBackgroundVolumeID(done.result.movingNode.GetID())
    for mode in MODES:
        press(done, mode)
        assert layers(own) == [done.result.movingNode, None]
    own.close()


def test_leaving_the_module_stops_the_flicker_and_removes_hidden_nodes(done):
    before = done.nodeIds()
    for mode in ("Flicker", "Checkerboard", "Colors", "Warp"):
        press(done, mode)
        done.widget.exit()
        assert done.nodeIds() == before, mode
        assert layers(done.view) == [done.result.fixedNode, done.result.warped]
        assert done.view.composite.GetCompositing() == slicer.vtkMRMLSliceCompositeNode.Alpha
        assert not done.panel.result.view.flickers
        done.widget.enter()
        assert pressed(done) == ["After"]
    for mode, output in MAPS.items():
        press(done, mode)
        done.widget.exit()
        done.widget.enter()
        assert pressed(done) == [mode]
        assert layers(done.view)[1] is done.result.output(output)


def test_what_the_user_has_chosen_in_another_module_is_kept_when_this_one_is_entered(done):
    done.widget.exit()
    mine = addVolume(done.headless, imageFromVolumeNode(done.result.fixedNode), "Mine")
    done.view.composite.SetBackgroundVolumeID(mine.GetID())
    done.view.composite.SetForegroundVolumeID(None)
    done.widget.enter()
    done.processEvents()
    assert layers(done.view) == [mine, None]


def test_a_result_that_arrives_in_another_module_waits_and_its_outputs_are_remembered(
    opened, view, tiny_pair, fakeWorker
):
    fakeWorker["holdAt"] = "Affine"
    fixed, moving = opened.choose(*tiny_pair)
    view.lookAt(moving, (0.0, 0.0, 5.0))
    opened.ui.registerButton.click()
    opened.until(lambda: opened.job.stage == "Affine")
    opened.widget.exit()
    place = view.node.GetSliceOffset(), layers(view)
    opened.worker.resume()
    opened.until(lambda: not opened.job.active)
    opened.processEvents()
    assert (view.node.GetSliceOffset(), layers(view)) == place
    opened.widget.enter()
    opened.processEvents()
    result = SceneResult.allIn(opened.scene)[0]
    assert layers(view) == [fixed, result.warped]
    assert opened.parameters.outputTransform is result.transform
    count = opened.nodeIds()
    fakeWorker.clear()
    opened.register()
    assert opened.nodeIds() == count


def test_a_reopened_case_can_be_looked_at_measured_and_applied(done, tiny_pair, tmp_path):
    press(done, "Checkerboard")  # is not saved, so that the views are empty when the scene is read
    done.headless.saveBundle(tmp_path / "case.mrb")
    done.scene.Clear(0)
    done.processEvents()
    assert not done.ui.resultSection.enabled
    assert done.ui.resultSelector.count == 0
    done.headless.loadBundle(tmp_path / "case.mrb")
    done.processEvents()
    result = SceneResult.allIn(done.scene)[0]
    assert done.ui.resultSection.enabled
    assert [done.ui.resultSelector.itemText(index) for index in range(done.ui.resultSelector.count)] == [
        "Atlas to Patient"
    ]
    assert done.ui.tableView.mrmlTableNode() is result.table("report")
    pictures = []
    for mode in MODES:
        assert getattr(done.ui, f"view{mode}Button").enabled, mode
        press(done, mode)
        pictures.append(done.view.image())
    assert all(picture.std() > 5 for picture in pictures)
    assert done.dialogs == []
    assert done.ui.applyButton.enabled


def test_the_layers_of_a_scene_that_is_read_are_not_changed(done, tmp_path):
    done.widget.exit()
    done.view.composite.SetForegroundVolumeID(None)
    done.headless.saveBundle(tmp_path / "case.mrb")
    done.widget.enter()
    done.scene.Clear(0)
    done.processEvents()
    done.headless.loadBundle(tmp_path / "case.mrb")
    done.processEvents()
    composites = [
        done.scene.GetNthNodeByClass(i, "vtkMRMLSliceCompositeNode")
        for i in range(done.scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode"))
    ]
    assert all(not composite.GetForegroundVolumeID() for composite in composites)
    assert pressed(done) == []


def test_several_results_are_chosen_from_a_list(opened, view, tiny_pair):
    """Two patients of the same names: each choice shows its own volumes, table and warnings."""
    pairs, results = [], []
    opened.ui.wantExpectedErrorCheckBox.checked = True
    opened.processEvents()
    for shift in (0.0, 1.5):
        images = [phantoms.head(phantoms.regular(), (shift, 0.0, 0.0)), tiny_pair[1]]
        pairs.append(opened.choose(*images))
        opened.register()
        results.append(SceneResult.allIn(opened.scene)[-1])
    box = opened.ui.resultSelector
    assert [box.itemText(index) for index in range(box.count)] == ["Atlas to Patient", "Atlas to Patient (2)"]
    assert layers(view) == [pairs[1][0], results[1].warped]
    opened.ui.gridCheckBox.checked = True
    press(opened, "ExpectedError")
    box.setCurrentIndex(0)
    opened.processEvents()
    assert layers(view) == [pairs[0][0], results[0].expectedError]
    shown = [legendOf(opened, result.expectedError).GetVisibility() for result in results]
    assert shown == [1, 0]  # no legend of another result is left on
    assert opened.ui.tableView.mrmlTableNode() is results[0].table("report")
    assert not opened.ui.gridCheckBox.checked
    assert not results[1].transform.GetDisplayNode().GetVisibility()  # no grid of another result is left on
    opened.scene.RemoveNode(results[0].fixedNode)
    for node in results[1].all():
        opened.scene.RemoveNode(node)
    opened.processEvents()
    assert [box.itemText(index) for index in range(box.count)] == ["Atlas to Patient"]


def test_the_table_of_a_result_is_not_left_beside_another_one(done, tiny_pair):
    """One whose report was deleted has no table; neither has a closed scene."""
    view = done.ui.tableView
    assert view.mrmlTableNode() is done.result.table("report")
    done.scene.RemoveNode(done.result.table("report"))
    done.processEvents()
    assert view.mrmlTableNode() is None
    done.choose(*tiny_pair)
    done.register()
    assert view.mrmlTableNode() is SceneResult.allIn(done.scene)[1].table("report")
    done.ui.resultSelector.setCurrentIndex(0)
    assert view.mrmlTableNode() is None
    done.ui.resultSelector.setCurrentIndex(1)
    done.scene.Clear(0)
    done.processEvents()
    assert view.mrmlTableNode() is None


def test_an_earlier_grid_is_hidden_when_the_next_result_is_shown(done, tiny_pair):
    done.ui.gridCheckBox.checked = True
    first = done.result.transform
    assert first.GetDisplayNode().GetVisibility2D()
    gridded = done.view.image()
    other = addVolume(done.headless, tiny_pair[1], "Other")
    done.ui.movingSelector.setCurrentNode(other)
    done.processEvents()
    done.register()
    assert not first.GetDisplayNode().GetVisibility()
    assert colorfulness(done.view.image()) < 1 < colorfulness(gridded)


OUTPUTS = ("Transform", "Warped", "Jacobian", "ExpectedError", "Inverse")
COMBINATIONS = {  # requested outputs: modes that are possible
    ("Transform",): {"Before", "After", "Flicker", "Checkerboard", "Colors", "Warp"},
    ("Warped",): {"Before", "After", "Flicker", "Checkerboard", "Colors"},
    ("Jacobian",): {"Before", "Jacobian"},
    ("ExpectedError",): {"Before", "ExpectedError"},
    ("Inverse",): {"Before"},
    ("Transform", "Jacobian"): set(MODES) - {"ExpectedError"},
    ("Transform", "ExpectedError"): set(MODES) - {"Jacobian"},
    ("Warped", "Inverse"): {"Before", "After", "Flicker", "Checkerboard", "Colors"},
}


@pytest.mark.parametrize("requested", COMBINATIONS)
def test_every_combination_of_outputs_works_or_is_off_with_its_reason(opened, view, tiny_pair, requested):
    fixed, _moving = opened.choose(*tiny_pair)
    view.lookAt(fixed, (0.0, 0.0, 0.0))
    for name in OUTPUTS:
        getattr(opened.ui, f"want{name}CheckBox").checked = name in requested
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    checkPossibleModes(opened, view, COMBINATIONS[requested])
    assert opened.ui.applyButton.enabled == ("Transform" in requested)
    assert opened.ui.exportInverseButton.enabled == ("Inverse" in requested)


def checkPossibleModes(opened, view, possible):
    for mode in MODES:
        button = getattr(opened.ui, f"view{mode}Button")
        assert button.enabled == (mode in possible), mode
        if mode in possible:
            press(opened, mode)
            assert view.image().std() > 5, mode
        else:
            assert "was" in button.toolTip, button.toolTip
    assert opened.ui.warpSlider.enabled == ("Warp" in possible)
    opened.processEvents()
    assert opened.dialogs == []


DELETIONS = {
    "warped": set(MODES),
    "transform": set(MODES) - {"Warp"},
    "jacobian": set(MODES) - {"Jacobian"},
    "expectedError": set(MODES) - {"ExpectedError"},
    "movingNode": {"After", "Checkerboard", "Colors", "Jacobian", "ExpectedError"},
    "fixedNode": set(),
}


@pytest.mark.parametrize("shown", ["Before", "Warp", "Colors", "ExpectedError"])
@pytest.mark.parametrize("deleted", DELETIONS)
def test_a_node_that_is_deleted_takes_its_modes_with_it_and_nothing_else(done, deleted, shown):
    press(done, shown)
    done.scene.RemoveNode(getattr(done.result, deleted))
    done.processEvents()
    assert done.dialogs == []
    done.view.image()
    checkPossibleModes(done, done.view, DELETIONS[deleted])
    assert done.ui.gridCheckBox.enabled == (deleted != "transform")


def test_the_transform_on_the_moving_volume_itself_does_not_make_before_equal_after(done):
    before, after = {}, {}
    for mode in ("Before", "After", "Warp"):
        if mode == "Warp":
            done.ui.warpSlider.value = 40.0
        press(done, mode)
        before[mode] = done.view.image()
    press(done, "Before")
    tree = done.ui.nodeTree
    done.ui.studyCheckBox.checked = True
    assert tree.topLevelItem(0).child(0).text(0) == "Atlas"
    done.ui.applyButton.click()
    assert done.result.movingNode.GetParentTransformNode() is done.result.transform
    assert differs(done.view.image(), before["Before"]) < 40  # the mode that is shown follows at once
    for mode in ("Before", "After", "Warp"):
        press(done, mode)
        after[mode] = done.view.image()
        assert differs(before[mode], after[mode]) < 40, mode
    assert differs(after["Before"], after["After"]) > 300
    done.ui.hardenCheckBox.checked = True
    done.ui.applyButton.click()
    done.processEvents()
    assert done.dialogs == []
    assert not done.ui.viewBeforeButton.enabled
    assert "hardened" in done.ui.viewBeforeButton.toolTip
    assert done.ui.viewAfterButton.enabled


def test_a_transform_that_was_inverted_in_another_module_still_warps(done):
    """In the module Transforms a user can invert it: it is then no grid from parent any more."""
    done.result.transform.Inverse()
    done.ui.warpSlider.value = 40.0
    done.processEvents()
    assert done.dialogs == []
    assert layers(done.view)[1].GetParentTransformNode() is not None


def test_the_grid_in_3d_is_never_finer_than_10_mm_and_ends_around_the_subject(done):
    ui, grid = done.ui, done.result.transform
    ui.gridSpacingSlider.value = 4.0
    assert not ui.gridSpacingSlider.tracking
    ui.gridCheckBox.checked = True
    display = grid.GetDisplayNode()
    assert display.GetGridSpacingMm() == 4.0 and not display.GetVisibility3D()
    ui.grid3DCheckBox.checked = True
    assert display.GetGridSpacingMm() == 10.0 and display.GetVisibility3D()
    assert ui.gridSpacingSlider.value == 10.0
    ui.gridSpacingSlider.value = 5.0
    assert display.GetGridSpacingMm() == 10.0
    bounds, whole = np.zeros(6), np.zeros(6)
    display.GetRegionNode().GetRASBounds(bounds)
    done.result.fixedNode.GetRASBounds(whole)
    subject = np.array((-22, 22, -26, 26, -20, 20))  # half axes of the phantom, mm
    assert (bounds[::2] <= subject[::2] + 4).all() and (bounds[1::2] >= subject[1::2] - 4).all()
    polydata = vtk.vtkPolyData()
    assert slicer.vtkSlicerTransformLogic.GetVisualization3d(polydata, display, display.GetRegionNode())
    assert polydata.GetNumberOfPoints() > 100
    ui.grid3DCheckBox.checked = False
    ui.gridSpacingSlider.value = 5.0
    assert display.GetGridSpacingMm() == 5.0


def test_a_view_mode_that_fails_is_one_message_and_the_next_one_works(done, monkeypatch):
    from WaveMorphRegistrationLib.results import resultView

    monkeypatch.setattr(resultView, "updateVolumeNodeFromImage", lambda *_: 1 / 0)
    before = done.nodeIds()
    press(done, "Checkerboard")
    assert len(done.dialogs) == 1 and "ZeroDivisionError" in done.dialogs[0]
    press(done, "After")
    assert layers(done.view) == [done.result.fixedNode, done.result.warped]
    assert done.nodeIds() == before


def test_a_panel_that_is_not_entered_touches_no_view(opened, view, tiny_pair):
    opened.widget.exit()
    opened.panel.bind()
    _fixed, moving = opened.choose(*tiny_pair)
    view.lookAt(moving, (0.0, 0.0, 0.0))
    opened.register()
    assert layers(view) == [moving, None]
