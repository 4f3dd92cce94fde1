"""Operates the panel in a real Slicer, with a screenshot of the main window at each step.

    Slicer --python-script Testing/InSlicer/drivePanel.py FIXED MOVING FOLDER

Loads and selects the pair, presses Register, waits, shows grid and Jacobian, exports the transform and saves the scene.
Writes FOLDER/01-loaded.png and so on. Slicer exits with 0, or with 1 and the reason in FOLDER/failure.txt. The module
must be installed, or its folder be one of the additional module paths.
"""

import os
import sys
import time
import traceback

import qt
import slicer

TIMEOUT_SECONDS = 1800


class Drive:
    """The steps, in their order."""

    def __init__(self, fixedPath, movingPath, folder):
        self.fixedPath, self.movingPath, self.folder = fixedPath, movingPath, folder
        self.step = 0

    def run(self):
        os.makedirs(self.folder, exist_ok=True)
        fixed, moving = slicer.util.loadVolume(self.fixedPath), slicer.util.loadVolume(self.movingPath)
        slicer.util.selectModule("WaveMorphRegistration")
        widget = slicer.modules.WaveMorphRegistrationWidget
        ui, job = widget.ui, widget.panel.logic.job
        self.screenshot("loaded")

        ui.fixedSelector.setCurrentNode(fixed)
        ui.movingSelector.setCurrentNode(moving)
        self.processEvents()
        require(ui.registerButton.enabled, f"Register is disabled: {ui.registerButton.text}")
        self.screenshot("chosen")

        ui.registerButton.click()
        self.processEvents()
        require(job.active, f"no registration started: {ui.statusLabel.text}")
        self.screenshot("running")
        deadline = time.time() + TIMEOUT_SECONDS
        while job.active:
            require(time.time() < deadline, "the registration took too long")
            self.processEvents(0.1)
        self.processEvents(1.0)
        outcome = widget.panel.logic.outcome
        require(outcome is not None, f"no result: {job.error}")
        require(outcome.report["folding"]["strict_voxels"] == 0, "voxels are folded")
        self.screenshot("registered")

        ui.gridCheckBox.checked = False
        self.processEvents(0.5)
        self.screenshot("without-grid")
        ui.gridCheckBox.checked = True
        ui.grid3DCheckBox.checked = True
        self.processEvents(0.5)
        self.screenshot("grid-in-3d")
        ui.grid3DCheckBox.checked = False
        ui.jacobianCheckBox.checked = True
        self.processEvents(0.5)
        self.screenshot("jacobian")
        ui.jacobianCheckBox.checked = False
        ui.checkerboardCheckBox.checked = True
        self.processEvents(0.5)
        self.screenshot("checkerboard")
        ui.checkerboardCheckBox.checked = False
        ui.warpSlider.value = 50
        self.processEvents(0.5)
        self.screenshot("warp-preview")
        ui.warpSlider.value = 100

        from WaveMorphRegistrationLib.results.transformExport import exportTransform

        for name in ("transform.h5", "transform.nii.gz"):
            exportTransform(outcome.nodes.transform, os.path.join(self.folder, name), fixed)
        scene = os.path.join(self.folder, "scene.mrb")
        require(slicer.util.saveScene(scene), "the scene could not be saved")
        slicer.mrmlScene.Clear()
        self.processEvents(0.5)
        require(slicer.util.loadScene(scene), "the scene could not be read")
        self.processEvents(1.0)
        require(widget.panel.parameters.fixedVolume is not None, "the choices were not read with the scene")
        self.screenshot("read-again")

    def screenshot(self, name):
        self.step += 1
        self.processEvents(0.2)
        slicer.util.mainWindow().grab().save(os.path.join(self.folder, f"{self.step:02d}-{name}.png"))

    @staticmethod
    def processEvents(seconds=0.0):
        until = time.time() + seconds
        while True:
            slicer.app.processEvents()
            if time.time() >= until:
                return
            time.sleep(0.02)


def require(condition, failure):
    if not condition:
        raise RuntimeError(failure)


def main():
    folder = sys.argv[-1]
    try:
        Drive(sys.argv[-3], sys.argv[-2], folder).run()
    except Exception:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "failure.txt"), "w", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        slicer.util.exit(1)
    else:
        slicer.util.exit(0)


qt.QTimer.singleShot(1000, main)
