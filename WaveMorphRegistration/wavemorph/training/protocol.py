"""The paper's tables: overlap and folding over the pairs of a data set, and the ablation (paper section 4)."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..network import WaveMorphNetwork
from ..network.config import DOWNSAMPLINGS, UPSAMPLINGS
from ..registration.deformable.inference import predict
from ..spatial.displacement import jacobian_determinant, warp
from .datasets import DataPairs, IxiData, OasisData, as_tensor
from .loop import Trainer
from .recipe import Recipe


@dataclass(frozen=True)
class Score:
    """One line of a table, with a value for each pair.

    Attributes:
        name: of the line.
        dice: mean over the structures that either map holds, 0 to 1.
        folded_percent: voxels whose Jacobian determinant by central differences is not positive, percent.
        seconds: time of the network and its displacement.
    """

    name: str
    dice: np.ndarray
    folded_percent: np.ndarray
    seconds: np.ndarray

    def row(self) -> str:
        deviation = self.dice.std(ddof=1) if len(self.dice) > 1 else 0.0
        return (
            f"{self.name:24} {self.dice.mean():6.3f} +- {deviation:.3f} {self.folded_percent.mean():10.3f} "
            f"{self.seconds.mean():10.3f} {len(self.dice):6d}"
        )


HEADER = f"{'':24} {'DSC':>14} {'folded %':>10} {'s a pair':>10} {'pairs':>6}"


def evaluate(
    network: WaveMorphNetwork | None,
    data: IxiData | OasisData,
    name: str,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Score `network` on the test pairs; None scores them unregistered. Raises InputError where labels are missing."""
    dice, folded, seconds = [], [], []
    pairs = data.pairs()
    for number, (moving_path, fixed_path) in enumerate(pairs):
        moving, fixed = data.read(moving_path), data.read(fixed_path)
        if moving.labels is None or fixed.labels is None:
            raise InputError(f"The subjects {moving.name} and {fixed.name} need label maps to be scored.")
        warped_labels, folded_percent, since = moving.labels, 0.0, time.perf_counter()
        if network is not None:
            with torch.inference_mode():
                fixed_volume = as_tensor(fixed.volume, torch.device(device))
                moving_volume = as_tensor(moving.volume, torch.device(device))
                displacement, _ = predict(network, fixed_volume, moving_volume, 1.0)
                folded_percent = 100 * float((jacobian_determinant(displacement) <= 0).float().mean())
                seconds.append(time.perf_counter() - since)
                labels = as_tensor(moving.labels, torch.device(device))
                warped = warp(labels, displacement, mode="nearest")[0, 0]
                warped_labels = np.asarray(warped.tolist(), np.int32)
        else:
            seconds.append(0.0)
        dice.append(mean_label_dice(fixed.labels, warped_labels, data.labels))
        folded.append(folded_percent)
        progress(number + 1, len(pairs))
    return Score(name, np.array(dice), np.array(folded), np.array(seconds))


def mean_label_dice(fixed: np.ndarray, warped: np.ndarray, labels: tuple[int, ...]) -> float:
    """Mean Dice over the labels that either map holds."""
    values = []
    for label in labels:
        a, b = fixed == label, warped == label
        total = int(a.sum()) + int(b.sum())
        if total:
            values.append(2 * int((a & b).sum()) / total)
    return float(np.mean(values)) if values else math.nan


def ablation(
    recipe: Recipe,
    data: IxiData | OasisData,
    folder: Path,
    device: torch.device | str = "cpu",
    report_line: Callable[[str], None] = print,
) -> list[Score]:
    """Train and score the twelve combinations of the paper's ablation with the same number of pairs each.

    A stopped ablation continues from its checkpoints. report_line: called with each line of the table.
    """
    report_line(HEADER)
    scores = []
    for downsampling, upsampling in itertools.product(DOWNSAMPLINGS, UPSAMPLINGS):
        network = replace(recipe.network, downsampling=downsampling, upsampling=upsampling)
        name = f"{downsampling} + {upsampling}"
        trainer = Trainer(
            replace(recipe, name=name, network=network), DataPairs(data, recipe.seed, device), folder / name, device
        )
        trainer.run()
        scores.append(evaluate(trainer.network.eval(), data, name, device))
        report_line(scores[-1].row())
    return scores
