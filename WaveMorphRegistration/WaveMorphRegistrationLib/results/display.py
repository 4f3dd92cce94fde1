"""Display of a result: slice layers, Jacobian colors and legend, deformation grid, folding; views are optional."""

from __future__ import annotations

import slicer

from ..translation import _
from .sceneResult import FIXED_ROLE, MOVING_ROLE

JACOBIAN_WINDOW = (0.25, 1.75)
GRID_SPACING_MM = 10.0
_COLORS_ATTRIBUTE = "WaveMorph.jacobianColors"
_COLORS = (  # Jacobian, red, green, blue: moving tissue smaller, equal, larger than the fixed tissue
    (0.25, 0.02, 0.19, 0.58),
    (0.65, 0.26, 0.58, 0.86),
    (1.0, 0.97, 0.97, 0.97),
    (1.35, 0.94, 0.54, 0.38),
    (1.75, 0.60, 0.0, 0.12),
)


def showResult(nodes, fixedNode) -> None:
    """Layers, colors and grid for the `ResultNodes` of one registration."""
    if nodes.jacobian is not None:
        showJacobian(nodes.jacobian)
    if nodes.grid is not None:
        showGrid(nodes.grid, fixedNode)
    showOverlay(fixedNode, nodes.warped)


def showOverlay(fixedNode, warpedNode, opacity: float = 0.5) -> None:
    """In all slice views: the fixed volume as background, the warped one as foreground (None: no foreground)."""
    scene = fixedNode.GetScene()
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        composite = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        composite.SetBackgroundVolumeID(fixedNode.GetID())
        composite.SetForegroundVolumeID(warpedNode.GetID() if warpedNode is not None else None)
        composite.SetForegroundOpacity(opacity)


def displayAs(sourceNode, volumeNode) -> None:
    """Display a volume with the window, level and colors of another one."""
    sourceNode.CreateDefaultDisplayNodes()
    volumeNode.CreateDefaultDisplayNodes()
    source, shown = sourceNode.GetDisplayNode(), volumeNode.GetDisplayNode()
    shown.SetAndObserveColorNodeID(source.GetColorNodeID())
    shown.AutoWindowLevelOff()
    shown.SetWindowLevel(source.GetWindow(), source.GetLevel())
    shown.SetInterpolate(source.GetInterpolate())


def showJacobian(jacobianNode) -> None:
    """A diverging color map, white at 1, over a constant window, so that two cases can be compared visually."""
    jacobianNode.CreateDefaultDisplayNodes()
    displayNode = jacobianNode.GetDisplayNode()
    displayNode.SetAndObserveColorNodeID(jacobianColors(jacobianNode.GetScene()).GetID())
    displayNode.AutoWindowLevelOff()
    displayNode.SetWindowLevelMinMax(*JACOBIAN_WINDOW)
    displayNode.SetInterpolate(True)


def jacobianColors(scene):
    """The color node for Jacobians; created at the first call, and stored with the scene."""
    className = "vtkMRMLProceduralColorNode"
    known = (scene.GetNthNodeByClass(index, className) for index in range(scene.GetNumberOfNodesByClass(className)))
    node = next((node for node in known if node.GetAttribute(_COLORS_ATTRIBUTE)), None)
    if node is None:
        node = slicer.vtkMRMLProceduralColorNode()
        node.SetName(_("WaveMorph Jacobian"))
        node.SetAttribute(_COLORS_ATTRIBUTE, "1")
        node.SetDescription(_("Blue where the moving tissue is smaller than the fixed tissue, red where it is larger."))
        function = node.GetColorTransferFunction()
        function.RemoveAllPoints()
        for point in _COLORS:
            function.AddRGBPoint(*point)
        node = scene.AddNode(node)
    return node


def showLegend(jacobianNode, colorLogic, visible: bool = True):
    """Show or hide the color legend of a Jacobian in the slice views; returns the legend's display node."""
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
    """Show or hide the deformation grid, which is drawn from the moving side, as for all transforms in Slicer.

    regionNode: bounds the grid in 3D views; drawing it there is slow, so it is off by default.
    spacingMm: distance between the lines of the grid.
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
