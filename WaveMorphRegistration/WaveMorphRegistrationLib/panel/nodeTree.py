"""The tree of nodes that a transform can be applied to, which follows the scene."""

from __future__ import annotations

import qt
import slicer

from ..results.sceneResult import SceneResult
from ..translation import _

_TRANSFORMABLE = tuple(f"vtkMRML{kind}Node" for kind in ("Volume", "Segmentation", "Model", "Markups", "Transform"))


class NodeTree:
    """Fills a QTreeWidget: the folders of the subject hierarchy, and in them the nodes, each with a check box."""

    def __init__(self, tree):
        self._tree, self._content = tree, None

    def refresh(self, result: SceneResult | None) -> None:
        """Show what the scene holds now, except the fixed volume and the result itself; check marks are kept."""
        groups = _groups(result) if result is not None else {}
        content = [(name, [(node.GetID(), node.GetName()) for node in nodes]) for name, nodes in groups.items()]
        if content == self._content:
            return
        checked = set(self.checkedIds())
        self._content = content
        self._tree.clear()
        for name, entries in content:
            group = qt.QTreeWidgetItem()
            group.setText(0, name)
            self._tree.addTopLevelItem(group)
            for nodeId, nodeName in entries:
                item = qt.QTreeWidgetItem()
                item.setText(0, nodeName)
                item.setData(0, qt.Qt.UserRole, nodeId)
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
                group.addChild(item)
                item.setCheckState(0, qt.Qt.Checked if nodeId in checked else qt.Qt.Unchecked)
            group.setExpanded(True)

    def checkedIds(self) -> list[str]:
        """The IDs of the checked nodes."""
        return [item.data(0, qt.Qt.UserRole) for item in self._items() if item.checkState(0) == qt.Qt.Checked]

    def check(self, nodeIds: set[str], checked: bool) -> None:
        """Check or uncheck nodes."""
        for item in self._items():
            if item.data(0, qt.Qt.UserRole) in nodeIds:
                item.setCheckState(0, qt.Qt.Checked if checked else qt.Qt.Unchecked)

    def uncheckAll(self) -> None:
        """Uncheck every node."""
        self.check(set(self.checkedIds()), False)

    def _items(self) -> list:
        groups = [self._tree.topLevelItem(index) for index in range(self._tree.topLevelItemCount)]
        return [group.child(index) for group in groups for index in range(group.childCount())]


def idsInFolderOf(result: SceneResult) -> set[str]:
    """The IDs of the nodes in the folder, or study, of the moving volume, at any depth."""
    hierarchy, moving = _hierarchy(result), result.movingNode
    if hierarchy is None or moving is None:
        return set()
    folder = _ancestors(hierarchy, moving)[0]
    nodes = [node for nodes in _groups(result).values() for node in nodes]
    return {node.GetID() for node in nodes if folder in _ancestors(hierarchy, node)}


def _groups(result: SceneResult) -> dict:
    """Folder -> nodes; the folder of the moving volume comes first."""
    scene, hierarchy = result.scene, _hierarchy(result)
    own = {node.GetID() for node in (*result.all(), *result.transformsOfThis())}
    groups: dict[str, list] = {}
    if result.movingNode is not None:
        groups[_folderName(hierarchy, result.movingNode)] = []
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLTransformableNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLTransformableNode")
        if node.GetHideFromEditors() or node.GetID() in own or node is result.fixedNode:
            continue
        if any(node.IsA(className) for className in _TRANSFORMABLE):
            groups.setdefault(_folderName(hierarchy, node), []).append(node)
    return {name: nodes for name, nodes in groups.items() if nodes}


def _hierarchy(result: SceneResult):
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(result.scene)


def _ancestors(hierarchy, node) -> list[int]:
    """The items above a node, the nearest first, the scene last."""
    item, scene, found = hierarchy.GetItemByDataNode(node), hierarchy.GetSceneItemID(), []
    while item and item != scene:
        item = hierarchy.GetItemParent(item)
        found.append(item)
    return found or [scene]


def _folderName(hierarchy, node) -> str:
    folders = _ancestors(hierarchy, node)[:-1] if hierarchy is not None else []
    return " / ".join(hierarchy.GetItemName(item) for item in reversed(folders)) or _("Scene")
