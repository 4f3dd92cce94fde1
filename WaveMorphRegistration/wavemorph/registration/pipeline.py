"""`register`: the stages from two volumes to a transform and the numbers that say how good it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import OutOfMemoryError, SettingsError, is_out_of_memory
from ..io.checks import size_warnings
from ..io.files import without_names
from ..io.images import validate_image, validate_mask
from ..io.result import Registration
from ..models.weights import resolve
from ..settings import Settings
from ..spatial.displacement import jacobian_determinant
from ..spatial.filters import apply_in_slabs
from ..spatial.grid import WorkingGrid, image_from_tensor, make_working_grid
from ..spatial.preprocessing import Pair, bounding_box, moving_as_it_lies, prepare
from ..system.machine import (
    choose_device,
    free_memory,
    freed_memory_kept,
    release_device_memory,
)
from .deformable.stage import (
    Contrast,
    DeformationEstimate,
    FinalMap,
    finish,
    judge_contrast,
    run_network,
    run_optimizer,
)
from .evidence import evidence
from .expected_error.estimate import estimate_error
from .laterality import mirrored_gain
from .linear.stage import align_linearly
from .report import describe_subject, determinant_of, linear_quality, provenance, quality, quality_warnings
from .schedules import BYTES_PER_VOXEL, MARGIN_MM, MEMORY_RETRY_FACTOR, SKULL_STRIPPED_MARGIN_MM, SPACING_MM
from .segmentation.pair import PairSegmentation, restrict_to_common_brain
from .segmentation.stage import segment_pair
from .state import AlignedPair, Job, LinearAlignment, Progress, StageTimer
from .verdict import judge

_MIN_SIDE_VOXELS = 16  # of the working grid
_FEW_SLICES = 16
_MEMORY_FRACTION = 0.6  # of the free memory, that a registration may use


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    initial_transform: sitk.Transform | None = None,
    notes: Sequence[str] = (),
    on_map: Callable[[Registration], None] = lambda registration: None,
) -> Registration:
    """Register `moving` to `fixed`; `wavemorph.register` documents the arguments and also takes paths and arrays.

    notes: what the reader of the volumes remarked; the first of the report's notes, without names of files.
    on_map: called with the registration when its map is known, but not how good it is: its report is still empty.
        Called again with another one where memory ran out meanwhile.
    """
    settings = settings or Settings()
    timer = StageTimer(progress or (lambda stage, fraction, message: None))
    validate_image(fixed, "fixed image")
    validate_image(moving, "moving image")
    warnings = size_warnings(fixed, moving)
    fixed_mask = validate_mask(fixed_mask, fixed, "fixed mask") if fixed_mask is not None else None
    moving_mask = validate_mask(moving_mask, moving, "moving mask") if moving_mask is not None else None
    device = choose_device(settings.device)
    if initial_transform is not None and not settings.deformable and not initial_transform.IsLinear():
        raise SettingsError(
            f"The initial transform is not linear, and the transform type is {settings.transform_type}; choose a "
            "linear initial transform, or the transform type deformable."
        )
    model = resolve(settings.weights, device) if settings.deformable else None
    if model is None and settings.deformable and settings.preset == "Instant":
        raise SettingsError("The preset Instant needs a model, and none is chosen or installed; use Balanced.")

    with _thread_count(settings.threads), freed_memory_kept():
        torch.manual_seed(settings.seed)
        timer.start("Preparing", 0.0)
        job = Job(Pair(fixed, moving, fixed_mask, moving_mask), settings, device, model, timer, on_map)
        segmentation, remarks = _trusted_segmentation(job, initial_transform)
        if segmentation is None:
            job = replace(job, pair=job.pair.as_body())
        elif not segmentation.is_skull_stripped:
            job = replace(job, pair=job.pair.with_subjects())
        linear = align_linearly(job, initial_transform, segmentation)
        registration = _complete_within_memory(job, linear, segmentation)
    report = registration.report
    report["warnings"] = [*warnings, *report["warnings"]]
    report["notes"] = [*map(without_names, notes), *remarks, *report["notes"]]
    report["verdict"] = judge(report, job.pair.length_scale)
    return registration


def _trusted_segmentation(job: Job, initial: sitk.Transform | None) -> tuple[PairSegmentation | None, tuple[str, ...]]:
    """(the segmentations of both brains, notes); None where there are none, or where they contradict each other.

    Noise can be taken for a brain; without its segmentation the pair is compared as any part of the body, which brought
    the error of a noisy brain from 8.6 to 2.5 mm. With an initial transform they are kept.
    """
    segmentation = segment_pair(job)
    if segmentation is None or initial is not None or not segmentation.contradicts_itself:
        return segmentation, ()
    dice = segmentation.alignment[1]
    return None, (
        f"The structures of the two brains, as the network segments them, agree by only {dice:.2f} (Dice); they were "
        "not used.",
    )


def _complete_within_memory(job: Job, linear: LinearAlignment, segmentation: PairSegmentation | None) -> Registration:
    """The deformable stages, or the measures of a linear map, on a coarser grid where memory runs out.

    Raises OutOfMemoryError.
    """
    spacing = job.settings.spacing_mm or _default_spacing_mm(job)
    notes: tuple[str, ...] = ()
    while True:
        grid, coarsened = _working_grid(job, spacing, segmentation)
        notes += coarsened
        try:
            return _complete_on(grid, job, linear, segmentation, notes)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if grid.voxels / MEMORY_RETRY_FACTOR**3 < _MIN_SIDE_VOXELS**3:
                raise OutOfMemoryError(
                    f"There is not enough memory even for a working grid of {grid.voxels} voxels; close other "
                    "programs or crop the volumes."
                ) from error
            coarser = max(grid.spacing) * MEMORY_RETRY_FACTOR
            notes += (f"Memory ran out at {spacing:.2f} mm; the work was repeated at {coarser:.2f} mm.",)
            spacing = coarser
        release_device_memory(job.device)  # not before the error, which refers to the tensors of the attempt, is gone


def _complete_on(
    grid: WorkingGrid,
    job: Job,
    linear: LinearAlignment,
    segmentation: PairSegmentation | None,
    notes: tuple[str, ...],
) -> Registration:
    working = prepare(job.pair, grid, linear.affine, job.device)
    working = restrict_to_common_brain(working, segmentation, grid, SKULL_STRIPPED_MARGIN_MM)
    complete = _deform if job.settings.deformable else _measure
    return complete(AlignedPair(job, linear, segmentation, grid, working, notes))


def _default_spacing_mm(job: Job) -> float:
    """1 mm for a head, or two thirds of the finest voxel side of the two images where all of them are coarser.

    "Instant" works on voxels of the finest pass of the network: its result alone is no finer.
    """
    finest_mm = SPACING_MM
    if job.settings.preset == "Instant" and job.model is not None:
        finest_mm = max(finest_mm, *job.model.network.config.passes_mm[-1:], 0.0)
    return max(finest_mm * job.pair.length_scale, job.pair.finest_voxel_mm / 1.5)


def _working_grid(
    job: Job, spacing: float, segmentation: PairSegmentation | None
) -> tuple[WorkingGrid, tuple[str, ...]]:
    """(the working grid, notes for the report): coarser than `spacing` (mm) where memory or `max_voxels` demand it."""
    budget = job.settings.max_voxels or voxel_budget(job.device)
    grid = _grid_within_budget(job.pair, spacing, budget)
    if segmentation is not None:  # probability maps lose accuracy when they are interpolated between their nodes
        grid = grid.snapped_to(segmentation.fixed.grid)
    if max(grid.spacing) <= 1.05 * spacing:
        return grid, ()
    return grid, (
        f"The working grid was coarsened to {max(grid.spacing):.2f} mm to hold at most {budget} voxels; small "
        "structures are aligned less exactly.",
    )


def voxel_budget(device: torch.device) -> int:
    """Voxels of working grids for which the free memory of the device suffices."""
    return int(_MEMORY_FRACTION * free_memory(device) / BYTES_PER_VOXEL)


def _grid_within_budget(pair: Pair, spacing: float, budget: int) -> WorkingGrid:
    # a mask lies on the lattice of the input, the foreground on what is left of it without planes that were not scanned
    region = pair.fixed_mask if pair.fixed_mask is not None else pair.fixed_foreground
    box = bounding_box(region)
    grid = make_working_grid(region, box, spacing, MARGIN_MM * pair.length_scale)
    while grid.voxels > budget and min(grid.size) > _MIN_SIDE_VOXELS:
        spacing *= max(1.02, (grid.voxels / budget) ** (1 / 3))
        grid = make_working_grid(region, box, spacing, MARGIN_MM * pair.length_scale)
    return grid


def _deform(aligned: AlignedPair) -> Registration:
    """Network, optimizer and finishing on the working grid, and the report."""
    with torch.inference_mode():
        contrast = judge_contrast(aligned)
        estimate = run_network(aligned)
        estimate = run_optimizer(aligned, contrast, estimate)
        final = finish(aligned, estimate.displacement)
        aligned.job.timer.report(0.95, "measuring")
        registration = _with_report(aligned, contrast, estimate, final)
    registration.report["seconds"] = aligned.job.timer.finish()
    return registration


def _measure(aligned: AlignedPair) -> Registration:
    """The linear map alone, and the report."""
    job, grid, affine = aligned.job, aligned.grid, aligned.linear.affine
    job.timer.start("Finishing", 0.9)
    job.timer.report(0.95, "measuring")
    with torch.inference_mode():
        jacobian = torch.full(grid.shape, determinant_of(affine))
        registration = Registration(
            affine=affine,
            displacement=None,
            inverse_displacement=None,
            inverse_correction=None,
            working_jacobian=image_from_tensor(jacobian, grid),
            fixed=job.pair.inputs[0],
            moving=job.pair.inputs[1],
        )
        job.on_map(registration)
        measured = linear_quality(affine, aligned.working, moving_as_it_lies(job.pair, grid, job.device))
        registration.report = _report(aligned, judge_contrast(aligned), measured, None, ())
    registration.report["seconds"] = job.timer.finish()
    return registration


def _with_report(
    aligned: AlignedPair, contrast: Contrast, estimate: DeformationEstimate, final: FinalMap
) -> Registration:
    job, grid, affine = aligned.job, aligned.grid, aligned.linear.affine
    jacobian = final.displacement.new_empty(grid.shape)
    apply_in_slabs(jacobian_determinant, final.displacement, out=jacobian).mul_(determinant_of(affine))
    registration = Registration(
        affine=affine,
        displacement=grid.to_mm(final.displacement),
        inverse_displacement=grid.to_mm(final.inverse) if final.inverse is not None else None,
        inverse_correction=grid.to_mm(final.correction) if final.correction is not None else None,
        working_jacobian=image_from_tensor(jacobian, grid),
        velocity=grid.to_mm(estimate.velocity) if estimate.velocity is not None else None,
        fixed=job.pair.inputs[0],
        moving=job.pair.inputs[1],
    )
    job.on_map(registration)
    measured = quality(registration, aligned.working, final.displacement, jacobian)
    registration.report = report = _report(aligned, contrast, measured, final.displacement, estimate.notes)
    if job.settings.error_map:
        job.timer.start("Expected error", 0.97)
        registration.expected_error, report["expected_error"] = estimate_error(aligned, contrast, final.displacement)
    return registration


def _report(
    aligned: AlignedPair,
    contrast: Contrast,
    measured: dict,
    displacement: torch.Tensor | None,
    notes: tuple[str, ...],
) -> dict:
    """All entries but "seconds" and "verdict". measured: of `quality` or `linear_quality`."""
    job, segmentation = aligned.job, aligned.segmentation
    described = None
    if segmentation is not None:
        described = segmentation.describe(
            aligned.linear.affine, aligned.grid, displacement, aligned.working.scanned_by_both
        )
    report = {
        "transform_type": job.settings.transform_type,
        "subject": describe_subject(
            job.pair, aligned.grid, aligned.linear.affine, displacement, aligned.working.inside
        ),
        **measured,
        "evidence": evidence(
            aligned.working, aligned.linear.affine, displacement, aligned.spacing_mm, job.pair.length_scale
        ),
        "mirrored_gain": mirrored_gain(job.pair, aligned.linear.affine),
        "contrast": {
            "agreement": round(contrast.agreement, 3),
            "correlation": round(contrast.correlation, 3),
            "same": contrast.same,
        },
        "segmentation": described,
        **provenance(job.pair, job.settings, job.model, job.device),
    }
    report["warnings"] = quality_warnings(report, job.pair.length_scale)
    report["notes"] = [*_notes_on_slices(job.pair), *aligned.notes, *notes]
    return report


def _notes_on_slices(pair: Pair) -> list[str]:
    """A sentence for each volume of few slices: what cannot be known between them."""
    sentences = []
    for name, image in zip(("fixed", "moving"), pair.inputs):
        axis = int(np.argmin(image.GetSize()))
        count, apart = image.GetSize()[axis], image.GetSpacing()[axis]
        if count < _FEW_SLICES and apart > min(image.GetSpacing()):
            sentences.append(
                f"The {name} volume has only {count} slices, {apart:.3g} mm apart; across them nothing smaller than "
                "that is aligned, and beyond them the map only continues."
            )
    return sentences


@contextlib.contextmanager
def _thread_count(count: int | None) -> Iterator[None]:
    """torch and SimpleITK use `count` threads within the context."""
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    if count is not None:
        torch.set_num_threads(count)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])
