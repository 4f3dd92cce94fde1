"""`register`: the one road from two volumes to a transform, its inverse, and the numbers that say how good it is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from . import field
from .affine import estimate_affine, linear_part
from .anatomy import Anatomy, align, mean_dice, overlap, see
from .errors import InputError, OutOfMemoryError, SettingsError
from .finishing import settle, unfold
from .geometry import WorkingGrid, image_from_tensor, make_working_grid
from .images import validate_image, validate_mask
from .machine import choose_device, free_memory, is_out_of_memory, return_freed_memory
from .network.passes import predict
from .preprocessing import Pair, WorkingPair, bounding_box, dilated, prepare
from .refinement import Level, RefinementPlan, refine
from .report import doubts, provenance, quality
from .result import Registration
from .settings import Settings
from .similarity import LocalCorrelation, MindSsc, MutualInformation
from .weights import resolve, resolve_anatomy

Progress = Callable[[str, float, str], None]

_PLANS = {
    "Balanced": RefinementPlan(levels=(Level(4, 50), Level(2, 30), Level(1, 15))),
    "Precise": RefinementPlan(levels=(Level(4, 80), Level(2, 40), Level(1, 15))),
}
# After several passes of the network the coarse level has nothing left to do, and few iterations do at the finer ones:
# what they gain later is noise as often as anatomy.
_PLANS_AFTER_NETWORK = {
    "Balanced": RefinementPlan(
        levels=(Level(2, 40), Level(2, 8), Level(1, 2)), rate=0.5, force_sigma=1.0, tolerance=1e-2
    ),
    "Precise": RefinementPlan(levels=(Level(2, 40), Level(2, 15), Level(1, 10)), force_sigma=1.0),
}
# Tissues come in once it is known that the two are not alike: they gain overlap between two people, and lose exactness
# between two scans of one. Beside them gentler steps and narrower Gaussians gain; on other organs they lost a tenth.
_PLANS_WITH_TISSUES = {
    "Balanced": RefinementPlan(
        levels=(Level(2, 16), Level(2, 8, tissues=True), Level(1, 2, tissues=True)),
        rate=0.3,
        force_sigma=0.7,
        field_sigma=0.6,
        alike_rate=0.5,
        tolerance=1e-2,
    ),
    "Precise": RefinementPlan(
        levels=(Level(2, 40), Level(2, 8, tissues=True), Level(1, 6, tissues=True)),
        both_ways=True,
        rate=0.3,
        force_sigma=0.7,
        field_sigma=0.6,
        alike_rate=0.7,
        tissues_every=3,
        tolerance=1e-2,
    ),
}
# Descriptors of different contrasts agree less exactly, least of all at full resolution: held stiffer, the true error
# of synthetic pairs is less, and two scans of one head are bent half as much.
_PLANS_ACROSS_CONTRASTS = {
    "Balanced": RefinementPlan(levels=(Level(4, 50), Level(2, 40)), force_sigma=3.0, field_sigma=1.0),
    "Precise": RefinementPlan(
        levels=(Level(4, 80), Level(2, 80), Level(1, 10)), force_sigma=3.0, field_sigma=1.0, tolerance=5e-4
    ),
}
_SPACING_MM = 1.0
_MARGIN_MM = 10.0
_WINDOW_RADIUS = 4  # voxels of the level: windows of 9, as in the paper
_ALIKE_RADIUS = 2  # where the two are found alike: smaller windows are the more exact there, beside a stiffer force
_STRIDE = 2  # voxels of the level from window to window, between two people of one contrast; else it costs exactness
_BYTES_PER_VOXEL = 300  # measured peak of a whole registration over what the volumes themselves take
_SAME_CONTRAST = 0.5  # agreement above which brighter may be expected to meet brighter: T1 pairs reach 0.7, T1-PD 0.4
_COARSER = 1.5
_RIM_MM = 4.0  # around a bare brain, within which the brain of a head may lie after the affine
# Overlap of structures after the affine. Real pairs whose structures are seen well reach 0.70 to 0.78; a pair of which
# one is seen badly (proton density in thick slices) reached 0.55 where it lay less well than by mutual information.
_SURE = 0.65
_BETTER = 0.1  # by so much the structures must speak against what mutual information found


@dataclass(frozen=True)
class _Sights:
    """What the network sees in both volumes, and which network that is."""

    fixed: Anatomy
    moving: Anatomy
    model: dict


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    initial_transform: sitk.Transform | None = None,
) -> Registration:
    """Register `moving` to `fixed`; see `Registration` for the result. The inputs are not changed.

    fixed, moving: 3D scalar images, any geometry, pixel type and spacing. Masks (nonzero counts) say which voxels are
    compared. initial_transform: any SimpleITK transform, fixed points -> moving points in LPS mm; a linear one is where
    the affine stage starts, another one is kept as it is and the deformation continues from it.
    progress(stage, fraction, message) is called with 0 <= fraction <= 1; raise `errors.Cancelled` in it to stop.

    Raises InputError, SettingsError, DeviceError, WeightsError or OutOfMemoryError, each with one clear sentence.

    >>> import SimpleITK as sitk, wavemorph
    >>> result = wavemorph.register(sitk.ReadImage("fixed.nii.gz"), sitk.ReadImage("moving.nii.gz"))
    >>> sitk.WriteTransform(result.transform, "fixed_to_moving.h5")
    >>> print(result.report["folding"], result.report["seconds"])
    """
    settings = settings or Settings()
    clock = _Clock(progress or (lambda stage, fraction, message: None))
    validate_image(fixed, "fixed image")
    validate_image(moving, "moving image")
    fixed_mask = validate_mask(fixed_mask, fixed, "fixed mask") if fixed_mask is not None else None
    moving_mask = validate_mask(moving_mask, moving, "moving mask") if moving_mask is not None else None
    device = choose_device(settings.device)
    model = resolve(settings.weights, device)
    if model is None and settings.preset == "Instant":
        raise SettingsError("The preset Instant needs a model, and none is chosen or installed; use Balanced.")

    with _threads(settings.threads):
        torch.manual_seed(settings.seed)
        clock.start("Preparing", 0.0)
        pair = Pair(fixed, moving, fixed_mask, moving_mask)
        sights = _see_both(pair, settings, device, clock)
        clock.start("Affine", 0.1)
        affine, initial = _affine_stage(pair, settings, initial_transform, sights, clock)
        _check_overlap(pair, affine)
        spacing, warnings = settings.spacing_mm or _spacing_for(pair, settings, model), []
        while True:
            try:
                budget = settings.max_voxels or int(0.6 * free_memory(device) / _BYTES_PER_VOXEL)
                grid = _grid_within_budget(pair, spacing, budget)
                if sights is not None:  # between the nodes where they were seen, structures would be blurred
                    grid = grid.meeting(sights.fixed.grid)
                if max(grid.spacing) > 1.05 * spacing:
                    warnings.append(
                        f"The working grid was coarsened to {max(grid.spacing):.2f} mm to hold at most "
                        f"{budget} voxels; small structures are aligned less exactly."
                    )
                return _deformable_stages(pair, grid, affine, initial, sights, settings, model, device, clock, warnings)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                coarser = max(grid.spacing) * _COARSER
                if grid.voxels / _COARSER**3 < 16**3:
                    raise OutOfMemoryError(
                        f"There is not enough memory even for a working grid of {grid.voxels} voxels; close other "
                        "programs or crop the volumes."
                    ) from error
                warnings.append(f"Memory ran out at {spacing:.2f} mm; the work was repeated at {coarser:.2f} mm.")
                spacing = coarser
                return_freed_memory()
                if device.type == "cuda":
                    torch.cuda.empty_cache()


def _see_both(pair: Pair, settings: Settings, device: torch.device, clock: _Clock) -> _Sights | None:
    """What is seen in both volumes; None without networks, and where either shows no brain that could be told.

    Where the pair is aligned and the other network works alone, nothing would be made of it.
    """
    needed = settings.weights != "none" and (settings.affine or settings.preset != "Instant")
    model = resolve_anatomy(device) if needed else None
    if model is None:
        return None
    clock.start("Anatomy", 0.01)
    seen = []
    for image, mask in ((pair.fixed, pair.fixed_foreground), (pair.moving, pair.moving_foreground)):
        pause = partial(clock.report, 0.01 + 0.045 * len(seen), "telling the structures of the brain apart")
        try:
            twice = settings.preset == "Precise"
            anatomy = see(model.network, image, mask, model.card.extra["atlas"], pause, twice=twice)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            anatomy = None
        if anatomy is None:
            return None
        seen.append(anatomy)
    return _Sights(*seen, {"name": model.card.name, "sha256": model.sha256})


def _affine_stage(
    pair: Pair, settings: Settings, initial: sitk.Transform | None, sights: _Sights | None, clock: _Clock
):
    """(affine, the rest of the initial transform or None), with transform(x) = affine(rest(x))."""
    start = linear_part(initial) if initial is not None else None
    if initial is not None and start is None:
        affine = _best_affine(initial, pair.fixed_foreground)
        return affine, sitk.CompositeTransform([sitk.Transform(affine.GetInverse()), sitk.Transform(initial)])
    if not settings.affine:
        return start if start is not None else sitk.AffineTransform(3), None
    by_structures, reached = None, 0.0
    if sights is not None:
        by_structures, reached = align(sights.fixed, sights.moving, start)
        if reached > _SURE and pair.fixed_mask is None and pair.moving_mask is None:
            return by_structures, None
    affine = estimate_affine(
        pair.fixed,
        pair.moving,
        pair.fixed_foreground,
        pair.moving_foreground,
        masks=(pair.fixed_mask, pair.moving_mask),
        initial=start,
        seed=settings.seed,
        progress=lambda fraction: clock.report(0.1 + 0.1 * fraction, "aligning position, rotation, scale and shear"),
    )
    if by_structures is not None and overlap(sights.fixed, sights.moving, affine) < reached - _BETTER:
        affine = by_structures
    return affine, None


def _best_affine(transform: sitk.Transform, mask: sitk.Image) -> sitk.AffineTransform:
    """The affine nearest to a transform, in least squares over points of the mask."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    indices = indices[:: max(1, len(indices) // 2000)]
    points = np.array([mask.TransformIndexToPhysicalPoint(index.tolist()) for index in indices])
    targets = np.array([transform.TransformPoint(point.tolist()) for point in points])
    design = np.hstack([points, np.ones((len(points), 1))])
    solution = np.linalg.lstsq(design, targets, rcond=None)[0]
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(solution[:3].T.ravel().tolist())
    affine.SetTranslation(solution[3].tolist())
    return affine


