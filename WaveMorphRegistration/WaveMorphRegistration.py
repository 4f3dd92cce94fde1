"""The module WaveMorph Registration, as Slicer loads it. Its behavior is in WaveMorphRegistrationLib."""

import os

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class WaveMorphRegistration(ScriptedLoadableModule):
    """Title, category and help text."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("WaveMorph Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
        self.parent.contributors = ["The WaveMorph authors"]
        self.parent.helpText = _(
            "Deformable registration of two volumes in seconds to a minute, without folding. Select the fixed volume "
            "and the moving volume, which is aligned to it, and press Register. The deformation grid shows how the "
            "moving anatomy is displaced; in the Jacobian, red is moving tissue that is larger than the fixed tissue."
        )
        self.parent.acknowledgementText = _(
            "The network follows Zhang et al., Wavelet-Guided Multi-Scale ConvNeXt for Unsupervised Medical Image "
            "Registration, Bioengineering 2025, 12(4), 406. Research software; not a medical device."
        )
        slicer.app.connect("startupCompleted()", removeOldFolders)
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Add pairs of volumes to the module Sample Data."""
    from WaveMorphRegistrationLib.samples.sampleData import registerPairs

    registerPairs(os.path.join(os.path.dirname(__file__), "Resources", "Icons"))


def removeOldFolders() -> None:
    """Remove the volumes that an application which crashed left in the temporary folder."""
    from WaveMorphRegistrationLib.engine.jobFolders import removeFoldersOfDeadProcesses

    removeFoldersOfDeadProcesses()


class WaveMorphRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the .ui file for the panel, and notifies the panel when the scene is closed or read."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.panel = None

    def setup(self):
        """Called when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from WaveMorphRegistrationLib.engine.registrationLogic import RegistrationLogic
        from WaveMorphRegistrationLib.panel.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/WaveMorphRegistration.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = WaveMorphRegistrationLogic()  # for scripts (slicer.util.getModuleLogic); the panel has its own
        self.panel = Panel(self.ui, RegistrationLogic(), self.logic.getParameterNode)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneChanged)
        self.panel.bind()

    def cleanup(self):
        """Called when the application closes and when the module is reloaded."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
            self.panel = None
            self.logic.close()

    def enter(self):
        """Called each time the user opens the module."""
        if self.panel is not None:
            self.panel.enter()

    def exit(self):
        """Called each time the user opens another module; a running registration continues."""
        if self.panel is not None:
            self.panel.exit()

    def onReload(self):
        """Developer mode: reload the library beside this file, too."""
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] in ("WaveMorphRegistrationLib", "wavemorph")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller=None, event=None):
        """The nodes of the scene are about to be removed."""
        self.panel.onSceneClosing()

    def onSceneChanged(self, caller=None, event=None):
        """Replace the wrapper around the parameter node: the old one continues to return values of the former scene."""
        self.panel.bindAfterSceneChange()


class WaveMorphRegistrationLogic(ScriptedLoadableModuleLogic):
    """For scripts and other modules, without the panel.

    >>> logic = slicer.util.getModuleLogic("WaveMorphRegistration")
    >>> outcome = logic.process(fixedNode, movingNode, preset="Balanced")
    >>> print(outcome.report["folding"], outcome.nodes.transform.GetName())
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from WaveMorphRegistrationLib.engine.registrationLogic import RegistrationLogic

        self.registration = RegistrationLogic()

    def getParameterNode(self):
        """A new wrapper around the module's parameter node."""
        from WaveMorphRegistrationLib.panel.parameters import WaveMorphParameters

        return WaveMorphParameters(super().getParameterNode())

    def process(self, fixedVolume, movingVolume, **choices):
        """Register, wait, and return the outcome; the choices are those of `RegistrationLogic.process`."""
        return self.registration.process(fixedVolume, movingVolume, **choices)

    def close(self):
        """Stop the job and the worker process."""
        self.registration.close()


class WaveMorphRegistrationTest(ScriptedLoadableModuleTest):
    """The self-test, run from the module's developer section or by ctest inside Slicer."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all parts of the self-test."""
        from WaveMorphRegistrationLib.samples.selfTest import SelfTest

        self.setUp()
        SelfTest(WaveMorphRegistrationLogic, self.delayDisplay).run()
