"""Runs the suite in a real Slicer, with one command; Slicer exits with 0, or with 1 where a part failed.

    Slicer --python-script Testing/InSlicer/runSuite.py FOLDER [FIXED MOVING]

FOLDER gets results.json (each part: passed or why not, seconds, numbers), screenshots, and failure.txt where a part
failed; a part also fails where Slicer, VTK or Qt report an error meanwhile. FIXED and MOVING: volume files to register
instead of two synthetic heads. The module must be installed, or its folder be one of the additional module paths, and
PyTorch and safetensors must be installed.
"""

import importlib.util
import json
import os
import re
import signal
import sys
import time
import traceback

import numpy as np
import qt
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

SUITE_FOLDER = os.path.dirname(os.path.abspath(__file__))
TIMEOUT_SECONDS = 1800
SLICE = "Red"
ERROR_LINE = re.compile(r"\[(ERROR|CRITICAL|FATAL)\]\[(VTK|Qt|Python)\]")  # of the application log
ANY_WIDTH = 16777215  # QWIDGETSIZE_MAX


class Bench:
    """The application as the parts of the suite see it. `dialogs` collects error messages instead of showing them."""

    def __init__(self, folder, pair):
        self.folder, self.pair, self.scene = folder, pair, slicer.mrmlScene
        self.quick, self.dialogs, self.errors = {}, [], []
        slicer.util.errorDisplay = lambda text, *_, **__: self.dialogs.append(text)
        sys.excepthook = lambda *error: self.errors.append("".join(traceback.format_exception(*error)))
        slicer.util.selectModule("WaveMorphRegistration")
        self.widget = slicer.modules.WaveMorphRegistrationWidget
        self.ui, self.panel, self.job = self.widget.ui, self.widget.panel, self.widget.panel.logic.job
        self.scriptLogic = slicer.util.getModuleLogic("WaveMorphRegistration")
        self._screenshots = 0
        self._logPath = slicer.app.errorLogModel().filePath
        self._logEnd = os.path.getsize(self._logPath)

    def reportedErrors(self):
        """The errors in the application log since the last call."""
        with open(self._logPath, "rb") as file:
            file.seek(self._logEnd)
            added = file.read()
        self._logEnd += len(added)
        return [line for line in added.decode("utf-8", "replace").splitlines() if ERROR_LINE.match(line)]

    def sampleNames(self):
        """The pairs of this module in the module Sample Data."""
        return [source.sampleName for source in slicer.modules.sampleDataSources.get("WaveMorph", [])]

    def reset(self):
        """An empty scene, the module entered, no message left."""
        self.enterModule()
        self.clear()
        self.request("Transform", "Warped", "Jacobian")
        self.dialogs.clear()
        self.errors.clear()

    def clear(self):
        slicer.mrmlScene.Clear(0)
        self.processEvents(0.3)

    def request(self, *outputs):
        """Check the outputs that are wanted, and no others."""
        for name in ("Transform", "Warped", "Jacobian", "ExpectedError", "Inverse"):
            getattr(self.ui, f"want{name}CheckBox").checked = name in outputs
        self.processEvents(0.1)

    def processEvents(self, seconds=0.0):
        until = time.time() + seconds
        while True:
            slicer.app.processEvents()
            if time.time() >= until:
                return
            time.sleep(0.01)

    def until(self, condition):
        deadline = time.time() + TIMEOUT_SECONDS
        while not condition():
            if time.time() > deadline:
                raise AssertionError(f"still waiting after {TIMEOUT_SECONDS} s; {self.job.state}, {self.job.log[-3:]}")
            self.processEvents(0.02)

    def enterModule(self):
        slicer.util.selectModule("WaveMorphRegistration")
        self.processEvents(0.2)

    def leaveModule(self):
        slicer.util.selectModule("Data")
        self.processEvents(0.2)

    def showAlone(self, volumeNode):
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=None, label=None, fit=True)
        self.processEvents(0.1)

    def layers(self):
        composite = slicer.app.layoutManager().sliceWidget(SLICE).mrmlSliceCompositeNode()
        ids = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
        return [self.scene.GetNodeByID(nodeId) if nodeId else None for nodeId in ids]

    def slicePlace(self):
        node = slicer.app.layoutManager().sliceWidget(SLICE).mrmlSliceNode()
        return node.GetSliceOffset(), node.GetFieldOfView()

    def sliceImage(self):
        """The pixels of a slice view, as drawn."""
        self.processEvents(0.1)
        view = slicer.app.layoutManager().sliceWidget(SLICE).sliceView()
        view.forceRender()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(view.renderWindow())
        grabber.SetInputBufferTypeToRGB()
        grabber.ReadFrontBufferOff()
        grabber.Update()
        output = grabber.GetOutput()
        width, height, _depth = output.GetDimensions()
        return numpy_support.vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, 3).copy()

    def loadLabels(self, mask, path):
        """Load a label map from a file, as a user does."""
        sitk.WriteImage(mask, path)
        return slicer.util.loadLabelVolume(path)

    def saveScene(self, path):
        if not slicer.util.saveScene(path):
            raise AssertionError("the scene could not be saved")

    def loadScene(self, path):
        slicer.util.loadScene(path)  # what it returns depends on the version

    def holdWorker(self):
        """A real worker needs no holding: it is slow enough."""

    def resumeWorker(self):
        """See `holdWorker`."""

    def killWorker(self):
        os.kill(self.job.workerProcessId, getattr(signal, "SIGKILL", signal.SIGTERM))

    def screenshot(self, name):
        self._screenshots += 1
        self.processEvents(0.1)
        path = os.path.join(self.folder, f"{self._screenshots:02d}-{name}.png")
        slicer.util.mainWindow().grab().save(path)

    def panelScreenshot(self, name, width, height):
        window = slicer.util.mainWindow()
        window.showNormal()
        window.resize(1100, height)
        dock = slicer.util.findChild(window, "PanelDockWidget")
        dock.minimumWidth = dock.maximumWidth = width
        self.processEvents(0.3)
        dock.grab().save(os.path.join(self.folder, f"{name}.png"))
        dock.minimumWidth, dock.maximumWidth = 0, ANY_WIDTH

    def placeOfRegister(self):
        """(top, bottom) of the button and the height of the window, in pixels."""
        window, button = slicer.util.mainWindow(), self.ui.registerButton
        top = button.mapTo(window, qt.QPoint(0, 0)).y()
        return top, top + button.height, window.height

    def neededWidth(self):
        """The width below which the content of the panel would have to be scrolled."""
        return self.ui.scrollContents.minimumSizeHint.width()


