"""A picture of a registration for visual inspection: before, after, Jacobian, expected error and grid in three planes.

Without Jacobian, expected error and grid where the nodes have none.
"""

from __future__ import annotations

import contextlib

import numpy as np
import slicer
from PIL import Image, ImageDraw, ImageFont
from vtk.util import numpy_support

from ..results.display import shadesOf, showGrid, showLegend
from ..results.resultView import GREEN, MAGENTA
from ..scene.coordinates import ijkToWorld
from ..translation import _
from .offscreenSliceView import OffscreenSliceView

_VIEWS = (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))  # names and planes as in Slicer's layout
_TILE_PIXELS = 300
_MARGIN_PIXELS = 6
_HEADING_PIXELS = 44


class ResultPicture:
    """Three slice views of a scene, in which `write` draws one result. The display settings are restored after it."""

    def __init__(self, headlessScene, nodes, fixedNode, movingNode):
        self._scene, self._nodes = headlessScene.scene, nodes
        self._fixedNode, self._movingNode = fixedNode, movingNode
        size = (_TILE_PIXELS, _TILE_PIXELS)
        self._views = [
            OffscreenSliceView(self._scene, headlessScene.applicationLogic, name, plane, size) for name, plane in _VIEWS
        ]
        if nodes.grid is not None:
            showGrid(nodes.grid, fixedNode, visible=False)
        maps = [node for node in (nodes.jacobian, nodes.expectedError) if node is not None]
        self._legends = [showLegend(node, headlessScene.logics["Colors"]) for node in maps]

    def write(self, path: str) -> None:
        """Draw the picture and save it as .png."""
        columns = [
            (_("Fixed"), self._draw(self._fixedNode)),
            (_("Moving, original position"), self._draw(self._movingNode, centerOn=self._movingNode)),
            (_("Before: green fixed, magenta moving"), self._drawOverlay(self._movingNode)),
            (_("After: green fixed, magenta registered"), self._drawOverlay(self._nodes.warped)),
        ]
        for node, title in (
            (self._nodes.jacobian, _("Jacobian: red is larger in moving")),
            (self._nodes.expectedError, _("Expected error: yellow is large")),
        ):
            if node is not None:
                columns.append((title, self._draw(self._fixedNode, node, 0.6)))
        if self._nodes.grid is not None:
            columns.append((_("Registered, with deformation grid"), self._draw(self._nodes.warped, grid=True)))
        _composePicture(columns, [plane for _name, plane in _VIEWS]).save(path)

    def close(self) -> None:
        """Release the views."""
        for view in self._views:
            view.close()

    def _draw(self, background, foreground=None, opacity: float = 0.5, centerOn=None, grid: bool = False) -> list:
        point = _centerOfMass(centerOn if centerOn is not None else self._fixedNode)
        images = []
        with contextlib.ExitStack() as stack:
            if self._nodes.grid is not None:
                stack.enter_context(_gridVisibility(self._nodes.grid, grid))
            for view in self._views:
                view.lookAt(self._fixedNode, point)
                view.composite.SetBackgroundVolumeID(background.GetID())
                view.composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
                view.composite.SetForegroundOpacity(opacity)
                for legend in self._legends:
                    legend.Modified()  # outside Slicer it is not notified when its volume is shown or hidden
                images.append(view.image())
        return images

    def _drawOverlay(self, node) -> list:
        """Sum of the fixed volume in green and the other in magenta: gray where they agree."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_shadesOf(GREEN, self._fixedNode))
            stack.enter_context(_shadesOf(MAGENTA, node))
            stack.enter_context(_compositing(self._views, slicer.vtkMRMLSliceCompositeNode.Add))
            return self._draw(self._fixedNode, node, 1.0)


@contextlib.contextmanager
def _shadesOf(rgb, volumeNode):
    """Inside, the volume is displayed in shades of one color."""
    scene, displayNode = volumeNode.GetScene(), volumeNode.GetDisplayNode()
    before = displayNode.GetColorNodeID()
    colors = scene.AddNode(shadesOf(rgb))
    displayNode.SetAndObserveColorNodeID(colors.GetID())
    try:
        yield
    finally:
        displayNode.SetAndObserveColorNodeID(before)
        scene.RemoveNode(colors)


@contextlib.contextmanager
def _compositing(views, mode: int):
    """Inside, the views blend their layers in this mode."""
    before = [view.composite.GetCompositing() for view in views]
    for view in views:
        view.composite.SetCompositing(mode)
    try:
        yield
    finally:
        for view, previous in zip(views, before):
            view.composite.SetCompositing(previous)


@contextlib.contextmanager
def _gridVisibility(transformNode, visible: bool):
    """Inside, the deformation grid is visible or hidden."""
    displayNode = transformNode.GetDisplayNode()
    before = displayNode.GetVisibility(), displayNode.GetVisibility2D()
    displayNode.SetVisibility(visible)
    displayNode.SetVisibility2D(visible)
    try:
        yield
    finally:
        displayNode.SetVisibility(before[0])
        displayNode.SetVisibility2D(before[1])


def _centerOfMass(volumeNode) -> np.ndarray:
    """The center of mass, RAS mm, of the voxels that are brighter than the mean."""
    imageData = volumeNode.GetImageData()
    array = numpy_support.vtk_to_numpy(imageData.GetPointData().GetScalars()).reshape(imageData.GetDimensions()[::-1])
    step = 3
    sampled = array[::step, ::step, ::step]
    kji = step * np.argwhere(sampled > sampled.mean()).mean(axis=0)
    return (ijkToWorld(volumeNode) @ [*kji[::-1], 1.0])[:3]


def _composePicture(columns, planes) -> Image.Image:
    """One picture of (title, images) columns; planes: the text of each row."""
    pitch = _TILE_PIXELS + _MARGIN_PIXELS
    size = (len(columns) * pitch + _MARGIN_PIXELS, _HEADING_PIXELS + len(planes) * pitch)
    picture = Image.new("RGB", size, "black")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=15)
    for column, (title, images) in enumerate(columns):
        left = _MARGIN_PIXELS + column * pitch
        draw.text((left + _TILE_PIXELS / 2, _HEADING_PIXELS / 2), title, fill="white", font=font, anchor="mm")
        for row, image in enumerate(images):
            picture.paste(Image.fromarray(image), (left, _HEADING_PIXELS + row * pitch))
    for row, plane in enumerate(planes):
        top = _HEADING_PIXELS + row * pitch + _MARGIN_PIXELS
        draw.text((2 * _MARGIN_PIXELS, top), plane, fill="white", font=font)
    return picture
