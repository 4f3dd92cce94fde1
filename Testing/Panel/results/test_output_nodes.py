"""Output nodes are never inputs, and the panel and scripts do not fill each other's."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import slicer
from sceneVolumes import addVolume
from wavemorph.errors import InputError, WaveMorphError
from WaveMorphRegistrationLib.results.sceneResult import SceneResult
from WaveMorphRegistrationLib.scene.coordinates import vtkMatrix
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode

QUICK = {"spacing_mm": 4.0, "threads": 1}


def shiftNode(opened, name, shift=(4.0, 0.0, -3.0)):
    node = opened.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    node.SetMatrixTransformToParent(vtkMatrix(matrix))
    return node


def nodesAndMistakes(opened, pair):
    """(output -> node, words of the refusal) of every way in which an output would destroy an input."""
    fixed, moving = pair
    mask = addVolume(opened.headless, imageFromVolumeNode(fixed) > 300, "Mask", "vtkMRMLLabelMapVolumeNode")
    above, alignment, start = (shiftNode(opened, name) for name in ("Above", "Alignment", "Start"))
    alignment.SetAndObserveTransformNodeID(above.GetID())
    moving.SetAndObserveTransformNodeID(alignment.GetID())
    free = addVolume(opened.headless, imageFromVolumeNode(fixed), "Free")
    choice = {"fixedMask": mask, "initialTransform": start}
    return choice, (
        ({"warped": moving}, "Atlas is the moving volume and cannot be the registered volume"),
        ({"warped": fixed}, "Patient is the fixed volume"),
        ({"jacobian": fixed}, "Patient is the fixed volume and cannot be the Jacobian"),
        ({"expectedError": moving}, "Atlas is the moving volume and cannot be the expected error"),
        ({"transform": alignment}, "The moving volume Atlas is under Alignment"),
        ({"inverse": above}, "The moving volume Atlas is under Above"),
        ({"transform": start}, "Start is the initial transform"),
        ({"warped": free, "jacobian": free}, "Free is chosen for two outputs, registered volume and Jacobian"),
        ({"jacobian": free, "expectedError": free}, "Free is chosen for two outputs, Jacobian and expected error"),
        ({"expectedError": mask}, "Mask .* cannot hold the expected error"),
        ({"warped": mask}, "Mask .* cannot hold the registered volume"),
        ({"transform": free}, "Free .* cannot hold the transform"),
    )


def test_a_script_is_refused_every_output_that_is_an_input_and_nothing_changes(opened, tiny_pair):
    pair = opened.choose(*tiny_pair)
    choice, mistakes = nodesAndMistakes(opened, pair)
    before, voxels = opened.nodeIds(), [sitk.GetArrayFromImage(imageFromVolumeNode(node)) for node in pair]
    outputs = ("transform", "warped", "jacobian", "expectedError", "inverse")
    for into, words in mistakes:
        with pytest.raises(InputError, match=words) as refused:
            opened.widget.logic.process(*pair, into=into, outputs=outputs, **choice, **QUICK)
        assert "choose Create new" in str(refused.value)
    assert opened.nodeIds() == before
    for node, array in zip(pair, voxels):
        assert np.array_equal(sitk.GetArrayFromImage(imageFromVolumeNode(node)), array)
    assert pair[1].GetParentTransformNode().GetName() == "Alignment"


def test_the_panel_refuses_an_output_that_is_an_input_in_one_sentence(opened, tiny_pair):
    _fixed, moving = opened.choose(*tiny_pair)
    before = sitk.GetArrayFromImage(imageFromVolumeNode(moving))
    opened.parameters.outputWarped = moving
    opened.ui.registerButton.click()
    opened.until(lambda: not opened.job.active)
    assert opened.dialogs == [
        "Atlas is the moving volume and cannot be the registered volume as well, which would overwrite it; choose "
        "Create new."
    ]
    assert np.array_equal(sitk.GetArrayFromImage(imageFromVolumeNode(moving)), before)


def test_a_misspelled_output_is_said(opened, tiny_pair):
    pair = opened.choose(*tiny_pair)
    known = "transform, warped, jacobian, expectedError, inverse"
    with pytest.raises(WaveMorphError, match=f"Unknown output warpd; choose from {known}"):
        opened.widget.logic.process(*pair, into={"warpd": pair[0]}, **QUICK)


def test_an_unrequested_output_may_be_anything(opened, tiny_pair):
    pair = opened.choose(*tiny_pair)
    outcome = opened.widget.logic.process(*pair, into={"warped": pair[1]}, outputs=("transform",), **QUICK)
    assert outcome.nodes.all() == [outcome.nodes.transform]


def test_a_script_fills_the_nodes_that_it_gives(opened, tiny_pair):
    pair = opened.choose(*tiny_pair)
    mine = opened.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Mine")
    outcome = opened.widget.logic.process(*pair, into={"transform": mine}, outputs=("transform",), **QUICK)
    assert outcome.nodes.transform is mine


def test_a_result_of_another_pair_is_not_overwritten(opened, tiny_pair):
    fixed, moving = opened.choose(*tiny_pair)
    opened.register()
    result = SceneResult.allIn(opened.scene)[0]
    other = addVolume(opened.headless, tiny_pair[1], "Other")
    with pytest.raises(InputError, match="is the transform of the result Atlas to Patient, which is of another pair"):
        opened.widget.logic.process(fixed, other, into={"transform": result.transform}, **QUICK)
    opened.ui.movingSelector.setCurrentNode(other)
    opened.processEvents()
    opened.parameters.outputTransform = result.transform
    opened.ui.registerButton.click()
    assert "another pair" in opened.dialogs[0]
    assert result.movingNode is moving


def test_the_output_selectors_offer_the_nodes_of_this_module_only(opened, tiny_pair):
    opened.choose(*tiny_pair)
    shiftNode(opened, "Somebody's alignment")
    opened.ui.wantInverseCheckBox.checked = opened.ui.wantExpectedErrorCheckBox.checked = True
    opened.processEvents()
    opened.register()
    made = opened.logic.outcome.nodes
    for output, name in (
        ("transform", "Transform"),
        ("warped", "Warped"),
        ("jacobian", "Jacobian"),
        ("expectedError", "ExpectedError"),
        ("inverse", "Inverse"),
    ):
        selector = getattr(opened.ui, f"output{name}Selector")
        assert [node.GetName() for node in selector._nodes()] == [made.output(output).GetName()]
        assert selector.currentNode() is made.output(output)


def test_a_script_does_not_change_what_the_panel_fills_or_shows(opened, tiny_pair):
    """A script registers b to a while the panel holds a to b; the next click registers a to b again."""
    fixed, moving = opened.choose(*tiny_pair)
    opened.register()
    own = opened.logic.outcome.nodes
    scripted = opened.widget.logic.process(moving, fixed, **QUICK)
    opened.processEvents()
    assert scripted.nodes.transform is not own.transform
    assert opened.parameters.outputTransform is own.transform
    assert opened.logic.outcome.nodes.node is own.node
    ids = {node.GetID() for node in scripted.nodes.all()}
    opened.register()
    assert opened.dialogs == []
    assert {node.GetID() for node in SceneResult.ofOutput(scripted.nodes.transform).all()} == ids
    shift = np.array(own.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    assert np.linalg.norm(shift - (-4.0, 0.0, 3.0)) < 1.0
    back = np.array(scripted.nodes.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    assert np.linalg.norm(back - (4.0, 0.0, -3.0)) < 1.0


def test_a_script_that_fails_shows_no_dialog_and_does_not_stop_the_panel(opened, tiny_pair, fakeWorker):
    fakeWorker["holdAt"] = "Affine"
    fixed, moving = opened.choose(*tiny_pair)
    opened.ui.registerButton.click()
    opened.until(lambda: opened.job.stage == "Affine")
    del fakeWorker["holdAt"]
    with pytest.raises(WaveMorphError, match="Instant needs a model"):
        opened.widget.logic.process(fixed, moving, preset="Instant", weights="none")
    assert opened.dialogs == []
    assert opened.job.active
    assert "Instant" not in opened.ui.statusLabel.text
    opened.worker.resume()
    opened.until(lambda: not opened.job.active)
    assert opened.logic.outcome is not None


def test_the_logic_of_the_module_is_not_that_of_the_panel(opened):
    """`slicer.util.getModuleLogic` returns the logic of the widget."""
    assert opened.widget.logic.registration is not opened.panel.logic


def twoSegments(opened, image):
    """A segmentation of two balls."""
    segmentation = opened.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Balls")
    points = phantoms.physical_points(image)
    masks = []
    for center in ((-12.0, 0.0, 0.0), (0.0, 0.0, 0.0)):
        mask = sitk.GetImageFromArray((np.linalg.norm(points - np.array(center), axis=-1) < 15).astype(np.uint8))
        mask.CopyInformation(image)
        labels = addVolume(opened.headless, mask, "ball", "vtkMRMLLabelMapVolumeNode")
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, segmentation)
        opened.scene.RemoveNode(labels)
        masks.append(sitk.GetArrayFromImage(mask) != 0)
    return segmentation, masks


def test_a_mask_is_the_union_of_all_segments_or_the_one_that_is_chosen(opened, tiny_pair, monkeypatch):
    pair = opened.choose(*tiny_pair)
    segmentation, masks = twoSegments(opened, tiny_pair[0])
    second = segmentation.GetSegmentation().GetNthSegmentID(1)
    requests = []
    logic = opened.widget.logic.registration
    monkeypatch.setattr(logic.job, "start", requests.append)
    for segment in ("", second):
        logic.process(*pair, fixedMask=segmentation, fixedMaskSegment=segment, waitForCompletion=False, **QUICK)
    union, one = (sitk.GetArrayFromImage(request.fixedMask) != 0 for request in requests)
    assert np.array_equal(union, masks[0] | masks[1])
    assert np.array_equal(one, masks[1])
    segmentation.GetSegmentation().RemoveSegment(second)
    with pytest.raises(InputError, match="no longer in Balls"):
        logic.process(*pair, fixedMask=segmentation, fixedMaskSegment=second, **QUICK)
