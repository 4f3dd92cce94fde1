"""How a result is shown: slice layers, Jacobian colours, deformation grid; works on nodes, with or without views."""

from __future__ import annotations

import slicer

from ..translation import _
from .resultNodes import FIXED_ROLE, MOVING_ROLE

JACOBIAN_WINDOW = (0.25, 1.75)
GRID_SPACING_MM = 10.0
_COLOURS_NAME = "WaveMorph Jacobian"
_COLOURS = (  # Jacobian, red, green, blue: moving tissue smaller, equal, larger than the fixed
    (0.25, 0.02, 0.19, 0.58),
    (0.65, 0.26, 0.58, 0.86),
    (1.0, 0.97, 0.97, 0.97),
    (1.35, 0.94, 0.54, 0.38),
    (1.75, 0.60, 0.0, 0.12),
)


def showOverlay(fixedNode, warpedNode, opacity: float = 0.5) -> None:
    """All slice views: the fixed volume behind, the warped one before it."""
    scene = fixedNode.GetScene()
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        composite = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        composite.SetBackgroundVolumeID(fixedNode.GetID())
        composite.SetForegroundVolumeID(warpedNode.GetID() if warpedNode is not None else None)
        composite.SetForegroundOpacity(opacity)


def showJacobian(jacobianNode) -> None:
    """A diverging colour map, white at 1, over a fixed window, so that two cases can be compared by eye."""
    jacobianNode.CreateDefaultDisplayNodes()
    displayNode = jacobianNode.GetDisplayNode()
    displayNode.SetAndObserveColorNodeID(jacobianColours(jacobianNode.GetScene()).GetID())
    displayNode.AutoWindowLevelOff()
    displayNode.SetWindowLevelMinMax(*JACOBIAN_WINDOW)
    displayNode.SetInterpolate(True)


def jacobianColours(scene):
    """The colour node for Jacobians; made at the first call, and stored with the scene."""
    node = scene.GetFirstNode(_COLOURS_NAME, "vtkMRMLProceduralColorNode")
    if node is None:
        node = slicer.vtkMRMLProceduralColorNode()
        node.SetName(_COLOURS_NAME)
        node.SetDescription(_("Blue where the moving tissue is smaller than the fixed, red where it is larger."))
        function = node.GetColorTransferFunction()
        function.RemoveAllPoints()
        for point in _COLOURS:
            function.AddRGBPoint(*point)
        node = scene.AddNode(node)
    return node


def showLegend(jacobianNode, colorLogic, visible: bool = True):
    """The colour legend of a Jacobian in the slice views; its display node."""
    legend = colorLogic.GetColorLegendDisplayNode(jacobianNode)
    if legend is None:
        legend = colorLogic.AddDefaultColorLegendDisplayNode(jacobianNode)
        legend.SetTitleText(_("Jacobian"))
        legend.SetLabelFormat("%.2f")
        legend.SetNumberOfLabels(5)
        legend.SetPosition(0.97, 0.5)
        legend.SetSize(0.12, 0.5)
    legend.SetVisibility(visible)
    legend.SetVisibility2D(visible)
    return legend


def showGrid(
    transformNode, regionNode, spacingMm: float = GRID_SPACING_MM, visible: bool = True, visible3D: bool = False
) -> None:
    """The deformation grid in the slice views. It shows where moving anatomy goes, as Slicer draws all transforms.

    regionNode bounds the grid in 3D views, where it stays off until asked for, because it is slow to draw.
    """
    transformNode.CreateDefaultDisplayNodes()
    displayNode = transformNode.GetDisplayNode()
    displayNode.SetVisualizationMode(displayNode.VIS_MODE_GRID)
    displayNode.SetAndObserveRegionNode(regionNode)
    displayNode.SetGridSpacingMm(spacingMm)
    displayNode.SetGridResolutionMm(spacingMm / 5)
    displayNode.SetGridLineDiameterMm(spacingMm / 20)
    displayNode.SetVisibility(visible or visible3D)
    displayNode.SetVisibility2D(visible)
    displayNode.SetVisibility3D(visible3D)


def foldingSegmentation(labelNode):
    """A segmentation in place of a label map of folded voxels, in red; the label map is removed."""
    scene, name = labelNode.GetScene(), labelNode.GetName()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labelNode, node)
    segment = node.GetSegmentation().GetNthSegment(0)
    segment.SetName(_("folded"))
    segment.SetColor(1.0, 0.0, 0.0)
    for role in (FIXED_ROLE, MOVING_ROLE):
        node.SetNodeReferenceID(role, labelNode.GetNodeReferenceID(role))
    node.CreateDefaultDisplayNodes()
    for old in (labelNode, labelNode.GetDisplayNode()):
        scene.RemoveNode(old)
    return node


def showResult(nodes, fixedNode) -> None:
    """Layers, colours and grid for the nodes of one registration."""
    if nodes.jacobian is not None:
        showJacobian(nodes.jacobian)
    if nodes.transform is not None:
        showGrid(nodes.transform, fixedNode)
    showOverlay(fixedNode, nodes.warped)
