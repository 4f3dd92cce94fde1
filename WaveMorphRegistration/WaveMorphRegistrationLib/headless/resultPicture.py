"""One picture that says whether a registration can be believed: before, after, Jacobian and grid in three planes."""

from __future__ import annotations

import contextlib

import numpy as np
import slicer
from PIL import Image, ImageDraw, ImageFont
from vtk.util import numpy_support

from ..results.display import showJacobian, showLegend
from ..scene.coordinates import ijkToWorld
from ..translation import _
from .offscreenSliceView import OffscreenSliceView

_VIEWS = (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))  # names and planes as in Slicer's layout
_TILE = 300
_MARGIN = 6
_HEADING = 44
_FIXED_COLOUR = (0.0, 1.0, 0.0)
_MOVING_COLOUR = (1.0, 0.0, 1.0)


class ResultPicture:
    """Three slice views on a scene, and `write` to draw one result in them. The scene's own display is given back."""

    def __init__(self, headlessScene, nodes, fixedNode, movingNode):
        self._scene, self._nodes = headlessScene.scene, nodes
        self._fixedNode, self._movingNode = fixedNode, movingNode
        self._views = [
            OffscreenSliceView(self._scene, headlessScene.applicationLogic, name, plane, (_TILE, _TILE))
            for name, plane in _VIEWS
        ]
        showJacobian(nodes.jacobian)
        self._legend = showLegend(nodes.jacobian, headlessScene.logics["Colors"])

    def write(self, path: str) -> None:
        """Draw and save as .png."""
        columns = [
            (_("Fixed"), self._draw(self._fixedNode)),
            (_("Moving, where its file puts it"), self._draw(self._movingNode, lookAt=self._movingNode)),
            (_("Before: green fixed, magenta moving"), self._drawBoth(self._movingNode)),
            (_("After: green fixed, magenta registered"), self._drawBoth(self._nodes.warped)),
            (_("Jacobian: red larger in moving"), self._draw(self._fixedNode, self._nodes.jacobian, 0.6)),
            (_("Registered, with deformation grid"), self._drawGrid()),
        ]
        _mounted(columns, [plane for _name, plane in _VIEWS]).save(path)

    def close(self) -> None:
        for view in self._views:
            view.close()

    def _draw(self, background, foreground=None, opacity: float = 0.5, lookAt=None, grid: bool = False) -> list:
        point = _middle(lookAt if lookAt is not None else self._fixedNode)
        images = []
        with _gridShown(self._nodes.transform, grid):
            for view in self._views:
                view.lookAt(self._fixedNode, point)
                view.composite.SetBackgroundVolumeID(background.GetID())
                view.composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
                view.composite.SetForegroundOpacity(opacity)
                self._legend.Modified()  # outside Slicer the legend does not notice that its volume came or went
                images.append(view.image())
        return images

    def _drawBoth(self, node) -> list:
        """Fixed in green, the other in magenta, added up: grey where they agree."""
        with contextlib.ExitStack() as inside:
            inside.enter_context(_coloured(self._fixedNode, _FIXED_COLOUR))
            inside.enter_context(_coloured(node, _MOVING_COLOUR))
            inside.enter_context(_composited(self._views, slicer.vtkMRMLSliceCompositeNode.Add))
            return self._draw(self._fixedNode, node, 1.0)

    def _drawGrid(self) -> list:
        return self._draw(self._nodes.warped, grid=True)


@contextlib.contextmanager
def _coloured(volumeNode, rgb):
    """The volume in shades of one colour inside."""
    scene, displayNode = volumeNode.GetScene(), volumeNode.GetDisplayNode()
    before = displayNode.GetColorNodeID()
    colours = slicer.vtkMRMLProceduralColorNode()
    colours.SetSaveWithScene(False)
    function = colours.GetColorTransferFunction()
    function.RemoveAllPoints()
    function.AddRGBPoint(0.0, 0.0, 0.0, 0.0)
    function.AddRGBPoint(255.0, *rgb)
    colours = scene.AddNode(colours)
    displayNode.SetAndObserveColorNodeID(colours.GetID())
    try:
        yield
    finally:
        displayNode.SetAndObserveColorNodeID(before)
        scene.RemoveNode(colours)


@contextlib.contextmanager
def _composited(views, mode: int):
    before = [view.composite.GetCompositing() for view in views]
    for view in views:
        view.composite.SetCompositing(mode)
    try:
        yield
    finally:
        for view, was in zip(views, before):
            view.composite.SetCompositing(was)


@contextlib.contextmanager
def _gridShown(transformNode, visible: bool):
    displayNode = transformNode.GetDisplayNode()
    before = displayNode.GetVisibility2D()
    displayNode.SetVisibility2D(visible)
    try:
        yield
    finally:
        displayNode.SetVisibility2D(before)


def _middle(volumeNode) -> np.ndarray:
    """The centre of mass of the volume's brighter half, RAS mm."""
    imageData = volumeNode.GetImageData()
    array = numpy_support.vtk_to_numpy(imageData.GetPointData().GetScalars()).reshape(imageData.GetDimensions()[::-1])
    thin = array[::3, ::3, ::3]
    kji = 3 * np.argwhere(thin > thin.mean()).mean(axis=0)
    return (ijkToWorld(volumeNode) @ [*kji[::-1], 1.0])[:3]


def _mounted(columns, rows) -> Image.Image:
    width = len(columns) * (_TILE + _MARGIN) + _MARGIN
    picture = Image.new("RGB", (width, _HEADING + len(rows) * (_TILE + _MARGIN)), "black")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=15)
    for column, (title, images) in enumerate(columns):
        left = _MARGIN + column * (_TILE + _MARGIN)
        draw.text((left + _TILE / 2, _HEADING / 2), title, fill="white", font=font, anchor="mm")
        for row, image in enumerate(images):
            picture.paste(Image.fromarray(image), (left, _HEADING + row * (_TILE + _MARGIN)))
    for row, plane in enumerate(rows):
        draw.text((2 * _MARGIN, _HEADING + row * (_TILE + _MARGIN) + _MARGIN), plane, fill="white", font=font)
    return picture
