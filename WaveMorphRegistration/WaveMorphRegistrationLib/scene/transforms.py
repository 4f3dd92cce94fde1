"""Transform nodes <-> transforms and displacement images of the engine.

The engine's transforms map fixed points to moving points, LPS mm. MRML calls this direction "from parent", in RAS mm: a
moving volume under such a node is aligned with the fixed one.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from .coordinates import FLIP_XY, LPS_TO_RAS, arrayFromMatrix, ijkToRasOfImage, setGeometry, vtkMatrix


def transformFromNode(transformNode, image: sitk.Image, minSpacingMm: float = 2.0) -> sitk.Transform:
    """The map from world points to points of what is under the node, LPS mm: fixed -> moving on a moving volume.

    Linear and grid transforms are exact. Any other one is sampled over the image, every minSpacingMm or coarser.
    """
    if transformNode.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformToWorld(matrix)
        lps = LPS_TO_RAS @ np.linalg.inv(arrayFromMatrix(matrix)) @ LPS_TO_RAS
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(lps[:3, :3].ravel().tolist())
        affine.SetTranslation(lps[:3, 3].tolist())
        return affine
    displacement = storedDisplacement(transformNode)
    if displacement is None:
        displacement = sampledDisplacement(transformNode, image, minSpacingMm)
    return sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))


def storedDisplacement(transformNode) -> sitk.Image | None:
    """The displacement image, LPS mm, of a node that holds one grid transform from parent; None for any other node."""
    grid = transformNode.GetTransformFromParentAs("vtkOrientedGridTransform", False, False)
    if grid is None or grid.GetInverseFlag() or transformNode.GetParentTransformNode() is not None:
        return None
    return _displacementOfGrid(grid)


def sampledDisplacement(transformNode, image: sitk.Image, minSpacingMm: float) -> sitk.Image:
    """The displacement of world points, LPS mm, over the image: at its voxels, or every minSpacingMm where finer."""
    fromWorld = vtk.vtkGeneralTransform()
    transformNode.GetTransformFromWorld(fromWorld)
    spacing = np.maximum(np.array(image.GetSpacing()), minSpacingMm)
    extent = (np.array(image.GetSize()) - 1) * np.array(image.GetSpacing())
    size = (np.ceil(extent / spacing) + 1).astype(int)
    axes = np.reshape(image.GetDirection(), (3, 3)) * spacing
    k, j, i = np.meshgrid(*[np.arange(n) for n in size[::-1]], indexing="ij")
    lps = np.stack([i, j, k], -1).reshape(-1, 3) @ axes.T + np.array(image.GetOrigin())
    start, end = vtk.vtkPoints(), vtk.vtkPoints()
    start.SetDataTypeToDouble()
    end.SetDataTypeToDouble()
    start.SetData(numpy_support.numpy_to_vtk(lps * FLIP_XY, deep=True))
    fromWorld.TransformPoints(start, end)
    vectors = (numpy_support.vtk_to_numpy(end.GetData()) * FLIP_XY - lps).astype(np.float32)
    displacement = sitk.GetImageFromArray(vectors.reshape(*size[::-1], 3), isVector=True)
    displacement.SetOrigin(image.GetOrigin())
    displacement.SetSpacing(spacing.tolist())
    displacement.SetDirection(image.GetDirection())
    return displacement


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


def linearTransform(matrix: np.ndarray):
    """A vtkTransform from a 4x4 matrix."""
    transform = vtk.vtkTransform()
    transform.SetMatrix(vtkMatrix(matrix))
    return transform


def affineMatrix(affine: sitk.AffineTransform) -> np.ndarray:
    """The 4x4 matrix in RAS mm of an affine transform in LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
    matrix[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS


def interpolateLinearly(transformNode) -> None:
    """Set every grid of the node to linear interpolation, as ITK uses it.

    Grids read from a file or a scene are interpolated cubically, which moves points by hundredths of a millimeter.
    """
    transform = transformNode.GetTransformFromParent()
    parts = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, transform)
    for index in range(parts.GetNumberOfItems()):
        part = parts.GetItemAsObject(index)
        if part.IsA("vtkOrientedGridTransform"):
            part.SetInterpolationModeToLinear()


def _displacementOfGrid(grid) -> sitk.Image:
    """The displacement image in LPS mm of a vtkOrientedGridTransform: the reverse of `gridTransform`."""
    data = grid.GetDisplacementGrid()
    vectors = numpy_support.vtk_to_numpy(data.GetPointData().GetScalars()).astype(np.float32)
    vectors = vectors.reshape(*data.GetDimensions()[::-1], 3) * np.float32(grid.GetDisplacementScale() * FLIP_XY)
    matrix = np.eye(4)
    matrix[:3, :3] = arrayFromMatrix(grid.GetGridDirectionMatrix())[:3, :3] * np.array(data.GetSpacing())
    matrix[:3, 3] = data.GetOrigin()
    displacement = sitk.GetImageFromArray(vectors, isVector=True)
    setGeometry(displacement, matrix, "transform")
    return displacement
