"""The nodes of a registration, created in the scene or filled again."""

from __future__ import annotations

import SimpleITK as sitk
import slicer
from wavemorph.io.result import Registration

from ..scene.coordinates import vtkMatrix
from ..scene.transforms import affineMatrix, inverseTransform, setTransformFromParent, wholeTransform
from ..scene.volumes import updateVolumeNodeFromImage
from ..translation import _
from .display import displayAs, showExpectedError, showJacobian
from .sceneResult import ALL_OUTPUTS, OUTPUT_ATTRIBUTE, SceneResult, placeInFolderOf, updateFixedSpaceTransform


def addRegistrationToScene(
    registration: Registration,
    fixedNode,
    movingNode,
    outputs=("transform", "affine", "warped", "jacobian", "folding"),
    into: dict | None = None,
) -> SceneResult:
    """Create the nodes of a registration in the scene of the fixed node, or none at all where anything fails.

    outputs: which nodes, names of ALL_OUTPUTS. A linear map has neither "affine", as it is one, nor "folding"; a
        registration that has not estimated its error has no "expectedError".
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


def _createNodes(registration, fixedNode, movingNode, outputs, into, scene) -> SceneResult:
    made = [output for output in outputs if _has(registration, output)]
    contents = {output: _CONTENTS[output](registration) for output in ALL_OUTPUTS if output in made}
    names = {"fixed": fixedNode.GetName(), "moving": movingNode.GetName()}
    names["kind"] = _kindName(registration)
    filled = {}
    for output, content in contents.items():
        node = into.get(output)
        new = node is None or not _canHold(node, output, registration.is_linear)
        if new:
            className = _LINEAR_CLASSES.get(output) if registration.is_linear else None
            node = _addNode(scene, className or _CLASSES[output], _nodeName(output, names), output)
        if new and output == "warped":  # before there are voxels, of which a default window would be computed
            displayAs(movingNode, node)
        elif new and output == "jacobian":
            showJacobian(node)
        elif new and output == "expectedError":
            showExpectedError(node, registration.report["subject"]["extent_mm"])
        _FILL[output](node, content)
        placeInFolderOf(fixedNode, node)
        filled[output] = node
    return SceneResult.create(fixedNode, movingNode, registration, filled)


def _has(registration: Registration, output: str) -> bool:
    """Whether the output exists for the map of a registration."""
    if output == "expectedError" and registration.expected_error is None:
        return False
    return not registration.is_linear or output in _OUTPUTS_OF_LINEAR_MAPS


def _addNode(scene, className: str, name: str, output: str):
    """A new node that carries its attribute before the scene, and so the selectors of the panel, know it."""
    node = slicer.vtkMRMLScene.CreateNodeByClass(scene, className)
    node.UnRegister(None)
    node.SetName(name)
    node.SetAttribute(OUTPUT_ATTRIBUTE, output)
    return scene.AddNode(node)


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
        "expectedError": _("{moving} to {fixed} expected error"),
        "folding": _("{moving} to {fixed} folding"),
    }[output].format(**names)


def _setTransform(node, transform) -> None:
    setTransformFromParent(node, transform)
    updateFixedSpaceTransform(node)


def _setVolume(node, image: sitk.Image) -> None:
    updateVolumeNodeFromImage(image, node)
    node.CreateDefaultDisplayNodes()


_CONTENTS = {
    "transform": wholeTransform,
    "affine": lambda registration: vtkMatrix(affineMatrix(registration.affine)),
    "inverse": inverseTransform,
    "warped": lambda registration: registration.warped,
    "jacobian": lambda registration: registration.jacobian,
    "expectedError": lambda registration: registration.expected_error,
    "folding": lambda registration: sitk.Cast(registration.jacobian <= 0, sitk.sitkUInt8),
}
_FILL = {
    "transform": _setTransform,
    "affine": lambda node, matrix: node.SetMatrixTransformFromParent(matrix),
    "inverse": _setTransform,
    "warped": _setVolume,
    "jacobian": _setVolume,
    "expectedError": _setVolume,
    "folding": _setVolume,
}
_CLASSES = {
    "transform": "vtkMRMLGridTransformNode",
    "affine": "vtkMRMLLinearTransformNode",
    "inverse": "vtkMRMLTransformNode",
    "warped": "vtkMRMLScalarVolumeNode",
    "jacobian": "vtkMRMLScalarVolumeNode",
    "expectedError": "vtkMRMLScalarVolumeNode",
    "folding": "vtkMRMLLabelMapVolumeNode",
}
_LINEAR_CLASSES = dict.fromkeys(("transform", "inverse"), "vtkMRMLLinearTransformNode")
_OUTPUTS_OF_LINEAR_MAPS = ("transform", "inverse", "warped", "jacobian")


def _nodeIds(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
