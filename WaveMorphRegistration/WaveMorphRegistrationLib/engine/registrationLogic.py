"""From the nodes that a user chose to a job for the engine, and from its result to nodes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
from wavemorph.errors import Cancelled, InputError, SettingsError, WaveMorphError
from wavemorph.images import validate_image, validate_mask
from wavemorph.result import Registration
from wavemorph.settings import Settings

from ..results.display import foldingSegmentation
from ..results.reportTable import addReportTable
from ..results.resultNodes import ResultNodes, addRegistrationToScene
from ..scene.segmentations import labelsFromNode
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .job import JobRequest, RegistrationJob

OUTPUTS = ("transform", "warped", "jacobian", "inverse")
_POLL_SECONDS = 0.05
_SMALLEST_MM, _LARGEST_MM = 15.0, 2500.0


@dataclass
class RegistrationChoice:
    """What to register and how: nodes, settings as the engine names them, and the outputs wanted, of OUTPUTS.

    into: nodes to be filled instead of new ones, by output.
    """

    fixedNode: Any
    movingNode: Any
    settings: dict[str, Any] = field(default_factory=dict)
    fixedMaskNode: Any = None
    movingMaskNode: Any = None
    initialTransformNode: Any = None
    outputs: tuple[str, ...] = ("transform", "warped", "jacobian")
    into: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a finished job left in the scene."""

    nodes: ResultNodes
    tableNode: Any
    report: dict
    fixedNode: Any
    movingNode: Any


class RegistrationLogic:
    """Usable without a panel: `process` waits for the result, `start` and `poll` do not.

    onFinished(outcome), onFailed(sentence), onCancelled() and onChanged() are called from `poll`.
    """

    def __init__(self, job: RegistrationJob | None = None):
        self.job = job if job is not None else RegistrationJob()
        self.job.onResult = self._import
        self.job.onFailed = lambda sentence: self.onFailed(sentence)
        self.job.onCancelled = lambda: self.onCancelled()
        self.job.onChanged = lambda: self.onChanged()
        self.onFinished = self.onFailed = self.onCancelled = self.onChanged = lambda *arguments: None
        self.outcome: Outcome | None = None
        self._sceneObserver: tuple[Any, int] | None = None

    def process(
        self,
        fixedVolume,
        movingVolume,
        *,
        fixedMask=None,
        movingMask=None,
        initialTransform=None,
        outputs=("transform", "warped", "jacobian"),
        waitForCompletion: bool = True,
        **settings,
    ) -> Outcome | None:
        """Register movingVolume to fixedVolume; settings are those of `wavemorph.Settings`.

        Returns what came of it, or None at once where waitForCompletion is False: `poll` must then be called. Raises
        InputError, SettingsError or WaveMorphError with one sentence.

        >>> outcome = logic.process(fixedNode, movingNode, preset="Precise")
        >>> print(outcome.report["folding"], outcome.nodes.transform.GetName())
        """
        self.start(
            RegistrationChoice(
                fixedVolume, movingVolume, settings, fixedMask, movingMask, initialTransform, tuple(outputs)
            )
        )
        if not waitForCompletion:
            return None
        while self.job.active:
            self.job.poll()
            slicer.app.processEvents()
            time.sleep(_POLL_SECONDS)
        if self.job.error:
            raise WaveMorphError(self.job.error)
        if self.outcome is None:
            raise Cancelled(_("Cancelled."))
        return self.outcome

    def start(self, choice: RegistrationChoice) -> None:
        """Check the choice, copy it out of the scene and begin. Raises InputError or SettingsError."""
        request = _request(choice)
        self.outcome = None
        self._observeScene(choice.fixedNode.GetScene())
        self.job.start(request)

    def poll(self) -> None:
        self.job.poll()

    def cancel(self) -> None:
        self.job.cancel()

    def close(self) -> None:
        """Stop the job and the worker, and let go of the scene."""
        self._observeScene(None)
        self.job.close()

    def _observeScene(self, scene) -> None:
        """A scene that closes takes the inputs with it, and gives their IDs to others: the job is of no use then."""
        if self._sceneObserver is not None:
            observed, tag = self._sceneObserver
            observed.RemoveObserver(tag)
            self._sceneObserver = None
        if scene is not None:
            self._sceneObserver = (scene, scene.AddObserver(scene.StartCloseEvent, lambda *_: self.cancel()))

    def _import(self, registration: Registration, choice: RegistrationChoice) -> None:
        for node, name in ((choice.fixedNode, _("fixed")), (choice.movingNode, _("moving"))):
            if node.GetScene() is None:
                raise InputError(
                    _("the {name} volume was deleted while the registration ran, and its result with it").format(
                        name=name
                    )
                )
        into = {output: node for output, node in choice.into.items() if node is not None and node.GetScene()}
        outputs = list(choice.outputs)
        if "jacobian" in outputs and registration.report["folding"]["central_voxels"]:
            outputs.append("folding")
        nodes = addRegistrationToScene(registration, choice.fixedNode, choice.movingNode, outputs, into)
        if nodes.folding is not None:
            nodes.folding = foldingSegmentation(nodes.folding)
        tableNode = addReportTable(registration.report, choice.fixedNode, choice.movingNode)
        self.outcome = Outcome(nodes, tableNode, registration.report, choice.fixedNode, choice.movingNode)
        self.onFinished(self.outcome)


