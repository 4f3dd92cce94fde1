"""How one result is shown in the slice and 3D views: one mode at a time, and the deformation grid over it.

Volumes, transforms and display settings of the user are not changed: what a mode needs besides them are hidden nodes
that share the same voxels and displacements, and that are neither saved nor left behind.
"""

from __future__ import annotations

import enum

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from wavemorph.io.warping import warp_image

from ..scene.coordinates import arrayFromMatrix, ijkToWorld, vtkMatrix
from ..scene.transforms import gridTransform, sampledDisplacement, transformFromNode
from ..scene.volumes import imageFromVolumeNode, updateVolumeNodeFromImage
from ..translation import _
from .display import displayAs, gridRegion, hideLegend, shadesOf, showGrid, showLegend
from .reportTable import expectedErrorSentence
from .sceneResult import FIXED_ROLE, MOVING_ROLE, SceneResult, volumeCopy
from .sliceLayers import SliceLayers

CHECKER_MM = 20.0
GREEN, MAGENTA = (0.0, 1.0, 0.0), (1.0, 0.0, 1.0)
_SAMPLED_MM = 3.0  # of a transform that is neither linear nor one grid, for the preview of the warp


class ViewMode(enum.Enum):
    """What the slice views show; exactly one at a time."""

    Before = "Before"
    After = "After"
    Flicker = "Flicker"
    Checkerboard = "Checkerboard"
    Colors = "Colors"
    Jacobian = "Jacobian"
    ExpectedError = "Expected error"
    Warp = "Warp"


_MAPS = {ViewMode.Jacobian: "jacobian", ViewMode.ExpectedError: "expectedError"}  # outputs shown with a legend
_OWN_OPACITY = (ViewMode.Checkerboard, ViewMode.Colors)  # the slider has no meaning there