def _check_overlap(pair: Pair, affine: sitk.AffineTransform) -> None:
    seen = sitk.Resample(pair.moving_foreground, pair.fixed_foreground, affine, sitk.sitkNearestNeighbor, 0)
    shared = np.count_nonzero(sitk.GetArrayViewFromImage(seen) & sitk.GetArrayViewFromImage(pair.fixed_foreground))
    if shared < 0.01 * np.count_nonzero(sitk.GetArrayViewFromImage(pair.fixed_foreground)):
        raise InputError(
            f"The fixed and the moving image do not overlap in space after the initial alignment ({shared} voxels in "
            "common): check that they show the same part of the body, or let the affine stage align them."
        )


def _spacing_for(pair: Pair, settings: Settings, model) -> float:
    """1 mm, or two thirds of the finest voxel side of the two images where all of them are coarser than that.

    What the network alone gives is no finer than its finest pass, and needs no finer lattice.
    """
    spacing = max(_SPACING_MM, min(*pair.fixed.GetSpacing(), *pair.moving.GetSpacing()) / 1.5)
    if settings.preset == "Instant":
        spacing = max(spacing, *model.network.config.passes_mm[-1:], 0.0)
    return spacing


def _grid_within_budget(pair: Pair, spacing: float, budget: int) -> WorkingGrid:
    box = bounding_box(pair.fixed_mask if pair.fixed_mask is not None else pair.fixed_foreground)
    grid = make_working_grid(pair.fixed, box, spacing, _MARGIN_MM)
    while grid.voxels > budget and min(grid.size) > 16:
        spacing *= max(1.02, (grid.voxels / budget) ** (1 / 3))
        grid = make_working_grid(pair.fixed, box, spacing, _MARGIN_MM)
    return grid


