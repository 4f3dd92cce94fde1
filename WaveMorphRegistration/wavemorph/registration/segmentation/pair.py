"""The segmentations of both volumes, and what the later stages use of them (ours)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ...spatial.displacement import resize, warp
from ...spatial.grid import WorkingGrid
from ...spatial.preprocessing import WorkingPair, dilate
from ..linear.structures import align_structures
from ..schedules import MIN_CONSISTENT_DICE
from .brain import BrainSegmentation, mean_soft_dice

_REPORT_SPACING_MM = 4.0


@dataclass(frozen=True)
class PairSegmentation:
    """The segmentations of both brains. model: name and checksum of the network."""

    fixed: BrainSegmentation
    moving: BrainSegmentation
    model: dict[str, str]

    @property
    def is_skull_stripped(self) -> bool:
        """Whether either volume is skull-stripped, so that only brains are compared, which no scan cuts off."""
        return self.fixed.skull_stripped or self.moving.skull_stripped

    @cached_property
    def alignment(self) -> tuple[sitk.AffineTransform, float]:
        """(affine, mean soft Dice under it) of the structures, from no other start; see `align_structures`."""
        return align_structures(self.fixed, self.moving)

    @property
    def contradicts_itself(self) -> bool:
        """Whether the structures do not agree even under their own alignment: then at least one brain is not one.

        Between a head and a skull-stripped brain the segmentations are needed nevertheless, to leave out the scalp.
        """
        alike = self.fixed.skull_stripped == self.moving.skull_stripped
        return alike and self.alignment[1] < MIN_CONSISTENT_DICE

    def dice_after(self, affine: sitk.Transform, grid: WorkingGrid) -> float:
        """Mean soft Dice of the structures on `grid` under the affine, fixed points -> moving points in LPS mm."""
        fixed, moving = self._probabilities(grid, affine)
        return mean_soft_dice(fixed[0], moving[0])

    def log_odds(self, affine: sitk.Transform, grid: WorkingGrid) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-odds maps of both on half of the working lattice, the moving ones through the affine."""
        size = grid.halved().shape
        return self.fixed.log_odds(grid, None, size), self.moving.log_odds(grid, affine, size)

    def describe(
        self,
        affine: sitk.Transform,
        grid: WorkingGrid,
        displacement: torch.Tensor | None,
        scanned: torch.Tensor | None = None,
    ) -> dict:
        """The entry "segmentation" of the report: overlap before and after the displacement (in voxels of `grid`).

        Without a displacement: as the volumes lie, and under the affine. scanned: (1, 1, D, H, W) bool on `grid`, where
        both volumes were scanned; elsewhere nothing is compared.
        """
        fixed, moving = self._probabilities(grid, affine)
        if displacement is None:
            warped = moving
            _, moving = self._probabilities(grid, sitk.Transform())
        else:
            depth, height, width = moving.shape[2:]
            warped = warp(moving, resize(displacement, (depth, height, width)))
        if scanned is not None:
            seen = F.interpolate(scanned.float(), size=fixed.shape[2:], mode="area")
            fixed, moving, warped = fixed * seen, moving * seen, warped * seen
        return {
            "measure": "mean soft Dice of 11 structures as segmented by the network, voxels of 4 mm",
            "before": mean_soft_dice(fixed[0], moving[0]),
            "after": mean_soft_dice(fixed[0], warped[0]),
            "compared": "all that both show"
            if self.fixed.skull_stripped == self.moving.skull_stripped
            else "the brain",
            "rotation_deg": {"fixed": round(self.fixed.rotation_deg), "moving": round(self.moving.rotation_deg)},
            "model": self.model,
        }

    def _probabilities(self, grid: WorkingGrid, affine: sitk.Transform) -> tuple[torch.Tensor, torch.Tensor]:
        depth, height, width = (
            max(4, round(n * own / _REPORT_SPACING_MM)) for n, own in zip(grid.shape, grid.spacing[::-1])
        )
        size = (depth, height, width)
        return self.fixed.resample(grid, None, size), self.moving.resample(grid, affine, size)


def restrict_to_common_brain(
    working: WorkingPair, segmentation: PairSegmentation | None, grid: WorkingGrid, margin_mm: float
) -> WorkingPair:
    """Where one volume is a whole head and the other a skull-stripped brain: the head reduced to what the brain shows.

    Otherwise scalp and skull would be deformed onto the border of the brain. margin_mm: kept around the brain.
    """
    if segmentation is None or segmentation.fixed.skull_stripped == segmentation.moving.skull_stripped:
        return working
    fixed_is_brain = segmentation.fixed.skull_stripped
    brain = working.fixed if fixed_is_brain else working.moving
    shown = (brain > brain.amin()).float()
    near = dilate(shown, max(1, round(margin_mm / max(grid.spacing))))
    weight = working.weight * near
    if fixed_is_brain:
        return replace(working, weight=weight, moving=working.moving * near)
    return replace(working, weight=weight, fixed=working.fixed * near)
