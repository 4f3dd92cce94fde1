"""The segmentation stage: both brains by the network, where that is of use (ours)."""

from __future__ import annotations

from functools import partial

import SimpleITK as sitk

from ...models.weights import LoadedModel, resolve_segmentation_model
from ...system.machine import is_out_of_memory
from ..state import Job
from .brain import BrainSegmentation
from .inference import SegmentationInput, segment
from .pair import PairSegmentation


def segment_pair(job: Job) -> PairSegmentation | None:
    """Segment both brains; None without networks, and where either volume shows no plausible brain.

    Skipped for a pair that is aligned already and is registered by the network alone, where nothing would use it.
    """
    settings = job.settings
    needed = settings.weights != "none" and (settings.affine or settings.preset != "Instant")
    model = resolve_segmentation_model(job.device) if needed else None
    if model is None:
        return None
    job.timer.start("Segmentation", 0.01)
    fixed = _segment(job, model, job.pair.fixed, job.pair.fixed_foreground, 0.01)
    if fixed is None:
        return None
    moving = _segment(job, model, job.pair.moving, job.pair.moving_foreground, 0.055)
    if moving is None:
        return None
    return PairSegmentation(fixed, moving, {"name": model.card.name, "sha256": model.sha256})


def _segment(
    job: Job, model: LoadedModel, image: sitk.Image, foreground: sitk.Image, fraction: float
) -> BrainSegmentation | None:
    """The segmentation of one volume, or None, also where memory runs out: the later stages work without it."""
    on_forward = partial(job.timer.report, fraction, "segmenting the structures of the brain")
    source = SegmentationInput(model.network, image, foreground, model.card.extra["atlas"], on_forward)
    try:
        return segment(source, flip_tta=job.settings.preset == "Precise")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