def _deformable_stages(pair, grid, affine, initial, sights, settings, model, device, clock, warnings) -> Registration:
    working = _both_bare(prepare(pair, grid, affine, device), sights, grid)
    fixed, moving = working.fixed, working.moving
    agreement = working.contrast_agreement(max(grid.spacing))
    same = agreement > _SAME_CONTRAST if settings.contrast == "auto" else settings.contrast == "same"
    displacement = grid.from_mm(initial).to(device) if initial is not None else None
    velocity = None
    with torch.inference_mode():
        if model is not None:
            clock.start("Network", 0.2)
            predicted, velocity = predict(
                model.network,
                fixed,
                moving,
                max(grid.spacing),
                displacement,
                lambda fraction: clock.report(0.2 + 0.05 * fraction, "the network aligns the two"),
                # what is finer than this the refinement does at less cost
                finest_mm=0.0 if settings.preset == "Instant" else 3.9 * max(grid.spacing),
            )
            if _is_closer(working, displacement, predicted):
                displacement = predicted
            else:
                velocity = None
                warnings = [*warnings, "The network did not bring the two closer; what it gave was put aside."]
        close = model is not None and bool(model.network.config.passes_mm)
        wanted = settings.preset != "Instant" and settings.similarity == "auto" and same
        tissues = _tissues(sights, grid, affine) if wanted else None
        plan = _plans(same, close, tissues is not None).get(settings.preset)
        if plan is not None:
            velocity = None
            clock.start("Refinement", 0.25)
            if settings.similarity == "mi":  # which is no correlation, by which the alike are told
                plan = replace(plan, alike=math.inf)
            displacement = refine(
                fixed,
                moving,
                working.weight,
                plan,
                _similarity_maker(settings.similarity, same),
                displacement,
                lambda fraction: clock.report(0.25 + 0.35 * fraction, "refining the deformation"),
                tissues=tissues,
            )
        clock.start("Finishing", 0.6)
        if displacement is None:
            displacement = torch.zeros(1, 3, *grid.shape, device=device)
        inverse = correction = None
        if settings.inverse:
            return_freed_memory()  # what this holds comes in other sizes
            displacement, inverse, correction = settle(
                displacement, progress=lambda fraction: clock.report(0.6 + 0.35 * fraction, "inverting the deformation")
            )
        else:
            displacement = unfold(displacement)
        clock.report(0.95, "measuring")
        of_affine = float(np.linalg.det(np.reshape(affine.GetMatrix(), (3, 3))))
        jacobian = displacement.new_empty(grid.shape)
        field.by_slabs(field.jacobian_determinant, displacement, out=jacobian).mul_(of_affine)
        registration = Registration(
            affine=affine,
            displacement=grid.to_mm(displacement),
            inverse_displacement=grid.to_mm(inverse) if inverse is not None else None,
            inverse_correction=grid.to_mm(correction) if correction is not None else None,
            working_jacobian=image_from_tensor(jacobian, grid),
            velocity=grid.to_mm(velocity) if velocity is not None else None,
            fixed=pair.fixed,
            moving=pair.moving,
        )
        registration.report = {
            **quality(registration, working, displacement, jacobian),
            "contrast": {"agreement": round(agreement, 3), "same": same},
            "anatomy": _structures(sights, grid, affine, displacement),
            **provenance(pair, settings, model, device),
            "warnings": warnings,
        }
        registration.report["warnings"] = warnings + doubts(registration.report)
    registration.report["seconds"] = clock.finish()
    return registration


