"""The choice of a user: which nodes to register and how; its checks, and the job that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
from wavemorph.errors import InputError, SettingsError
from wavemorph.io.images import validate_image, validate_mask
from wavemorph.settings import Settings

from ..results.sceneResult import SceneResult
from ..scene.segmentations import maskFromNode
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .jobRequest import JobRequest

OUTPUTS = ("transform", "warped", "jacobian", "inverse")
_MAX_EXTENT_RATIO = 20.0  # of the longest sides of the two volumes: beyond it the spacing of one is wrong


@dataclass
class RegistrationChoice:
    """Nodes, settings of the engine, and requested outputs (names of OUTPUTS).

    into: output name -> existing node to fill instead of a new one.
    fixedMaskSegment, movingMaskSegment: ID of the one segment of a segmentation that is the mask; empty for all united.
    """

    fixedNode: Any
    movingNode: Any
    settings: dict[str, Any] = field(default_factory=dict)
    fixedMaskNode: Any = None
    movingMaskNode: Any = None
    initialTransformNode: Any = None
    outputs: tuple[str, ...] = ("transform", "warped", "jacobian")
    into: dict[str, Any] = field(default_factory=dict)
    fixedMaskSegment: str = ""
    movingMaskSegment: str = ""

    @property
    def deformable(self) -> bool:
        """Whether the registration makes a deformation. Raises SettingsError."""
        return Settings.from_dict(self.settings).deformable

    def request(self) -> JobRequest:
        """Check the choice and copy it out of the scene. Raises InputError or SettingsError."""
        missing = missingInput(self.fixedNode, self.movingNode, self.outputs)
        if missing:
            raise InputError(missing + ".")
        unknown = [output for output in (*self.outputs, *self.into) if output not in OUTPUTS]
        if unknown:
            known = ", ".join(OUTPUTS)
            raise SettingsError(_("Unknown output {name}; choose from {known}.").format(name=unknown[0], known=known))
        settings = Settings.from_dict({**self.settings, "inverse": "inverse" in self.outputs}).to_dict()
        fixed, moving = _image(self.fixedNode, _("fixed volume")), _image(self.movingNode, _("moving volume"))
        _checkSizes(fixed, moving)
        checkOutputNodes(self)
        return JobRequest(
            fixed,
            moving,
            settings,
            _mask(self.fixedMaskNode, self.fixedNode, fixed, self.fixedMaskSegment),
            _mask(self.movingMaskNode, self.movingNode, moving, self.movingMaskSegment),
            self._initialTransform(fixed),
            context=self,
        )

    def _initialTransform(self, fixed: sitk.Image) -> sitk.Transform | None:
        node = self.initialTransformNode
        if node is None:
            return None
        parent = self.movingNode.GetParentTransformNode()
        if parent is not None and (parent is node or parent.IsTransformNodeMyParent(node)):
            raise InputError(
                _(
                    "The moving volume is already under {transform}; clear the initial transform or remove the volume "
                    "from {transform}."
                ).format(transform=node.GetName())
            )
        return transformFromNode(node, fixed)


def checkOutputNodes(choice: RegistrationChoice) -> None:
    """Check that filling the requested output nodes destroys neither an input nor the result of another pair.

    Raises InputError.
    """
    inputs = (
        (choice.fixedNode, _("fixed volume")),
        (choice.movingNode, _("moving volume")),
        (choice.fixedMaskNode, _("fixed mask")),
        (choice.movingMaskNode, _("moving mask")),
        (choice.initialTransformNode, _("initial transform")),
    )
    filled: dict[str, Any] = {}
    for output, node in choice.into.items():
        if node is None or output not in choice.outputs:
            continue
        _checkOutputClass(output, node)
        for inputNode, name in inputs:
            if inputNode is not None:
                _checkIsNoInput(output, node, inputNode, name)
        for other, otherNode in filled.items():
            if otherNode is node:
                raise InputError(
                    _("{node} is chosen for two outputs, {first} and {second}; choose Create new for one.").format(
                        node=node.GetName(), first=_outputName(other), second=_outputName(output)
                    )
                )
        filled[output] = node
        result = SceneResult.ofOutput(node)
        if result is not None and not result.isOf(choice.fixedNode, choice.movingNode):
            raise InputError(
                _(
                    "{node} is the {output} of the result {result}, which is of another pair of volumes; choose Create "
                    "new."
                ).format(node=node.GetName(), output=_outputName(output), result=result.name)
            )


def missingInput(fixedNode, movingNode, outputs) -> str | None:
    """What the user has yet to select, as text of the button; None where nothing is missing."""
    if fixedNode is None and movingNode is None:
        return _("Select fixed and moving volumes")
    if fixedNode is None:
        return _("Select a fixed volume")
    if movingNode is None:
        return _("Select a moving volume")
    if fixedNode is movingNode:
        return _("Fixed and moving volume must not be the same")
    if not outputs:
        return _("Select at least one output")
    return None


def _checkIsNoInput(output: str, node, inputNode, name: str) -> None:
    if node is inputNode:
        raise InputError(
            _(
                "{node} is the {name} and cannot be the {output} as well, which would overwrite it; choose Create new."
            ).format(node=node.GetName(), name=name, output=_outputName(output))
        )
    parent = inputNode.GetParentTransformNode() if node.IsA("vtkMRMLTransformNode") else None
    if parent is not None and (parent is node or parent.IsTransformNodeMyParent(node)):
        raise InputError(
            _(
                "The {name} {input} is under {node}, which cannot be the {output} as well, because its place would be "
                "lost; choose Create new."
            ).format(name=name, input=inputNode.GetName(), node=node.GetName(), output=_outputName(output))
        )


def _checkOutputClass(output: str, node) -> None:
    if output in ("transform", "inverse"):
        suits = node.IsA("vtkMRMLTransformNode")
    else:
        suits = node.GetClassName() == "vtkMRMLScalarVolumeNode"
    if not suits or node.GetScene() is None:
        raise InputError(
            _("{node} ({kind}) cannot hold the {output}; choose Create new.").format(
                node=node.GetName(), kind=node.GetNodeTagName(), output=_outputName(output)
            )
        )


def _outputName(output: str) -> str:
    return {
        "transform": _("transform"),
        "warped": _("registered volume"),
        "jacobian": _("Jacobian"),
        "inverse": _("inverse transform"),
    }[output]


def _image(node, name: str) -> sitk.Image:
    if node.IsA("vtkMRMLLabelMapVolumeNode") or not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(
            _("{node} is a segmentation or label map, not an image; choose the volume that it segments.").format(
                node=node.GetName()
            )
        )
    image = imageFromVolumeNode(node, name)
    validate_image(image, name)
    return image


def _checkSizes(fixed: sitk.Image, moving: sitk.Image) -> None:
    sides = [float(np.max(np.multiply(image.GetSize(), image.GetSpacing()))) for image in (fixed, moving)]
    if max(sides) > _MAX_EXTENT_RATIO * min(sides):
        raise InputError(
            _(
                "The longest side of the fixed volume is {fixed:.4g} mm, that of the moving volume {moving:.4g} mm; "
                "one of them has a wrong spacing. Correct its spacing in the module Volumes."
            ).format(fixed=sides[0], moving=sides[1])
        )


def _mask(node, volumeNode, image: sitk.Image, segmentId: str) -> sitk.Image | None:
    if node is None:
        return None
    return validate_mask(maskFromNode(node, volumeNode, _("mask"), segmentId), image, _("mask"))
