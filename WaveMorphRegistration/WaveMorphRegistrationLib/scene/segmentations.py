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
    """A label map node, or a segmentation with its segments numbered from 1, as an image in LPS mm.

    A segmentation is sampled on the lattice of referenceNode. Raises InputError where there is no voxel.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        return imageFromVolumeNode(node, name)
    merged = slicer.vtkOrientedImageData()
    reference = slicer.vtkOrientedImageData()
    reference.SetDimensions(referenceNode.GetImageData().GetDimensions())
    reference.SetImageToWorldMatrix(vtkMatrix(_segmentationFromReference(node, referenceNode)))
    if not _ids(node) or not node.GenerateMergedLabelmapForAllSegments(
        merged, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, reference, None
    ):
        raise InputError(_("The {name} {node} has no segments.").format(name=name, node=node.GetName()))
    scalars = numpy_support.vtk_to_numpy(merged.GetPointData().GetScalars())
    image = sitk.GetImageFromArray(scalars.reshape(merged.GetDimensions()[::-1]))
    setGeometry(image, ijkToWorld(referenceNode, name), name)
    return image


def segmentNames(node) -> dict[int, str]:
    """What `labelsFromNode` calls the segments of a segmentation, or the colours of a label map."""
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        return {number + 1: segmentation.GetSegment(segmentId).GetName() for number, segmentId in enumerate(_ids(node))}
    colours = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
    if colours is None:
        return {}
    values = np.unique(numpy_support.vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()))
    return {int(value): colours.GetColorName(int(value)) for value in values if value > 0}


def _ids(segmentationNode) -> list[str]:
    segmentation = segmentationNode.GetSegmentation()
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


def _segmentationFromReference(segmentationNode, referenceNode) -> np.ndarray:
    """Voxels of the reference -> the segmentation's own space, RAS mm."""
    own = np.eye(4)
    parent = segmentationNode.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise InputError(
                _("The segmentation {name} lies under the non-linear transform {parent}; harden it first.").format(
                    name=segmentationNode.GetName(), parent=parent.GetName()
                )
            )
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        own = np.linalg.inv(arrayFromMatrix(toWorld))
    return own @ ijkToWorld(referenceNode)
