"""The nodes of one registration: what they hold, and how they come into the scene."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from wavemorph.outputs import field_lattice, flattened_field
from wavemorph.result import Registration

from ..scene.coordinates import vtkMatrix
from ..scene.transforms import affineMatrix, gridTransform
from ..scene.volumes import updateVolumeNodeFromImage
from ..translation import _

FIXED_ROLE = "spatialRegistrationFixed"
MOVING_ROLE = "spatialRegistrationMoving"
ALL_OUTPUTS = ("transform", "affine", "inverse", "warped", "jacobian", "folding")


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


def addRegistrationToScene(
    registration: Registration,
    fixedNode,
    movingNode,
    outputs=("transform", "affine", "warped", "jacobian", "folding"),
    into: dict | None = None,
) -> ResultNodes:
    """Nodes for the `outputs` (of `ALL_OUTPUTS`) of a registration, in the scene of the fixed node.

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
    contents = {output: _CONTENTS[output](registration) for output in ALL_OUTPUTS if output in outputs}
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


def _nodeIds(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
