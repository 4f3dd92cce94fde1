"""The panel from the choice of volumes to the result, and what makes a registration fail."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import slicer
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.engine import dependencies
from WaveMorphRegistrationLib.panel import panel
from WaveMorphRegistrationLib.scene.coordinates import vtkMatrix
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode


def composite(opened):
    return opened.scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")


@pytest.fixture
def withSlice(opened):
    """A slice composite node, as every slice view has one."""
    node = opened.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    node.SetLayoutName("Red")
    return opened


def test_the_button_says_what_is_missing(opened, tiny_pair):
    ui = opened.ui
    assert (ui.registerButton.text, ui.registerButton.enabled) == ("Select fixed and moving volumes", False)
    fixed, moving = (addVolume(opened.headless, image, name) for image, name in zip(tiny_pair, ("F", "M")))
    ui.fixedSelector.setCurrentNode(fixed)
    opened.processEvents()
    assert ui.registerButton.text == "Select a moving volume"
    ui.movingSelector.setCurrentNode(fixed)
    opened.processEvents()
    assert ui.registerButton.text == "Fixed and moving volume must not be the same"
    assert not ui.registerButton.enabled
    ui.movingSelector.setCurrentNode(moving)
    opened.processEvents()
    assert (ui.registerButton.text, ui.registerButton.enabled) == ("Register", True)
    assert ui.statusLabel.text == "M will be aligned to F."
    for name in ("Transform", "Warped", "Jacobian"):
        getattr(ui, f"want{name}CheckBox").checked = False
    opened.processEvents()
    assert (ui.registerButton.text, ui.registerButton.enabled) == ("Select at least one output", False)


def test_after_a_result_the_inputs_are_folded_and_after_a_failure_they_are_not(opened, tiny_pair):
    opened.choose(*tiny_pair)
    sections = opened.ui.inputsSection, opened.ui.methodSection, opened.ui.outputsSection
    opened.parameters.model = "none"
    opened.parameters.preset = type(opened.parameters.preset).Instant
    opened.register()
    assert len(opened.dialogs) == 1
    assert not any(section.collapsed for section in sections)
    assert opened.ui.resultSection.collapsed
    opened.parameters.model = "auto"
    opened.parameters.preset = type(opened.parameters.preset).Balanced
    opened.register()
    assert all(section.collapsed for section in sections)
    assert not opened.ui.resultSection.collapsed


def test_one_segment_of_a_mask_can_be_chosen_and_comes_back_with_the_scene(opened, tiny_pair, tmp_path):
    opened.choose(*tiny_pair)
    ui, box = opened.ui, opened.ui.fixedMaskSegmentComboBox
    assert box.isHidden()
    labels = addVolume(opened.headless, sitk.Cast(tiny_pair[0] > 300, sitk.sitkUInt8), "L", "vtkMRMLLabelMapVolumeNode")
    ui.fixedMaskSelector.setCurrentNode(labels)
    assert box.isHidden()
    segmentation = opened.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Structures")
    for name in ("brain", "lesion"):
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, segmentation)
        count = segmentation.GetSegmentation().GetNumberOfSegments()
        segmentation.GetSegmentation().GetNthSegment(count - 1).SetName(name)
    ui.fixedMaskSelector.setCurrentNode(segmentation)
    assert not box.isHidden()
    assert [box.itemText(index) for index in range(box.count)] == ["All segments, united", "brain", "lesion"]
    assert opened.panel._choice().fixedMaskSegment == ""
    box.setCurrentIndex(2)
    lesion = segmentation.GetSegmentation().GetNthSegmentID(1)
    assert opened.panel._choice().fixedMaskSegment == lesion
    opened.headless.saveBundle(tmp_path / "case.mrb")
    opened.scene.Clear(0)
    opened.processEvents()
    opened.headless.loadBundle(tmp_path / "case.mrb")
    opened.processEvents()
    assert box.currentText == "lesion"
    assert opened.panel._choice().fixedMaskSegment == lesion


def test_a_click_registers_and_shows_nodes_table_and_layers(withSlice, tiny_pair):
    opened = withSlice
    fixed, moving = opened.choose(*tiny_pair)
    before = [imageFromVolumeNode(node) for node in (fixed, moving)]
    opened.register()
    assert opened.dialogs == []
    outcome = opened.logic.outcome
    made = outcome.nodes
    names = [node.GetName() for node in made.all()]
    assert names == ["Atlas to Patient", "Atlas registered", "Atlas to Patient Jacobian"]
    point = np.array(made.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    assert np.linalg.norm(point - (-4.0, 0.0, 3.0)) < 1.0  # RAS of 4 mm to the left and 3 mm up
    assert composite(opened).GetBackgroundVolumeID() == fixed.GetID()
    assert composite(opened).GetForegroundVolumeID() == made.warped.GetID()
    assert made.transform.GetDisplayNode() is None or not made.transform.GetDisplayNode().GetVisibility()
    table = opened.ui.tableView.mrmlTableNode().GetTable()
    rows = [[table.GetValue(row, column).ToString() for column in (0, 1)] for row in range(table.GetNumberOfRows())]
    assert ["Folded voxels", "0 / 0"] in rows
    assert opened.ui.statusLabel.text.startswith("Done in ")
    assert opened.ui.resultSection.enabled
    assert "Found: CPU" in opened.ui.deviceComboBox.toolTip
    assert opened.parameters.outputTransform is made.transform
    for node, image in zip((fixed, moving), before):
        assert np.array_equal(sitk.GetArrayFromImage(imageFromVolumeNode(node)), sitk.GetArrayFromImage(image))
        assert node.GetParentTransformNode() is None


def test_a_second_click_fills_the_same_nodes_with_the_same_worker(opened, tiny_pair):
    opened.choose(*tiny_pair)
    opened.register()
    first, worker, before = opened.logic.outcome, opened.job.workerProcessId, opened.nodeIds()
    opened.register()
    assert opened.job.workerProcessId == worker
    assert opened.nodeIds() == before
    assert opened.logic.outcome.nodes.transform is first.nodes.transform


def test_the_expected_error_is_off_until_it_is_wanted_and_then_asked_of_the_engine_and_kept(
    opened, tiny_pair, tmp_path
):
    ui = opened.ui
    assert not ui.wantExpectedErrorCheckBox.checked
    opened.choose(*tiny_pair)
    opened.register()
    assert opened.logic.outcome.nodes.expectedError is None
    assert ui.viewExpectedErrorButton.toolTip == "The expected error was not requested, or was deleted."
    ui.wantExpectedErrorCheckBox.checked = True
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    asked = [(each["settings"]["error_map"], "expected_error" in each["outputs"]) for each in opened.worker.messages]
    assert asked == [(False, False), (True, True)]
    made = opened.logic.outcome.nodes.expectedError
    assert made.GetName() == "Atlas to Patient expected error"
    error = sitk.GetArrayFromImage(imageFromVolumeNode(made))
    assert np.allclose(error, sitk.GetArrayFromImage(phantoms.expected_error(tiny_pair[0])))
    assert opened.parameters.outputExpectedError is made
    nodes = opened.nodeIds()
    opened.register()
    assert opened.nodeIds() == nodes
    assert opened.logic.outcome.nodes.expectedError is made
    opened.headless.saveBundle(tmp_path / "case.mrb")
    opened.scene.Clear(0)
    opened.processEvents()
    assert not ui.wantExpectedErrorCheckBox.checked
    opened.headless.loadBundle(tmp_path / "case.mrb")
    opened.processEvents()
    assert ui.wantExpectedErrorCheckBox.checked
    assert opened.parameters.outputExpectedError.GetName() == "Atlas to Patient expected error"
    assert ui.viewExpectedErrorButton.enabled


def test_another_pair_does_not_fill_the_nodes_of_the_last(opened, tiny_pair):
    opened.choose(*tiny_pair)
    opened.register()
    other = addVolume(opened.headless, tiny_pair[1], "Other")
    opened.ui.movingSelector.setCurrentNode(other)
    opened.processEvents()
    assert opened.parameters.outputTransform is None
    assert opened.parameters.outputWarped is None


def test_one_output_alone_is_made_alone(opened, tiny_pair):
    opened.choose(*tiny_pair)
    for name, wanted in (("Transform", False), ("Warped", False), ("Jacobian", False), ("Inverse", True)):
        getattr(opened.ui, f"want{name}CheckBox").checked = wanted
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    assert [node.GetName() for node in opened.logic.outcome.nodes.all()] == ["Patient to Atlas"]
    assert opened.ui.exportInverseButton.enabled
    assert not opened.ui.gridCheckBox.enabled


def test_missing_torch_is_reported_and_nothing_starts(opened, tiny_pair, monkeypatch):
    opened.choose(*tiny_pair)
    monkeypatch.setattr(dependencies.importlib.util, "find_spec", lambda name: None)
    opened.ui.registerButton.click()
    assert len(opened.dialogs) == 1
    assert "PyTorch is not installed." in opened.dialogs[0]
    assert "Extensions Manager" in opened.dialogs[0]
    assert not opened.job.active
    assert opened.ui.registerButton.text == "Register"


def test_a_settings_error_of_the_engine_reaches_the_user(opened, tiny_pair):
    opened.choose(*tiny_pair)
    opened.parameters.preset = type(opened.parameters.preset).Instant
    opened.parameters.model = "none"
    opened.processEvents()
    opened.register()
    assert len(opened.dialogs) == 1
    assert "Instant needs a model" in opened.dialogs[0]
    assert opened.ui.statusLabel.text == opened.dialogs[0]


def test_the_choices_come_back_with_the_scene(opened, tiny_pair, tmp_path):
    opened.choose(*tiny_pair)
    opened.parameters.preset = type(opened.parameters.preset).Precise
    opened.ui.alignedCheckBox.checked = True
    opened.ui.wantInverseCheckBox.checked = True
    mask = addVolume(
        opened.headless, sitk.Cast(tiny_pair[0] > 300, sitk.sitkUInt8), "Mask", "vtkMRMLLabelMapVolumeNode"
    )
    opened.ui.fixedMaskSelector.setCurrentNode(mask)
    opened.processEvents()
    opened.headless.saveBundle(tmp_path / "case.mrb")
    opened.scene.Clear(0)
    opened.processEvents()
    assert opened.parameters.fixedVolume is None
    opened.headless.loadBundle(tmp_path / "case.mrb")
    opened.processEvents()
    p = opened.parameters
    assert (p.fixedVolume.GetName(), p.movingVolume.GetName()) == ("Patient", "Atlas")
    assert p.preset.name == "Precise"
    assert opened.ui.presetComboBox.currentText == "Precise (longer)"
    assert opened.ui.fixedSelector.currentNode() is p.fixedVolume
    assert opened.ui.fixedMaskSelector.currentNode().GetName() == "Mask"
    assert opened.ui.alignedCheckBox.checked
    assert opened.ui.wantInverseCheckBox.checked
    assert opened.ui.registerButton.enabled


def test_swapping_exchanges_volumes_and_masks(opened, tiny_pair):
    fixed, moving = opened.choose(*tiny_pair)
    opened.ui.swapButton.click()
    opened.processEvents()
    assert (opened.parameters.fixedVolume, opened.parameters.movingVolume) == (moving, fixed)
    assert opened.ui.statusLabel.text == "Patient will be aligned to Atlas."


def test_masks_and_an_initial_transform_reach_the_engine(opened, tiny_pair, monkeypatch):
    fixed, _moving = opened.choose(*tiny_pair)
    labels = addVolume(opened.headless, sitk.Cast(tiny_pair[0] > 300, sitk.sitkUInt8), "L", "vtkMRMLLabelMapVolumeNode")
    segmentation = opened.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Brain")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, segmentation)
    start = opened.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Start")
    matrix = np.eye(4)
    matrix[:3, 3] = (4.0, 0.0, -3.0)  # to parent, RAS: brings the moving volume onto the fixed one
    start.SetMatrixTransformToParent(vtkMatrix(matrix))
    opened.ui.fixedMaskSelector.setCurrentNode(segmentation)
    opened.ui.initialTransformSelector.setCurrentNode(start)
    opened.ui.alignedCheckBox.checked = True
    opened.processEvents()
    requests = []
    begin = opened.job.start
    monkeypatch.setattr(opened.job, "start", lambda request: (requests.append(request), begin(request)))
    opened.register()
    (request,) = requests
    assert np.array_equal(sitk.GetArrayFromImage(request.fixedMask), sitk.GetArrayFromImage(tiny_pair[0] > 300))
    assert np.allclose(request.initialTransform.TransformPoint((0.0, 0.0, 0.0)), (4.0, 0.0, 3.0))
    assert opened.dialogs == []
    forward = opened.logic.outcome.nodes.transform.GetTransformFromParent()
    assert np.linalg.norm(np.array(forward.TransformPoint((0.0, 0.0, 0.0))) - (-4.0, 0.0, 3.0)) < 1.0
    assert opened.logic.outcome.fixedNode is fixed


def headWithSpacing(spacingMm):
    image = phantoms.head(phantoms.regular())
    image.SetSpacing([spacingMm] * 3)
    return image


MISTAKES = {
    "a slice or two": (lambda: phantoms.head(phantoms.regular((48, 52, 3))), "only 3 voxels along one axis"),
    "spacing in meters": (lambda: headWithSpacing(0.0018), "that of the moving volume 0.0936 mm"),
    "spacing lost in a conversion": (lambda: headWithSpacing(80.0), "moving volume is 4.16 m long"),
    "an empty scan": (lambda: phantoms.head(phantoms.regular()) * 0, "constant"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_unsuitable_volume_is_refused_before_the_job_starts(opened, tiny_pair, mistake):
    make, words = MISTAKES[mistake]
    opened.choose(tiny_pair[0], make())
    before = opened.nodeIds()
    opened.ui.registerButton.click()
    opened.processEvents()
    assert len(opened.dialogs) == 1
    assert words in opened.dialogs[0]
    assert opened.dialogs[0].count(".") <= 8 and "Traceback" not in opened.dialogs[0]
    assert not opened.job.active
    assert opened.nodeIds() == before


def test_a_segmentation_is_not_offered_as_a_volume_and_refused_from_a_script(opened, tiny_pair):
    fixed, _moving = opened.choose(*tiny_pair)
    labels = addVolume(
        opened.headless, sitk.Cast(tiny_pair[0] > 300, sitk.sitkUInt8), "Labels", "vtkMRMLLabelMapVolumeNode"
    )
    opened.ui.movingSelector.setCurrentNode(labels)
    assert opened.ui.movingSelector.currentNode() is not labels
    with pytest.raises(Exception, match="Labels is a segmentation or label map, not an image"):
        opened.logic.process(fixed, labels)


def test_a_volume_under_a_deformation_is_refused_and_under_a_translation_registered_in_its_place(opened, tiny_pair):
    fixed, moving = opened.choose(*tiny_pair)
    translation = opened.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Translation")
    matrix = np.eye(4)
    matrix[:3, 3] = (0.0, 10.0, 0.0)
    translation.SetMatrixTransformToParent(vtkMatrix(matrix))
    moving.SetAndObserveTransformNodeID(translation.GetID())
    opened.register()
    assert opened.dialogs == []
    forward = opened.logic.outcome.nodes.transform.GetTransformFromParent()
    assert np.linalg.norm(np.array(forward.TransformPoint((0.0, 0.0, 0.0))) - (-4.0, 10.0, 3.0)) < 1.0
    fixed.SetAndObserveTransformNodeID(opened.logic.outcome.nodes.transform.GetID())
    opened.ui.registerButton.click()
    opened.processEvents()
    assert "non-linear transform" in opened.dialogs[0]


def test_a_volume_too_large_for_the_memory_is_registered_on_a_coarser_grid_and_the_table_says_so(
    opened, tiny_pair, monkeypatch
):
    choice = panel.RegistrationChoice
    monkeypatch.setattr(panel, "RegistrationChoice", lambda f, m, s, *r: choice(f, m, {**s, "max_voxels": 5000}, *r))
    opened.choose(*tiny_pair)
    opened.register()
    assert opened.dialogs == []
    assert opened.ui.warningLabel.text == ""
    table = opened.logic.outcome.tableNode.GetTable()
    rows = [[table.GetValue(row, column).ToString() for column in range(3)] for row in range(3)]
    first = next(row for row in rows if row[0] == "Note")
    assert "coarsened" in first[2]
    assert "at most 5000 voxels" in first[2]


def test_an_unrelated_moving_volume_gives_a_warning(opened, tiny_pair):
    noise = sitk.GetImageFromArray(np.random.default_rng(0).uniform(100, 200, (44, 52, 48)).astype(np.float32))
    noise.CopyInformation(tiny_pair[0])
    opened.choose(tiny_pair[0], noise)
    opened.ui.alignedCheckBox.checked = True
    opened.processEvents()
    opened.register()
    if not opened.dialogs:  # refused, or registered with a warning
        assert "Good" not in opened.ui.verdictLabel.text
        assert "Read the verdict" in opened.ui.statusLabel.text


def test_doubtful_sizes_are_said_before_the_work(opened, tiny_pair):
    nodes = opened.choose(*tiny_pair)
    assert opened.ui.statusLabel.text == "Atlas will be aligned to Patient."
    for factor, said in ((4, "the spacing of one of them is wrong"), (30, "The longest side of the fixed volume is")):
        nodes[1].SetSpacing(*(factor * side for side in tiny_pair[1].GetSpacing()))
        opened.ui.movingSelector.setCurrentNode(None)
        opened.ui.movingSelector.setCurrentNode(nodes[1])
        opened.processEvents()
        assert said in opened.ui.statusLabel.text
        assert opened.ui.registerButton.text == "Register"


def test_the_check_box_stores_the_transform_at_2_mm(opened, tiny_pair):
    opened.choose(*tiny_pair)
    assert not opened.ui.storeCoarselyCheckBox.checked
    opened.ui.storeCoarselyCheckBox.checked = True
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    assert opened.worker.messages[-1]["store_spacing_mm"] == 2.0
    opened.parameters.transformType = type(opened.parameters.transformType).Affine
    opened.processEvents()
    assert not opened.ui.storeCoarselyCheckBox.enabled
    opened.register()
    assert opened.worker.messages[-1]["store_spacing_mm"] is None
