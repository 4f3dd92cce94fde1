"""The segmentation stage: both brains by the network, where that is of use (ours)."""

from __future__ import annotations

from functools import partial

import SimpleITK as sitk
import torch

from ...errors import is_out_of_memory
from ...models.weights import resolve_segmentation_model
from ...settings import Settings
from ...spatial.preprocessing import foreground
from ..linear.orientation import likeliest_rotation
from ..state import Job
from .brain import BrainSegmentation
from .inference import SegmentationInput, finish, first_look, look_along, look_everywhere, segment
from .pair import PairSegmentation
from .plausibility import head_axes
from .remembering import look_at_fixed


def looks_for_brains(settings: Settings) -> bool:
    """Whether brains are segmented: not without networks, nor for a pair that is aligned already and is registered by
    the network alone, where nothing would use it."""
    return settings.weights != "none" and (settings.affine or settings.preset != "Instant")


def segment_pair(job: Job) -> PairSegmentation | None:
    """Segment both brains; None where they are not looked for, and where either volume shows no plausible brain."""
    settings = job.settings
    model = resolve_segmentation_model(job.device) if looks_for_brains(settings) else None
    if model is None:
        return None
    job.timer.start("Segmentation", 0.01)
    pair = job.pair
    sources = tuple(
        SegmentationInput(
            model.network,
            image,
            foreground,
            model.card.extra["atlas"],
            partial(job.timer.report, fraction, "segmenting the structures of the brain"),
        )
        for image, foreground, fraction in (
            (pair.fixed, pair.fixed_foreground, 0.01),
            (pair.moving, pair.moving_foreground, 0.055),
        )
    )
    try:
        found = _search(job, sources[0], sources[1])
        if found is None:
            return None
        flip_tta = settings.preset == "Precise"
        fixed, moving = (finish(source, each, flip_tta) for source, each in zip(sources, found))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return PairSegmentation(fixed, moving, {"name": model.card.name, "sha256": model.sha256})


def segment_volume(image: sitk.Image, device: torch.device) -> BrainSegmentation | None:
    """The brain of a single volume; None without a network, and where the volume shows no plausible brain."""
    model = resolve_segmentation_model(device)
    if model is None:
        return None
    source = SegmentationInput(model.network, image, foreground(image), model.card.extra["atlas"])
    return segment(source, flip_tta=True)


def _search(
    job: Job, fixed: SegmentationInput, moving: SegmentationInput
) -> tuple[BrainSegmentation, BrainSegmentation] | None:
    """The brains of both volumes; None where either shows no plausible one.

    Where only one is found as its file states its orientation, the other is looked for in the orientation in which it
    fits that one, before other orientations are tried.
    """
    found_fixed = look_at_fixed(fixed, first_look)
    if found_fixed.best is None and not found_fixed.confident:
        return None
    found_moving = first_look(moving)
    if found_fixed.converged != found_moving.converged:
        rotation = likeliest_rotation(job.pair, job.settings.seed)
        if found_fixed.converged:
            assert found_fixed.best is not None
            axes = rotation @ head_axes(found_fixed.best, fixed.atlas)
            found_moving = look_along(moving, found_moving, [axes])
        else:
            assert found_moving.best is not None
            axes = rotation.T @ head_axes(found_moving.best, moving.atlas)
            found_fixed = look_along(fixed, found_fixed, [axes])
    brains = []
    for source, found in ((fixed, found_fixed), (moving, found_moving)):
        found = look_everywhere(source, found)
        if found.best is None:
            return None
        brains.append(found.best)
    return brains[0], brains[1]
