"""Slice views of a result: before and after, checkerboard, and a preview of the warp between them.

The volumes and the transform of the result are not changed: the views show copies that use the same data.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..scene.coordinates import arrayFromMatrix, ijkToWorld, vtkMatrix
from ..scene.transforms import wholeGrid
from ..scene.volumes import imageFromVolumeNode, updateVolumeNodeFromImage
from ..translation import _

CHECKER_MM = 20.0


class ResultView:
    """Shows one result in the slice views. `close` removes every node that it has created."""

    def __init__(self, fixedNode, movingNode, transformNode, warpedNode):
        self._scene = fixedNode.GetScene()
        self._fixedNode, self._movingNode = fixedNode, movingNode
        self._transformNode, self._warpedNode = transformNode, warpedNode
        self._checkerNode = self._previewNode = self._previewTransformNode = None
        self.opacity = 0.5

    def showAfter(self) -> None:
        """The registered volume over the fixed one."""
        self._showLayers(self._warpedNode if self._warpedNode is not None else self._warpPreview(1.0))

    def showBefore(self) -> None:
        """The moving volume, not transformed, over the fixed one."""
        self._showLayers(self._movingNode)

    def setOpacity(self, opacity: float) -> None:
        """Opacity of the foreground: 0 shows the fixed volume alone, 1 the other one."""
        self.opacity = opacity
        for composite in self._compositeNodes():
            composite.SetForegroundOpacity(opacity)

    def showCheckerboard(self, squareMm: float = CHECKER_MM) -> None:
        """Cubes of squareMm of the fixed and of the registered volume in alternation."""
        fixed = imageFromVolumeNode(self._fixedNode)
        warped = imageFromVolumeNode(self._warpedNode)
        warped = sitk.Resample(warped, fixed, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
        fixedGray = _windowed(self._fixedNode, sitk.GetArrayFromImage(fixed))
        warpedGray = _windowed(self._warpedNode, sitk.GetArrayFromImage(warped))
        k, j, i = (
            (np.arange(n) * spacing // squareMm).astype(int)
            for n, spacing in zip(fixedGray.shape, fixed.GetSpacing()[::-1])
        )
        odd = (k[:, None, None] + j[None, :, None] + i[None, None, :]) % 2 == 1
        board = sitk.GetImageFromArray(np.where(odd, warpedGray, fixedGray).astype(np.float32))
        board.CopyInformation(fixed)
        if self._checkerNode is None or self._checkerNode.GetScene() is None:
            self._checkerNode = self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("Checkerboard"))
            self._checkerNode.SetSaveWithScene(False)
        updateVolumeNodeFromImage(board, self._checkerNode)
        self._checkerNode.CreateDefaultDisplayNodes()
        displayNode = self._checkerNode.GetDisplayNode()
        displayNode.AutoWindowLevelOff()
        displayNode.SetWindowLevelMinMax(0.0, 1.0)
        for composite in self._compositeNodes():
            composite.SetBackgroundVolumeID(self._checkerNode.GetID())
            composite.SetForegroundVolumeID(None)

    def showForeground(self, node, opacity: float) -> None:
        """Another volume, such as the Jacobian, over the fixed one."""
        self._showLayers(node)
        for composite in self._compositeNodes():
            composite.SetForegroundOpacity(opacity)

    def showWarpPreview(self, fraction: float) -> None:
        """The moving volume under a fraction of the displacement of each point: 0 not transformed, 1 registered."""
        self._showLayers(self._warpPreview(fraction))

    def close(self) -> None:
        """Remove the nodes that were created, and show the registered volume if one of them was shown."""
        created = [
            node for node in (self._checkerNode, self._previewNode, self._previewTransformNode) if node is not None
        ]
        ids = {node.GetID() for node in created}
        shown = any({c.GetBackgroundVolumeID(), c.GetForegroundVolumeID()} & ids for c in self._compositeNodes())
        for node in created:
            if node.GetScene() is not None:
                displayNode = node.GetDisplayNode()
                self._scene.RemoveNode(node)
                if displayNode is not None:
                    self._scene.RemoveNode(displayNode)
        self._checkerNode = self._previewNode = self._previewTransformNode = None
        if shown and self._warpedNode is not None and self._warpedNode.GetScene() is not None:
            self._showLayers(self._warpedNode)

    def _showLayers(self, foregroundNode) -> None:
        for composite in self._compositeNodes():
            composite.SetBackgroundVolumeID(self._fixedNode.GetID())
            composite.SetForegroundVolumeID(foregroundNode.GetID())
            composite.SetForegroundOpacity(self.opacity)

    def _compositeNodes(self) -> list:
        count = self._scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")
        return [self._scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode") for index in range(count)]

    def _warpPreview(self, fraction: float):
        """A second moving volume with the same voxels, under a second transform with the same displacements.

        A displacement scale that is set on the transform of the result itself would be saved and hardened.
        """
        if self._previewNode is None or self._previewNode.GetScene() is None:
            className = "vtkMRMLLinearTransformNode" if self._transformNode.IsLinear() else "vtkMRMLGridTransformNode"
            self._previewTransformNode = self._addHiddenNode(className, _("Warp preview"))
            if not self._transformNode.IsLinear():
                self._previewTransformNode.SetAndObserveTransformFromParent(
                    wholeGrid(self._transformNode, imageFromVolumeNode(self._fixedNode))
                )
            name = _("{name} warp preview").format(name=self._movingNode.GetName())
            self._previewNode = self._addHiddenNode("vtkMRMLScalarVolumeNode", name)
            self._previewNode.SetIJKToRASMatrix(vtkMatrix(ijkToWorld(self._movingNode)))
            self._previewNode.SetAndObserveImageData(self._movingNode.GetImageData())
            self._previewNode.CreateDefaultDisplayNodes()
            self._previewNode.SetAndObserveTransformNodeID(self._previewTransformNode.GetID())
        if self._transformNode.IsLinear():
            matrix = vtk.vtkMatrix4x4()
            self._transformNode.GetMatrixTransformFromParent(matrix)
            part = np.eye(4) + fraction * (arrayFromMatrix(matrix) - np.eye(4))
            self._previewTransformNode.SetMatrixTransformFromParent(vtkMatrix(part))
        else:
            self._previewTransformNode.GetTransformFromParent().SetDisplacementScale(fraction)
        return self._previewNode

    def _addHiddenNode(self, className: str, name: str):
        node = slicer.vtkMRMLScene.CreateNodeByClass(self._scene, className)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        return self._scene.AddNode(node)


def _windowed(volumeNode, array: np.ndarray) -> np.ndarray:
    """Gray values from 0 to 1 as the window of the volume displays them."""
    displayNode = volumeNode.GetDisplayNode()
    low, high = displayNode.GetWindowLevelMin(), displayNode.GetWindowLevelMax()
    return np.clip((array - low) / max(high - low, 1e-9), 0, 1)
