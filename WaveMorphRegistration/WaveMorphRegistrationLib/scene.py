"""Nodes <-> images and fields of the engine: the only file that knows RAS, IJK and vtkOrientedGridTransform.

The engine speaks LPS mm, MRML speaks RAS mm. A transform that maps fixed points to moving points is what MRML calls
"from parent": under such a node the moving volume lies on the fixed one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support
from wavemorph.errors import InputError
from wavemorph.outputs import field_lattice, flattened_field
from wavemorph.result import Registration

from .translation import _

FIXED_ROLE = "spatialRegistrationFixed"
MOVING_ROLE = "spatialRegistrationMoving"
OUTPUTS = ("transform", "affine", "inverse", "warped", "jacobian", "folding")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_FLIP = np.diag(_LPS_TO_RAS)[:3]  # the same for points and vectors


@dataclass
class ResultNodes:
    """The nodes of one registration; None where an output was not asked for.

    transform: vtkMRMLGridTransformNode, the whole map, affine included, on a lattice that covers the fixed volume.
    affine: vtkMRMLLinearTransformNode, its affine part. inverse: vtkMRMLTransformNode, moving points -> fixed points.
    warped, jacobian: scalar volumes on the fixed lattice. folding: label map, 1 where the Jacobian is not positive.
    """

    transform: object = None
    affine: object = None
    inverse: object = None
    warped: object = None
    jacobian: object = None
    folding: object = None

    def all(self) -> list:
        return [node for f in fields(self) if (node := getattr(self, f.name)) is not None]


def imageFromVolumeNode(volumeNode, name: str = "volume") -> sitk.Image:
    """A copy of the voxels with their exact place, LPS mm; a linear parent transform is folded in.

    Raises InputError where there is no voxel, more than one component, or a parent transform that cannot be folded in.
    """
    imageData = volumeNode.GetImageData() if volumeNode is not None else None
    if imageData is None or imageData.GetNumberOfPoints() == 0:
        raise InputError(_("The {name} has no voxels; choose another one.").format(name=name))
    components = imageData.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            _("The {name} has {components} values a voxel (colour or vector); choose a volume with one.").format(
                name=name, components=components
            )
        )
    size = imageData.GetDimensions()
    scalars = numpy_support.vtk_to_numpy(imageData.GetPointData().GetScalars())
    image = sitk.GetImageFromArray(scalars.reshape(size[::-1]))
    setGeometry(image, ijkToWorld(volumeNode, name), name)
    return image


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


def transformFromNode(transformNode, image: sitk.Image, leastSpacingMm: float = 2.0) -> sitk.Transform:
    """World points -> points of what lies under the node, LPS mm: fixed -> moving for a node put on the moving volume.

    Linear and grid transforms are taken as they are; another one is sampled over the image (`sampledField`).
    """
    if transformNode.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformToWorld(matrix)
        lps = _LPS_TO_RAS @ np.linalg.inv(_array(matrix)) @ _LPS_TO_RAS
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
    start.SetData(numpy_support.numpy_to_vtk(lps * _FLIP, deep=True))
    fromWorld.TransformPoints(start, end)
    vectors = (numpy_support.vtk_to_numpy(end.GetData()) * _FLIP - lps).astype(np.float32)
    field = sitk.GetImageFromArray(vectors.reshape(*size[::-1], 3), isVector=True)
    field.SetOrigin(image.GetOrigin())
    field.SetSpacing(spacing.tolist())
    field.SetDirection(image.GetDirection())
    return field


def _fieldFromGrid(grid) -> sitk.Image:
    """The displacement image in LPS mm of a vtkOrientedGridTransform: `gridTransform` backwards."""
    data = grid.GetDisplacementGrid()
    vectors = numpy_support.vtk_to_numpy(data.GetPointData().GetScalars()).astype(np.float32)
    vectors = vectors.reshape(*data.GetDimensions()[::-1], 3) * np.float32(grid.GetDisplacementScale() * _FLIP)
    matrix = np.eye(4)
    matrix[:3, :3] = _array(grid.GetGridDirectionMatrix())[:3, :3] * np.array(data.GetSpacing())
    matrix[:3, 3] = data.GetOrigin()
    field = sitk.GetImageFromArray(vectors, isVector=True)
    setGeometry(field, matrix, "transform")
    return field


def landmarksFromNode(markupsNode) -> np.ndarray:
    """The defined control points, (N, 3) LPS mm, parent transforms included."""
    points = []
    for index in range(markupsNode.GetNumberOfControlPoints()):
        position = [0.0, 0.0, 0.0]
        markupsNode.GetNthControlPointPositionWorld(index, position)
        points.append((-position[0], -position[1], position[2]))
    return np.array(points, float).reshape(-1, 3)


def setGeometry(image: sitk.Image, ijkToRas: np.ndarray, name: str = "volume") -> None:
    """Origin, spacing and direction of the image (LPS) from a 4x4 matrix. Raises InputError where axes are sheared."""
    ijkToLps = _LPS_TO_RAS @ ijkToRas
    spacing = np.linalg.norm(ijkToLps[:3, :3], axis=0)
    direction = ijkToLps[:3, :3] / np.where(spacing > 0, spacing, 1)
    if np.min(spacing) <= 0 or np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
        raise InputError(
            _("The axes of the {name} are sheared or scaled unevenly; harden its transform or resample it.").format(
                name=name
            )
        )
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(ijkToLps[:3, 3].tolist())


def updateVolumeNodeFromImage(image: sitk.Image, volumeNode) -> None:
    """Replace the node's voxels and geometry by a copy of the image's."""
    array = sitk.GetArrayFromImage(image)
    imageData = vtk.vtkImageData()
    imageData.SetDimensions(image.GetSize())
    imageData.GetPointData().SetScalars(numpy_support.numpy_to_vtk(array.ravel(), deep=True))
    volumeNode.SetIJKToRASMatrix(vtkMatrix(_ijkToRas(image)))
    volumeNode.SetAndObserveImageData(imageData)


def gridTransform(displacement: sitk.Image):
    """A vtkOrientedGridTransform x -> x + u(x) in RAS mm from a displacement image in LPS mm."""
    ijkToRas = _ijkToRas(displacement)
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
    return _LPS_TO_RAS @ matrix @ _LPS_TO_RAS


def interpolateLinearly(transformNode) -> None:
    """Reading a file or scene leaves grids at cubic interpolation, which moves points by hundredths of a millimetre."""
    transform = transformNode.GetTransformFromParent()
    parts = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, transform)
    for index in range(parts.GetNumberOfItems()):
        part = parts.GetItemAsObject(index)
        if part.IsA("vtkOrientedGridTransform"):
            part.SetInterpolationModeToLinear()


def addRegistrationToScene(
    registration: Registration,
    fixedNode,
    movingNode,
    outputs=("transform", "affine", "warped", "jacobian", "folding"),
    into: dict | None = None,
) -> ResultNodes:
    """Nodes for the `outputs` (of `OUTPUTS`) of a registration, in the scene of the fixed node.

    into: nodes to be filled instead of new ones, by output. Each node refers to the fixed and the moving volume and
    lies beside the fixed one in the subject hierarchy. Should anything fail, no node is left behind.
    """
    scene = fixedNode.GetScene()
    before = _nodeIds(scene)
    try:
        return _fillNodes(registration, fixedNode, movingNode, outputs, into or {}, scene)
    except BaseException:
        for nodeId in _nodeIds(scene) - before:
            scene.RemoveNode(scene.GetNodeByID(nodeId))
        raise


def _fillNodes(registration, fixedNode, movingNode, outputs, into, scene) -> ResultNodes:
    contents = {output: _CONTENTS[output](registration) for output in OUTPUTS if output in outputs}
    names = {"fixed": fixedNode.GetName(), "moving": movingNode.GetName()}
    nodes = ResultNodes()
    for output, content in contents.items():
        node = into.get(output)
        if node is None:
            node = scene.AddNewNodeByClass(_CLASSES[output], _outputName(output, names))
        _FILL[output](node, content)
        node.SetNodeReferenceID(FIXED_ROLE, fixedNode.GetID())
        node.SetNodeReferenceID(MOVING_ROLE, movingNode.GetID())
        placeBeside(fixedNode, node, scene)
        setattr(nodes, output, node)
    return nodes


def _outputName(output: str, names: dict) -> str:
    return {
        "transform": _("{moving} to {fixed}"),
        "affine": _("{moving} to {fixed} affine"),
        "inverse": _("{fixed} to {moving}"),
        "warped": _("{moving} registered"),
        "jacobian": _("{moving} to {fixed} Jacobian"),
        "folding": _("{moving} to {fixed} folding"),
    }[output].format(**names)


def _wholeTransform(registration: Registration):
    return gridTransform(flattened_field(registration.transform, field_lattice(registration)))


def _setTransform(node, transform) -> None:
    node.SetAndObserveTransformFromParent(transform)


def _setVolume(node, image: sitk.Image) -> None:
    updateVolumeNodeFromImage(image, node)
    node.CreateDefaultDisplayNodes()


def _inverseTransform(registration: Registration):
    """Moving points -> fixed points: the affine's inverse, then the two fields, as in `Registration.inverse`."""
    transform = vtk.vtkGeneralTransform()
    transform.PostMultiply()
    transform.Concatenate(vtkMatrix(np.linalg.inv(affineMatrix(registration.affine))))
    transform.Concatenate(gridTransform(registration.inverse_displacement))
    transform.Concatenate(gridTransform(registration.inverse_correction))
    return transform


