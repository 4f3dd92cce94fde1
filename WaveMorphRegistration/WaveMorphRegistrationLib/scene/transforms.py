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
from wavemorph.io.fields import is_invertible_beyond_field, rounded_whole_field
from wavemorph.io.result import Registration
from wavemorph.io.transforms.field_arrays import Field
from wavemorph.io.transforms.rounding import round_vectors

from .coordinates import FLIP_XY, LPS_TO_RAS, arrayFromMatrix, ijkToRasOfImage, setGeometry, vtkMatrix

_LPS_TO_RAS_VECTOR = np.array([-1, -1, 1], np.float32)


def transformFromNode(transformNode, image: sitk.Image, minSpacingMm: float = 2.0) -> sitk.Transform:
    """The map from world points to points of what is under the node, LPS mm: fixed -> moving on a moving volume.

    Linear and grid transforms, and what is composed of them, are exact, and go on beyond the image. Any other transform
    is sampled over the image, every minSpacingMm or coarser.
    """
    parts = vtk.vtkCollection()
    fromWorld = vtk.vtkGeneralTransform()
    transformNode.GetTransformFromWorld(fromWorld)
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, fromWorld)
    converted = [_partAsItk(parts.GetItemAsObject(index)) for index in range(parts.GetNumberOfItems())]
    if None in converted:
        displacement = sampledDisplacement(transformNode, image, minSpacingMm)
        return sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    if not converted:
        return sitk.AffineTransform(3)
    return (
        converted[0] if len(converted) == 1 else sitk.CompositeTransform(converted[::-1])
    )  # ITK applies the last first


def _partAsItk(part) -> sitk.Transform | None:
    """A linear or a grid transform in LPS mm; None for any other, and for the inverse of a grid."""
    part.Update()
    if part.IsA("vtkLinearTransform"):
        lps = LPS_TO_RAS @ arrayFromMatrix(part.GetMatrix()) @ LPS_TO_RAS
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(lps[:3, :3].ravel().tolist())
        affine.SetTranslation(lps[:3, 3].tolist())
        return affine
    if part.IsA("vtkOrientedGridTransform") and not part.GetInverseFlag():
        return sitk.DisplacementFieldTransform(sitk.Cast(_displacementOfGrid(part), sitk.sitkVectorFloat64))
    return None


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


def wholeTransform(registration: Registration):
    """The transform of a registration in RAS mm, fixed -> moving: linear, or one grid with the whole map.

    VTK continues the edge of a grid. Where the affine turns so far that the map could then not be inverted, the affine
    is beside a grid of the deformation alone.
    """
    if registration.is_linear:
        return linearTransform(affineMatrix(registration.affine))
    if registration.field is None and not is_invertible_beyond_field(registration):
        transform = vtk.vtkGeneralTransform()
        transform.PostMultiply()
        transform.Concatenate(gridTransform(registration.displacement))
        transform.Concatenate(vtkMatrix(affineMatrix(registration.affine)))
        return transform
    return _gridOfField(rounded_whole_field(registration))


def inverseTransform(registration: Registration):
    """Moving points -> fixed points, RAS mm: linear, or one grid with the whole inverse.

    Where no such field was made: the affine's inverse, then both parts, as in `Registration.inverse`.
    """
    if registration.inverse_field is not None:
        return _gridOfField(registration.inverse_field)
    inverseMatrix = np.linalg.inv(affineMatrix(registration.affine))
    if registration.is_linear:
        return linearTransform(inverseMatrix)
    transform = vtk.vtkGeneralTransform()
    transform.PostMultiply()
    transform.Concatenate(vtkMatrix(inverseMatrix))
    transform.Concatenate(gridTransform(registration.inverse_displacement))
    transform.Concatenate(gridTransform(registration.inverse_correction))
    return transform


def _gridOfField(field: Field):
    """A vtkOrientedGridTransform in RAS mm from a field in LPS mm, as it is."""
    grid, vectors = _emptyGrid(field.lattice)
    _flip(field.vectors, vectors)
    return _gridOf(grid, _directionMatrix(field.lattice))


def gridTransform(displacement: sitk.Image):
    """A vtkOrientedGridTransform x -> x + u(x) in RAS mm from a displacement image in LPS mm, rounded to compress."""
    grid, vectors = _emptyGrid(displacement)
    vectors[...] = sitk.GetArrayViewFromImage(displacement)
    round_vectors(vectors, displacement, np.eye(3))
    _flip(vectors, vectors)
    return _gridOf(grid, _directionMatrix(displacement))


def setTransformFromParent(transformNode, transform) -> None:
    """Let a node hold a transform, and choose the smallest file that can hold it: compressed where it is one grid."""
    transformNode.SetAndObserveTransformFromParent(transform)
    transformNode.AddDefaultStorageNode()
    isGrid = transform.IsA("vtkOrientedGridTransform")
    transformNode.GetStorageNode().SetDefaultWriteFileExtension("nii.gz" if isGrid else "h5")


def _emptyGrid(lattice: sitk.Image):
    """(vtkImageData with the geometry of the lattice, the memory of its vectors as an array (D, H, W, 3))."""
    ijkToRas = ijkToRasOfImage(lattice)
    grid = vtk.vtkImageData()
    grid.SetDimensions(lattice.GetSize())
    grid.SetSpacing(np.linalg.norm(ijkToRas[:3, :3], axis=0))
    grid.SetOrigin(ijkToRas[:3, 3])
    grid.AllocateScalars(vtk.VTK_FLOAT, 3)
    scalars = numpy_support.vtk_to_numpy(grid.GetPointData().GetScalars())
    return grid, scalars.reshape(*lattice.GetSize()[::-1], 3)


def _flip(vectors: np.ndarray, into: np.ndarray) -> None:
    """LPS to RAS, of vectors (D, H, W, 3): as rows (D H, 3 W), over which NumPy is several times faster."""
    row = np.tile(_LPS_TO_RAS_VECTOR, vectors.shape[2])
    np.multiply(vectors.reshape(-1, row.size), row, out=into.reshape(-1, row.size))


def _directionMatrix(lattice: sitk.Image):
    axes = np.eye(4)
    axes[:3, :3] = ijkToRasOfImage(lattice)[:3, :3] / np.array(lattice.GetSpacing())
    return vtkMatrix(axes)


def _gridOf(grid, directionMatrix):
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(grid)
    transform.SetGridDirectionMatrix(directionMatrix)
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
