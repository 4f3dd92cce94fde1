"""Layers, colors, grid and picture, drawn by Slicer's own displayable managers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import phantoms
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


def test_two_results_share_one_color_node_a_map(headless, registered):
    first = [make(headless.scene) for make in (display.jacobianColors, display.expectedErrorColors)]
    assert display.jacobianColors(headless.scene) is first[0]
    assert display.expectedErrorColors(headless.scene) is first[1]
    assert first[0] is not first[1]


def lightness(rgb) -> float:
    """L* of CIELAB of an sRGB color."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    luminance = np.dot((0.2126, 0.7152, 0.0722), linear)
    return 116 * np.cbrt(luminance) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_larger_expected_errors_are_lighter_and_warmer_in_nearly_equal_steps(headless):
    function = display.expectedErrorColors(headless.scene).GetColorTransferFunction()
    colors = [function.GetColor(value) for value in np.linspace(0, 1, 17)]
    steps = np.diff([lightness(color) for color in colors])
    assert steps.min() > 1.5
    assert steps.max() < 2 * np.mean(steps)
    warmth = np.diff([red - blue for red, _green, blue in colors])
    assert warmth[1:].min() > 0
    assert colors[0][2] > colors[0][0] and colors[-1][0] > colors[-1][2]


@pytest.mark.parametrize(
    ("extentMm", "end"),
    [
        ((137.0, 174.0, 140.0), 5.0),  # a brain
        ((165.0, 225.0, 240.0), 5.0),  # a head
        ((380.0, 250.0, 410.0), 10.0),  # a trunk
        ((11.0, 16.5, 8.0), 0.5),  # the brain of a mouse
        ((400.0, 300.0, 1800.0), 50.0),
    ],
)
def test_the_window_of_expected_errors_depends_on_the_size_of_the_subject_only(extentMm, end):
    assert display.expectedErrorWindow(extentMm) == (0.0, pytest.approx(end))


def ballOf(value: float) -> sitk.Image:
    """A ball of one value in 0, on voxels of 4 mm."""
    image = sitk.Image([25, 25, 25], sitk.sitkFloat32)
    image.SetSpacing([4.0] * 3)
    image.SetOrigin([-48.0] * 3)
    points = phantoms.physical_points(image)
    ball = sitk.GetImageFromArray((value * (np.linalg.norm(points, axis=-1) < 30)).astype(np.float32))
    ball.CopyInformation(image)
    return ball


@pytest.mark.parametrize("value", [0.4, 2.5, 8.0])
def test_expected_errors_have_the_color_of_their_value_up_to_the_edge_and_nothing_is_drawn_outside(
    headless, view, value
):
    background = addVolume(headless, sitk.Cast(ballOf(0.0), sitk.sitkInt16), "black")
    error = addVolume(headless, ballOf(value), "error")
    display.showExpectedError(error, (180.0, 180.0, 180.0))
    view.lookAt(background, (0.0, 0.0, 0.0))
    view.composite.SetForegroundVolumeID(error.GetID())
    view.composite.SetForegroundOpacity(1.0)
    pixels = view.image().reshape(-1, 3).astype(int)
    found = np.unique(pixels, axis=0)
    assert len(found) == 2  # no third color between the ball and the air
    function = display.expectedErrorColors(headless.scene).GetColorTransferFunction()
    expected = 255 * np.array(function.GetColor(min(value / 5.0, 1.0)))
    assert found[0].tolist() == [0, 0, 0]
    assert np.abs(found[1] - expected).max() < 4
    half = np.count_nonzero((pixels != 0).any(axis=1)) / len(pixels)
    assert half == pytest.approx(np.pi * 30**2 / 100**2, rel=0.1)


def test_each_map_has_a_legend_of_its_own_title_and_hiding_makes_none(headless, registered):
    result, colors = registered[1], headless.logics["Colors"]
    display.hideLegend(result.expectedError, colors)
    assert colors.GetColorLegendDisplayNode(result.expectedError) is None
    titles = {}
    for node in (result.jacobian, result.expectedError):
        legend = display.showLegend(node, colors)
        assert display.showLegend(node, colors) is legend
        assert legend.GetVisibility() and legend.GetVisibility2D()
        titles[node] = " ".join(legend.GetTitleText().split())
    assert list(titles.values()) == ["Jacobian", "Expected error (mm)"]
    display.hideLegend(result.expectedError, colors)
    assert not colors.GetColorLegendDisplayNode(result.expectedError).GetVisibility()
    assert colors.GetColorLegendDisplayNode(result.jacobian).GetVisibility()


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


def test_the_picture_has_seven_columns_and_restores_the_display(headless, registered, picture, tmp_path):
    _registration, result, fixedNode, movingNode = registered
    volumes = (fixedNode, movingNode, result.warped, result.jacobian, result.expectedError)
    before = nodeIds(headless.scene), displayState(*volumes), result.transform.GetDisplayNode().GetVisibility2D()
    picture.write(str(tmp_path / "p.png"))
    after = nodeIds(headless.scene), displayState(*volumes), result.transform.GetDisplayNode().GetVisibility2D()
    assert before == after
    pixels = np.asarray(Image.open(tmp_path / "p.png")).astype(float)
    width, height = pixels.shape[1], pixels.shape[0]
    assert width > 1.8 * height
    columns = np.array_split(pixels[60:], 7, axis=1)
    assert all(column.std() > 10 for column in columns)

    def colorfulness(column):
        return np.abs(column[..., 0] - column[..., 1]).mean()

    fixed, _moving, unaligned, aligned, jacobian, expectedError, grid = columns
    assert colorfulness(fixed) < 1
    assert colorfulness(aligned) < 0.8 * colorfulness(unaligned)
    assert colorfulness(jacobian) > 1
    assert colorfulness(expectedError) > 1
    assert np.abs(grid[:, :300] - fixed[:, :300]).mean() > 1


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
