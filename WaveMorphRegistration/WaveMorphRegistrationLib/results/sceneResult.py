"""A registration result in a scene: its pair of volumes, its outputs, its tables and its report, by node references.

Nothing is found by the name of a node: two patients whose volumes are called alike have two results.
"""

from __future__ import annotations

import json

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support
from wavemorph.io.result import Registration

from ..scene.coordinates import ijkToRasOfImage, ijkToWorld, vtkMatrix
from ..scene.volumes import imageFromVolumeNode
from ..translation import _

FIXED_ROLE = "spatialRegistrationFixed"
MOVING_ROLE = "spatialRegistrationMoving"
ALL_OUTPUTS = ("transform", "affine", "inverse", "warped", "jacobian", "expectedError", "folding")
TABLES = ("report", "overlap", "landmarks", "volumes")
VERDICT_ATTRIBUTE = "WaveMorph.Verdict"  # on the node of the result and on its transform: the level of the verdict
OUTPUT_ATTRIBUTE = "WaveMorph.output"  # on every output node: which output it is
_RESULT_ATTRIBUTE = "WaveMorph.result"  # on the hidden node that holds a result together
_SAMPLED_VOXELS = 1_000_000
_CARRIER_ROLE = "WaveMorph.fixedSpaceTransform"  # from a transform to the one for nodes in the fixed space
_CARRIED_ROLE = "WaveMorph.fixedSpaceTransformOf"  # and back: a clone of the transform copies the first, not this one


