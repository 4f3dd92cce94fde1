"""The lower half of the panel: a result to look at, to judge and to use elsewhere."""

from __future__ import annotations

import logging

import qt
import slicer
from wavemorph.errors import WaveMorphError

from ..results.applying import FILE_FILTER, applyTransform, conventions, exportTransform, towardsMoving
from ..results.display import showGrid, showJacobian, showLegend, showResult
from ..results.qualityTable import addLandmarkTable, addOverlapTable, addVolumeTable
from ..translation import _
from .resultView import Comparison

FLICKER_MS = 600
_CARRIED = tuple(f"vtkMRML{kind}Node" for kind in ("Volume", "Segmentation", "Model", "Markups", "Transform"))


class ResultPanel:
    """Shows one outcome at a time; everything in it is off until there is one."""

    def __init__(self, ui):
        self.ui = ui
        self._outcome = self._comparison = None
        self._before = False
        self._flicker = qt.QTimer()
        self._flicker.interval = FLICKER_MS
        self._flicker.timeout.connect(self._onFlicker)
        ui.conventionsLabel.text = conventions()
        ui.resultSection.enabled = False
        self._connect()

    def show(self, outcome) -> None:
        """Layers, grid, table and warnings of a new outcome."""
        self.close()
        nodes = outcome.nodes
        self._outcome = outcome
        self._comparison = Comparison(outcome.fixedNode, outcome.movingNode, nodes.transform, nodes.warped)
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
            (ui.morphSlider, nodes.transform),
            (ui.gridCheckBox, nodes.transform),
            (ui.grid3DCheckBox, nodes.transform),
            (ui.gridSpacingSlider, nodes.transform),
            (ui.jacobianCheckBox, nodes.jacobian),
            (ui.jacobianOpacitySlider, nodes.jacobian),
            (ui.applyButton, nodes.transform),
            (ui.exportTransformButton, nodes.transform),
            (ui.exportInverseButton, nodes.inverse),
        ):
            widget.enabled = needed is not None
        self._reset()
        self._listNodes()
        if slicer.app.layoutManager() is not None:
            slicer.util.resetSliceViews()

    def close(self) -> None:
        """Stop what moves, and take away what only served to look."""
        self._flicker.stop()
        if self._comparison is not None:
            self._comparison.close()
        self._outcome = self._comparison = None
        self.ui.resultSection.enabled = False
        self.ui.flickerButton.checked = False

    def _connect(self) -> None:
        ui = self.ui
        ui.flickerButton.toggled.connect(lambda on: self._guarded(self._setFlicker, on))
        ui.opacitySlider.valueChanged.connect(lambda value: self._guarded(self._setOpacity, value))
        ui.checkerboardCheckBox.toggled.connect(lambda on: self._guarded(self._setCheckerboard, on))
        ui.morphSlider.valueChanged.connect(lambda value: self._guarded(self._setMorph, value))
        ui.gridCheckBox.toggled.connect(lambda on: self._guarded(self._setGrid))
        ui.grid3DCheckBox.toggled.connect(lambda on: self._guarded(self._setGrid))
        ui.gridSpacingSlider.valueChanged.connect(lambda value: self._guarded(self._setGrid))
        ui.jacobianCheckBox.toggled.connect(lambda on: self._guarded(self._setJacobian))
        ui.jacobianOpacitySlider.valueChanged.connect(lambda value: self._guarded(self._setJacobian))
        ui.measureButton.clicked.connect(lambda: self._guarded(self._measure))
        ui.refreshNodesButton.clicked.connect(lambda: self._guarded(self._listNodes))
        ui.applyButton.clicked.connect(lambda: self._guarded(self._apply))
        ui.exportTransformButton.clicked.connect(lambda: self._guarded(self._export, False))
        ui.exportInverseButton.clicked.connect(lambda: self._guarded(self._export, True))

    def _guarded(self, action, *arguments) -> None:
        """Without an outcome nothing happens; what goes wrong is one sentence."""
        if self._outcome is None:
            return
        try:
            action(*arguments)
        except WaveMorphError as error:
            slicer.util.errorDisplay(str(error))
        except Exception as error:
            logging.exception("WaveMorph")
            slicer.util.errorDisplay(
                _("That did not work ({gist}); the application log says where.").format(
                    gist=f"{type(error).__name__}: {error}"
                )
            )

    def _reset(self) -> None:
        ui = self.ui
        for widget, name, value in (
            (ui.opacitySlider, "value", 0.5),
            (ui.checkerboardCheckBox, "checked", False),
            (ui.morphSlider, "value", 100.0),
            (ui.gridCheckBox, "checked", True),
            (ui.grid3DCheckBox, "checked", False),
            (ui.jacobianCheckBox, "checked", False),
        ):
            widget.blockSignals(True)
            setattr(widget, name, value)
            widget.blockSignals(False)

    def _setFlicker(self, on: bool) -> None:
        if on:
            self._flicker.start()
        else:
            self._flicker.stop()
            self._before = False
            self._comparison.showAfter()
        self._updateFlickerText()

    def _onFlicker(self) -> None:
        self._before = not self._before
        if self._before:
            self._comparison.showBefore()
        else:
            self._comparison.showAfter()
        self._updateFlickerText()

    def _updateFlickerText(self) -> None:
        on = self.ui.flickerButton.checked
        shown = _("before") if self._before else _("after")
        self.ui.flickerButton.text = _("Before / after: {shown}").format(shown=shown) if on else _("Before / after")

    def _setOpacity(self, value: float) -> None:
        self._comparison.setOpacity(value)

    def _setCheckerboard(self, on: bool) -> None:
        if on:
            self._comparison.showCheckerboard()
        else:
            self._comparison.close()
            self._comparison.showAfter()

    def _setMorph(self, value: float) -> None:
        if value >= 100 and self._outcome.nodes.warped is not None:
            self._comparison.showAfter()
        else:
            self._comparison.showMorph(value / 100)

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
        """The Jacobian takes the place of the registered volume in front."""
        on, jacobian = self.ui.jacobianCheckBox.checked, self._outcome.nodes.jacobian
        colorLogic = slicer.modules.colors.logic()
        if not on:
            showLegend(jacobian, colorLogic, False)
            self._comparison.showAfter()
            return
        showJacobian(jacobian)
        showLegend(jacobian, colorLogic, True)
        self._comparison.showOver(jacobian, self.ui.jacobianOpacitySlider.value)

    def _measure(self) -> None:
        """Every table for which there is something to measure."""
        ui, outcome = self.ui, self._outcome
        fixedDrawn = ui.fixedSegmentationSelector.currentNode()
        movingDrawn = ui.movingSegmentationSelector.currentNode()
        fixedPoints, movingPoints = ui.fixedLandmarksSelector.currentNode(), ui.movingLandmarksSelector.currentNode()
        pair = outcome.fixedNode, outcome.movingNode
        tables = []
        if fixedDrawn is not None and outcome.nodes.jacobian is not None:
            tables.append(addVolumeTable(outcome.nodes.jacobian, *pair, fixedDrawn))
        if fixedPoints is not None and movingPoints is not None and outcome.nodes.transform is not None:
            tables.append(addLandmarkTable(outcome.nodes.transform, *pair, fixedPoints, movingPoints))
        if fixedDrawn is not None and movingDrawn is not None and outcome.nodes.transform is not None:
            tables.append(addOverlapTable(outcome.nodes.transform, *pair, fixedDrawn, movingDrawn))
        if not tables:
            raise WaveMorphError(
                _("Choose a segmentation of the fixed volume, or segmentations or landmark lists of both volumes.")
            )
        ui.tableView.setMRMLTableNode(tables[-1])

    def _listNodes(self) -> None:
        """What a transform can be put on, but for what belongs to the result itself."""
        scene, own = self._outcome.fixedNode.GetScene(), self._outcome.nodes.all()
        self.ui.nodeList.clear()
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLTransformableNode")):
            node = scene.GetNthNodeByClass(index, "vtkMRMLTransformableNode")
            if node.GetHideFromEditors() or node in own or node is self._outcome.fixedNode:
                continue
            if not any(node.IsA(className) for className in _CARRIED):
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
            raise WaveMorphError(_("Tick the nodes that the transform is to be put on."))
        transformNode = self._outcome.nodes.transform
        if self.ui.fixedSpaceCheckBox.checked:
            transformNode = towardsMoving(transformNode)
        applyTransform(transformNode, nodes, self.ui.hardenCheckBox.checked)

    def _export(self, inverse: bool) -> None:
        nodes, outcome = self._outcome.nodes, self._outcome
        node, over = (nodes.inverse, outcome.movingNode) if inverse else (nodes.transform, outcome.fixedNode)
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export transform"), node.GetName() + ".h5", FILE_FILTER
        )
        path = path[0] if isinstance(path, tuple) else path
        if path:
            exportTransform(node, path, over)
