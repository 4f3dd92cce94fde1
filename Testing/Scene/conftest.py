"""A real MRML scene for each test, and one registration in it."""

from __future__ import annotations

import pytest
import SimpleITK as sitk
from WaveMorphRegistrationLib import scene as nodes
from WaveMorphRegistrationLib.headlessScene import HeadlessScene


@pytest.fixture
def headless():
    scene = HeadlessScene()
    yield scene
    scene.close()


def addVolume(headless, image: sitk.Image, name: str, className: str = "vtkMRMLScalarVolumeNode"):
    node = headless.scene.AddNewNodeByClass(className, name)
    nodes.updateVolumeNodeFromImage(image, node)
    node.CreateDefaultDisplayNodes()
    return node


@pytest.fixture
def registered(headless, random_registration):
    """(registration, its nodes, fixed node, moving node)."""
    registration = random_registration(1)
    fixedNode = addVolume(headless, registration.fixed, "Patient")
    movingNode = addVolume(headless, registration.moving, "Atlas")
    result = nodes.addRegistrationToScene(registration, fixedNode, movingNode, nodes.OUTPUTS)
    return registration, result, fixedNode, movingNode