class SceneResult:
    """One result: a hidden node of the scene refers to the volumes, the outputs and the tables, and holds the report.

    The properties `transform`, `affine`, `inverse`, `warped`, `jacobian`, `expectedError` and `folding` are None where
    an output was not requested or where its node was deleted, `fixedNode` and `movingNode` where that volume was.

    transform: vtkMRMLGridTransformNode, the whole map, affine included (`scene.transforms.wholeTransform`); or
        vtkMRMLLinearTransformNode where the whole map is linear.
    affine: vtkMRMLLinearTransformNode, the affine part of a deformable map.
    inverse: vtkMRMLTransformNode or vtkMRMLLinearTransformNode, moving points -> fixed points.
    warped, jacobian: scalar volumes on the voxels of the fixed one. folding: label map or segmentation, where the
        Jacobian is <= 0.
    expectedError: scalar volume on the voxels of the fixed one, mm; 90 % of the errors of the map are estimated to be
        below it, and it is 0 outside the subject.

    >>> for result in SceneResult.allIn(slicer.mrmlScene):
    ...     print(result.name, result.report["folding"], result.transform)
    """

    def __init__(self, node):
        self.node = node

    @classmethod
    def allIn(cls, scene) -> list[SceneResult]:
        """The results of a scene that have an output left, in the order of their registration."""
        nodes = [
            scene.GetNthNodeByClass(index, "vtkMRMLScriptedModuleNode")
            for index in range(scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode"))
        ]
        results = [cls(node) for node in nodes if node.GetAttribute(_RESULT_ATTRIBUTE)]
        return [result for result in results if result.all()]

    @classmethod
    def ofOutput(cls, node) -> SceneResult | None:
        """The result that a node is an output of."""
        scene = node.GetScene()
        return next((result for result in cls.allIn(scene) if node in result.all()), None) if scene else None

    @classmethod
    def create(cls, fixedNode, movingNode, registration: Registration, outputs: dict) -> SceneResult:
        """The result of a registration whose output nodes are filled; they no longer belong to an earlier one.

        registration: its images, LPS mm, say where the volumes were, if it has them.
        outputs: name of ALL_OUTPUTS -> node.
        Where nothing is left of an earlier result of the pair, this one replaces it. Its tables of structures and
        landmarks are those of the former map; they stay in the scene, and no longer belong to the result.
        """
        scene, replaced = fixedNode.GetScene(), None
        for earlier in cls.allIn(scene):
            earlier._release(outputs.values())
            if earlier.folding is not None and earlier.all() == [earlier.folding]:
                scene.RemoveNode(earlier.folding)  # it marks voxels of a map that is no longer there
            if not earlier.all() and earlier.isOf(fixedNode, movingNode):
                replaced = earlier
        result = replaced if replaced is not None else cls(_hiddenNode(scene))
        node = result.node
        name = _("{moving} to {fixed}").format(moving=movingNode.GetName(), fixed=fixedNode.GetName())
        node.SetName(_("Result of {name}").format(name=name))  # not the name of the transform, which scripts look up
        node.SetParameter("name", name)
        node.SetParameter("report", json.dumps(registration.report))
        pair = (FIXED_ROLE, fixedNode, registration.fixed), (MOVING_ROLE, movingNode, registration.moving)
        for role, volumeNode, image in pair:
            node.SetNodeReferenceID(role, volumeNode.GetID())
            node.SetParameter(
                role, json.dumps(_imageState(imageFromVolumeNode(volumeNode) if image is None else image))
            )
        for table in TABLES[1:]:
            node.SetNodeReferenceID(_tableRole(table), None)
        for output, outputNode in outputs.items():
            result.setOutput(output, outputNode)
        for judged in (node, result.transform):
            if judged is not None:
                judged.SetAttribute(VERDICT_ATTRIBUTE, registration.report["verdict"]["level"])
        return result

    @property
    def name(self) -> str:
        """Moving and fixed volume, as they were called at the registration."""
        return self.node.GetParameter("name")

    @property
    def report(self) -> dict:
        """The report of the registration, as in `wavemorph.Registration`."""
        return json.loads(self.node.GetParameter("report"))

    @property
    def scene(self):
        """The scene of the result; None once the scene was closed."""
        return self.node.GetScene()

    @property
    def fixedNode(self):
        """The fixed volume; None where it was deleted."""
        return self.node.GetNodeReference(FIXED_ROLE)

    @property
    def movingNode(self):
        """The moving volume; None where it was deleted."""
        return self.node.GetNodeReference(MOVING_ROLE)

    @property
    def grid(self):
        """The transform where it is not linear, else None."""
        return self.transform if self.transform is not None and not self.transform.IsLinear() else None

    def all(self) -> list:
        """The output nodes that exist, in the order of ALL_OUTPUTS."""
        return [node for output in ALL_OUTPUTS if (node := self.output(output)) is not None]

    def output(self, output: str):
        """The node of an output of ALL_OUTPUTS, or None."""
        return self.node.GetNodeReference(_outputRole(output))

    def setOutput(self, output: str, outputNode) -> None:
        """Make a node an output of this result; it refers to the volumes of the pair."""
        outputNode.SetAttribute(OUTPUT_ATTRIBUTE, output)
        self.node.SetNodeReferenceID(_outputRole(output), outputNode.GetID())
        self._refersToPair(outputNode)

    def table(self, table: str):
        """The node of a table of TABLES, or None."""
        return self.node.GetNodeReference(_tableRole(table))

    def addTable(self, table: str, title: str):
        """The node of a table of TABLES, created where there is none, in the folder of the fixed volume.

        title: what follows the name of the result in the name of a new node.
        """
        tableNode = self.table(table)
        if tableNode is None:
            tableNode = self.scene.AddNewNodeByClass("vtkMRMLTableNode", f"{self.name} {title}")
            self.node.SetNodeReferenceID(_tableRole(table), tableNode.GetID())
            if self.fixedNode is not None:
                placeInFolderOf(self.fixedNode, tableNode)
        self._refersToPair(tableNode)
        return tableNode

    def isOf(self, fixedNode, movingNode) -> bool:
        """Whether this is a result of these two volumes."""
        return self.fixedNode is fixedNode and self.movingNode is movingNode

    def volumeAsRegistered(self, role: str):
        """The fixed or the moving volume (FIXED_ROLE, MOVING_ROLE) where it was at the registration.

        The volume itself, or where it was moved since, a copy outside the scene that shares its voxels. None where it
        was deleted, or where its voxels may have been moved, as by a deformation that is hardened. A fixed volume whose
        voxels changed in their place, such as one that was filtered, is still the volume.
        """
        node, state = self.node.GetNodeReference(role), json.loads(self.node.GetParameter(role))
        if node is None or node.GetImageData() is None:
            return None
        size = node.GetImageData().GetDimensions()
        if list(size) != state["size"]:
            return None
        parent = node.GetParentTransformNode()
        matrix = _inVoxelOrderOf(node, np.array(state["ijkToWorld"]))
        isLinear = parent is None or parent.IsTransformToWorldLinear()
        isInPlace = isLinear and np.allclose(ijkToWorld(node), matrix, atol=1e-6)
        if not (isInPlace and role == FIXED_ROLE):
            scalars = numpy_support.vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())
            if not np.allclose(_sums(scalars.reshape(size[::-1])), state["sums"], 1e-6):
                return None
        return node if isInPlace else volumeCopy(node, matrix)

    def transformForFixedNodes(self):
        """A transform node that moves nodes from the space of the fixed volume to that of the moving one.

        It belongs to the transform, which refers to it: `updateFixedSpaceTransform` makes it follow.
        """
        transform = self.transform
        node = _fixedSpaceTransformOf(transform)
        if node is None:
            name = _("{name}, for nodes in the fixed space").format(name=transform.GetName())
            node = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
            transform.SetNodeReferenceID(_CARRIER_ROLE, node.GetID())
            node.SetNodeReferenceID(_CARRIED_ROLE, transform.GetID())
        updateFixedSpaceTransform(transform)
        return node

    def transformsOfThis(self) -> list:
        """The transform nodes under which a node is not where it was drawn: all that this result has made."""
        carrier = _fixedSpaceTransformOf(self.transform) if self.transform is not None else None
        return [node for node in (self.transform, self.affine, self.inverse, carrier) if node is not None]

    def _release(self, nodes) -> None:
        """Forget outputs that hold another result now."""
        for output in ALL_OUTPUTS:
            if self.output(output) in nodes:
                self.node.SetNodeReferenceID(_outputRole(output), None)

    def _refersToPair(self, node) -> None:
        for role in (FIXED_ROLE, MOVING_ROLE):
            node.SetNodeReferenceID(role, self.node.GetNodeReferenceID(role))