def runParts(bench, parts):
    """Run each part; name -> passed, seconds, numbers or failure."""
    results = {}
    for part in parts:
        name, startTime = part.__name__, time.perf_counter()
        try:
            bench.reset()
            results[name] = {"passed": True, "numbers": part(bench)}
            if bench.errors:
                raise AssertionError("an exception in a slot or observer:\n" + bench.errors[0])
            reported = bench.reportedErrors()
            if reported:
                raise AssertionError("errors in the application log:\n" + "\n".join(reported))
        except Exception:
            results[name] = {"passed": False, "failure": traceback.format_exc()}
            bench.screenshot(f"failed-{name}")
            bench.reportedErrors()  # they are those of this part
        results[name]["seconds"] = time.perf_counter() - startTime
        print(f"{name}: {'passed' if results[name]['passed'] else 'FAILED'}")
    return results


def main():
    arguments = [text for text in sys.argv[1:] if not text.startswith("--") and not text.endswith("runSuite.py")]
    folder, failures = arguments[0], []
    os.makedirs(folder, exist_ok=True)
    try:
        missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
        if missing:  # the panel would ask in a dialog, and wait
            raise RuntimeError(f"{', '.join(missing)} must be installed before the suite is run.")
        sys.path.insert(0, SUITE_FOLDER)
        import suite
        from WaveMorphRegistrationLib.samples.syntheticPair import SyntheticPair

        if len(arguments) > 2:
            pair = tuple(sitk.ReadImage(path) for path in arguments[1:3])
        else:
            synthetic = SyntheticPair(oblique=True)
            pair = synthetic.fixed, synthetic.moving
        results = runParts(Bench(folder, pair), suite.PARTS)
        with open(os.path.join(folder, "results.json"), "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1, default=lambda value: np.asarray(value).tolist())
        failures = [f"{name}\n{result['failure']}" for name, result in results.items() if not result["passed"]]
    except Exception:
        failures = [traceback.format_exc()]
    if failures:
        with open(os.path.join(folder, "failure.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(failures))
    slicer.util.exit(1 if failures else 0)


qt.QTimer.singleShot(1000, main)
