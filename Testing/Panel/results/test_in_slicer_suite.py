"""The parts of the suite for a real Slicer, run against the stand-ins, so that it works when it is used there."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.headless.offscreenSliceView import OffscreenSliceView
from WaveMorphRegistrationLib.samples.sampleData import registerPairs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "InSlicer"))
import steps
import suite


class StandInBench:
    """As `Bench` of runSuite.py, on the opened module with its fake worker."""

    quick = {"spacing_mm": 4.0, "threads": 1}  # noqa: RUF012

    def __init__(self, opened, fakeWorker, pair, folder):
        self._opened, self._fakeWorker, self.pair, self.folder = opened, fakeWorker, pair, str(folder)
        self.scene, self.ui, self.panel, self.job = opened.scene, opened.ui, opened.panel, opened.job
        self.scriptLogic, self.dialogs, self.shots = opened.widget.logic, opened.dialogs, []
        self._view = OffscreenSliceView(opened.scene, opened.headless.applicationLogic, "Red", "Axial", (160, 160))

    def processEvents(self, seconds=0.0):
        self._opened.processEvents()

    def until(self, condition):
        self._opened.until(condition)

    def clear(self):
        self.scene.Clear(0)
        self.processEvents()

    @staticmethod
    def sampleNames():
        sources = []

        class Logic:
            registerCustomSampleDataSource = staticmethod(lambda **source: sources.append(source["sampleName"]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=Logic))
            registerPairs("")
        return sources

    def request(self, *outputs):
        for name in ("Transform", "Warped", "Jacobian", "ExpectedError", "Inverse"):
            getattr(self.ui, f"want{name}CheckBox").checked = name in outputs
        self.processEvents()

    def enterModule(self):
        self._opened.widget.enter()

    def leaveModule(self):
        self._opened.widget.exit()

    def showAlone(self, volumeNode):
        self._view.lookAt(volumeNode, steps.centerOf(volumeNode))

    def layers(self):
        composite = self._view.composite
        ids = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
        return [self.scene.GetNodeByID(nodeId) if nodeId else None for nodeId in ids]

    def slicePlace(self):
        return self._view.node.GetSliceOffset(), self._view.node.GetFieldOfView()

    def sliceImage(self):
        return self._view.image()

    def loadLabels(self, mask, path):
        node = addVolume(self._opened.headless, mask, "labels", "vtkMRMLLabelMapVolumeNode")
        self.scene.GetFirstNodeByClass("vtkMRMLSelectionNode").SetActiveLabelVolumeID(node.GetID())
        self._opened.headless.applicationLogic.PropagateVolumeSelection(0)
        return node

    def saveScene(self, path):
        self._opened.headless.saveBundle(path)

    def loadScene(self, path):
        self._opened.headless.loadBundle(path)
        composites = [self.scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode") for index in range(2)]
        self._view.composite = next(node for node in composites if node is not None)

    def holdWorker(self):
        self._fakeWorker["holdAt"] = "Affine"
        if self._opened.worker is not None:
            self._opened.worker.holdAt = "Affine"

    def resumeWorker(self):
        self._fakeWorker.clear()
        self._opened.worker.resume()

    def killWorker(self):
        self._opened.worker.crash("killed")

    def screenshot(self, name):
        self.shots.append(name)

    def panelScreenshot(self, name, width, height):
        parent = self._opened.widget.parent
        parent.resize(width, height)
        parent.show()
        for _ in range(5):
            self.processEvents()

    def placeOfRegister(self):
        import qt

        parent, button = self._opened.widget.parent, self.ui.registerButton
        top = button.mapTo(parent, qt.QPoint(0, 0)).y()
        return top, top + button.height, parent.height

    def neededWidth(self):
        return self.ui.scrollContents.minimumSizeHint().width()

    def close(self):
        self._view.close()


@pytest.fixture
def bench(opened, fakeWorker, tiny_pair, tmp_path):
    made = StandInBench(opened, fakeWorker, tiny_pair, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("part", suite.PARTS, ids=lambda part: part.__name__)
def test_a_part_of_the_suite_for_slicer_passes_with_the_stand_ins_and_prints_nothing(bench, part, capfd):
    capfd.readouterr()
    part(bench)
    assert bench.dialogs == []
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_every_mode_has_a_screenshot(bench):
    suite.modes(bench)
    assert [f"mode-{mode}" for mode in steps.MODES] == [shot for shot in bench.shots if shot.startswith("mode-")]