def missingChoice(fixedNode, movingNode, outputs) -> str | None:
    """What the user has yet to choose, as the text of the button; None where nothing is missing."""
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


def _request(choice: RegistrationChoice) -> JobRequest:
    missing = missingChoice(choice.fixedNode, choice.movingNode, choice.outputs)
    if missing:
        raise InputError(missing + ".")
    unknown = [output for output in choice.outputs if output not in OUTPUTS]
    if unknown:
        raise SettingsError(
            _("Unknown output {name}; choose of {known}.").format(name=unknown[0], known=", ".join(OUTPUTS))
        )
    settings = Settings.from_dict({**choice.settings, "inverse": "inverse" in choice.outputs}).to_dict()
    fixed, moving = _image(choice.fixedNode, _("fixed volume")), _image(choice.movingNode, _("moving volume"))
    masks = {}
    for name, node, volumeNode, image in (
        ("fixedMask", choice.fixedMaskNode, choice.fixedNode, fixed),
        ("movingMask", choice.movingMaskNode, choice.movingNode, moving),
    ):
        if node is not None:
            masks[name] = validate_mask(labelsFromNode(node, volumeNode, _("mask")), image, _("mask"))
    return JobRequest(
        fixed, moving, settings, initialTransform=_initialTransform(choice, fixed), context=choice, **masks
    )


def _image(node, name: str):
    if node.IsA("vtkMRMLLabelMapVolumeNode") or not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(
            _("{node} is a segmentation or label map, not an image; choose the volume it was drawn on.").format(
                node=node.GetName()
            )
        )
    image = imageFromVolumeNode(node, name)
    validate_image(image, name)
    extent = np.array(image.GetSize()) * np.array(image.GetSpacing())
    if extent.max() > _LARGEST_MM or extent.max() < _SMALLEST_MM:
        raise InputError(
            _("The {name} measures {size} mm, which no part of a body does; correct its spacing in the module Volumes.")
            .format(name=name, size=" x ".join(f"{side:.0f}" for side in extent))
        )  # fmt: skip
    return image


def _initialTransform(choice: RegistrationChoice, fixed):
    node = choice.initialTransformNode
    if node is None:
        return None
    parent = choice.movingNode.GetParentTransformNode()
    if parent is not None and (parent is node or parent.IsTransformNodeMyParent(node)):
        raise InputError(
            _("The moving volume lies under {transform} already; clear the initial transform, or take the volume out.")
            .format(transform=node.GetName())
        )  # fmt: skip
    return transformFromNode(node, fixed)
