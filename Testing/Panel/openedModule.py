"""The module with its panel opened on a real MRML scene, with stand-ins for what only the Slicer application has."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
import types

import pythonQt
import slicer
import slicer.util
import slicerModules
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene

APPLICATION = pythonQt.install()
slicerModules.install(APPLICATION)


class OpenedModule:
    """`dialogs` collects the messages that the user would see in a dialog."""

    def __init__(self, headless, dialogs):
        import WaveMorphRegistration

        self.headless, self.scene, self.dialogs = headless, headless.scene, dialogs
        self.widget = WaveMorphRegistration.WaveMorphRegistrationWidget()
        self.widget.setup()
        self.widget.enter()
        self.ui, self.panel = self.widget.ui, self.widget.panel
        self.logic, self.job = self.panel.logic, self.panel.logic.job

    @property
    def parameters(self):
        return self.panel.parameters

    @property
    def worker(self):
        return self.job._worker

    def choose(self, fixed, moving):
        """Two images as volume nodes, chosen in the selectors."""
        nodes = [addVolume(self.headless, image, name) for image, name in ((fixed, "Patient"), (moving, "Atlas"))]
        self.ui.fixedSelector.setCurrentNode(nodes[0])
        self.ui.movingSelector.setCurrentNode(nodes[1])
        self.processEvents()
        return nodes

    @staticmethod
    def processEvents():
        APPLICATION.processEvents()

    def until(self, condition, seconds: float = 120.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still {self.job.state}, {self.job.log}"
            time.sleep(0.005)
            self.processEvents()

    def register(self):
        """Click Register, and wait for the end of the job."""
        self.ui.registerButton.click()
        self.until(lambda: not self.job.active)
        self.processEvents()

    def nodeIds(self):
        return {self.scene.GetNthNode(index).GetID() for index in range(self.scene.GetNumberOfNodes())}


@contextlib.contextmanager
def headlessScene():
    scene = HeadlessScene()
    slicer.modules.colors = types.SimpleNamespace(logic=lambda: scene.logics["Colors"])
    yield scene
    scene.close()


@contextlib.contextmanager
def openedModule(headless, monkeypatch):
    """The opened module; an exception in a slot fails the test. Registrations use a coarse working grid."""
    dialogs: list[str] = []
    errors: list = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *_, **__: dialogs.append(text))
    monkeypatch.setattr(sys, "excepthook", lambda *error: errors.append(error))  # called for an exception in a slot
    module = OpenedModule(headless, dialogs)
    _coarsely(monkeypatch)
    yield module
    module.widget.cleanup()
    module.widget.parent.setMRMLScene(None)
    assert not errors, "".join("".join(traceback.format_exception(*error)) for error in errors)


def _coarsely(monkeypatch):
    from WaveMorphRegistrationLib.panel import panel

    choice = panel.RegistrationChoice

    def coarse(fixed, moving, settings, *rest):
        return choice(fixed, moving, {**settings, "spacing_mm": 4.0, "threads": 1}, *rest)

    monkeypatch.setattr(panel, "RegistrationChoice", coarse)
