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
    volumeNode.SetIJKToRASMatrix(_vtkMatrix(_ijkToRas(image)))
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
    transform.SetGridDirectionMatrix(_vtkMatrix(axes))
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
    registration: Registration, fixedNode, movingNode, outputs=("transform", "affine", "warped", "jacobian", "folding")
) -> ResultNodes:
    """Nodes for the `outputs` (of `OUTPUTS`) of a registration, in the scene of the fixed node.

    Each refers to the fixed and the moving volume and lies beside the fixed one in the subject hierarchy. Should
    anything fail, the scene is left as it was.
    """
    scene = fixedNode.GetScene()
    before = _nodeIds(scene)
    try:
        return _addNodes(registration, fixedNode, movingNode, outputs, scene)
    except BaseException:
        for nodeId in _nodeIds(scene) - before:
            scene.RemoveNode(scene.GetNodeByID(nodeId))
        raise


def _addNodes(registration, fixedNode, movingNode, outputs, scene) -> ResultNodes:
    names = {"fixed": fixedNode.GetName(), "moving": movingNode.GetName()}
    nodes = ResultNodes()
    if "transform" in outputs:
        nodes.transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", _("{moving} to {fixed}").format(**names))
        whole = flattened_field(registration.transform, field_lattice(registration))
        nodes.transform.SetAndObserveTransformFromParent(gridTransform(whole))
    if "affine" in outputs:
        nodes.affine = scene.AddNewNodeByClass(
            "vtkMRMLLinearTransformNode", _("{moving} to {fixed} affine").format(**names)
        )
        nodes.affine.SetMatrixTransformFromParent(_vtkMatrix(affineMatrix(registration.affine)))
    if "inverse" in outputs:
        nodes.inverse = scene.AddNewNodeByClass("vtkMRMLTransformNode", _("{fixed} to {moving}").format(**names))
        nodes.inverse.SetAndObserveTransformFromParent(_inverseTransform(registration))
    if "warped" in outputs:
        nodes.warped = _addVolume(
            scene, registration.warped, "vtkMRMLScalarVolumeNode", _("{moving} registered").format(**names)
        )
    if "jacobian" in outputs:
        nodes.jacobian = _addVolume(
            scene, registration.jacobian, "vtkMRMLScalarVolumeNode", _("{moving} to {fixed} Jacobian").format(**names)
        )
    if "folding" in outputs:
        folded = sitk.Cast(registration.jacobian <= 0, sitk.sitkUInt8)
        nodes.folding = _addVolume(
            scene, folded, "vtkMRMLLabelMapVolumeNode", _("{moving} to {fixed} folding").format(**names)
        )
    for node in nodes.all():
        node.SetNodeReferenceID(FIXED_ROLE, fixedNode.GetID())
        node.SetNodeReferenceID(MOVING_ROLE, movingNode.GetID())
        _placeBeside(fixedNode, node, scene)
    return nodes


def _addVolume(scene, image: sitk.Image, className: str, name: str):
    node = scene.AddNewNodeByClass(className, name)
    updateVolumeNodeFromImage(image, node)
    node.CreateDefaultDisplayNodes()
    return node


def _inverseTransform(registration: Registration):
    """Moving points -> fixed points: the affine's inverse, then the two fields, as in `Registration.inverse`."""
    transform = vtk.vtkGeneralTransform()
    transform.PostMultiply()
    transform.Concatenate(_vtkMatrix(np.linalg.inv(affineMatrix(registration.affine))))
    transform.Concatenate(gridTransform(registration.inverse_displacement))
    transform.Concatenate(gridTransform(registration.inverse_correction))
    return transform


def _placeBeside(fixedNode, node, scene) -> None:
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


def _vtkMatrix(array: np.ndarray):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def _nodeIds(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
