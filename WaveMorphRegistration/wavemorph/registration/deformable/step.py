"""The step that the optimizer repeats at one pyramid level (ours).

The force, which is the derivative of the similarity with respect to the displacement, is smoothed (fluid
regularization), scaled to a step of at most half a voxel and composed with the displacement, and the displacement is
smoothed slightly (elastic regularization). Smoothing at a fixed rate against an unnormalized force is diffusion
regularization at its equilibrium (paper section 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...spatial.displacement import border_ramps, compose_small_step, lattice_size, length
from ...spatial.filters import apply_in_slabs, smooth
from ..similarity.base import Similarity
from ..similarity.segmentation import SegmentationDifference


@dataclass(frozen=True)
class StepRule:
    """How a force becomes a step. Lengths are in voxels of the level.

    rms_step: root-mean-square length of the first step. max_step: limit of any step. momentum: fraction of the previous
    direction that is kept. fluid_sigma, elastic_sigma: of the Gaussians for the force and for the displacement.
    """

    rms_step: float
    max_step: float
    momentum: float
    fluid_sigma: float
    elastic_sigma: float


class SegmentationTerm:
    """The segmentation term of one level: its value and its force (1, 3, D, H, W), as of the last `refresh`.

    They are kept for some iterations, because they change slowly. segmentations: maps (1, C, d, h, w) of the fixed and
    the moving volume. weight: (1, 1, D, H, W). factor: what each map counts for.
    """

    def __init__(self, segmentations: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor, factor: float):
        self._measure = SegmentationDifference(*segmentations, weight, factor)
        self.value, self.force = weight.new_zeros(()), weight.new_zeros(1, 3, *lattice_size(weight))

    def refresh(self, displacement: torch.Tensor) -> None:
        """Value and force under a displacement (1, 3, D, H, W)."""
        value, force = self._measure.value_and_gradient(displacement)
        self.value.copy_(value)
        self.force.copy_(force)


class LevelStep:
    """One iteration of gradient ascent with momentum; each call moves `displacement`.

    displacement: (1, 3, D, H, W) in voxels, the one to begin with, which is overwritten. similarity, total: tensors
    without axes, the similarity before the last step, without and with the segmentation term.

    What one call leaves for the next is in tensors that stay where they are, and the host decides nothing after the
    first call, so that the device can replay a call (`system.recording`).
    """

    def __init__(
        self,
        measure: Similarity,
        segmentation: SegmentationTerm | None,
        displacement: torch.Tensor,
        weight: torch.Tensor,
        rule: StepRule,
        min_rms_force: torch.Tensor,
    ):
        self.displacement = displacement
        self.similarity, self.total = weight.new_zeros(()), weight.new_zeros(())
        self._measure, self._segmentation, self._weight, self._rule = measure, segmentation, weight, rule
        self._min_rms_force = min_rms_force
        self._ramps = border_ramps(lattice_size(weight), weight.device)  # a field of their product would be larger
        self._direction = weight.new_zeros(1, 3, *lattice_size(weight))
        self._force = torch.empty_like(self._direction)  # kept: its like would be allocated beside holes of its size
        self._missing = weight.new_ones(())  # part of the direction that is still zero, momentum^calls
        self._scale: torch.Tensor | None = None  # from force to step, of the first call

    def refresh_segmentation(self) -> None:
        """Evaluate the segmentation term at the displacement; without one, do nothing."""
        if self._segmentation is not None:
            self._segmentation.refresh(self.displacement)

    def __call__(self) -> None:
        value, force = self._measure.value_and_gradient(self.displacement, out=self._force)
        self.similarity.copy_(value)
        if self._segmentation is not None:
            force.add_(self._segmentation.force)
            value = value + self._segmentation.value
        self.total.copy_(value)
        self._move(smooth(force, self._rule.fluid_sigma, out=force))

    def _move(self, force: torch.Tensor) -> None:
        """Move the displacement along a smoothed force, whose memory is used for it."""
        rule = self._rule
        if self._scale is None:
            rms = torch.maximum(weighted_rms(force, self._weight), self._min_rms_force)
            self._scale = rule.rms_step / rms.clamp(min=1e-20)
        self._missing.mul_(rule.momentum)
        self._direction.mul_(rule.momentum).add_(force, alpha=1 - rule.momentum)
        gain = self._scale / (1 - self._missing)
        moved = _compose_update(self.displacement, self._direction, self._ramps, gain, rule.max_step, out=force)
        _tapered(smooth(moved, rule.elastic_sigma, out=moved), self._ramps, out=self.displacement)


def weighted_rms(force: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square of the length of (1, 3, D, H, W) over the voxels of `weight`."""
    return ((length(force).square_() * weight).sum() / weight.sum()).sqrt()


def _compose_update(
    displacement: torch.Tensor,
    direction: torch.Tensor,
    ramps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    gain: torch.Tensor,
    max_step: float,
    out: torch.Tensor,
) -> torch.Tensor:
    """The displacement after a step of `gain` times the direction, nowhere longer than `max_step` voxels, in `out`."""
    k, j, i = ramps

    def update(here: torch.Tensor, along: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        step = along * gain
        step.mul_(max_step / length(step).clamp_(min=max_step)).mul_(k * j * i)
        return compose_small_step(here, step)

    return apply_in_slabs(update, displacement, direction, k, out=out)


def _tapered(
    displacement: torch.Tensor, ramps: tuple[torch.Tensor, torch.Tensor, torch.Tensor], out: torch.Tensor
) -> torch.Tensor:
    """The displacement (1, 3, D, H, W) times `border_taper`, in `out`."""
    k, j, i = ramps
    return apply_in_slabs(lambda here, k: here * (k * j * i), displacement, k, out=out)
