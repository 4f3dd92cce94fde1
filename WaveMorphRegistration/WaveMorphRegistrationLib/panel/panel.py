"""The panel's behaviour while a registration is chosen and runs. What is shown afterwards is in resultPanel.py."""

from __future__ import annotations

import logging

import qt
import slicer
from wavemorph.errors import WaveMorphError
from wavemorph.weights import list_models

from ..engine.dependencies import ensureDependencies
from ..engine.job import JobState
from ..engine.registrationLogic import OUTPUTS, RegistrationChoice, missingChoice
from ..results.resultNodes import FIXED_ROLE, MOVING_ROLE
from ..translation import _
from .resultPanel import ResultPanel

POLL_MS = 100
_OUTPUT_NAMES = {
    "transform": "Transform",
    "warped": "Warped",
    "jacobian": "Jacobian",
    "inverse": "Inverse",
}


class Panel:
    """Connects the widgets of the .ui file with the parameter node and the logic.

    getParameterNode() gives a new wrapper around the module's node; the wrapper is renewed at each `bind`, because one
    that has seen its scene close keeps reading what is no longer there.
    """

    def __init__(self, ui, logic, getParameterNode):
        self.ui, self.logic, self._getParameterNode = ui, logic, getParameterNode
        self.parameters = self._guiTag = None
        self._preparing, self._said, self._closed = False, "", False
        self.result = ResultPanel(ui)
        self._timer = qt.QTimer()
        self._timer.interval = POLL_MS
        self._timer.timeout.connect(self._onTimer)
        logic.onChanged = self.update
        logic.onFinished = self._onFinished
        logic.onFailed = self._onFailed
        logic.onCancelled = self._onCancelled
        self._connect()

    def bind(self) -> None:
        """Show the parameter node of the scene, and follow it."""
        self.unbind()
        self.parameters = self._getParameterNode()
        named = {
            widget.property("SlicerParameterName"): widget
            for widget in vars(self.ui).values()
            if widget.property("SlicerParameterName")
        }
        self._guiTag = self.parameters.connectParametersToGui(named)
        for selector, name in self._maskSelectors():
            selector.setCurrentNode(getattr(self.parameters, name))
        self._fillModels()
        self.update()

    def bindAgain(self) -> None:
        """After a scene was closed or read: now, and once the selectors know its nodes, which they learn last."""
        self.bind()
        qt.QTimer.singleShot(0, self._onSettled)

    def _onSettled(self) -> None:
        if self.parameters is not None and not self._closed:
            self.bind()

    def unbind(self) -> None:
        if self.parameters is not None and self._guiTag is not None:
            self.parameters.disconnectGui(self._guiTag)
        self.parameters = self._guiTag = None

    def close(self) -> None:
        """The panel goes away: nothing may be left running."""
        self._closed = True
        self._timer.stop()
        self.result.close()
        self.unbind()
        self.logic.close()

    def onSceneClosing(self) -> None:
        """The nodes are about to go: so does what shows them, and a job that reads them."""
        self.result.close()
        self.logic.cancel()
        self.unbind()

    def update(self) -> None:
        """Texts, enabled states and progress as things stand."""
        if self._closed:
            return
        job, ui = self.logic.job, self.ui
        active = job.active or self._preparing
        missing = self._missing()
        ui.registerButton.text = _("Cancel") if active else missing or _("Register")
        ui.registerButton.toolTip = (
            _("Stop the registration; the scene stays as it was.") if active else missing or self._intention()
        )
        ui.registerButton.enabled = job.state is not JobState.Cancelling and (
            job.active or (not self._preparing and not missing)
        )
        for section in (ui.inputsSection, ui.methodSection, ui.outputsSection):
            section.enabled = not active
        ui.progressBar.visible = active
        ui.progressBar.value = round(100 * job.fraction)
        ui.statusLabel.text = job.status if job.active else self._said or self._intention()
        ui.logText.plainText = "\n".join(job.log)
        ui.deviceLabel.text = _("Found: {device}").format(device=job.device) if job.device else ""

    def onRegister(self) -> None:
        """Begin, or cancel what runs."""
        if self.logic.job.active:
            self.logic.cancel()
            return
        self._preparing, self._said = True, ""
        self.update()
        try:
            ensureDependencies()
            self.logic.start(self._choice())
            self._timer.start()
        except WaveMorphError as error:
            self._complain(str(error))
        except Exception as error:
            logging.exception("WaveMorph could not begin")
            self._complain(_("The registration could not begin ({gist}); the application log says where.").format(
                gist=f"{type(error).__name__}: {error}"
            ))  # fmt: skip
        finally:
            self._preparing = False
            self.update()

    def onSwap(self) -> None:
        """Fixed becomes moving and moving fixed, with their masks."""
        p = self.parameters
        p.fixedVolume, p.movingVolume = p.movingVolume, p.fixedVolume
        masks = p.movingMask, p.fixedMask
        for (selector, _name), mask in zip(self._maskSelectors(), masks):
            selector.setCurrentNode(mask)
        self.update()

    def _connect(self) -> None:
        ui = self.ui
        ui.registerButton.clicked.connect(lambda: self.onRegister())
        ui.swapButton.clicked.connect(lambda: self.onSwap())
        ui.modelComboBox.currentIndexChanged.connect(lambda index: self._onModel(index))
        for selector, name in self._maskSelectors():
            selector.currentNodeChanged.connect(lambda node, name=name: self._onMask(name, node))
        for selector in (ui.fixedSelector, ui.movingSelector):
            selector.currentNodeChanged.connect(lambda node: self._onChoice())
        for output in OUTPUTS:
            getattr(ui, f"want{_OUTPUT_NAMES[output]}CheckBox").toggled.connect(lambda on: self._onChoice())

    def _onChoice(self) -> None:
        """The parameter node is written by its own connection, at this event or just after."""
        qt.QTimer.singleShot(0, self._onChosen)

    def _onChosen(self) -> None:
        if self._closed:
            return
        self._said = ""
        self._releaseOutputs()
        self.update()

    def _releaseOutputs(self) -> None:
        """Nodes that hold the result of another pair are not to be filled with that of this one."""
        p = self.parameters
        if p is None or self.logic.job.active:
            return
        for name in _OUTPUT_NAMES.values():
            node = getattr(p, f"output{name}")
            if node is None:
                continue
            fixed, moving = node.GetNodeReference(FIXED_ROLE), node.GetNodeReference(MOVING_ROLE)
            if fixed is not None and (fixed is not p.fixedVolume or moving is not p.movingVolume):
                setattr(p, f"output{name}", None)

    def _maskSelectors(self) -> tuple:
        """Two classes of nodes may be masks, and the connection of a parameter to a selector would allow one only."""
        return (self.ui.fixedMaskSelector, "fixedMask"), (self.ui.movingMaskSelector, "movingMask")

    def _onMask(self, name: str, node) -> None:
        if self.parameters is not None:
            setattr(self.parameters, name, node)

    def _onModel(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.model = str(self.ui.modelComboBox.itemData(index))

    def _fillModels(self) -> None:
        box = self.ui.modelComboBox
        box.blockSignals(True)
        box.clear()
        models = [model.name for model in list_models()]
        box.addItem(_("Default model") if models else _("None installed: refinement alone"), "auto")
        for name in models:
            box.addItem(name, name)
        if models:
            box.addItem(_("None: refinement alone"), "none")
        box.setCurrentIndex(max(0, box.findData(self.parameters.model)))
        box.blockSignals(False)

    def _outputs(self) -> tuple[str, ...]:
        p = self.parameters
        return tuple(output for output in OUTPUTS if getattr(p, f"want{_OUTPUT_NAMES[output]}"))

    def _missing(self) -> str | None:
        p = self.parameters
        return _("The scene is closed") if p is None else missingChoice(p.fixedVolume, p.movingVolume, self._outputs())

    def _intention(self) -> str:
        p = self.parameters
        if p is None or p.fixedVolume is None or p.movingVolume is None or p.fixedVolume is p.movingVolume:
            return ""
        return _("{moving} will be aligned to {fixed}.").format(
            moving=p.movingVolume.GetName(), fixed=p.fixedVolume.GetName()
        )

    def _choice(self) -> RegistrationChoice:
        p = self.parameters
        return RegistrationChoice(
            p.fixedVolume,
            p.movingVolume,
            {
                "preset": p.preset.value,
                "contrast": p.contrast.value,
                "device": p.device.value,
                "weights": p.model,
                "affine": not p.aligned,
            },
            p.fixedMask,
            p.movingMask,
            p.initialTransform,
            self._outputs(),
            {output: getattr(p, f"output{_OUTPUT_NAMES[output]}") for output in OUTPUTS},
        )

    def _onTimer(self) -> None:
        self.logic.poll()
        if self.logic.job.active:
            self.update()  # the time left runs on between two events
        else:
            self._timer.stop()

    def _onFinished(self, outcome) -> None:
        if self.parameters is not None:
            for output, name in _OUTPUT_NAMES.items():
                node = getattr(outcome.nodes, output)
                if node is not None:
                    setattr(self.parameters, f"output{name}", node)
        self.result.show(outcome)
        report = outcome.report
        self._said = _("Done in {seconds:.0f} s; {folded} folded voxels.").format(
            seconds=report["seconds"]["total"], folded=report["folding"]["central_voxels"]
        )
        if report["warnings"]:
            self._said += " " + _("Read the warning below before you use it.")

    def _onFailed(self, sentence: str) -> None:
        self._complain(sentence)

    def _onCancelled(self) -> None:
        self._said = _("Cancelled; the scene is as it was.")
        self.update()

    def _complain(self, sentence: str) -> None:
        self._said = sentence
        self.update()
        slicer.util.errorDisplay(sentence)
