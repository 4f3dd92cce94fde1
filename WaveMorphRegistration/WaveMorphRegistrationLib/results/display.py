"""Display of single nodes: window and level, maps with their colors and legends, deformation grid, folding."""

from __future__ import annotations

import math

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ..scene.coordinates import ijkToWorld
from ..translation import _
from .sceneResult import FIXED_ROLE, MOVING_ROLE, OUTPUT_ATTRIBUTE

JACOBIAN_WINDOW = (0.25, 1.75)
GRID_SPACING_MM = 10.0
GRID_SPACING_3D_MM = 10.0  # at 5 mm, drawing a head takes half a minute
_GRID_MARGIN_MM = 10.0
_ERRORS_SHOWN_MM = (1e-6, 1e6)
_ERROR_OF_HEAD_MM, _HEAD_MM = 5.0, 200.0  # upper end of the window for a subject of this extent
_JACOBIAN_COLORS = (  # Jacobian, red, green, blue: moving tissue smaller, equal, larger than the fixed tissue
    (0.25, 0.02, 0.19, 0.58),
    (0.65, 0.26, 0.58, 0.86),
    (1.0, 0.97, 0.97, 0.97),
    (1.35, 0.94, 0.54, 0.38),
    (1.75, 0.60, 0.0, 0.12),
)
_ERROR_COLORS = (  # part of the window, red, green, blue: from cool and dark to warm and light, in equal steps
    (0.0, 0.05, 0.03, 0.53),
    (0.125, 0.29, 0.01, 0.63),
    (0.25, 0.49, 0.01, 0.66),
    (0.375, 0.66, 0.13, 0.59),
    (0.5, 0.80, 0.28, 0.47),
    (0.625, 0.90, 0.42, 0.36),
    (0.75, 0.97, 0.58, 0.25),
    (0.875, 0.99, 0.76, 0.15),
    (1.0, 0.98, 0.98, 0.12),
)


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
    displayNode = _colored(jacobianNode, jacobianColors(jacobianNode.GetScene()), JACOBIAN_WINDOW)
    displayNode.SetInterpolate(True)


def showExpectedError(errorNode, extentMm) -> None:
    """A sequential color map over `expectedErrorWindow`; transparent outside the subject, where the map is 0.

    extentMm: of the subject. Not interpolated: between the outermost voxels and the 0 outside lies no small error.
    """
    displayNode = _colored(errorNode, expectedErrorColors(errorNode.GetScene()), expectedErrorWindow(extentMm))
    displayNode.SetInterpolate(False)
    displayNode.AutoThresholdOff()
    displayNode.SetThreshold(*_ERRORS_SHOWN_MM)
    displayNode.ApplyThresholdOn()


def expectedErrorWindow(extentMm) -> tuple[float, float]:
    """0 to 5 mm for a head; for other subjects in proportion, rounded to 1, 2 or 5 times a power of ten.

    It depends on the size of the subject only, so that two cases can be compared visually: a window that follows the
    map would show a bad case in the colors of a good one.
    extentMm: of the subject, along three axes.
    """
    end = _ERROR_OF_HEAD_MM * max(extentMm) / _HEAD_MM
    decade = 10.0 ** math.floor(math.log10(end))
    return 0.0, min((step * decade for step in (1, 2, 5, 10)), key=lambda rounded: abs(math.log(end / rounded)))


def jacobianColors(scene):
    """The color node for Jacobians; created at the first call, and stored with the scene."""
    return _colorNode(
        scene,
        "WaveMorph.jacobianColors",
        _JACOBIAN_COLORS,
        _("WaveMorph Jacobian"),
        _("Blue where the moving tissue is smaller than the fixed tissue, red where it is larger."),
    )


def expectedErrorColors(scene):
    """The color node for expected errors; created at the first call, and stored with the scene."""
    return _colorNode(
        scene,
        "WaveMorph.expectedErrorColors",
        _ERROR_COLORS,
        _("WaveMorph expected error"),
        _("Dark blue where a small error is expected, yellow where a large one is."),
    )


def showLegend(mapNode, colorLogic):
    """Show the color legend of a map in the slice views; returns the legend's display node."""
    legend = colorLogic.GetColorLegendDisplayNode(mapNode)
    if legend is None:
        title, labelFormat, labels = _LEGENDS[mapNode.GetAttribute(OUTPUT_ATTRIBUTE)]()
        legend = colorLogic.AddDefaultColorLegendDisplayNode(mapNode)
        legend.SetTitleText(title)
        legend.SetLabelFormat(labelFormat)
        legend.SetNumberOfLabels(labels)
        legend.SetPosition(0.97, 0.5)
        legend.SetSize(0.12, 0.5)
    _setVisibility(legend, True)
    return legend


def hideLegend(mapNode, colorLogic) -> None:
    """Hide the color legend of a map, if it has one."""
    legend = colorLogic.GetColorLegendDisplayNode(mapNode)
    if legend is not None and legend.GetVisibility():
        _setVisibility(legend, False)


_LEGENDS = {  # output: title, format of the labels, their number
    "jacobian": lambda: (_("Jacobian"), "%.2f", 5),
    "expectedError": lambda: (_("Expected\nerror (mm)"), "%g", 6),
}


def _setVisibility(legend, visible: bool) -> None:
    legend.SetVisibility(visible)
    legend.SetVisibility2D(visible)
    legend.Modified()  # it is drawn only after a change at which its volume is a layer


def _colored(mapNode, colorNode, window: tuple[float, float]):
    """The display node of a map in these colors over this window."""
    mapNode.CreateDefaultDisplayNodes()
    displayNode = mapNode.GetDisplayNode()
    displayNode.SetAndObserveColorNodeID(colorNode.GetID())
    displayNode.AutoWindowLevelOff()
    displayNode.SetWindowLevelMinMax(*window)
    return displayNode


def _colorNode(scene, attribute: str, points: tuple, name: str, description: str):
    className = "vtkMRMLProceduralColorNode"
    known = (scene.GetNthNodeByClass(index, className) for index in range(scene.GetNumberOfNodesByClass(className)))
    node = next((node for node in known if node.GetAttribute(attribute)), None)
    if node is None:
        node = slicer.vtkMRMLProceduralColorNode()
        node.SetName(name)
        node.SetAttribute(attribute, "1")
        node.SetDescription(description)
        function = node.GetColorTransferFunction()
        function.RemoveAllPoints()
        for point in points:
            function.AddRGBPoint(*point)
        node = scene.AddNode(node)
    return node


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
