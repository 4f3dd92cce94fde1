"""The controls below Register: choose, view, measure, apply and export a result."""

from __future__ import annotations

import qt
import slicer
from wavemorph.errors import WaveMorphError

from ..results.sceneResult import SceneResult, updateFixedSpaceTransform
from ..results.transformApplication import applyTransform
from ..results.transformExport import exportTransform, fileConventions
from ..translation import _
from .errorMessages import perform
from .exportDialog import askForExportPath
from .measureControls import MeasureControls
from .nodeTree import NodeTree, idsInFolderOf
from .verdictLine import showVerdict
from .viewControls import ViewControls


class ResultPanel:
    """Connects the result widgets of the .ui file with one result of the scene; they are disabled without one."""

    def __init__(self, ui):
        self.ui = ui
        self.result: SceneResult | None = None
        self.view, self.measure, self._nodes = ViewControls(ui), MeasureControls(ui), NodeTree(ui.nodeTree)
        self._results: list[SceneResult] = []
        self._observed: list[tuple] = []
        self._transforms: list[tuple] = []
        self._refreshPending = self._treePending = False
        ui.conventionsLabel.text = fileConventions()
        self._connect()
        self._update()

    def bind(self, scene) -> None:
        """Follow the scene, and open the last of its results where none of them is open."""
        self.unbind()
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self._observed.append((scene, scene.AddObserver(event, lambda *_: self._onSceneChanged())))
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if hierarchy is not None:
            for event in (hierarchy.SubjectHierarchyItemModifiedEvent, hierarchy.SubjectHierarchyItemReparentedEvent):
                self._observed.append((hierarchy, hierarchy.AddObserver(event, lambda *_: self._onFoldersChanged())))
        self.refresh(scene)

    def unbind(self) -> None:
        """Follow no scene."""
        for observed, tag in (*self._observed, *self._transforms):
            observed.RemoveObserver(tag)
        self._observed, self._transforms = [], []

    def show(self, result: SceneResult) -> None:
        """Open a result that was just registered, and show it in the views while the module is entered."""
        self.open(result, show=True)
        self.ui.resultSection.collapsed = False

    def open(self, result: SceneResult, show: bool) -> None:
        """Make a result the one that all controls act on. show: show it in the views.

        What was chosen for another pair is not kept: it would be measured with, or moved by, the wrong transform.
        """
        if self.result is not None and not result.isOf(self.result.fixedNode, self.result.movingNode):
            self._forgetChoices()
        self.result = result
        self._listResults()
        self.measure.open(result)
        self.view.open(result, show)
        self._nodes.refresh(result)
        self._update()

    def refresh(self, scene) -> None:
        """Take over what was added to the scene or removed from it."""
        results = SceneResult.allIn(scene)
        known = [result.node for result in results]
        self._observeTransforms(results)
        if self.result is not None and self.result.node not in known:
            self.close()
        if self.result is None and results:
            self.open(results[-1], show=False)
        elif known != [result.node for result in self._results]:
            self._listResults()
        if self.result is not None:
            self.view.refresh()
            self.measure.refresh()
            self._nodes.refresh(self.result)
        self._update()

    def close(self) -> None:
        """Close the result: stop what runs, and remove the nodes created for viewing."""
        self.view.close()
        self.measure.close()
        self._forgetChoices()
        self.result = None
        self._nodes.refresh(None)
        self._update()

    def _forgetChoices(self) -> None:
        ui = self.ui
        self._nodes.uncheckAll()
        for box in (ui.studyCheckBox, ui.fixedSpaceCheckBox, ui.hardenCheckBox):
            box.checked = False
        for name in ("fixedSegmentation", "movingSegmentation", "fixedLandmarks", "movingLandmarks"):
            getattr(ui, f"{name}Selector").setCurrentNode(None)

    def _connect(self) -> None:
        ui = self.ui
        ui.resultSelector.currentIndexChanged.connect(lambda index: perform(self._onSelected, index))
        ui.studyCheckBox.toggled.connect(lambda on: perform(self._checkStudy, on))
        ui.applyButton.clicked.connect(lambda: perform(self._apply))
        ui.exportTransformButton.clicked.connect(lambda: perform(self._export, False))
        ui.exportInverseButton.clicked.connect(lambda: perform(self._export, True))

    def _onSceneChanged(self) -> None:
        """Continue once when the events of all nodes are over."""
        if not self._refreshPending:
            self._refreshPending = True
            qt.QTimer.singleShot(0, self._refreshLater)

    def _onFoldersChanged(self) -> None:
        """A node was renamed, or moved to another folder."""
        if not self._treePending:
            self._treePending = True
            qt.QTimer.singleShot(0, self._refreshTree)

    def _refreshTree(self) -> None:
        self._treePending = False
        if self._observed and self.result is not None:
            perform(self._nodes.refresh, self.result)

    def _refreshLater(self) -> None:
        self._refreshPending = False
        if self._observed and not self._observed[0][0].IsBatchProcessing():
            perform(self.refresh, self._observed[0][0])

    def _observeTransforms(self, results: list[SceneResult]) -> None:
        """What is in the fixed space follows a transform that is changed in another module, too."""
        for observed, tag in self._transforms:
            observed.RemoveObserver(tag)
        event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        transforms = [result.transform for result in results if result.transform is not None]
        self._transforms = [
            (node, node.AddObserver(event, lambda caller, event: updateFixedSpaceTransform(caller)))
            for node in transforms
        ]

    def _listResults(self) -> None:
        box = self.ui.resultSelector
        self._results = SceneResult.allIn(self.result.scene) if self.result is not None else []
        box.blockSignals(True)
        box.clear()
        names: list[str] = []
        for result in self._results:
            names.append(result.name)
            count = names.count(result.name)
            box.addItem(result.name if count == 1 else f"{result.name} ({count})")
        nodes = [result.node for result in self._results]
        box.setCurrentIndex(nodes.index(self.result.node) if self.result is not None else -1)
        box.blockSignals(False)

    def _onSelected(self, index: int) -> None:
        if 0 <= index < len(self._results):
            self.open(self._results[index], show=True)

    def _update(self) -> None:
        """Set the state of the controls; those that cannot be used say why."""
        ui, result = self.ui, self.result
        ui.resultSection.enabled = result is not None
        if result is None:
            ui.resultSelector.clear()
            self._results = []
        report = result.report if result is not None else None
        ui.verdictLabel.visible = report is not None
        if report is not None:
            showVerdict(ui.verdictLabel, report["verdict"])
        warnings = [] if report is None else [s for s in report["warnings"] if s not in report["verdict"]["reasons"]]
        ui.warningLabel.text = "\n".join(warnings)
        ui.warningLabel.visible = bool(warnings)
        noTransform = _("The transform was not requested, or was deleted.")
        noInverse = _("The inverse was not requested, or was deleted.")
        for button, node, reason in (
            (ui.applyButton, result and result.transform, noTransform),
            (ui.exportTransformButton, result and result.transform, noTransform),
            (ui.exportInverseButton, result and result.inverse, noInverse),
        ):
            button.enabled = node is not None
            button.toolTip = "" if node is not None else reason

    def _checkStudy(self, on: bool) -> None:
        if self.result is not None:
            self._nodes.check(idsInFolderOf(self.result), on)

    def _apply(self) -> None:
        result = self.result
        nodes = [result.scene.GetNodeByID(nodeId) for nodeId in self._nodes.checkedIds()]
        nodes = [node for node in nodes if node is not None]
        if not nodes:
            raise WaveMorphError(_("Check the nodes that the transform is to be applied to."))
        isInFixedSpace = self.ui.fixedSpaceCheckBox.checked
        transformNode = result.transformForFixedNodes() if isInFixedSpace else result.transform
        try:
            applyTransform(transformNode, nodes, self.ui.hardenCheckBox.checked)
        finally:
            self.view.refresh()

    def _export(self, inverse: bool) -> None:
        result = self.result
        node, overNode = (result.inverse, result.movingNode) if inverse else (result.transform, result.fixedNode)
        path = askForExportPath(node.GetName() + ".h5")
        if path:
            exportTransform(node, path, overNode)
