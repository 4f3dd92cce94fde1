"""Images of a test as volume nodes."""

from __future__ import annotations

import SimpleITK as sitk
from WaveMorphRegistrationLib.scene.volumes import updateVolumeNodeFromImage


def addVolume(headless, image: sitk.Image, name: str, className: str = "vtkMRMLScalarVolumeNode"):
    node = headless.scene.AddNewNodeByClass(className, name)
    updateVolumeNodeFromImage(image, node)
    node.CreateDefaultDisplayNodes()
    return node
