"""The controls from the choice of volumes to Register and its progress; those of a result are in resultPanel.py."""

from __future__ import annotations

import logging

import qt
import slicer
from wavemorph.errors import WaveMorphError
from wavemorph.models.weights import list_models

from ..engine.dependencies import ensureDependencies
from ..engine.job import JobState
from ..engine.registrationChoice import OUTPUTS, RegistrationChoice, doubtsAboutSizes, missingInput
from ..results.reportTable import doneSentences
from ..results.sceneResult import FIXED_ROLE, MOVING_ROLE, OUTPUT_ATTRIBUTE
from ..scene.segmentations import segments
from ..translation import _
from .parameters import TransformType
from .resultPanel import ResultPanel

POLL_MS = 50
_STORED_MM = 2.0
_OF_DEFORMATIONS = ("jacobian", "expectedError")
_WIDGET_NAMES = {  # output: how the names of its widgets and parameters end
    "transform": "Transform",
    "warped": "Warped",
    "jacobian": "Jacobian",
    "expectedError": "ExpectedError",
    "inverse": "Inverse",
}


class Panel:
    """Connects the widgets of the .ui file with the parameter node and the logic.

    getParameterNode: returns a new wrapper around the module's node. The wrapper is renewed at each `bind`, because one
    whose scene was closed continues to return the values of before.
    """

    def __init__(self, ui, logic, getParameterNode):
        self.ui, self.logic, self._getParameterNode = ui, logic, getParameterNode
        self.parameters = self._guiTag = None
        self._preparing, self._message, self._closed = False, "", False
        self.result = ResultPanel(ui)
        self._timer = qt.QTimer()
        self._timer.interval = POLL_MS
        self._timer.timeout.connect(self._onTimer)
        logic.onChanged = self.update
        logic.onFinished = self._onFinished
        logic.onFailed = self._showError
        logic.onCanceled = self._onCanceled
        self._connect()

    def bind(self) -> None:
        """Show the parameter node of the scene, and connect the widgets with it."""
        self.unbind()
        self.parameters = self._getParameterNode()
        widgets = {
            widget.property("SlicerParameterName"): widget
            for widget in vars(self.ui).values()
            if widget.property("SlicerParameterName")
        }
        self._guiTag = self.parameters.connectParametersToGui(widgets)
        for selector, name in self._maskSelectors():
            node = getattr(self.parameters, name)
            selector.setCurrentNode(node)
            self._fillSegments(name, node)
        self._fillModels()
        self.result.bind(slicer.mrmlScene)
        self.update()

    def enter(self) -> None:
        """The module is opened: from now on its result may be shown in the views."""
        self.bind()
        self.result.view.enter()

    def exit(self) -> None:
        """Another module is opened: leave the views to it; a running registration continues."""
        self.result.view.exit()
        self.unbind()

    def bindAfterSceneChange(self) -> None:
        """Bind now, and again when the selectors, which are the last to be notified, know the nodes of the scene."""
        self.bind()
        qt.QTimer.singleShot(0, self._onSelectorsUpdated)

    def unbind(self) -> None:
        """Disconnect the widgets from the parameter node."""
        if self.parameters is not None and self._guiTag is not None:
            self.parameters.disconnectGui(self._guiTag)
        self.parameters = self._guiTag = None

    def close(self) -> None:
        """Stop timers, job and worker: the widgets are about to be destroyed."""
        self._closed = True
        self._timer.stop()
        self.result.close()
        self.result.unbind()
        self.unbind()
        self.logic.close()

    def onSceneClosing(self) -> None:
        """Stop what uses the nodes of the scene: they are about to be removed."""
        self.result.close()
        self.result.unbind()
        self.logic.cancel()
        self.unbind()

    def update(self) -> None:
        """Set texts, enabled states and progress to the current state."""
        if self._closed:
            return
        job, ui = self.logic.job, self.ui
        active = job.active or self._preparing
        missing = self._missingInput()
        ui.registerButton.text = _("Cancel") if active else missing or _("Register")
        ui.registerButton.toolTip = (
            _("Stop the registration; the scene is not changed.") if active else missing or self._plannedRegistration()
        )
        ui.registerButton.enabled = job.state is not JobState.Canceling and (
            job.active or (not self._preparing and not missing)
        )
        for section in (ui.inputsSection, ui.methodSection, ui.outputsSection):
            section.enabled = not active
        deformable = self._isDeformable()
        for widget in (
            ui.alignedCheckBox,
            ui.smoothnessComboBox,
            ui.storeCoarselyCheckBox,
            ui.wantJacobianCheckBox,
            ui.outputJacobianSelector,
            ui.wantExpectedErrorCheckBox,
            ui.outputExpectedErrorSelector,
        ):
            widget.enabled = deformable
        ui.progressBar.visible = active
        ui.progressBar.value = round(100 * job.fraction)
        ui.statusLabel.text = job.status if job.active else self._message or self._plannedRegistration()
        ui.logText.plainText = "\n".join(job.log)
        found = _("Found: {device}.").format(device=job.device) if job.device else ""
        ui.deviceComboBox.toolTip = " ".join([_("Automatic: a GPU if one is available, otherwise the CPU."), found])

    def onRegister(self) -> None:
        """Start a registration, or cancel the running one."""
        if self.logic.job.active:
            self.logic.cancel()
            return
        self._preparing, self._message = True, ""
        self.update()
        try:
            ensureDependencies()
            self.logic.start(self._choice())
            self._timer.start()
        except WaveMorphError as error:
            self._showError(str(error))
        except Exception as error:
            logging.exception("WaveMorph could not start a registration")
            reason = f"{type(error).__name__}: {error}"
            self._showError(
                _("The registration could not start ({reason}); the application log has the details.").format(
                    reason=reason
                )
            )
        finally:
            self._preparing = False
            self.update()

    def onSwap(self) -> None:
        """Exchange the fixed and the moving volume, with their masks."""
        p = self.parameters
        p.fixedVolume, p.movingVolume = p.movingVolume, p.fixedVolume
        masks = (p.movingMask, p.movingMaskSegment), (p.fixedMask, p.fixedMaskSegment)
        for (selector, name), (mask, segment) in zip(self._maskSelectors(), masks):
            setattr(p, f"{name}Segment", segment)
            selector.setCurrentNode(mask)
            self._fillSegments(name, mask)
        self.update()

    def _connect(self) -> None:
        ui = self.ui
        ui.registerButton.clicked.connect(lambda: self.onRegister())
        ui.swapButton.clicked.connect(lambda: self.onSwap())
        ui.modelComboBox.currentIndexChanged.connect(lambda index: self._onModel(index))
        for selector, name in self._maskSelectors():
            selector.currentNodeChanged.connect(lambda node, name=name: self._onMask(name, node))
            box = getattr(ui, f"{name}SegmentComboBox")
            box.currentIndexChanged.connect(lambda index, name=name: self._onSegment(name))
        for selector in (ui.fixedSelector, ui.movingSelector):
            selector.currentNodeChanged.connect(lambda node: self._onChoice())
        ui.transformTypeComboBox.currentIndexChanged.connect(lambda index: self._onChoice())
        for output, name in _WIDGET_NAMES.items():
            selector = getattr(ui, f"output{name}Selector")
            for className in ("vtkMRMLTransformNode", "vtkMRMLScalarVolumeNode"):
                selector.addAttribute(className, OUTPUT_ATTRIBUTE, output)  # no input is offered to be overwritten
        for output in OUTPUTS:
            getattr(ui, f"want{_WIDGET_NAMES[output]}CheckBox").toggled.connect(lambda on: self._onChoice())

    def _onSelectorsUpdated(self) -> None:
        if self.parameters is not None and not self._closed:
            self.bind()

    def _onChoice(self) -> None:
        """Continue in the next event: a connection of its own writes the parameter node, before or after this one."""
        qt.QTimer.singleShot(0, self._onParametersWritten)

    def _onParametersWritten(self) -> None:
        if self._closed:
            return
        self._message = ""
        self._clearOutputsOfOtherPairs()
        if not self._missingInput():
            self.logic.prepare()
        self.update()

    def _clearOutputsOfOtherPairs(self) -> None:
        """Deselect output nodes that hold the result of another pair, so that they are not overwritten."""
        p = self.parameters
        if p is None or self.logic.job.active:
            return
        for name in _WIDGET_NAMES.values():
            node = getattr(p, f"output{name}")
            if node is None:
                continue
            fixed, moving = node.GetNodeReference(FIXED_ROLE), node.GetNodeReference(MOVING_ROLE)
            if fixed is not None and (fixed is not p.fixedVolume or moving is not p.movingVolume):
                setattr(p, f"output{name}", None)

    def _maskSelectors(self) -> tuple:
        """(selector, parameter) of the masks, which `bind` connects: a parameter's own connection allows one class."""
        return (self.ui.fixedMaskSelector, "fixedMask"), (self.ui.movingMaskSelector, "movingMask")

    def _onMask(self, name: str, node) -> None:
        if self.parameters is not None:
            setattr(self.parameters, name, node)
        self._fillSegments(name, node)

    def _fillSegments(self, name: str, node) -> None:
        """Offer the segments of a mask: all united, or one; hidden for a label map."""
        box = getattr(self.ui, f"{name}SegmentComboBox")
        listed = segments(node) if node is not None and node.IsA("vtkMRMLSegmentationNode") else []
        box.blockSignals(True)
        box.clear()
        box.addItem(_("All segments, united"), "")
        for segmentId, segmentName in listed:
            box.addItem(segmentName, segmentId)
        chosen = getattr(self.parameters, f"{name}Segment") if self.parameters is not None else ""
        box.setCurrentIndex(max(0, box.findData(chosen)))
        box.blockSignals(False)
        box.visible = bool(listed)
        self._onSegment(name)

    def _onSegment(self, name: str) -> None:
        box = getattr(self.ui, f"{name}SegmentComboBox")
        if self.parameters is not None:
            setattr(self.parameters, f"{name}Segment", str(box.itemData(box.currentIndex) or ""))

    def _onModel(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.model = str(self.ui.modelComboBox.itemData(index))

    def _fillModels(self) -> None:
        box = self.ui.modelComboBox
        box.blockSignals(True)
        box.clear()
        models = [model.name for model in list_models()]
        box.addItem(_("Default model") if models else _("Default model (missing)"), "auto")
        for name in models:
            box.addItem(name, name)
        box.addItem(_("None: refinement only"), "none")
        box.setCurrentIndex(max(0, box.findData(self.parameters.model)))
        box.blockSignals(False)

    def _isDeformable(self) -> bool:
        return self.parameters is None or self.parameters.transformType is TransformType.Deformable

    def _outputs(self) -> tuple[str, ...]:
        """What the user wants; of a linear transform no maps: its Jacobian is a number, its error is not estimated."""
        p = self.parameters
        offered = [output for output in OUTPUTS if output not in _OF_DEFORMATIONS or self._isDeformable()]
        return tuple(output for output in offered if getattr(p, f"want{_WIDGET_NAMES[output]}"))

    def _missingInput(self) -> str | None:
        p = self.parameters
        return _("The scene is closed") if p is None else missingInput(p.fixedVolume, p.movingVolume, self._outputs())

    def _plannedRegistration(self) -> str:
        p = self.parameters
        if p is None or p.fixedVolume is None or p.movingVolume is None or p.fixedVolume is p.movingVolume:
            return ""
        sentence = {
            TransformType.Rigid: _("{moving} will be rotated and shifted to {fixed}."),
            TransformType.Affine: _("{moving} will be rotated, shifted, scaled and sheared to {fixed}."),
            TransformType.Deformable: _("{moving} will be aligned to {fixed}."),
        }[p.transformType]
        sentence = sentence.format(moving=p.movingVolume.GetName(), fixed=p.fixedVolume.GetName())
        return " ".join([sentence, *doubtsAboutSizes(p.fixedVolume, p.movingVolume)])

    def _choice(self) -> RegistrationChoice:
        p = self.parameters
        return RegistrationChoice(
            p.fixedVolume,
            p.movingVolume,
            {
                "preset": p.preset.value,
                "transform_type": p.transformType.value,
                "contrast": p.contrast.value,
                "smoothness": p.smoothness.value,
                "device": p.device.value,
                "weights": p.model,
                "affine": not (p.aligned and self._isDeformable()),
            },
            p.fixedMask,
            p.movingMask,
            p.initialTransform,
            self._outputs(),
            {output: getattr(p, f"output{_WIDGET_NAMES[output]}") for output in OUTPUTS},
            p.fixedMaskSegment,
            p.movingMaskSegment,
            _STORED_MM if p.storeCoarsely and self._isDeformable() else None,
        )

    def _onTimer(self) -> None:
        self.logic.poll()
        if self.logic.job.active:
            self.update()  # the remaining time changes without an event
        else:
            self._timer.stop()

    def _onFinished(self, outcome) -> None:
        parameters = self.parameters if self.parameters is not None else self._getParameterNode()
        for output, name in _WIDGET_NAMES.items():
            node = outcome.nodes.output(output)
            if node is not None:
                setattr(parameters, f"output{name}", node)
        self.result.show(outcome.nodes)
        for section in (self.ui.inputsSection, self.ui.methodSection, self.ui.outputsSection):
            section.collapsed = True
        self.ui.scrollArea.ensureWidgetVisible(self.ui.resultSection)
        self._message = doneSentences(outcome.report)

    def _onCanceled(self) -> None:
        self._message = _("Canceled; the scene was not changed.")
        self.update()

    def _showError(self, message: str) -> None:
        self._message = message
        self.update()
        slicer.util.errorDisplay(message)
