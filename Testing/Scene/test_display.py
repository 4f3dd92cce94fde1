"""Layers, colors, grid and picture, drawn by Slicer's own displayable managers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.headless.offscreenSliceView import OffscreenSliceView
from WaveMorphRegistrationLib.headless.resultPicture import ResultPicture
from WaveMorphRegistrationLib.results import display
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene
from WaveMorphRegistrationLib.results.resultView import ResultView, ViewMode
from WaveMorphRegistrationLib.results.sceneResult import FIXED_ROLE
from WaveMorphRegistrationLib.scene.segmentations import maskFromNode
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode


def nodeIds(scene):
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def displayState(*volumeNodes):
    return [(node.GetDisplayNode().GetColorNodeID(), node.GetDisplayNode().GetWindow()) for node in volumeNodes]


@pytest.fixture
def view(headless):
    view = OffscreenSliceView(headless.scene, headless.applicationLogic, "Red", "Axial", (200, 200))
    yield view
    view.close()


def test_jacobians_are_white_at_one_blue_below_and_red_above_in_a_fixed_window(registered):
    jacobian = registered[1].jacobian
    display.showJacobian(jacobian)
    shown = jacobian.GetDisplayNode()
    assert (shown.GetWindowLevelMin(), shown.GetWindowLevelMax()) == display.JACOBIAN_WINDOW
    assert not shown.GetAutoWindowLevel()
    colors = display.jacobianColors(jacobian.GetScene())
    assert shown.GetColorNode() is colors
    smaller, equal, larger = (colors.GetColorTransferFunction().GetColor(value) for value in (0.4, 1.0, 1.6))
    assert max(equal) - min(equal) < 0.01 and min(equal) > 0.9
    assert smaller[2] > smaller[0] + 0.3
    assert larger[0] > larger[2] + 0.3


def test_two_results_share_one_color_node(headless, registered):
    first = display.jacobianColors(headless.scene)
    assert display.jacobianColors(headless.scene) is first


def test_the_grid_is_drawn_and_can_be_hidden(registered, view):
    _registration, result, fixedNode, _movingNode = registered
    view.lookAt(fixedNode, (0.0, 0.0, 0.0))
    plain = view.image()
    display.showGrid(result.transform, fixedNode)
    withGrid = view.image()
    display.showGrid(result.transform, fixedNode, visible=False)
    assert np.count_nonzero((withGrid != plain).any(axis=2)) > 300
    assert np.array_equal(view.image(), plain)


def test_a_slice_view_shows_right_on_the_left_and_anterior_at_the_top(headless, view):
    """A bright corner at right, anterior, superior (RAS): in an axial view it appears on the left, on top."""
    array = np.zeros((20, 20, 20), np.float32)
    array[12:, :8, :8] = 100.0  # k up (superior), low j (LPS: anterior), low i (LPS: right)
    node = addVolume(headless, sitk.GetImageFromArray(array), "corner")
    view.lookAt(node, (-9.5, -9.5, 16.0))
    brightness = view.image().mean(axis=2)
    half = brightness.shape[0] // 2
    quarters = [part.mean() for rows in np.split(brightness, [half]) for part in np.split(rows, [half], axis=1)]
    assert quarters[0] > 5 * max(quarters[1:]) + 5


@pytest.fixture
def picture(headless, registered):
    _registration, result, fixedNode, movingNode = registered
    picture = ResultPicture(headless, result, fixedNode, movingNode)
    ResultView(result).show(ViewMode.After)
    display.showGrid(result.transform, fixedNode)
    yield picture
    picture.close()


def test_the_picture_has_six_columns_and_restores_the_display(headless, registered, picture, tmp_path):
    _registration, result, fixedNode, movingNode = registered
    volumes = (fixedNode, movingNode, result.warped, result.jacobian)
    before = nodeIds(headless.scene), displayState(*volumes), result.transform.GetDisplayNode().GetVisibility2D()
    picture.write(str(tmp_path / "p.png"))
    after = nodeIds(headless.scene), displayState(*volumes), result.transform.GetDisplayNode().GetVisibility2D()
    assert before == after
    pixels = np.asarray(Image.open(tmp_path / "p.png")).astype(float)
    width, height = pixels.shape[1], pixels.shape[0]
    assert width > 1.8 * height
    columns = np.array_split(pixels[60:], 6, axis=1)
    assert all(column.std() > 10 for column in columns)

    def colorfulness(column):
        return np.abs(column[..., 0] - column[..., 1]).mean()

    fixed, _moving, unaligned, aligned, jacobian, grid = columns
    assert colorfulness(fixed) < 1
    assert colorfulness(aligned) < 0.8 * colorfulness(unaligned)
    assert colorfulness(jacobian) > 1
    assert np.abs(grid - fixed).mean() > 1


def test_folded_voxels_are_marked_in_the_folding_map(headless, random_registration):
    registration = random_registration(1)
    array = sitk.GetArrayFromImage(registration.working_jacobian)
    middle = tuple(slice(n // 2 - 1, n // 2 + 2) for n in array.shape)
    array[middle] = -0.5
    folded = sitk.GetImageFromArray(array)
    folded.CopyInformation(registration.working_jacobian)
    fixedNode = addVolume(headless, registration.fixed, "F")
    result = addRegistrationToScene(
        replace(registration, working_jacobian=folded), fixedNode, fixedNode, ("jacobian", "folding")
    )
    jacobian = sitk.GetArrayFromImage(imageFromVolumeNode(result.jacobian))
    marked = sitk.GetArrayFromImage(imageFromVolumeNode(result.folding))
    assert marked.any()
    assert np.array_equal(marked != 0, jacobian <= 0)
    labels = result.folding
    segmentation = display.foldingSegmentation(labels)
    assert segmentation.GetNodeReference(FIXED_ROLE) is fixedNode
    assert labels.GetScene() is None
    drawn = sitk.GetArrayFromImage(maskFromNode(segmentation, fixedNode))
    assert np.array_equal(drawn != 0, jacobian <= 0)
