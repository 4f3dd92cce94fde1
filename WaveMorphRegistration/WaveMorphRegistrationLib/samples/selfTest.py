"""What the module tests of itself inside Slicer: the whole road on volumes made here, with a known answer."""

from __future__ import annotations

import time

import numpy as np
import slicer
from wavemorph.errors import WaveMorphError

from ..engine.dependencies import ensureDependencies
from ..results.resultNodes import FIXED_ROLE
from ..translation import _
from .sampleData import addSyntheticPair
from .syntheticPair import SyntheticPair

_FLIP = np.array([-1.0, -1.0, 1.0])


class SelfTest:
    """makeLogic() gives a logic with `process`, `registration` and `close`; say(text) shows how far it is."""

    def __init__(self, makeLogic, say=print):
        self._makeLogic, self._say = makeLogic, say

    def run(self) -> None:
        """Raises AssertionError or WaveMorphError where something is not as it should be."""
        ensureDependencies()
        for part in (self.testPair, self.testObliquePair, self.testCancel, self.testBadInput):
            slicer.mrmlScene.Clear()
            self._say(part.__doc__)
            logic = self._makeLogic()
            try:
                part(logic)
            finally:
                logic.close()
        self._say(_("All parts passed."))

    def testPair(self, logic) -> None:
        """A small pair is aligned, without folding."""
        self._registerSynthetic(logic, oblique=False)

    def testObliquePair(self, logic) -> None:
        """A pair with turned, anisotropic voxels is aligned, without folding."""
        self._registerSynthetic(logic, oblique=True)

    def testCancel(self, logic) -> None:
        """Cancelling answers within two seconds and leaves the scene as it was."""
        fixed, moving = addSyntheticPair()
        before = _nodeIds()
        logic.process(fixed, moving, waitForCompletion=False, weights="none")
        registration = logic.registration
        deadline = time.monotonic() + 120
        while registration.job.fraction < 0.05 and registration.job.active and time.monotonic() < deadline:
            self._turn(registration)
        registration.cancel()
        began = time.monotonic()
        while registration.job.active:
            self._turn(registration)
        _check(time.monotonic() - began < 2.0, "cancelling took longer than two seconds")
        _check(_nodeIds() == before, "the scene was changed by a cancelled registration")

    def testBadInput(self, logic) -> None:
        """Bad input is refused in one sentence, and the scene left as it was."""
        fixed, _moving = addSyntheticPair()
        before = _nodeIds()
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        for pair, words in (((fixed, fixed), "same"), ((fixed, None), "moving"), ((fixed, empty), "no voxels")):
            sentence = ""
            try:
                logic.process(*pair)
            except WaveMorphError as error:
                sentence = str(error)
            _check(words in sentence, f"expected a sentence about {words!r}, got {sentence!r}")
        slicer.mrmlScene.RemoveNode(empty)
        _check(_nodeIds() == before, "the scene was changed by refused input")

    def _registerSynthetic(self, logic, oblique: bool) -> None:
        fixed, moving = addSyntheticPair(oblique)
        outcome = logic.process(
            fixed, moving, outputs=("transform", "warped", "jacobian", "inverse"), spacing_mm=2.5, weights="none"
        )
        forward = outcome.nodes.transform.GetTransformFromParent()
        pair = SyntheticPair(oblique=oblique)
        errors = pair.errorsMm(lambda point: np.array(forward.TransformPoint(point * _FLIP)) * _FLIP)
        _check(errors.mean() < 1.0, f"the mean error is {errors.mean():.2f} mm")
        _check(outcome.report["folding"]["strict_voxels"] == 0, "voxels are folded")
        for node in outcome.nodes.all():
            _check(node.GetNodeReference(FIXED_ROLE) is fixed, f"{node.GetName()} forgot its fixed volume")

    @staticmethod
    def _turn(registration) -> None:
        registration.poll()
        slicer.app.processEvents()
        time.sleep(0.02)


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)


def _nodeIds() -> set:
    scene = slicer.mrmlScene
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