class ResultView:
    """Shows one result in the views of its scene. `close` removes every node that it has created.

    mode: the present `ViewMode`; None until one is shown. colorLogic: of the module Colors, for the legend, or None.
    """

    def __init__(self, result: SceneResult, colorLogic=None):
        self.result, self.mode = result, None
        self._colorLogic, self._scene, self._layers = colorLogic, result.scene, SliceLayers(result.scene)
        self._opacity = {mode: 1.0 if mode in _OWN_OPACITY else 0.5 for mode in ViewMode}
        self._opacity.update(dict.fromkeys(_MAPS, 0.6))
        self._warpPercent, self._showsBefore = 100.0, False
        self._helpers: dict[str, list] = {}
        self._shownIds: set[str] = set()
        self._region = None
        self._legends: dict[str, object] = {}  # output: display node of its legend
        self._findLegends()
        self._show = {
            ViewMode.Before: self._showBefore,
            ViewMode.After: self._showAfter,
            ViewMode.Flicker: self._showFlicker,
            ViewMode.Checkerboard: self._showCheckerboard,
            ViewMode.Colors: self._showColors,
            ViewMode.Jacobian: self._showMap,
            ViewMode.ExpectedError: self._showMap,
            ViewMode.Warp: self._showWarp,
        }

    @property
    def opacity(self) -> float:
        """Of the foreground in the present mode."""
        return self._opacity[self.mode or ViewMode.After]

    @property
    def hasOpacity(self) -> bool:
        """Whether the opacity can be chosen in the present mode."""
        return self.mode not in _OWN_OPACITY

    @property
    def warpPercent(self) -> float:
        """How far the mode Warp has moved the moving volume."""
        return self._warpPercent

    @property
    def description(self) -> str:
        """One line: what the slice views show."""
        if self.mode is None:
            return ""
        if self.mode is ViewMode.ExpectedError:
            return expectedErrorSentence(self.result.report)
        return {
            ViewMode.Before: _("The moving volume where it was, over the fixed volume."),
            ViewMode.After: _("The registered volume over the fixed volume."),
            ViewMode.Flicker: _("Now: before.") if self._showsBefore else _("Now: after."),
            ViewMode.Checkerboard: _("Squares of the fixed and of the registered volume."),
            ViewMode.Colors: _("Green: fixed only. Magenta: registered only. Gray: both."),
            ViewMode.Jacobian: _("Red: moving tissue is larger than fixed tissue. Blue: smaller."),
            ViewMode.Warp: _("The moving volume, {percent:.0f} % of the way.").format(percent=self._warpPercent),
        }[self.mode]

    def reasonsAgainst(self) -> dict:
        """For each mode why it cannot be shown, "" where it can."""
        result = self.result
        fixed, moving = self._reasonOf(FIXED_ROLE), self._reasonOf(MOVING_ROLE)
        transform = "" if result.transform is not None else _("The transform was not requested, or was deleted.")
        registered = "" if result.warped is not None else moving or transform
        needs = {
            ViewMode.Before: moving,
            ViewMode.After: registered,
            ViewMode.Flicker: moving or registered,
            ViewMode.Checkerboard: registered,
            ViewMode.Colors: registered,
            ViewMode.Warp: moving or transform,
            **{mode: self._reasonOfMap(output) for mode, output in _MAPS.items()},
        }
        return {mode: fixed or reason for mode, reason in needs.items()}

    @property
    def isShown(self) -> bool:
        """Whether the slice views still have the volumes of the present mode."""
        return self.mode is not None and self._layers.shownIds() == self._shownIds

    @property
    def isNothingShown(self) -> bool:
        """Whether the slice views have no volume at all, as after a scene was read that was saved without them."""
        return self._layers.isEmpty()

    def show(self, mode: ViewMode) -> None:
        """Show this mode instead of the present one."""
        former, self._helpers = self._helpers, {}
        self.mode = mode
        self._hideLegends(self.result, kept=_MAPS.get(mode))
        try:
            self._show[mode]()
        finally:
            self._remove(former)
        self._shownIds = self._layers.shownIds()

    def showPlainly(self) -> None:
        """Leave the views with nodes of the user only: the mode itself where it has no others, else the pair."""
        if self.mode is None or (not self._helpers and self.mode is not ViewMode.Flicker):
            return
        former, self._helpers = self._helpers, {}
        isThere = self._layers.shownIds() & {node.GetID() for nodes in former.values() for node in nodes}
        if isThere or self.mode is ViewMode.Flicker:
            self._layers.show(self.result.fixedNode, self.result.warped, self._opacity[ViewMode.After])
        self.mode = ViewMode.After if self.result.warped is not None else None
        self._remove(former)
        self._shownIds = self._layers.shownIds()

    def flick(self) -> None:
        """In the mode Flicker, change between before and after."""
        self._showsBefore = not self._showsBefore
        self._showFlicker()
        self._shownIds = self._layers.shownIds()

    def setOpacity(self, opacity: float) -> None:
        """Opacity of the foreground in the present mode: 0 shows the fixed volume alone."""
        if self.hasOpacity and self.mode is not None:
            self._opacity[self.mode] = opacity
            self._layers.setOpacity(opacity)

    def setWarp(self, percent: float) -> None:
        """Show the moving volume under this part of each displacement: 0 not transformed, 100 registered."""
        self._warpPercent = percent
        if self.mode is not ViewMode.Warp:
            self.show(ViewMode.Warp)
        else:
            self._setWarpFraction(percent / 100)

    def setGrid(self, visible: bool, visible3D: bool, spacingMm: float) -> None:
        """Show or hide the deformation grid; in 3D it is bounded to the subject, which the fixed volume tells."""
        visible3D = visible3D and not self._reasonOf(FIXED_ROLE)
        if visible3D and (self._region is None or self._region.GetScene() is None):
            self._region = self._addHidden(gridRegion(self._fixed()), _("Subject"))
        region = self._region if visible3D else self.result.fixedNode
        showGrid(self.result.transform, region, spacingMm, visible, visible3D)

    def hideOthers(self) -> None:
        """Hide grids and legends of the other results of the scene."""
        for other in SceneResult.allIn(self._scene):
            if other.node is not self.result.node:
                if other.grid is not None and other.grid.GetDisplayNode() is not None:
                    other.grid.GetDisplayNode().SetVisibility(False)
                self._hideLegends(other)

    def removeLegendsOfDeletedMaps(self) -> None:
        """A legend would stay in the views when its volume is deleted."""
        for output, legend in list(self._legends.items()):
            if legend.GetDisplayableNode() is None:
                del self._legends[output]
                if legend.GetScene() is not None:
                    self._scene.RemoveNode(legend)

    def close(self) -> None:
        """Remove the nodes that were created, and leave the views without them."""
        self.showPlainly()
        self._remove(self._helpers)
        self._helpers = {}
        if self._region is not None:
            self._remove({"region": [self._region]})
            self._region = None
        self._hideLegends(self.result)
        self.removeLegendsOfDeletedMaps()

    def _showBefore(self) -> None:
        self._showPair(self._moving())

    def _showAfter(self) -> None:
        self._showPair(self._registered())

    def _showFlicker(self) -> None:
        self._showPair(self._moving() if self._showsBefore else self._registered())

    def _showPair(self, foreground) -> None:
        self._layers.show(self._fixed(), foreground, self.opacity)

    def _showCheckerboard(self) -> None:
        """Cubes of the fixed and of the registered volume in alternation."""
        fixedNode, registeredNode = self._fixed(), self._registered()
        fixed = imageFromVolumeNode(fixedNode)
        if self.result.warped is not None:
            registered = warp_image(imageFromVolumeNode(registeredNode), fixed, sitk.Transform())
        else:
            moving = imageFromVolumeNode(self._moving())
            registered = warp_image(moving, fixed, transformFromNode(self.result.transform, fixed))
        gray = [
            _windowed(node, sitk.GetArrayFromImage(image))
            for node, image in ((fixedNode, fixed), (registeredNode, registered))
        ]
        k, j, i = (
            (np.arange(n) * spacing // CHECKER_MM).astype(int)
            for n, spacing in zip(gray[0].shape, fixed.GetSpacing()[::-1])
        )
        odd = (k[:, None, None] + j[None, :, None] + i[None, None, :]) % 2 == 1
        board = sitk.GetImageFromArray(np.where(odd, gray[1], gray[0]).astype(np.float32))
        board.CopyInformation(fixed)
        node = self._addHelper("board", slicer.vtkMRMLScalarVolumeNode(), _("Checkerboard"))
        updateVolumeNodeFromImage(board, node)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.0)
        self._layers.show(node)

    def _showColors(self) -> None:
        """The sum of the fixed volume in green and the registered one in magenta: gray where they agree."""
        shown = []
        pair = (_("green"), self._fixed(), GREEN), (_("magenta"), self._registered(), MAGENTA)
        for name, source, rgb in pair:
            copy = self._addHelper(name, volumeCopy(source, _localMatrix(source)), f"{source.GetName()} ({name})")
            copy.SetAndObserveTransformNodeID(source.GetTransformNodeID())
            displayAs(source, copy)
            colors = self._addHelper(name, shadesOf(rgb), name)
            copy.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
            shown.append(copy)
        self._layers.show(*shown, self.opacity, slicer.vtkMRMLSliceCompositeNode.Add)

    def _showMap(self) -> None:
        """The legend is drawn where its volume is a layer at the time when it is shown."""
        shown = self.result.output(_MAPS[self.mode])
        self._showPair(shown)
        if self._colorLogic is not None:
            showLegend(shown, self._colorLogic)
            self._findLegends()

    def _showWarp(self) -> None:
        self._showPair(self._underTransform(self._warpPercent / 100))

    def _findLegends(self) -> None:
        for output in _MAPS.values():
            shown = self.result.output(output)
            if shown is not None and self._colorLogic is not None:
                legend = self._colorLogic.GetColorLegendDisplayNode(shown)
                if legend is not None:
                    self._legends[output] = legend

    def _hideLegends(self, result: SceneResult, kept: str | None = None) -> None:
        """Hide the legends of the maps of a result; kept: the output whose legend is left alone."""
        for output in _MAPS.values():
            shown = result.output(output)
            if output != kept and shown is not None and self._colorLogic is not None:
                hideLegend(shown, self._colorLogic)

    def _fixed(self):
        return self._asRegistered(FIXED_ROLE, self.result.fixedNode)

    def _moving(self):
        return self._asRegistered(MOVING_ROLE, self.result.movingNode)

    def _registered(self):
        return self.result.warped if self.result.warped is not None else self._underTransform(1.0)

    def _asRegistered(self, role: str, source):
        """The volume where it was at the registration: itself, or a hidden copy."""
        if role not in self._helpers:
            node = self.result.volumeAsRegistered(role)
            if node is source:
                return node
            self._addHelper(role, node, _("{name} as registered").format(name=source.GetName()))
            displayAs(source, node)
        return self._helpers[role][0]

    def _underTransform(self, fraction: float):
        """A second moving volume under a second transform: a scale on the first would be saved and hardened."""
        if "warp" not in self._helpers:
            transform, moving = self.result.transform, self.result.volumeAsRegistered(MOVING_ROLE)
            linear = transform.IsLinear()
            made = slicer.vtkMRMLLinearTransformNode() if linear else slicer.vtkMRMLGridTransformNode()
            carrier = self._addHelper("warp", made, _("Warp"))
            if not linear:
                carrier.SetAndObserveTransformFromParent(self._displacements())
            name = _("{name} warp").format(name=moving.GetName())
            copy = self._addHelper("warp", volumeCopy(moving, ijkToWorld(moving)), name)
            displayAs(self.result.movingNode, copy)
            copy.SetAndObserveTransformNodeID(carrier.GetID())
        self._setWarpFraction(fraction)
        return self._helpers["warp"][1]

    def _setWarpFraction(self, fraction: float) -> None:
        carrier, transform = self._helpers["warp"][0], self.result.transform
        if carrier.IsA("vtkMRMLLinearTransformNode"):
            matrix = vtk.vtkMatrix4x4()
            transform.GetMatrixTransformFromParent(matrix)
            part = np.eye(4) + fraction * (arrayFromMatrix(matrix) - np.eye(4))
            carrier.SetMatrixTransformFromParent(vtkMatrix(part))
        else:
            carrier.GetTransformFromParent().SetDisplacementScale(fraction)

    def _displacements(self):
        """A grid transform of its own that shares the displacements of the result, or samples another transform."""
        stored = self.result.transform.GetTransformFromParentAs("vtkOrientedGridTransform", False, False)
        if stored is None or stored.GetInverseFlag():
            fixed = imageFromVolumeNode(self._fixed())
            return gridTransform(sampledDisplacement(self.result.transform, fixed, _SAMPLED_MM))
        shared = slicer.vtkOrientedGridTransform()
        shared.SetDisplacementGridData(stored.GetDisplacementGrid())
        shared.SetGridDirectionMatrix(stored.GetGridDirectionMatrix())
        shared.SetInterpolationModeToLinear()
        return shared

    def _reasonOf(self, role: str) -> str:
        name = _("fixed") if role == FIXED_ROLE else _("moving")
        if self.result.node.GetNodeReference(role) is None:
            return _("The {name} volume was deleted.").format(name=name)
        if self.result.volumeAsRegistered(role) is None:
            return _("The {name} volume was changed since the registration, for example hardened.").format(name=name)
        return ""

    def _reasonOfMap(self, output: str) -> str:
        if self.result.output(output) is not None:
            return ""
        isLinear = self.result.report.get("transform_type") != "deformable"
        if output == "jacobian":
            if isLinear:
                return _("The Jacobian of a linear transform is the same everywhere.")
            return _("The Jacobian was not requested, or was deleted.")
        if isLinear:
            return _("The error of a linear transform is not estimated.")
        return _("The expected error was not requested, or was deleted.")

    def _addHelper(self, use: str, node, name: str):
        """Add a node that is removed with the mode that uses it."""
        self._helpers.setdefault(use, []).append(self._addHidden(node, name))
        return node

    def _addHidden(self, node, name: str):
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        return self._scene.AddNode(node)

    def _remove(self, helpers: dict) -> None:
        for nodes in helpers.values():
            for node in nodes:
                if node.GetScene() is not None:
                    displays = [node.GetNthDisplayNode(0)] if node.IsA("vtkMRMLDisplayableNode") else []
                    self._scene.RemoveNode(node)
                    for display in displays:
                        if display is not None:
                            self._scene.RemoveNode(display)


def _localMatrix(volumeNode) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return arrayFromMatrix(matrix)


def _windowed(volumeNode, array: np.ndarray) -> np.ndarray:
    """Gray values from 0 to 1 as the window of the volume displays them."""
    volumeNode.CreateDefaultDisplayNodes()
    displayNode = volumeNode.GetDisplayNode()
    low, high = displayNode.GetWindowLevelMin(), displayNode.GetWindowLevelMax()
    return np.clip((array - low) / max(high - low, 1e-9), 0, 1)
