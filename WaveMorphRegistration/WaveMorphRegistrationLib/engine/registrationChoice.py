"""The choice of a user: which nodes to register and how; its checks, and the job that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import SimpleITK as sitk
from wavemorph.errors import InputError, SettingsError
from wavemorph.io.checks import size_warnings
from wavemorph.io.images import validate_image, validate_mask
from wavemorph.io.result import check_store_spacing
from wavemorph.settings import Settings

from ..results.sceneResult import SceneResult
from ..scene.segmentations import maskFromNode
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode, latticeOfVolumeNode
from ..translation import _
from .jobRequest import JobRequest

OUTPUTS = ("transform", "warped", "jacobian", "expectedError", "inverse")
# output: what the worker calls it, where that is another name
_OF_WORKER = {"transform": "field", "expectedError": "expected_error"}


@dataclass
class RegistrationChoice:
    """Nodes, settings of the engine, and requested outputs (names of OUTPUTS).

    into: output name -> existing node to fill instead of a new one.
    fixedMaskSegment, movingMaskSegment: ID of the one segment of a segmentation that is the mask; empty for all united.
    storeSpacingMm: store the transforms at this spacing; 2 mm take an eighth of the space. The report has the error.
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
    storeSpacingMm: float | None = None

    @property
    def deformable(self) -> bool:
        """Whether the registration makes a deformation. Raises SettingsError."""
        return Settings.from_dict(self.settings).deformable

    def request(self) -> JobRequest:
        """Check the choice and copy it out of the scene. Raises InputError or SettingsError."""
        missing = missingInput(self.fixedNode, self.movingNode, self.outputs)
        if missing:
            raise InputError(missing + ".")
        self._checkTypes()
        if self.storeSpacingMm is not None:
            check_store_spacing(self.storeSpacingMm)
        unknown = [output for output in (*self.outputs, *self.into) if output not in OUTPUTS]
        if unknown:
            known = ", ".join(OUTPUTS)
            raise SettingsError(_("Unknown output {name}; choose from {known}.").format(name=unknown[0], known=known))
        asked = {"inverse": "inverse" in self.outputs, "error_map": "expectedError" in self.outputs}
        settings = Settings.from_dict({**self.settings, **asked}).to_dict()
        names = _("fixed volume"), _("moving volume")
        fixed, moving = _image(self.fixedNode, names[0]), _image(self.movingNode, names[1])
        size_warnings(fixed, moving, names)  # refuses a spacing that must be wrong; the report has what it returns
        checkOutputNodes(self)
        return JobRequest(
            fixed,
            moving,
            settings,
            _mask(self.fixedMaskNode, self.fixedNode, fixed, self.fixedMaskSegment),
            _mask(self.movingMaskNode, self.movingNode, moving, self.movingMaskSegment),
            self._initialTransform(fixed),
            context=self,
            outputs=tuple(_OF_WORKER.get(output, output) for output in self.outputs),
            storeSpacingMm=self.storeSpacingMm,
        )

    def _checkTypes(self) -> None:
        """Scripts may pass anything. Raises InputError with what was passed and what is needed."""
        volumes, masks = ("vtkMRMLVolumeNode",), ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")
        for given, name, classes, wanted in (
            (self.fixedNode, _("fixed volume"), (*volumes, *masks), _("a volume node")),
            (self.movingNode, _("moving volume"), (*volumes, *masks), _("a volume node")),
            (self.fixedMaskNode, _("fixed mask"), masks, _("a segmentation or label map node")),
            (self.movingMaskNode, _("moving mask"), masks, _("a segmentation or label map node")),
            (self.initialTransformNode, _("initial transform"), ("vtkMRMLTransformNode",), _("a transform node")),
        ):
            if given is not None and not _isNodeOf(given, classes):
                described = _described(given)
                raise InputError(
                    _("The {name} must be {wanted}, not {given}.").format(name=name, wanted=wanted, given=described)
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


def doubtsAboutSizes(fixedNode, movingNode) -> tuple[str, ...]:
    """Sentences on sizes of two volumes that a user should check before the work; their voxels are not read."""
    try:
        lattices = latticeOfVolumeNode(fixedNode), latticeOfVolumeNode(movingNode)
        return size_warnings(*lattices, (_("fixed volume"), _("moving volume")))
    except InputError as error:
        return (str(error),)


def _isNodeOf(given, classes: tuple[str, ...]) -> bool:
    return hasattr(given, "IsA") and any(given.IsA(className) for className in classes)


def _described(given) -> str:
    """What a message calls any object: name and class of a node, or the type of another one."""
    if hasattr(given, "GetName") and hasattr(given, "GetClassName"):
        return f"{given.GetName()} ({given.GetClassName()})"
    return f"{type(given).__name__} ({str(given)[:60]})"


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
        "expectedError": _("expected error"),
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


def _mask(node, volumeNode, image: sitk.Image, segmentId: str) -> sitk.Image | None:
    if node is None:
        return None
    return validate_mask(maskFromNode(node, volumeNode, _("mask"), segmentId), image, _("mask"))