def _outputProperty(output: str) -> property:
    return property(lambda self: self.output(output), lambda self, node: self.setOutput(output, node))


for _output in ALL_OUTPUTS:
    setattr(SceneResult, _output, _outputProperty(_output))


def updateFixedSpaceTransform(transformNode) -> None:
    """Let the transform for nodes in the fixed space, if there is one, hold the present map of its transform."""
    node = _fixedSpaceTransformOf(transformNode)
    if node is not None and node.GetTransformToParent() is not transformNode.GetTransformFromParent():
        node.SetAndObserveTransformToParent(transformNode.GetTransformFromParent())


def _fixedSpaceTransformOf(transformNode):
    node = transformNode.GetNodeReference(_CARRIER_ROLE)
    return node if node is not None and node.GetNodeReference(_CARRIED_ROLE) is transformNode else None


def volumeCopy(node, ijkToRas: np.ndarray):
    """A scalar volume outside the scene that shares the voxels of a node; ijkToRas: 4x4, mm of the world."""
    copy = slicer.vtkMRMLScalarVolumeNode()
    copy.SetName(node.GetName())
    copy.SetIJKToRASMatrix(vtkMatrix(ijkToRas))
    copy.SetAndObserveImageData(node.GetImageData())
    return copy


def placeInFolderOf(referenceNode, node) -> None:
    """Move the node into the subject hierarchy folder of the reference node."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(referenceNode.GetScene())
    if hierarchy is None:
        return
    referenceItem = hierarchy.GetItemByDataNode(referenceNode)
    parent = hierarchy.GetItemParent(referenceItem) if referenceItem else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
    hierarchy.SetItemParent(item, parent)


def _hiddenNode(scene):
    node = slicer.vtkMRMLScriptedModuleNode()
    node.SetAttribute(_RESULT_ATTRIBUTE, "1")
    node.SetHideFromEditors(True)
    return scene.AddNode(node)


def _outputRole(output: str) -> str:
    return f"WaveMorph.{output}"


def _tableRole(table: str) -> str:
    return f"WaveMorph.{table}Table"


def _imageState(image: sitk.Image) -> dict:
    """Size, position (4x4, voxel indices to RAS mm of the world) and sums that tell the voxels, in any order."""
    sums = _sums(sitk.GetArrayViewFromImage(image))
    return {"size": list(image.GetSize()), "ijkToWorld": ijkToRasOfImage(image).tolist(), "sums": sums}


def _sums(voxels: np.ndarray) -> list[float]:
    """Sums over about a million voxels (k, j, i), the same for both orders of the slices."""
    step = max(1, round((voxels.size / _SAMPLED_VOXELS) ** 0.5))
    values = np.nan_to_num(voxels[:, ::step, ::step].astype(float))
    return [float(values.sum()), float(np.abs(values).sum()), float((values**2).sum())]


def _inVoxelOrderOf(volumeNode, ijkToWorldBefore: np.ndarray) -> np.ndarray:
    """The same position for the voxels of the node: Slicer reverses the slices of left-handed volumes it reads."""
    local = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(local)
    if np.linalg.det(ijkToWorldBefore[:3, :3]) * local.Determinant() > 0:
        return ijkToWorldBefore
    reversal = np.diag([1.0, 1.0, -1.0, 1.0])
    reversal[2, 3] = volumeNode.GetImageData().GetDimensions()[2] - 1
    return ijkToWorldBefore @ reversal