def _plans(same_contrast: bool, close: bool, tissues: bool) -> dict[str, RefinementPlan]:
    """By preset. close: whether several passes of the network came before."""
    if not same_contrast:
        return _PLANS_ACROSS_CONTRASTS
    if not close:
        return _PLANS
    return _PLANS_WITH_TISSUES if tissues else _PLANS_AFTER_NETWORK


def _is_closer(working: WorkingPair, before: torch.Tensor | None, after: torch.Tensor) -> bool:
    """Whether local correlation is higher after than before, on voxels twice as large."""
    fixed, moving, weight = (F.avg_pool3d(t, 2) for t in (working.fixed, working.moving, working.weight))
    similarity = LocalCorrelation(fixed, weight, signed=False)
    size = tuple(fixed.shape[2:])
    seen = [moving if u is None else field.warp(moving, field.resize(u, size)) for u in (before, after)]
    return similarity.value(seen[1]) > similarity.value(seen[0])


def _both_bare(working: WorkingPair, sights: _Sights | None, grid: WorkingGrid) -> WorkingPair:
    """Where one volume is a whole head and the other a bare brain, what is left of the head is what the other shows.

    Otherwise scalp and skull would be drawn onto the rim of the bare brain.
    """
    if sights is None or sights.fixed.bare == sights.moving.bare:
        return working
    brain, head = ("fixed", "moving") if sights.fixed.bare else ("moving", "fixed")
    image = getattr(working, brain)
    shown = (image > image.amin()).float()
    near = dilated(shown, max(1, round(_RIM_MM / max(grid.spacing))))
    return replace(working, weight=working.weight * near, **{head: getattr(working, head) * near})


