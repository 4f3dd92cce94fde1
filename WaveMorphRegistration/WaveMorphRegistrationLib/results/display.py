"""Display of single nodes: window and level, deformation grid, folding; the maps are in mapDisplay.py."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ..scene.coordinates import ijkToWorld
from ..translation import _
from .sceneResult import FIXED_ROLE, MOVING_ROLE

GRID_SPACING_MM = 10.0
GRID_SPACING_3D_MM = 10.0  # at 5 mm, drawing a head takes half a minute
_GRID_MARGIN_MM = 10.0


def displayAs(sourceNode, volumeNode) -> None:
    """Display a volume with the window, level and colors of another one."""
    sourceNode.CreateDefaultDisplayNodes()
    volumeNode.CreateDefaultDisplayNodes()
    source, shown = sourceNode.GetDisplayNode(), volumeNode.GetDisplayNode()
    shown.SetAndObserveColorNodeID(source.GetColorNodeID())
    shown.AutoWindowLevelOff()
    shown.SetWindowLevel(source.GetWindow(), source.GetLevel())
    shown.SetInterpolate(source.GetInterpolate())


def shadesOf(rgb):
    """A color node, not in a scene and not saved with it, from black to one color."""
    colors = slicer.vtkMRMLProceduralColorNode()
    colors.SetHideFromEditors(True)
    colors.SetSaveWithScene(False)
    function = colors.GetColorTransferFunction()
    function.RemoveAllPoints()
    function.AddRGBPoint(0.0, 0.0, 0.0, 0.0)
    function.AddRGBPoint(255.0, *rgb)
    return colors


def showGrid(
    transformNode, regionNode, spacingMm: float = GRID_SPACING_MM, visible: bool = True, visible3D: bool = False
) -> None:
    """Show or hide the deformation grid, which is drawn from the moving side, as for all transforms in Slicer.

    regionNode: bounds the grid in 3D views. Drawing it there inverts the transform at every point of its lines, which
    is slow: the lines are at least GRID_SPACING_3D_MM apart then, and have fewer points.
    spacingMm: distance between the lines of the grid.
    """
    spacingMm = max(spacingMm, GRID_SPACING_3D_MM) if visible3D else spacingMm
    transformNode.CreateDefaultDisplayNodes()
    displayNode = transformNode.GetDisplayNode()
    modified = displayNode.StartModify()
    displayNode.SetVisualizationMode(displayNode.VIS_MODE_GRID)
    displayNode.SetAndObserveRegionNode(regionNode)
    displayNode.SetGridSpacingMm(spacingMm)
    displayNode.SetGridResolutionMm(spacingMm / (2 if visible3D else 5))
    displayNode.SetGridLineDiameterMm(spacingMm / 20)
    displayNode.SetVisibility(visible or visible3D)
    displayNode.SetVisibility2D(visible)
    displayNode.SetVisibility3D(visible3D)
    displayNode.EndModify(modified)


def gridRegion(volumeNode):
    """A model node, not in a scene, whose bounds are the box around the subject in a volume, RAS mm."""
    imageData = volumeNode.GetImageData()
    array = numpy_support.vtk_to_numpy(imageData.GetPointData().GetScalars()).reshape(imageData.GetDimensions()[::-1])
    step = max(1, min(array.shape) // 64)
    sampled = array[::step, ::step, ::step]
    kji = step * np.argwhere(sampled > sampled.mean())
    low, high = np.percentile(kji, (1, 99), axis=0)[:, ::-1] if len(kji) else (np.zeros(3), np.array(array.shape)[::-1])
    corners = np.array([[i, j, k, 1] for i in (low[0], high[0]) for j in (low[1], high[1]) for k in (low[2], high[2])])
    points = (ijkToWorld(volumeNode) @ corners.T)[:3]
    box = vtk.vtkCubeSource()
    low, high = points.min(axis=1) - _GRID_MARGIN_MM, points.max(axis=1) + _GRID_MARGIN_MM
    box.SetBounds(*[bound for pair in zip(low, high) for bound in pair])
    box.Update()
    node = slicer.vtkMRMLModelNode()
    node.SetAndObservePolyData(box.GetOutput())
    return node


def foldingSegmentation(labelNode):
    """Replace a label map of folded voxels by a segmentation with one red segment; returns the segmentation node."""
    scene, name = labelNode.GetScene(), labelNode.GetName()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labelNode, node)
    segment = node.GetSegmentation().GetNthSegment(0)
    segment.SetName(_("folded"))
    segment.SetColor(1.0, 0.0, 0.0)
    for role in (FIXED_ROLE, MOVING_ROLE):
        node.SetNodeReferenceID(role, labelNode.GetNodeReferenceID(role))
    node.CreateDefaultDisplayNodes()
    for replaced in (labelNode, labelNode.GetDisplayNode()):
        scene.RemoveNode(replaced)
    return node
