"""What the slice views draw of a result in each mode, by Slicer's own displayable managers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
import vtk
from shownResults import MAPS, MODES, colorfulness, differs, layers, legendOf, press, pressed
from WaveMorphRegistrationLib.results.sceneResult import SceneResult


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
