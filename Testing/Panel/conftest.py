"""The panel on a real MRML scene, with look-alikes for what only the Slicer application has."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import pytest
import slicer
import slicer.util

sys.path.insert(0, str(Path(__file__).parent))
import pythonQt
import slicerModules
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene

APPLICATION = pythonQt.install()
slicerModules.install(APPLICATION)


class Opened:
    """A module whose panel stands open. `dialogs` collects what it would have shown in one."""

    def __init__(self, headless, dialogs):
        import WaveMorphRegistration

        self.headless, self.scene, self.dialogs = headless, headless.scene, dialogs
        self.widget = WaveMorphRegistration.WaveMorphRegistrationWidget()
        self.widget.setup()
        self.ui, self.panel = self.widget.ui, self.widget.panel
        self.logic, self.job = self.widget.logic.registration, self.widget.logic.registration.job

    @property
    def parameters(self):
        return self.panel.parameters

    def choose(self, fixed, moving):
        """Two images as volume nodes, chosen in the selectors."""
        nodes = [addVolume(self.headless, image, name) for image, name in ((fixed, "Patient"), (moving, "Atlas"))]
        self.ui.fixedSelector.setCurrentNode(nodes[0])
        self.ui.movingSelector.setCurrentNode(nodes[1])
        self.turn()
        return nodes

    def turn(self, seconds: float = 0.0):
        """Let Qt work."""
        until = time.monotonic() + seconds
        while True:
            APPLICATION.processEvents()
            if time.monotonic() >= until:
                return
            time.sleep(0.01)

    def until(self, condition, seconds: float = 120.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still {self.job.state}, {self.job.log}"
            self.turn(0.02)

    def register(self):
        """A click on Register, and the wait for what comes of it."""
        self.ui.registerButton.click()
        self.until(lambda: not self.job.active)
        self.turn()

    def nodeIds(self):
        return {self.scene.GetNthNode(index).GetID() for index in range(self.scene.GetNumberOfNodes())}


@pytest.fixture
def headless():
    scene = HeadlessScene()
    colors = types.SimpleNamespace(logic=lambda: scene.logics["Colors"])
    slicer.modules.colors = colors
    yield scene
    scene.close()


@pytest.fixture
def opened(headless, monkeypatch):
    dialogs: list[str] = []
    errors: list = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *_, **__: dialogs.append(text))
    monkeypatch.setattr(sys, "excepthook", lambda *error: errors.append(error))  # what a slot raises goes there
    module = Opened(headless, dialogs)
    quickly(monkeypatch)
    yield module
    module.widget.cleanup()
    module.widget.parent.setMRMLScene(None)
    assert not errors


def quickly(monkeypatch):
    """A coarse working grid: the panel is tested here, not the engine."""
    from WaveMorphRegistrationLib.panel import panel

    choice = panel.RegistrationChoice

    def coarse(fixed, moving, settings, *rest):
        return choice(fixed, moving, {**settings, "spacing_mm": 4.0, "threads": 1}, *rest)

    monkeypatch.setattr(panel, "RegistrationChoice", coarse)
