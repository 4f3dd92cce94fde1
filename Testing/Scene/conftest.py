"""A real MRML scene for each test, and one registration in it."""

from __future__ import annotations

import pytest
from sceneVolumes import addVolume
from WaveMorphRegistrationLib import scene as nodes
from WaveMorphRegistrationLib.headlessScene import HeadlessScene


@pytest.fixture
def headless():
    scene = HeadlessScene()
    yield scene
    scene.close()


@pytest.fixture
def registered(headless, random_registration):
    """(registration, its nodes, fixed node, moving node)."""
    registration = random_registration(1)
    fixedNode = addVolume(headless, registration.fixed, "Patient")
    movingNode = addVolume(headless, registration.moving, "Atlas")
    result = nodes.addRegistrationToScene(registration, fixedNode, movingNode, nodes.OUTPUTS)
    return registration, result, fixedNode, movingNode
