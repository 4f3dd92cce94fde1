"""The nodes of one registration, and how they are created in the scene."""

from __future__ import annotations

from dataclasses import dataclass, fields

import SimpleITK as sitk
import slicer
from wavemorph.io.result import Registration

from ..scene.coordinates import vtkMatrix
from ..scene.transforms import affineMatrix, inverseTransform, setTransformFromParent, wholeTransform
from ..scene.volumes import updateVolumeNodeFromImage
from ..translation import _

FIXED_ROLE = "spatialRegistrationFixed"
MOVING_ROLE = "spatialRegistrationMoving"
ALL_OUTPUTS = ("transform", "affine", "inverse", "warped", "jacobian", "folding")


@dataclass
class ResultNodes:
    """The nodes of one registration; None where an output was not requested.

    transform: vtkMRMLGridTransformNode, the whole map, affine included (`wholeTransform`); or
        vtkMRMLLinearTransformNode where the whole map is linear.
    affine: vtkMRMLLinearTransformNode, the affine part of a deformable map.
    inverse: vtkMRMLTransformNode or vtkMRMLLinearTransformNode, moving points -> fixed points.
    warped, jacobian: scalar volumes on the voxels of the fixed one. folding: label map, 1 where the Jacobian is <= 0.
    """

    transform: object = None
    affine: object = None
    inverse: object = None
    warped: object = None
    jacobian: object = None
    folding: object = None

    @property
    def grid(self):
        """The transform where it is a grid of displacements, else None."""
        return self.transform if self.transform is not None and not self.transform.IsLinear() else None

    def all(self) -> list:
        """The nodes that exist, in the order of the fields."""
        return [node for f in fields(self) if (node := getattr(self, f.name)) is not None]


def addRegistrationToScene(
    registration: Registration,
    fixedNode,
    movingNode,
    outputs=("transform", "affine", "warped", "jacobian", "folding"),
    into: dict | None = None,
) -> ResultNodes:
    """Create the nodes of a registration in the scene of the fixed node, or none at all where anything fails.

    outputs: which nodes, names of ALL_OUTPUTS. A linear map has neither "affine", as it is one, nor "folding".
    into: output name -> existing node to fill instead of a new one; a transform node of another class is left alone.
    Each node refers to the fixed and the moving volume and is in the folder of the fixed one.
    """
    scene = fixedNode.GetScene()
    before = _nodeIds(scene)
    try:
        return _createNodes(registration, fixedNode, movingNode, outputs, into or {}, scene)
    except BaseException:
        for nodeId in _nodeIds(scene) - before:
            scene.RemoveNode(scene.GetNodeByID(nodeId))
        raise


def placeInFolderOf(referenceNode, node) -> None:
    """Move the node into the subject hierarchy folder of the reference node."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(referenceNode.GetScene())
    if hierarchy is None:
        return
    referenceItem = hierarchy.GetItemByDataNode(referenceNode)
    parent = hierarchy.GetItemParent(referenceItem) if referenceItem else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
    hierarchy.SetItemParent(item, parent)


def _createNodes(registration, fixedNode, movingNode, outputs, into, scene) -> ResultNodes:
    made = [output for output in outputs if not registration.is_linear or output in _OUTPUTS_OF_LINEAR_MAPS]
    contents = {output: _CONTENTS[output](registration) for output in ALL_OUTPUTS if output in made}
    names = {"fixed": fixedNode.GetName(), "moving": movingNode.GetName()}
    names["kind"] = _kindName(registration)
    nodes = ResultNodes()
    for output, content in contents.items():
        node = into.get(output)
        if node is None or not _canHold(node, output, registration.is_linear):
            className = _LINEAR_CLASSES.get(output) if registration.is_linear else None
            node = scene.AddNewNodeByClass(className or _CLASSES[output], _nodeName(output, names))
        _FILL[output](node, content)
        node.SetNodeReferenceID(FIXED_ROLE, fixedNode.GetID())
        node.SetNodeReferenceID(MOVING_ROLE, movingNode.GetID())
        placeInFolderOf(fixedNode, node)
        setattr(nodes, output, node)
    return nodes


def _canHold(node, output: str, linear: bool) -> bool:
    """Whether a node is of the class that the output needs; linear transform nodes hold linear maps, and only those."""
    return output not in _LINEAR_CLASSES or bool(node.IsA("vtkMRMLLinearTransformNode")) == linear


def _kindName(registration: Registration) -> str:
    """What the names of linear transforms end in; empty for a deformable map."""
    if not registration.is_linear:
        return ""
    return _("rigid") if registration.report["transform_type"] == "rigid" else _("affine")


def _nodeName(output: str, names: dict) -> str:
    linear = bool(names["kind"])
    return {
        "transform": _("{moving} to {fixed} {kind}") if linear else _("{moving} to {fixed}"),
        "affine": _("{moving} to {fixed} affine"),
        "inverse": _("{fixed} to {moving} {kind}") if linear else _("{fixed} to {moving}"),
        "warped": _("{moving} registered"),
        "jacobian": _("{moving} to {fixed} Jacobian"),
        "folding": _("{moving} to {fixed} folding"),
    }[output].format(**names)


def _setVolume(node, image: sitk.Image) -> None:
    updateVolumeNodeFromImage(image, node)
    node.CreateDefaultDisplayNodes()


_CONTENTS = {
    "transform": wholeTransform,
    "affine": lambda registration: vtkMatrix(affineMatrix(registration.affine)),
    "inverse": inverseTransform,
    "warped": lambda registration: registration.warped,
    "jacobian": lambda registration: registration.jacobian,
    "folding": lambda registration: sitk.Cast(registration.jacobian <= 0, sitk.sitkUInt8),
}
_FILL = {
    "transform": setTransformFromParent,
    "affine": lambda node, matrix: node.SetMatrixTransformFromParent(matrix),
    "inverse": setTransformFromParent,
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
_LINEAR_CLASSES = dict.fromkeys(("transform", "inverse"), "vtkMRMLLinearTransformNode")
_OUTPUTS_OF_LINEAR_MAPS = ("transform", "inverse", "warped", "jacobian")


def _nodeIds(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
