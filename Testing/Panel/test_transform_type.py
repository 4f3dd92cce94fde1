"""Rigid and affine registrations, and the smoothness, in the panel and for scripts."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from wavemorph.errors import SettingsError
from WaveMorphRegistrationLib.engine.registrationChoice import RegistrationChoice


@pytest.fixture
def chosen(opened, tiny_pair):
    """The tiny pair, and a slice composite node as every slice view has one."""
    opened.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode").SetLayoutName("Red")
    opened.choose(*tiny_pair)
    return opened


def chooseType(opened, label: str) -> None:
    box = opened.ui.transformTypeComboBox
    box.setCurrentIndex(box.findText(label))
    opened.processEvents()


def test_choosing_rigid_gives_a_linear_node_that_moves_points_by_the_known_shift(chosen):
    chooseType(chosen, "Rigid (rotation and translation)")
    assert chosen.ui.statusLabel.text == "Atlas will be rotated and shifted to Patient."
    chosen.register()
    assert chosen.dialogs == []
    nodes = chosen.logic.outcome.nodes
    assert [node.GetName() for node in nodes.all()] == ["Atlas to Patient rigid", "Atlas registered"]
    assert nodes.transform.IsA("vtkMRMLLinearTransformNode")
    point = np.array(nodes.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    assert np.linalg.norm(point - (-4.0, 0.0, 3.0)) < 0.5  # RAS of 4 mm to the left and 3 mm up
    assert chosen.ui.statusLabel.text.startswith("Done in ")
    assert "similarity" in chosen.ui.statusLabel.text


def test_the_result_section_offers_no_grid_and_no_maps_of_a_linear_transform(chosen):
    chooseType(chosen, "Rigid (rotation and translation)")
    chosen.register()
    ui = chosen.ui
    for widget in (ui.gridCheckBox, ui.grid3DCheckBox, ui.gridSpacingSlider):
        assert not widget.enabled
    for button in (ui.viewJacobianButton, ui.viewExpectedErrorButton):
        assert not button.enabled
        assert "linear transform" in button.toolTip
    assert not ui.gridCheckBox.checked
    for widget in (ui.warpSlider, ui.viewFlickerButton, ui.applyButton, ui.exportTransformButton):
        assert widget.enabled


def test_the_warp_slider_moves_the_volume_part_of_the_way(chosen):
    chooseType(chosen, "Rigid (rotation and translation)")
    chosen.register()
    whole = np.array(chosen.logic.outcome.nodes.transform.GetTransformFromParent().TransformPoint((5.0, -3.0, 8.0)))
    start = np.array((5.0, -3.0, 8.0))
    for percent in (0.0, 25.0, 50.0):
        chosen.ui.warpSlider.value = percent
        composite = chosen.scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
        preview = chosen.scene.GetNodeByID(composite.GetForegroundVolumeID())
        shown = np.array(preview.GetParentTransformNode().GetTransformFromParent().TransformPoint(start))
        assert np.allclose(shown, start + percent / 100 * (whole - start), atol=1e-6)
    chosen.ui.viewAfterButton.click()
    assert composite.GetForegroundVolumeID() == chosen.logic.outcome.nodes.warped.GetID()


def test_what_a_linear_transform_does_not_have_cannot_be_chosen(chosen):
    ui = chosen.ui
    only_deformable = (
        ui.wantJacobianCheckBox,
        ui.outputJacobianSelector,
        ui.wantExpectedErrorCheckBox,
        ui.outputExpectedErrorSelector,
        ui.alignedCheckBox,
        ui.smoothnessComboBox,
    )
    ui.wantExpectedErrorCheckBox.checked = True
    assert all(widget.enabled for widget in only_deformable)
    chooseType(chosen, "Affine (with scale and shear)")
    assert not any(widget.enabled for widget in only_deformable)
    ui.wantTransformCheckBox.checked = ui.wantWarpedCheckBox.checked = False
    chosen.processEvents()
    assert ui.registerButton.text == "Select at least one output"
    chooseType(chosen, "Deformable")
    assert all(widget.enabled for widget in only_deformable)
    assert ui.registerButton.text == "Register"


def test_a_deformable_registration_after_a_rigid_one_makes_a_grid_node_of_its_own(chosen):
    chooseType(chosen, "Rigid (rotation and translation)")
    chosen.register()
    rigid = chosen.logic.outcome.nodes.transform
    chooseType(chosen, "Deformable")
    chosen.register()
    assert chosen.dialogs == []
    assert chosen.logic.outcome.nodes.transform.IsA("vtkMRMLGridTransformNode")
    assert rigid.IsLinear()
    assert chosen.ui.gridCheckBox.enabled


def test_both_choices_come_back_with_the_scene_and_reach_the_engine(chosen, tmp_path, monkeypatch):
    chooseType(chosen, "Affine (with scale and shear)")
    chosen.ui.smoothnessComboBox.setCurrentIndex(chosen.ui.smoothnessComboBox.findText("High"))
    chosen.processEvents()
    chosen.headless.saveBundle(tmp_path / "case.mrb")
    chosen.scene.Clear(0)
    chosen.processEvents()
    chosen.headless.loadBundle(tmp_path / "case.mrb")
    chosen.processEvents()
    assert chosen.parameters.transformType.value == "affine"
    assert chosen.ui.smoothnessComboBox.currentText == "High"
    settings = chosen.panel._choice().settings
    assert (settings["transform_type"], settings["smoothness"]) == ("affine", "high")


def test_a_script_gets_a_linear_node_and_a_jacobian_only_if_it_asks(opened, tiny_pair):
    pair = opened.choose(*tiny_pair)
    options = {"transform_type": "rigid", "weights": "none", "spacing_mm": 4.0, "threads": 1}
    outcome = opened.widget.logic.process(*pair, **options)
    assert outcome.report["transform_type"] == "rigid"
    assert outcome.nodes.transform.IsA("vtkMRMLLinearTransformNode")
    assert outcome.nodes.jacobian is None
    asked = opened.widget.logic.process(*pair, outputs=("transform", "jacobian", "inverse"), **options)
    assert slicer.util.arrayFromVolume(asked.nodes.jacobian) == pytest.approx(1.0)
    assert asked.nodes.inverse.IsLinear()
    assert asked.nodes.folding is None


def test_a_script_that_wants_the_expected_error_of_a_linear_transform_is_told_that_there_is_none(opened, tiny_pair):
    pair = opened.choose(*tiny_pair)
    with pytest.raises(SettingsError, match="deformable transform only"):
        opened.widget.logic.process(*pair, outputs=("transform", "expectedError"), transform_type="rigid")


def test_a_script_gets_a_jacobian_of_a_deformation_by_default(opened, tiny_pair):
    assert "jacobian" in RegistrationChoice(*opened.choose(*tiny_pair)).outputs
