"""The self-test of the module inside Slicer: registrations of synthetic volumes whose deformation is known."""

from __future__ import annotations

import time

import numpy as np
import slicer
from wavemorph.errors import WaveMorphError

from ..engine.dependencies import ensureDependencies
from ..results.sceneResult import FIXED_ROLE
from ..scene.coordinates import FLIP_XY
from ..translation import _
from .sampleData import addSyntheticPair
from .syntheticPair import SyntheticPair


class SelfTest:
    """The parts of the self-test.

    makeLogic: returns a logic with `process`, `registration` and `close`. showProgress: takes a text.
    """

    def __init__(self, makeLogic, showProgress=print):
        self._makeLogic, self._showProgress = makeLogic, showProgress

    def run(self) -> None:
        """Run every part. Raises AssertionError or WaveMorphError where one fails."""
        ensureDependencies()
        for part in (self.testPair, self.testObliquePair, self.testCancel, self.testBadInput):
            slicer.mrmlScene.Clear()
            self._showProgress(part.__doc__)
            logic = self._makeLogic()
            try:
                part(logic)
            finally:
                logic.close()
        self._showProgress(_("All parts passed."))

    def testPair(self, logic) -> None:
        """A small pair is aligned, without folding."""
        self._registerSynthetic(logic, oblique=False)

    def testObliquePair(self, logic) -> None:
        """A pair with rotated, anisotropic voxels is aligned, without folding."""
        self._registerSynthetic(logic, oblique=True)

    def testCancel(self, logic) -> None:
        """Canceling takes less than two seconds and does not change the scene."""
        fixed, moving = addSyntheticPair()
        before = _nodeIds()
        logic.process(fixed, moving, waitForCompletion=False, weights="none")
        registration = logic.registration
        deadline = time.monotonic() + 120
        while registration.job.fraction < 0.05 and registration.job.active and time.monotonic() < deadline:
            self._processEvents(registration)
        registration.cancel()
        startTime = time.monotonic()
        while registration.job.active:
            self._processEvents(registration)
        _check(time.monotonic() - startTime < 2.0, "canceling took longer than two seconds")
        _check(_nodeIds() == before, "the scene was changed by a canceled registration")

    def testBadInput(self, logic) -> None:
        """Unsuitable input is refused with a message, and the scene is not changed."""
        fixed, _moving = addSyntheticPair()
        before = _nodeIds()
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        for pair, words in (((fixed, fixed), "same"), ((fixed, None), "moving"), ((fixed, empty), "no voxels")):
            message = ""
            try:
                logic.process(*pair)
            except WaveMorphError as error:
                message = str(error)
            _check(words in message, f"expected a message about {words!r}, got {message!r}")
        slicer.mrmlScene.RemoveNode(empty)
        _check(_nodeIds() == before, "the scene was changed by refused input")

    def _registerSynthetic(self, logic, oblique: bool) -> None:
        fixed, moving = addSyntheticPair(oblique)
        outcome = logic.process(
            fixed, moving, outputs=("transform", "warped", "jacobian", "inverse"), spacing_mm=2.5, weights="none"
        )
        forward = outcome.nodes.transform.GetTransformFromParent()
        pair = SyntheticPair(oblique=oblique)
        errors = pair.errorsMm(lambda point: np.array(forward.TransformPoint(point * FLIP_XY)) * FLIP_XY)
        _check(errors.mean() < 1.0, f"the mean error is {errors.mean():.2f} mm")
        _check(outcome.report["folding"]["strict_voxels"] == 0, "voxels are folded")
        for node in outcome.nodes.all():
            _check(node.GetNodeReference(FIXED_ROLE) is fixed, f"{node.GetName()} does not refer to its fixed volume")

    @staticmethod
    def _processEvents(registration) -> None:
        registration.poll()
        slicer.app.processEvents()
        time.sleep(0.02)


def _check(condition: bool, failure: str) -> None:
    if not condition:
        raise AssertionError(failure)


def _nodeIds() -> set:
    scene = slicer.mrmlScene
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
