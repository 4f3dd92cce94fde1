"""Segmentation and label map nodes -> label images and masks of the engine.

Segments may overlap (a tumor within a target within a planning volume), so that one label image cannot hold them all.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support
from wavemorph.errors import InputError

from ..translation import _
from .coordinates import arrayFromMatrix, ijkToWorld, setGeometry, vtkMatrix
from .volumes import imageFromVolumeNode


@dataclass
class LabelLayer:
    """A label image, LPS mm, of structures that do not overlap, and the name of each label that it holds."""

    image: sitk.Image
    names: dict[int, str]


def labelLayers(node, referenceNode, name: str = "label map") -> Generator[None, None, list[LabelLayer]]:
    """The structures of a label map node, or of a segmentation node on the voxels of referenceNode.

    A generator that yields after each segment, of which there may be hundreds, and returns the layers. A segment has
    its position in the segmentation, from 1, as label, and is in the first layer where it overlaps no other one. All
    layers of one node have the same geometry.
    name: what a message calls the node.
    Raises InputError where there are no voxels or no segments, or where a parent transform is unsuitable.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        image = imageFromVolumeNode(node, name)
        return [LabelLayer(image, _labelNames(node))]
    source = _withLabelMaps(node, referenceNode, name)
    arrays: list[np.ndarray] = []
    names: list[dict[int, str]] = []
    for label, (segmentId, segmentName) in enumerate(segments(node), 1):
        inside = _segmentArray(source, [segmentId], node, referenceNode, name) != 0
        layer = next((n for n, array in enumerate(arrays) if not array[inside].any()), len(arrays))
        if layer == len(arrays):
            arrays.append(np.zeros(inside.shape, np.int16))
            names.append({})
        arrays[layer][inside] = label
        if inside.any():
            names[layer][label] = segmentName
        yield
    if not arrays:
        raise InputError(_("The {name} {node} has no segments.").format(name=name, node=node.GetName()))
    return [LabelLayer(_imageOn(referenceNode, array, name), named) for array, named in zip(arrays, names)]


def maskFromNode(node, referenceNode, name: str = "mask", segmentId: str = "") -> sitk.Image:
    """A mask in LPS mm: the union of all segments on the voxels of referenceNode, or one of them; or a label map.

    segmentId: of the one segment; empty for all. It is ignored for a label map.
    Raises InputError as `labelLayers`, and where the segment was deleted.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        return imageFromVolumeNode(node, name)
    known = [each for each, _segmentName in segments(node)]
    if not known:
        raise InputError(_("The {name} {node} has no segments.").format(name=name, node=node.GetName()))
    if segmentId and segmentId not in known:
        raise InputError(
            _("The segment that was chosen as {name} is no longer in {node}; choose another one.").format(
                name=name, node=node.GetName()
            )
        )
    source = _withLabelMaps(node, referenceNode, name)
    array = _segmentArray(source, [segmentId] if segmentId else known, node, referenceNode, name)
    return _imageOn(referenceNode, (array != 0).astype(np.uint8), name)


def segments(segmentationNode) -> list[tuple[str, str]]:
    """(ID, name) of each segment, in their order."""
    segmentation = segmentationNode.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return [(segmentId, segmentation.GetSegment(segmentId).GetName()) for segmentId in ids]


def _labelNames(labelNode) -> dict[int, str]:
    """The name of each label of a label map: that of its color, or its number."""
    colors = labelNode.GetDisplayNode().GetColorNode() if labelNode.GetDisplayNode() is not None else None
    values = np.unique(numpy_support.vtk_to_numpy(labelNode.GetImageData().GetPointData().GetScalars()))
    labels = [int(value) for value in values if value > 0]
    return {label: (colors.GetColorName(label) if colors is not None else "") or str(label) for label in labels}


def _withLabelMaps(node, referenceNode, name: str):
    """The node, or where its segments are surfaces or contours, a copy outside the scene that has label maps of them.

    Raises InputError where they cannot be converted.
    """
    converter, segmentation = slicer.vtkSegmentationConverter, node.GetSegmentation()
    labelMap = converter.GetSegmentationBinaryLabelmapRepresentationName()
    if not segmentation.GetNumberOfSegments() or segmentation.ContainsRepresentation(labelMap):
        return node
    copy = slicer.vtkMRMLSegmentationNode()
    copy.SetName(node.GetName())
    copy.GetSegmentation().DeepCopy(segmentation)
    matrix = vtkMatrix(_ijkToSegmentation(node, referenceNode, name))
    geometry = converter.SerializeImageGeometry(matrix, referenceNode.GetImageData())
    copy.GetSegmentation().SetConversionParameter(converter.GetReferenceImageGeometryParameterName(), geometry)
    isConverted = copy.GetSegmentation().CreateRepresentation(labelMap) and len(segments(copy)) == len(segments(node))
    if not isConverted or not copy.GetSegmentation().ContainsRepresentation(labelMap):
        raise InputError(
            _(
                "The segments of the {name} {node} are not label maps ({kind}) and cannot be converted; create the "
                "binary labelmap in the module Segmentations."
            ).format(name=name, node=node.GetName(), kind=segmentation.GetSourceRepresentationName())
        )
    return copy


def _segmentArray(source, segmentIds: list[str], node, referenceNode, name: str) -> np.ndarray:
    """The voxels (k, j, i) of referenceNode, not 0 in any of the segments; source: of `_withLabelMaps`."""
    reference, merged, wanted = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData(), vtk.vtkStringArray()
    reference.SetDimensions(referenceNode.GetImageData().GetDimensions())
    reference.SetImageToWorldMatrix(vtkMatrix(_ijkToSegmentation(node, referenceNode, name)))
    for segmentId in segmentIds:
        wanted.InsertNextValue(segmentId)
    geometry = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not source.GenerateMergedLabelmapForAllSegments(merged, geometry, reference, wanted):
        raise InputError(_("The {name} {node} has no segments.").format(name=name, node=node.GetName()))
    scalars = numpy_support.vtk_to_numpy(merged.GetPointData().GetScalars())
    return scalars.reshape(merged.GetDimensions()[::-1])


def _imageOn(referenceNode, array: np.ndarray, name: str) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    setGeometry(image, ijkToWorld(referenceNode, name), name)
    return image


def _ijkToSegmentation(segmentationNode, referenceNode, name: str) -> np.ndarray:
    """The 4x4 matrix from voxel indices of the reference to the segmentation's own coordinates, RAS mm."""
    worldToSegmentation = np.eye(4)
    parent = segmentationNode.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise InputError(
                _("The {name} {node} is under the non-linear transform {parent}; harden it first.").format(
                    name=name, node=segmentationNode.GetName(), parent=parent.GetName()
                )
            )
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        worldToSegmentation = np.linalg.inv(arrayFromMatrix(toWorld))
    return worldToSegmentation @ ijkToWorld(referenceNode, name)