_CONTENTS = {
    "transform": _wholeTransform,
    "affine": lambda registration: vtkMatrix(affineMatrix(registration.affine)),
    "inverse": _inverseTransform,
    "warped": lambda registration: registration.warped,
    "jacobian": lambda registration: registration.jacobian,
    "folding": lambda registration: sitk.Cast(registration.jacobian <= 0, sitk.sitkUInt8),
}
_FILL = {
    "transform": _setTransform,
    "affine": lambda node, matrix: node.SetMatrixTransformFromParent(matrix),
    "inverse": _setTransform,
    "warped": _setVolume,
    "jacobian": _setVolume,
    "folding": _setVolume,
}
_CLASSES = {
    "transform": "vtkMRMLGridTransformNode",
    "affine": "vtkMRMLLinearTransformNode",
    "inverse": "vtkMRMLTransformNode",
    "warped": "vtkMRMLScalarVolumeNode",
    "jacobian": "vtkMRMLScalarVolumeNode",
    "folding": "vtkMRMLLabelMapVolumeNode",
}


def placeBeside(fixedNode, node, scene) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        return
    item = hierarchy.GetItemByDataNode(fixedNode)
    parent = hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()
    own = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
    hierarchy.SetItemParent(own, parent)


def ijkToWorld(volumeNode, name: str = "volume") -> np.ndarray:
    """The 4x4 matrix from voxels to RAS mm, a linear parent transform included. Raises InputError under another."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToRas = _array(matrix)
    parent = volumeNode.GetParentTransformNode()
    if parent is None:
        return ijkToRas
    toWorld = vtk.vtkMatrix4x4()
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            _("The {name} lies under the non-linear transform {parent}; harden it first, or take it out.").format(
                name=name, parent=parent.GetName()
            )
        )
    parent.GetMatrixTransformToWorld(toWorld)
    return _array(toWorld) @ ijkToRas


def _ijkToRas(image: sitk.Image) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ matrix


def _array(matrix) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtkMatrix(array: np.ndarray):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


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
        own = np.linalg.inv(_array(toWorld))
    return own @ ijkToWorld(referenceNode)


def _nodeIds(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
