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

from ..scene.segmentations import labelsFromNode
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .jobRequest import JobRequest

OUTPUTS = ("transform", "warped", "jacobian", "inverse")
_VOLUMES = {"transform": "field", "warped": "warped", "jacobian": "jacobian"}  # output: what the worker writes for it


@dataclass
class RegistrationChoice:
    """Nodes, settings of the engine, and requested outputs (names of OUTPUTS).

    into: output name -> existing node to fill instead of a new one.
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
        unknown = [output for output in self.outputs if output not in OUTPUTS]
        if unknown:
            known = ", ".join(OUTPUTS)
            raise SettingsError(_("Unknown output {name}; choose from {known}.").format(name=unknown[0], known=known))
        settings = Settings.from_dict({**self.settings, "inverse": "inverse" in self.outputs}).to_dict()
        names = _("fixed volume"), _("moving volume")
        fixed, moving = _image(self.fixedNode, names[0]), _image(self.movingNode, names[1])
        size_warnings(fixed, moving, names)  # refuses a spacing that must be wrong; the report has what it returns
        return JobRequest(
            fixed,
            moving,
            settings,
            _mask(self.fixedMaskNode, self.fixedNode, fixed),
            _mask(self.movingMaskNode, self.movingNode, moving),
            self._initialTransform(fixed),
            context=self,
            volumes=tuple(_VOLUMES[output] for output in self.outputs if output in _VOLUMES),
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


def _isNodeOf(given, classes: tuple[str, ...]) -> bool:
    return hasattr(given, "IsA") and any(given.IsA(className) for className in classes)


def _described(given) -> str:
    """What a message calls any object: name and class of a node, or the type of another one."""
    if hasattr(given, "GetName") and hasattr(given, "GetClassName"):
        return f"{given.GetName()} ({given.GetClassName()})"
    return f"{type(given).__name__} ({str(given)[:60]})"


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


def _mask(node, volumeNode, image: sitk.Image) -> sitk.Image | None:
    return None if node is None else validate_mask(labelsFromNode(node, volumeNode, _("mask")), image, _("mask"))
