"""Transform nodes <-> transforms and displacement fields of the engine."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from .coordinates import FLIP, LPS_TO_RAS, arrayFromMatrix, ijkToRasOfImage, setGeometry, vtkMatrix


def transformFromNode(transformNode, image: sitk.Image, leastSpacingMm: float = 2.0) -> sitk.Transform:
    """World points -> points of what lies under the node, LPS mm: fixed -> moving for a node put on the moving volume.

    Linear and grid transforms are taken as they are; another one is sampled over the image (`sampledField`).
    """
    if transformNode.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformToWorld(matrix)
        lps = LPS_TO_RAS @ np.linalg.inv(arrayFromMatrix(matrix)) @ LPS_TO_RAS
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(lps[:3, :3].ravel().tolist())
        affine.SetTranslation(lps[:3, 3].tolist())
        return affine
    field = exactField(transformNode)
    if field is None:
        field = sampledField(transformNode, image, leastSpacingMm)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def exactField(transformNode) -> sitk.Image | None:
    """The displacement image in LPS mm of a node that holds one grid from parent; None for any other node."""
    grid = transformNode.GetTransformFromParentAs("vtkOrientedGridTransform", False, False)
    if grid is None or grid.GetInverseFlag() or transformNode.GetParentTransformNode() is not None:
        return None
    return _fieldFromGrid(grid)


def sampledField(transformNode, image: sitk.Image, leastSpacingMm: float) -> sitk.Image:
    """The displacement of world points, LPS mm, over the image: at every voxel, or every leastSpacingMm if more."""
    fromWorld = vtk.vtkGeneralTransform()
    transformNode.GetTransformFromWorld(fromWorld)
    spacing = np.maximum(np.array(image.GetSpacing()), leastSpacingMm)
    extent = (np.array(image.GetSize()) - 1) * np.array(image.GetSpacing())
    size = (np.ceil(extent / spacing) + 1).astype(int)
    axes = np.reshape(image.GetDirection(), (3, 3)) * spacing
    k, j, i = np.meshgrid(*[np.arange(n) for n in size[::-1]], indexing="ij")
    lps = np.stack([i, j, k], -1).reshape(-1, 3) @ axes.T + np.array(image.GetOrigin())
    start, end = vtk.vtkPoints(), vtk.vtkPoints()
    start.SetDataTypeToDouble()
    end.SetDataTypeToDouble()
    start.SetData(numpy_support.numpy_to_vtk(lps * FLIP, deep=True))
    fromWorld.TransformPoints(start, end)
    vectors = (numpy_support.vtk_to_numpy(end.GetData()) * FLIP - lps).astype(np.float32)
    field = sitk.GetImageFromArray(vectors.reshape(*size[::-1], 3), isVector=True)
    field.SetOrigin(image.GetOrigin())
    field.SetSpacing(spacing.tolist())
    field.SetDirection(image.GetDirection())
    return field


def _fieldFromGrid(grid) -> sitk.Image:
    """The displacement image in LPS mm of a vtkOrientedGridTransform: `gridTransform` backwards."""
    data = grid.GetDisplacementGrid()
    vectors = numpy_support.vtk_to_numpy(data.GetPointData().GetScalars()).astype(np.float32)
    vectors = vectors.reshape(*data.GetDimensions()[::-1], 3) * np.float32(grid.GetDisplacementScale() * FLIP)
    matrix = np.eye(4)
    matrix[:3, :3] = arrayFromMatrix(grid.GetGridDirectionMatrix())[:3, :3] * np.array(data.GetSpacing())
    matrix[:3, 3] = data.GetOrigin()
    field = sitk.GetImageFromArray(vectors, isVector=True)
    setGeometry(field, matrix, "transform")
    return field


def gridTransform(displacement: sitk.Image):
    """A vtkOrientedGridTransform x -> x + u(x) in RAS mm from a displacement image in LPS mm."""
    ijkToRas = ijkToRasOfImage(displacement)
    spacing = np.linalg.norm(ijkToRas[:3, :3], axis=0)
    vectors = sitk.GetArrayFromImage(displacement).astype(np.float32, copy=False)
    vectors[..., :2] *= -1
    grid = vtk.vtkImageData()
    grid.SetDimensions(displacement.GetSize())
    grid.SetSpacing(spacing)
    grid.SetOrigin(ijkToRas[:3, 3])
    grid.GetPointData().SetScalars(numpy_support.numpy_to_vtk(vectors.reshape(-1, 3), deep=True))
    axes = np.eye(4)
    axes[:3, :3] = ijkToRas[:3, :3] / spacing
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(grid)
    transform.SetGridDirectionMatrix(vtkMatrix(axes))
    transform.SetInterpolationModeToLinear()
    return transform


def affineMatrix(affine: sitk.AffineTransform) -> np.ndarray:
    """The 4x4 matrix in RAS mm of an affine in LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
    matrix[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS


def interpolateLinearly(transformNode) -> None:
    """Reading a file or scene leaves grids at cubic interpolation, which moves points by hundredths of a millimetre."""
    transform = transformNode.GetTransformFromParent()
    parts = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, transform)
    for index in range(parts.GetNumberOfItems()):
        part = parts.GetItemAsObject(index)
        if part.IsA("vtkOrientedGridTransform"):
            part.SetInterpolationModeToLinear()
