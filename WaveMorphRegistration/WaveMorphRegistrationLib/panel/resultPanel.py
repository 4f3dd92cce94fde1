"""The controls below Register: view, measure, apply and export a result."""

from __future__ import annotations

import logging

import qt
import slicer
from wavemorph.errors import WaveMorphError

from ..results.display import showGrid, showJacobian, showLegend, showResult
from ..results.qualityTable import finish, landmarkTable, overlapTable, volumeTable
from ..results.transformApplication import applyTransform
from ..results.transformExport import FILE_FILTER, exportTransform, fileConventions
from ..translation import _
from .resultView import ResultView

FLICKER_MS = 600
_TRANSFORMABLE = tuple(f"vtkMRML{kind}Node" for kind in ("Volume", "Segmentation", "Model", "Markups", "Transform"))


class ResultPanel:
    """Connects the result widgets of the .ui file with one outcome; they are disabled without one."""

    def __init__(self, ui):
        self.ui = ui
        self._outcome = self._view = None
        self._showsBefore = False
        self._flickerTimer = qt.QTimer()
        self._flickerTimer.interval = FLICKER_MS
        self._flickerTimer.timeout.connect(self._onFlicker)
        ui.conventionsLabel.text = fileConventions()
        ui.resultSection.enabled = False
        self._connect()

    def show(self, outcome) -> None:
        """Show the layers, grid, table and warnings of a new outcome."""
        self.close()
        nodes = outcome.nodes
        self._outcome = outcome
        self._view = ResultView(outcome.fixedNode, outcome.movingNode, nodes.transform, nodes.warped)
        showResult(nodes, outcome.fixedNode)
        ui = self.ui
        ui.resultSection.enabled = True
        ui.resultSection.collapsed = False
        warnings = outcome.report["warnings"]
        ui.warningLabel.text = "\n".join(warnings)
        ui.warningLabel.visible = bool(warnings)
        ui.tableView.setMRMLTableNode(outcome.tableNode)
        for widget, needed in (
            (ui.flickerButton, nodes.warped),
            (ui.checkerboardCheckBox, nodes.warped),
            (ui.opacitySlider, nodes.warped),
            (ui.warpSlider, nodes.transform),
            (ui.gridCheckBox, nodes.grid),
            (ui.grid3DCheckBox, nodes.grid),
            (ui.gridSpacingSlider, nodes.grid),
            (ui.jacobianCheckBox, nodes.jacobian),
            (ui.jacobianOpacitySlider, nodes.jacobian),
            (ui.applyButton, nodes.transform),
            (ui.exportTransformButton, nodes.transform),
            (ui.exportInverseButton, nodes.inverse),
        ):
            widget.enabled = needed is not None
        self._resetControls()
        self._listNodes()
        if slicer.app.layoutManager() is not None:
            slicer.util.resetSliceViews()

    def close(self) -> None:
        """Stop the flicker, remove the nodes created for viewing, and disable the controls."""
        self._flickerTimer.stop()
        if self._view is not None:
            self._view.close()
        self._outcome = self._view = None
        self.ui.resultSection.enabled = False
        self.ui.flickerButton.checked = False

    def _connect(self) -> None:
        ui = self.ui
        ui.flickerButton.toggled.connect(lambda on: self._perform(self._setFlicker, on))
        ui.opacitySlider.valueChanged.connect(lambda value: self._perform(self._setOpacity, value))
        ui.checkerboardCheckBox.toggled.connect(lambda on: self._perform(self._setCheckerboard, on))
        ui.warpSlider.valueChanged.connect(lambda value: self._perform(self._setWarp, value))
        ui.gridCheckBox.toggled.connect(lambda on: self._perform(self._setGrid))
        ui.grid3DCheckBox.toggled.connect(lambda on: self._perform(self._setGrid))
        ui.gridSpacingSlider.valueChanged.connect(lambda value: self._perform(self._setGrid))
        ui.jacobianCheckBox.toggled.connect(lambda on: self._perform(self._setJacobian))
        ui.jacobianOpacitySlider.valueChanged.connect(lambda value: self._perform(self._setJacobian))
        ui.measureButton.clicked.connect(lambda: self._perform(self._measure))
        ui.refreshNodesButton.clicked.connect(lambda: self._perform(self._listNodes))
        ui.applyButton.clicked.connect(lambda: self._perform(self._apply))
        ui.exportTransformButton.clicked.connect(lambda: self._perform(self._export, False))
        ui.exportInverseButton.clicked.connect(lambda: self._perform(self._export, True))

    def _perform(self, action, *arguments) -> None:
        """Run an action on the outcome, if there is one, and show its exception as one message."""
        if self._outcome is None:
            return
        try:
            action(*arguments)
        except WaveMorphError as error:
            slicer.util.errorDisplay(str(error))
        except Exception as error:
            logging.exception("WaveMorph")
            slicer.util.errorDisplay(
                _("The action failed ({reason}); the application log has the details.").format(
                    reason=f"{type(error).__name__}: {error}"
                )
            )

    def _resetControls(self) -> None:
        ui = self.ui
        for widget, name, value in (
            (ui.opacitySlider, "value", 0.5),
            (ui.checkerboardCheckBox, "checked", False),
            (ui.warpSlider, "value", 100.0),
            (ui.gridCheckBox, "checked", self._outcome.nodes.grid is not None),
            (ui.grid3DCheckBox, "checked", False),
            (ui.jacobianCheckBox, "checked", False),
        ):
            widget.blockSignals(True)
            setattr(widget, name, value)
            widget.blockSignals(False)

    def _setFlicker(self, on: bool) -> None:
        if on:
            self._flickerTimer.start()
        else:
            self._flickerTimer.stop()
            self._showsBefore = False
            self._view.showAfter()
        self._updateFlickerText()

    def _onFlicker(self) -> None:
        self._showsBefore = not self._showsBefore
        if self._showsBefore:
            self._view.showBefore()
        else:
            self._view.showAfter()
        self._updateFlickerText()

    def _updateFlickerText(self) -> None:
        button, shown = self.ui.flickerButton, _("before") if self._showsBefore else _("after")
        button.text = _("Before / after: {shown}").format(shown=shown) if button.checked else _("Before / after")

    def _setOpacity(self, value: float) -> None:
        self._view.setOpacity(value)

    def _setCheckerboard(self, on: bool) -> None:
        if on:
            self._view.showCheckerboard()
        else:
            self._view.close()
            self._view.showAfter()

    def _setWarp(self, percent: float) -> None:
        if percent >= 100 and self._outcome.nodes.warped is not None:
            self._view.showAfter()
        else:
            self._view.showWarpPreview(percent / 100)

    def _setGrid(self) -> None:
        ui = self.ui
        showGrid(
            self._outcome.nodes.transform,
            self._outcome.fixedNode,
            ui.gridSpacingSlider.value,
            ui.gridCheckBox.checked,
            ui.grid3DCheckBox.checked,
        )

    def _setJacobian(self) -> None:
        """Show the Jacobian as foreground instead of the registered volume, or the registered volume again."""
        on, jacobian = self.ui.jacobianCheckBox.checked, self._outcome.nodes.jacobian
        colorLogic = slicer.modules.colors.logic()
        if not on:
            showLegend(jacobian, colorLogic, False)
            self._view.showAfter()
            return
        showJacobian(jacobian)
        showLegend(jacobian, colorLogic, True)
        self._view.showForeground(jacobian, self.ui.jacobianOpacitySlider.value)

    def _measure(self) -> None:
        """Create every table whose inputs are selected, and show the last one."""
        ui, outcome = self.ui, self._outcome
        fixedSegmentation = ui.fixedSegmentationSelector.currentNode()
        movingSegmentation = ui.movingSegmentationSelector.currentNode()
        fixedPoints, movingPoints = ui.fixedLandmarksSelector.currentNode(), ui.movingLandmarksSelector.currentNode()
        result = outcome.nodes
        transform, jacobian = result.transform, result.jacobian
        tables = []
        if fixedSegmentation is not None and jacobian is not None:
            tables.append(finish(volumeTable(result, fixedSegmentation)))
        if fixedPoints is not None and movingPoints is not None and transform is not None:
            tables.append(finish(landmarkTable(result, fixedPoints, movingPoints)))
        if fixedSegmentation is not None and movingSegmentation is not None and transform is not None:
            tables.append(finish(overlapTable(result, fixedSegmentation, movingSegmentation)))
        if not tables:
            raise WaveMorphError(
                _("Choose a segmentation of the fixed volume, or segmentations or landmark lists of both volumes.")
            )
        ui.tableView.setMRMLTableNode(tables[-1])

    def _listNodes(self) -> None:
        """List the nodes that the transform can be applied to, except the fixed volume and the result itself."""
        scene, resultNodes = self._outcome.fixedNode.GetScene(), self._outcome.nodes.all()
        self.ui.nodeList.clear()
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLTransformableNode")):
            node = scene.GetNthNodeByClass(index, "vtkMRMLTransformableNode")
            if node.GetHideFromEditors() or node in resultNodes or node is self._outcome.fixedNode:
                continue
            if not any(node.IsA(className) for className in _TRANSFORMABLE):
                continue
            self.ui.nodeList.addItem(node.GetName())
            item = self.ui.nodeList.item(self.ui.nodeList.count - 1)
            item.setData(qt.Qt.UserRole, node.GetID())
            item.setCheckState(qt.Qt.Unchecked)

    def _apply(self) -> None:
        scene = self._outcome.fixedNode.GetScene()
        nodes = []
        for row in range(self.ui.nodeList.count):
            item = self.ui.nodeList.item(row)
            if item.checkState() == qt.Qt.Checked:
                node = scene.GetNodeByID(item.data(qt.Qt.UserRole))
                if node is not None:
                    nodes.append(node)
        if not nodes:
            raise WaveMorphError(_("Check the nodes that the transform is to be applied to."))
        transformNode = self._outcome.nodes.transform
        if self.ui.fixedSpaceCheckBox.checked:
            transformNode = self._outcome.nodes.transformForFixedNodes()
        applyTransform(transformNode, nodes, self.ui.hardenCheckBox.checked)

    def _export(self, inverse: bool) -> None:
        nodes, outcome = self._outcome.nodes, self._outcome
        node, overNode = (nodes.inverse, outcome.movingNode) if inverse else (nodes.transform, outcome.fixedNode)
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export transform"), node.GetName() + ".h5", FILE_FILTER
        )
        path = path[0] if isinstance(path, tuple) else path
        if path:
            exportTransform(node, path, overNode)