def _shares(sights: _Sights, grid: WorkingGrid, affine: sitk.Transform) -> tuple[torch.Tensor, torch.Tensor]:
    """The structures of both on voxels of 4 mm over the working grid, moving through the affine."""
    size = tuple(max(4, round(n * own / 4)) for n, own in zip(grid.shape, grid.spacing[::-1]))
    return sights.fixed.on(grid, None, size), sights.moving.on(grid, affine, size)


def _structures(sights: _Sights | None, grid: WorkingGrid, affine, displacement: torch.Tensor) -> dict | None:
    """How much the structures that the network sees overlap before and after the deformation."""
    if sights is None:
        return None
    fixed, moving = _shares(sights, grid, affine)
    warped = field.warp(moving, field.resize(displacement, tuple(moving.shape[2:])))
    return {
        "measure": "mean soft Dice of 11 structures as the network sees them, voxels of 4 mm",
        "before": mean_dice(fixed[0], moving[0]),
        "after": mean_dice(fixed[0], warped[0]),
        "compared": "all that both show" if sights.fixed.bare == sights.moving.bare else "the brain",
        "turned_degrees": {"fixed": round(sights.fixed.turned), "moving": round(sights.moving.turned)},
        "model": sights.model,
    }


def _tissues(sights: _Sights | None, grid: WorkingGrid, affine: sitk.Transform) -> tuple | None:
    """The tissues of both on half of the working lattice, moving through the affine; None where they are not sure."""
    if sights is None or mean_dice(*(shares[0] for shares in _shares(sights, grid, affine))) < _SURE:
        return None
    size = grid.halved().shape
    return sights.fixed.tissues(grid, None, size), sights.moving.tissues(grid, affine, size)


def _similarity_maker(name: str, same_contrast: bool):
    """What each level raises. MIND reaches furthest at the coarse levels; correlation is the more exact where it holds.

    Squared differences would gain a little Dice on two scans of one scanner, and ruin the answer under a bias field.
    """

    def make(fixed: torch.Tensor, weight: torch.Tensor, level: Level, alike: bool):
        if name == "mi":
            return MutualInformation(fixed, weight)
        if name == "mind" or (name == "auto" and level.factor >= (4 if same_contrast else 2)):
            return MindSsc(fixed, weight)
        if alike:
            return LocalCorrelation(fixed, weight, _ALIKE_RADIUS, signed=False)
        return LocalCorrelation(fixed, weight, _WINDOW_RADIUS, signed=False, stride=_STRIDE if same_contrast else 1)

    return make


@contextlib.contextmanager
def _threads(count: int | None):
    """Both libraries use `count` threads inside; as before afterwards."""
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    if count is not None:
        torch.set_num_threads(count)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


class _Clock:
    """Progress out, seconds per stage in."""

    def __init__(self, progress: Progress):
        self._progress, self._stage = progress, "Preparing"
        self._seconds: dict[str, float] = {}
        self._began = self._since = time.perf_counter()

    def start(self, stage: str, fraction: float) -> None:
        self._close()
        self._stage = stage
        self._progress(stage, fraction, "")

    def report(self, fraction: float, message: str) -> None:
        self._progress(self._stage, fraction, message)

    def finish(self) -> dict[str, float]:
        self._close()
        self._progress("Done", 1.0, "")
        total = time.perf_counter() - self._began
        return {**{stage: round(value, 3) for stage, value in self._seconds.items()}, "total": round(total, 3)}

    def _close(self) -> None:
        now = time.perf_counter()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
