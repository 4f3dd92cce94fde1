"""The parameter node of the module: the choices of the user, stored in the scene."""

from __future__ import annotations

import enum

from slicer import vtkMRMLDisplayableNode, vtkMRMLScalarVolumeNode, vtkMRMLTransformNode
from slicer.parameterNodeWrapper import parameterNodeWrapper

from ..translation import _


class Preset(enum.Enum):
    """Speed and accuracy. Members are stored by name and must not be renamed."""

    Instant = "Instant"
    Balanced = "Balanced"
    Precise = "Precise"

    def label(self) -> str:
        """The text in the panel."""
        return {
            Preset.Instant: _("Instant (quick preview)"),
            Preset.Balanced: _("Balanced"),
            Preset.Precise: _("Precise (longer)"),
        }[self]


class TransformType(enum.Enum):
    """Kind of transform; values as in the engine's settings. Members are stored by name and must not be renamed."""

    Rigid = "rigid"
    Affine = "affine"
    Deformable = "deformable"

    def label(self) -> str:
        """The text in the panel."""
        return {
            TransformType.Rigid: _("Rigid (rotation and translation)"),
            TransformType.Affine: _("Affine (with scale and shear)"),
            TransformType.Deformable: _("Deformable"),
        }[self]


class Smoothness(enum.Enum):
    """Of the deformation; values as in the engine's settings. Members are stored by name and must not be renamed."""

    Low = "low"
    Medium = "medium"
    High = "high"

    def label(self) -> str:
        """The text in the panel."""
        return {
            Smoothness.Low: _("Low (follows more detail)"),
            Smoothness.Medium: _("Medium"),
            Smoothness.High: _("High"),
        }[self]


class Contrast(enum.Enum):
    """Contrast of the pair; values as in the engine's settings. Members are stored by name and must not be renamed."""

    Automatic = "auto"
    Same = "same"
    Different = "different"

    def label(self) -> str:
        """The text in the panel."""
        return {
            Contrast.Automatic: _("Automatic (measured)"),
            Contrast.Same: _("Same (for example T1 and T1)"),
            Contrast.Different: _("Different (for example T1 and T2)"),
        }[self]


class Device(enum.Enum):
    """Device; values as in the engine's settings. Members are stored by name and must not be renamed."""

    Automatic = "auto"
    Gpu = "cuda"
    Cpu = "cpu"

    def label(self) -> str:
        """The text in the panel."""
        return {
            Device.Automatic: _("Automatic"),
            Device.Gpu: _("GPU (CUDA)"),
            Device.Cpu: _("CPU"),
        }[self]


@parameterNodeWrapper
class WaveMorphParameters:
    """
    The parameters of the module.

    fixedVolume - The volume that is not moved.
    movingVolume - The volume that is aligned to it.
    fixedMask, movingMask - Segmentation or label map; only voxels inside are compared.
    fixedMaskSegment, movingMaskSegment - ID of the one segment that is the mask; empty for all.
    initialTransform - Transform that, applied to the moving volume, brings it near the fixed one.
    aligned - The pair is already aligned: skip the affine stage.
    storeCoarsely - Store the transforms of a deformable registration at 2 mm.
    transformType, preset, contrast, device, model, smoothness - How to register.
    wantTransform, wantWarped, wantJacobian, wantExpectedError, wantInverse - Which outputs to create.
    outputTransform, outputWarped, outputJacobian, outputExpectedError, outputInverse - Nodes to fill; None creates new
    ones.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedMask: vtkMRMLDisplayableNode
    movingMask: vtkMRMLDisplayableNode
    fixedMaskSegment: str = ""
    movingMaskSegment: str = ""
    initialTransform: vtkMRMLTransformNode
    aligned: bool = False
    transformType: TransformType = TransformType.Deformable
    preset: Preset = Preset.Balanced
    contrast: Contrast = Contrast.Automatic
    device: Device = Device.Automatic
    model: str = "auto"
    smoothness: Smoothness = Smoothness.Medium
    storeCoarsely: bool = False
    wantTransform: bool = True
    wantWarped: bool = True
    wantJacobian: bool = True
    wantExpectedError: bool = False
    wantInverse: bool = False
    outputTransform: vtkMRMLTransformNode
    outputWarped: vtkMRMLScalarVolumeNode
    outputJacobian: vtkMRMLScalarVolumeNode
    outputExpectedError: vtkMRMLScalarVolumeNode
    outputInverse: vtkMRMLTransformNode
