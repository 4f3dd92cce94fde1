"""Segmentation and label map nodes -> label images of the engine."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support
from wavemorph.errors import InputError

from ..translation import _
from .coordinates import arrayFromMatrix, ijkToWorld, setGeometry, vtkMatrix
from .volumes import imageFromVolumeNode


def labelsFromNode(node, referenceNode, name: str = "label map") -> sitk.Image:
    """A label image in LPS mm from a label map node or a segmentation node.

    The segments of a segmentation are numbered from 1 and sampled on the voxels of referenceNode.
    name: what a message calls the node.
    Raises InputError where there are no voxels or no segments, or where a parent transform is unsuitable.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        return imageFromVolumeNode(node, name)
    merged = slicer.vtkOrientedImageData()
    reference = slicer.vtkOrientedImageData()
    reference.SetDimensions(referenceNode.GetImageData().GetDimensions())
    reference.SetImageToWorldMatrix(vtkMatrix(_ijkToSegmentation(node, referenceNode)))
    if not _segmentIds(node) or not node.GenerateMergedLabelmapForAllSegments(
        merged, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, reference, None
    ):
        raise InputError(_("The {name} {node} has no segments.").format(name=name, node=node.GetName()))
    scalars = numpy_support.vtk_to_numpy(merged.GetPointData().GetScalars())
    image = sitk.GetImageFromArray(scalars.reshape(merged.GetDimensions()[::-1]))
    setGeometry(image, ijkToWorld(referenceNode, name), name)
    return image


def segmentNames(node) -> dict[int, str]:
    """The name of each label of `labelsFromNode`: of the segment, or of the color of a label map."""
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        names = (segmentation.GetSegment(segmentId).GetName() for segmentId in _segmentIds(node))
        return dict(enumerate(names, 1))
    colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
    if colors is None:
        return {}
    values = np.unique(numpy_support.vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()))
    return {int(value): colors.GetColorName(int(value)) for value in values if value > 0}


def _segmentIds(segmentationNode) -> list[str]:
    segmentation = segmentationNode.GetSegmentation()
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


def _ijkToSegmentation(segmentationNode, referenceNode) -> np.ndarray:
    """The 4x4 matrix from voxel indices of the reference to the segmentation's own coordinates, RAS mm."""
    worldToSegmentation = np.eye(4)
    parent = segmentationNode.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise InputError(
                _("The segmentation {name} is under the non-linear transform {parent}; harden it first.").format(
                    name=segmentationNode.GetName(), parent=parent.GetName()
                )
            )
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        worldToSegmentation = np.linalg.inv(arrayFromMatrix(toWorld))
    return worldToSegmentation @ ijkToWorld(referenceNode)
