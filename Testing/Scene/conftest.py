"""A real MRML scene for each test, and one registration in it."""

from __future__ import annotations

import phantoms
import pytest
from sceneVolumes import addVolume
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene
from WaveMorphRegistrationLib.results.sceneResult import ALL_OUTPUTS


@pytest.fixture
def headless():
    scene = HeadlessScene()
    yield scene
    scene.close()


@pytest.fixture
def registered(headless, random_registration):
    """(registration with an expected error, its nodes, fixed node, moving node)."""
    registration = phantoms.with_expected_error(random_registration(1))
    fixedNode = addVolume(headless, registration.fixed, "Patient")
    movingNode = addVolume(headless, registration.moving, "Atlas")
    result = addRegistrationToScene(registration, fixedNode, movingNode, ALL_OUTPUTS)
    return registration, result, fixedNode, movingNode
