"""Results that arrive, are reopened, chosen from a list or lose nodes, and when the panel touches the views."""

from __future__ import annotations

import phantoms
import pytest
import SimpleITK as sitk
import slicer
from sceneVolumes import addVolume
from shownResults import MAPS, MODES, colorfulness, layers, legendOf, press, pressed
from WaveMorphRegistrationLib.headless.offscreenSliceView import OffscreenSliceView
from WaveMorphRegistrationLib.results.sceneResult import SceneResult
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode


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


def test_a_panel_that_is_not_entered_touches_no_view(opened, view, tiny_pair):
    opened.widget.exit()
    opened.panel.bind()
    _fixed, moving = opened.choose(*tiny_pair)
    view.lookAt(moving, (0.0, 0.0, 0.0))
    opened.register()
    assert layers(view) == [moving, None]
