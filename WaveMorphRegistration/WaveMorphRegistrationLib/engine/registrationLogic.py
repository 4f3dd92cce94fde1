"""From chosen nodes to a job, and from its result to nodes; for the panel and for scripts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import slicer
from wavemorph.errors import Cancelled, InputError, WaveMorphError
from wavemorph.io.result import Registration

from ..results.display import foldingSegmentation
from ..results.reportTable import addReportTable
from ..results.resultNodes import addRegistrationToScene
from ..results.sceneResult import SceneResult
from ..translation import _
from .job import RegistrationJob
from .registrationChoice import RegistrationChoice

_POLL_SECONDS = 0.05


@dataclass
class Outcome:
    """What a finished job added to the scene, and its report."""

    nodes: SceneResult
    tableNode: Any
    report: dict
    fixedNode: Any
    movingNode: Any


class RegistrationLogic:
    """Registers nodes of the scene: `process` waits for the result; `start` returns at once, and `poll` is called then.

    `poll` calls onFinished(outcome), onFailed(message), onCanceled() and onChanged().
    """

    def __init__(self, job: RegistrationJob | None = None):
        self.job = job if job is not None else RegistrationJob()
        self.job.onResult = self._import
        self.job.onFailed = lambda message: self.onFailed(message)
        self.job.onCanceled = lambda: self.onCanceled()
        self.job.onChanged = lambda: self.onChanged()
        self.onFinished = self.onFailed = self.onCanceled = self.onChanged = lambda *arguments: None
        self.outcome: Outcome | None = None
        self._sceneObserver: tuple[Any, int] | None = None
        self._timer: Any = None

    def process(
        self,
        fixedVolume,
        movingVolume,
        *,
        fixedMask=None,
        movingMask=None,
        initialTransform=None,
        outputs=None,
        into=None,
        fixedMaskSegment: str = "",
        movingMaskSegment: str = "",
        storeSpacingMm: float | None = None,
        waitForCompletion: bool = True,
        **settings,
    ) -> Outcome | None:
        """Register movingVolume to fixedVolume, and return the outcome.

        fixedMask, movingMask: segmentation or label map nodes; only voxels inside are compared.
        initialTransform: transform node that, applied to the moving volume, brings it near the fixed one.
        outputs: names of `registrationChoice.OUTPUTS`; None stands for the transform and the registered volume, and for
            the Jacobian too where transform_type is deformable.
        into: output name -> existing node to fill instead of a new one.
        fixedMaskSegment, movingMaskSegment: ID of the one segment of a segmentation that is the mask; all by default.
        storeSpacingMm: store the transforms at this spacing; 2 mm take an eighth of the space, and the error is in
            report["stored"].
        waitForCompletion: False returns None at once. Where the application runs its event loop, onFinished, onFailed
            or onCanceled is called later; elsewhere `poll` must be called until the job is not active.
        settings: those of `wavemorph.Settings`, such as preset, transform_type and smoothness.
        Raises InputError, SettingsError or WaveMorphError.

        >>> outcome = logic.process(fixedNode, movingNode, preset="Precise")
        >>> print(outcome.report["folding"], outcome.nodes.transform.GetName())
        """
        choice = RegistrationChoice(
            fixedVolume,
            movingVolume,
            settings,
            fixedMask,
            movingMask,
            initialTransform,
            into=dict(into or {}),
            fixedMaskSegment=fixedMaskSegment,
            movingMaskSegment=movingMaskSegment,
            storeSpacingMm=storeSpacingMm,
        )
        if outputs is not None:
            choice.outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        elif not choice.deformable:
            choice.outputs = ("transform", "warped")
        self.start(choice)
        if not waitForCompletion:
            self._pollByTimer()
            return None
        while self.job.active:
            self.job.poll()
            slicer.app.processEvents()
            time.sleep(_POLL_SECONDS)
        if self.job.error:
            raise WaveMorphError(self.job.error)
        if self.outcome is None:
            raise Cancelled(_("Canceled."))
        return self.outcome

    def start(self, choice: RegistrationChoice) -> None:
        """Check the choice, copy it out of the scene and start the job. Raises InputError or SettingsError."""
        request = choice.request()
        self.outcome = None
        self._observeScene(choice.fixedNode.GetScene())
        self.job.start(request)

    def prepare(self) -> None:
        """Start the worker, so that it is ready when a job is started."""
        self.job.prepareWorker()

    def poll(self) -> None:
        """Handle what has arrived from the worker."""
        self.job.poll()

    def cancel(self) -> None:
        """Cancel the job."""
        self.job.cancel()

    def close(self) -> None:
        """Stop the job and the worker, and stop observing the scene."""
        self._stopTimer()
        self._observeScene(None)
        self.job.close()

    def _pollByTimer(self) -> None:
        """Poll in the event loop of the application until the job has ended."""
        try:
            import qt
        except ImportError:  # no application
            return
        self._stopTimer()
        self._timer = qt.QTimer()
        self._timer.interval = round(1000 * _POLL_SECONDS)
        self._timer.timeout.connect(self._onTimer)
        self._timer.start()

    def _onTimer(self) -> None:
        self.poll()
        if not self.job.active:
            self._stopTimer()

    def _stopTimer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _observeScene(self, scene) -> None:
        """Cancel the job when the scene closes: the inputs are removed, and their IDs are given to other nodes."""
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
                    _("the {name} volume was deleted during the registration, so its result was discarded").format(
                        name=name
                    )
                )
        into = {output: node for output, node in choice.into.items() if node is not None and node.GetScene()}
        outputs = list(choice.outputs)
        if "jacobian" in outputs and not registration.is_linear and registration.report["folding"]["central_voxels"]:
            outputs.append("folding")
        nodes = addRegistrationToScene(registration, choice.fixedNode, choice.movingNode, outputs, into)
        if nodes.folding is not None:
            nodes.folding = foldingSegmentation(nodes.folding)
        tableNode = addReportTable(nodes)
        self.outcome = Outcome(nodes, tableNode, registration.report, choice.fixedNode, choice.movingNode)
        self.onFinished(self.outcome)
