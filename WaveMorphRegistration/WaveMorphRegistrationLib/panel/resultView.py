"""Looking at a result: before and after in one place, a checkerboard, and the way from one to the other.

Nothing here touches the volumes or the transform of the result; what is shown are copies that share their data.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer

from ..scene.coordinates import ijkToWorld, vtkMatrix
from ..scene.volumes import imageFromVolumeNode, updateVolumeNodeFromImage
from ..translation import _

CHECKER_MM = 20.0


class Comparison:
    """Views on one result. `close` takes away every node that it made."""

    def __init__(self, fixedNode, movingNode, transformNode, warpedNode):
        self._scene = fixedNode.GetScene()
        self._fixedNode, self._movingNode = fixedNode, movingNode
        self._transformNode, self._warpedNode = transformNode, warpedNode
        self._checkerNode = self._morphNode = self._morphTransformNode = None
        self.opacity = 0.5

    def showAfter(self) -> None:
        """The registered volume over the fixed one."""
        self._showLayers(self._warpedNode if self._warpedNode is not None else self._morphed(1.0))

    def showBefore(self) -> None:
        """The moving volume, where its file puts it, over the fixed one."""
        self._showLayers(self._movingNode)

    def setOpacity(self, opacity: float) -> None:
        """0 shows the fixed volume alone, 1 the other one."""
        self.opacity = opacity
        for composite in self._composites():
            composite.SetForegroundOpacity(opacity)

    def showCheckerboard(self, squareMm: float = CHECKER_MM) -> None:
        """Fixed and registered volume in turn; edges must run on from square to square."""
        fixed = imageFromVolumeNode(self._fixedNode)
        warped = sitk.Resample(imageFromVolumeNode(self._warpedNode), fixed)
        values = _displayed(self._fixedNode, sitk.GetArrayFromImage(fixed))
        others = _displayed(self._warpedNode, sitk.GetArrayFromImage(warped))
        k, j, i = (
            (np.arange(n) * spacing // squareMm).astype(int)
            for n, spacing in zip(values.shape, fixed.GetSpacing()[::-1])
        )
        odd = (k[:, None, None] + j[None, :, None] + i[None, None, :]) % 2 == 1
        board = sitk.GetImageFromArray(np.where(odd, others, values).astype(np.float32))
        board.CopyInformation(fixed)
        if self._checkerNode is None or self._checkerNode.GetScene() is None:
            self._checkerNode = self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("Checkerboard"))
            self._checkerNode.SetSaveWithScene(False)
        updateVolumeNodeFromImage(board, self._checkerNode)
        self._checkerNode.CreateDefaultDisplayNodes()
        shown = self._checkerNode.GetDisplayNode()
        shown.AutoWindowLevelOff()
        shown.SetWindowLevelMinMax(0.0, 1.0)
        for composite in self._composites():
            composite.SetBackgroundVolumeID(self._checkerNode.GetID())
            composite.SetForegroundVolumeID(None)

    def showOver(self, node, opacity: float) -> None:
        """Another volume, such as the Jacobian, over the fixed one."""
        self._showLayers(node)
        for composite in self._composites():
            composite.SetForegroundOpacity(opacity)

    def showMorph(self, share: float) -> None:
        """The moving volume on its way: 0 where its file puts it, 1 registered."""
        self._showLayers(self._morphed(share))

    def close(self) -> None:
        """Remove the helpers, and show the registered volume if one of them was on view."""
        helpers = [node for node in (self._checkerNode, self._morphNode, self._morphTransformNode) if node is not None]
        ids = {node.GetID() for node in helpers}
        shown = any({c.GetBackgroundVolumeID(), c.GetForegroundVolumeID()} & ids for c in self._composites())
        for node in helpers:
            if node.GetScene() is not None:
                displayNode = node.GetDisplayNode()
                self._scene.RemoveNode(node)
                if displayNode is not None:
                    self._scene.RemoveNode(displayNode)
        self._checkerNode = self._morphNode = self._morphTransformNode = None
        if shown and self._warpedNode is not None and self._warpedNode.GetScene() is not None:
            self._showLayers(self._warpedNode)

    def _showLayers(self, foregroundNode) -> None:
        for composite in self._composites():
            composite.SetBackgroundVolumeID(self._fixedNode.GetID())
            composite.SetForegroundVolumeID(foregroundNode.GetID())
            composite.SetForegroundOpacity(self.opacity)

    def _composites(self) -> list:
        count = self._scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")
        return [self._scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode") for index in range(count)]

    def _morphed(self, share: float):
        """A second moving volume that shares the voxels, under a second transform that shares the field."""
        if self._morphNode is None or self._morphNode.GetScene() is None:
            whole = self._transformNode.GetTransformFromParent()
            part = slicer.vtkOrientedGridTransform()
            part.SetDisplacementGridData(whole.GetDisplacementGrid())
            part.SetGridDirectionMatrix(whole.GetGridDirectionMatrix())
            part.SetInterpolationModeToLinear()
            self._morphTransformNode = self._hidden("vtkMRMLGridTransformNode", _("On the way"))
            self._morphTransformNode.SetAndObserveTransformFromParent(part)
            self._morphNode = self._hidden("vtkMRMLScalarVolumeNode", _("{name} on the way").format(
                name=self._movingNode.GetName()
            ))  # fmt: skip
            self._morphNode.SetIJKToRASMatrix(vtkMatrix(ijkToWorld(self._movingNode)))
            self._morphNode.SetAndObserveImageData(self._movingNode.GetImageData())
            self._morphNode.CreateDefaultDisplayNodes()
            self._morphNode.SetAndObserveTransformNodeID(self._morphTransformNode.GetID())
        self._morphTransformNode.GetTransformFromParent().SetDisplacementScale(share)
        return self._morphNode

    def _hidden(self, className: str, name: str):
        node = slicer.vtkMRMLScene.CreateNodeByClass(self._scene, className)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        return self._scene.AddNode(node)


def _displayed(volumeNode, array: np.ndarray) -> np.ndarray:
    """Grey values 0 to 1 as the volume's window shows them."""
    shown = volumeNode.GetDisplayNode()
    low, high = shown.GetWindowLevelMin(), shown.GetWindowLevelMax()
    return np.clip((array - low) / max(high - low, 1e-9), 0, 1)
