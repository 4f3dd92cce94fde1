"""What the user chose, kept in the scene: the parameter node of the module."""

from __future__ import annotations

import enum

from slicer import vtkMRMLDisplayableNode, vtkMRMLScalarVolumeNode, vtkMRMLTransformNode
from slicer.parameterNodeWrapper import parameterNodeWrapper

from ..translation import _


class Preset(enum.Enum):
    """Stored by name: never rename a member."""

    Instant = "Instant"
    Balanced = "Balanced"
    Precise = "Precise"

    def label(self) -> str:
        return {
            Preset.Instant: _("Instant (network alone)"),
            Preset.Balanced: _("Balanced"),
            Preset.Precise: _("Precise (longer)"),
        }[self]


class Contrast(enum.Enum):
    """Stored by name: never rename a member. The values are those of the engine's settings."""

    Automatic = "auto"
    Same = "same"
    Different = "different"

    def label(self) -> str:
        return {
            Contrast.Automatic: _("Measure it"),
            Contrast.Same: _("Same (such as T1 with T1)"),
            Contrast.Different: _("Different (such as T1 with T2)"),
        }[self]


class Device(enum.Enum):
    """Stored by name: never rename a member. The values are those of the engine's settings."""

    Automatic = "auto"
    Gpu = "cuda"
    Cpu = "cpu"

    def label(self) -> str:
        return {
            Device.Automatic: _("Automatic"),
            Device.Gpu: _("GPU (CUDA)"),
            Device.Cpu: _("CPU"),
        }[self]


@parameterNodeWrapper
class WaveMorphParameters:
    """
    The parameters of the module.

    fixedVolume - The volume that stays.
    movingVolume - The volume that is aligned to it.
    fixedMask, movingMask - Segmentation or label map: compare only inside.
    initialTransform - Where to start, put on the moving volume as Slicer puts transforms.
    aligned - The pair lies well already: skip the affine stage.
    preset, contrast, device, model - How to register.
    wantTransform, wantWarped, wantJacobian, wantInverse - Which outputs to make.
    outputTransform, outputWarped, outputJacobian, outputInverse - Into which nodes; none: new ones.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedMask: vtkMRMLDisplayableNode
    movingMask: vtkMRMLDisplayableNode
    initialTransform: vtkMRMLTransformNode
    aligned: bool = False
    preset: Preset = Preset.Balanced
    contrast: Contrast = Contrast.Automatic
    device: Device = Device.Automatic
    model: str = "auto"
    wantTransform: bool = True
    wantWarped: bool = True
    wantJacobian: bool = True
    wantInverse: bool = False
    outputTransform: vtkMRMLTransformNode
    outputWarped: vtkMRMLScalarVolumeNode
    outputJacobian: vtkMRMLScalarVolumeNode
    outputInverse: vtkMRMLTransformNode
