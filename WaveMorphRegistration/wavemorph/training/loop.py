"""The training loop. It can be stopped at any pair, and continues from its checkpoint with the same results.

Pair n is the same in every run, so that a checkpoint holds the weights, the optimizer and n, and no random state.
Under `torchrun` the pairs are distributed over the processes, and gradients are averaged.
"""

from __future__ import annotations

import csv
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as distributed

from ..errors import InputError
from ..network import SegmentationNetwork, WaveMorphNetwork
from ..registration.deformable.inference import downsample, lattice_for, one_pass
from ..spatial.displacement import lattice_size, resize, warp
from .losses import diffusion_loss, local_correlation_loss, segmentation_loss
from .recipe import Recipe

_CHECKPOINT = "checkpoint.pt"


class PairSource(Protocol):
    """Item n of a training, the same at every call: a `TrainingPair`, or a `Crop` for the segmentation network.

    spacing_mm: of its lattice.
    """

    spacing_mm: float

    def __getitem__(self, index: int) -> Any: ...


class PrefetchedSource:
    """A source that computes item n + 1 in another thread while item n is used; the items are the same."""

    def __init__(self, source):
        self._source, self.spacing_mm = source, source.spacing_mm
        self._worker, self._next = ThreadPoolExecutor(1), (None, None)

    def __getitem__(self, index: int):
        number, item = self._next
        made = item.result() if number == index else self._source[index]
        self._next = index + 1, self._worker.submit(self._source.__getitem__, index + 1)
        return made


class Trainer:
    """Trains the network of a recipe; continues from the checkpoint in the folder, if it has one.

    Parameters:
        recipe: what to train.
        source: the training pairs.
        folder: for checkpoint.pt and losses.csv, which has a line for each step of the optimizer.
        device: a torch.device or its name.
        network: another network for the same recipe, with `config` and `decode` as in `WaveMorphNetwork`.

    Raises:
        InputError: the checkpoint belongs to another recipe or cannot be read.
    """

    columns: tuple[str, ...] = (
        *("pair", "pass", "loss", "similarity", "intensity", "smoothness", "learning_rate", "seconds"),
    )

    def __init__(
        self,
        recipe: Recipe,
        source: PairSource,
        folder: Path,
        device: torch.device | str = "cpu",
        network: torch.nn.Module | None = None,
    ):
        self.recipe, self.folder = recipe, Path(folder)
        self._source, self._device = source, torch.device(device)
        self._rank, self._world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self._world > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if self._device.type == "cuda" else "gloo")
        torch.manual_seed(recipe.seed)
        self.network: Any = (network or self._make_network()).to(self._device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
        self.pair = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files: one of the processes that train together does."""
        return self._rank == 0

    def run(
        self,
        minutes: float | None = None,
        until_pair: int | None = None,
        progress: Callable[[int, int, float], None] = lambda pair, pairs, loss: None,
    ) -> bool:
        """Train; a checkpoint is written every two minutes and at the end, between two pairs.

        Parameters:
            minutes: stop after this time; None does not stop.
            until_pair: stop at this pair; None is the last one.
            progress: called as progress(pair, pairs, loss) after each pair.

        Returns:
            True when all pairs of the recipe are done.
        """
        began = saved = time.monotonic()
        end = min(self.recipe.pairs, until_pair if until_pair is not None else self.recipe.pairs)
        self.network.train()
        with _Log(self.folder, self.columns, self.pair, self.is_main_process) as log:
            while self.pair < end and not self._out_of_time(began, minutes):
                loss = self._train_pair(log)
                self.pair += 1
                progress(self.pair, self.recipe.pairs, loss)
                if time.monotonic() - saved > 120:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return self.pair >= self.recipe.pairs

    def close(self) -> None:
        """Leave the process group when all processes have reached this call."""
        if self._world > 1 and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()

    def _make_network(self) -> torch.nn.Module:
        return WaveMorphNetwork(self.recipe.network)

    def _train_pair(self, log: _Log) -> float:
        """Train on one pair. Each pass is a step of the optimizer and starts from the previous pass's displacement."""
        recipe, since = self.recipe, time.monotonic()
        pair = self._source[self.pair * self._world + self._rank]
        size, displacement, parts = lattice_size(pair.fixed), None, [0.0]
        for number, mm in enumerate(recipe.network.passes_mm or (self._source.spacing_mm,)):
            lattice = lattice_for(size, mm / self._source.spacing_mm)
            fixed, moving, fixed_target, moving_target, weight = (
                downsample(image, lattice)
                for image in (pair.fixed, pair.moving, pair.fixed_target, pair.moving_target, pair.weight)
            )
            before = None if displacement is None else resize(displacement, lattice)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                flow, after = one_pass(self.network, fixed, moving, before)
            after = after.float()
            warped = warp(moving_target, after)
            similarity = local_correlation_loss(fixed_target, warped, weight, recipe.window, recipe.noise)
            intensity = ((fixed_target - warped) ** 2 * weight).sum() / weight.sum()
            one_velocity = recipe.network.output == "velocity" and not recipe.network.passes_mm
            regular = flow.float() if one_velocity and flow is not None else after
            smoothness = diffusion_loss(regular)
            loss = similarity + recipe.intensity * intensity + recipe.smoothness * smoothness
            self._optimizer_step(loss)
            displacement = after.detach()
            parts = torch.stack([loss, similarity, intensity, smoothness]).tolist()  # one wait for the device
            log.write(self.pair, number, *parts, recipe.learning_rate_at(self.pair), time.monotonic() - since)
        return float(parts[0])

    def _optimizer_step(self, loss: torch.Tensor) -> None:
        """One step of the optimizer."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.pair)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self._optimizer.step()

    def _average_gradients(self) -> None:
        if self._world > 1:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= self._world

    def _out_of_time(self, began: float, minutes: float | None) -> bool:
        """Whether any process has exceeded its time; the same value in all of them."""
        if minutes is None:
            return False
        over = torch.tensor(float(time.monotonic() - began > 60 * minutes), device=self._device)
        if self._world > 1:
            distributed.all_reduce(over)
        return bool(over > 0)

    def save(self) -> None:
        """Write the checkpoint under another name, then rename it."""
        if not self.is_main_process:
            return
        path = self.folder / _CHECKPOINT
        temporary = path.with_suffix(".part")
        state = {
            "recipe": self.recipe.to_dict(),
            "pair": self.pair,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, temporary)
        os.replace(temporary, path)

    def _resume(self) -> None:
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)  # both are copied to their device below
            recipe = Recipe.from_dict(state["recipe"])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f'The checkpoint "{path}" cannot be read; remove it to begin again.') from error
        if not recipe.trains_like(self.recipe):
            raise InputError(f'The checkpoint "{path}" belongs to another recipe; choose another folder.')
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.pair = state["pair"]


class SegmentationTrainer(Trainer):
    """Trains the segmentation network; the items of its source are `synthetic_heads.Crop`."""

    columns: tuple[str, ...] = ("pair", "pass", "loss", "entropy", "overlap", "learning_rate", "seconds")

    def _make_network(self) -> torch.nn.Module:
        return SegmentationNetwork(self.recipe.network)

    def _train_pair(self, log: _Log) -> float:
        recipe, since = self.recipe, time.monotonic()
        crop = self._source[self.pair * self._world + self._rank]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = self.network(crop.image)
        entropy, overlap = segmentation_loss(logits.float(), crop.probabilities)
        loss = entropy + 1 - overlap
        self._optimizer_step(loss)
        parts = torch.stack([loss, entropy, overlap]).tolist()
        log.write(self.pair, 0, *parts, recipe.learning_rate_at(self.pair), time.monotonic() - since)
        return parts[0]


class _Log:
    """losses.csv, truncated to the checkpoint, with a line for each pass; and TensorBoard's files if installed."""

    def __init__(self, folder: Path, columns: tuple[str, ...], pair: int, active: bool):
        self._path, self._pair, self._active = folder / "losses.csv", pair, active
        self._board: Any = None
        self._columns = columns

    def __enter__(self) -> _Log:
        if not self._active:
            return self
        kept = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                kept = [row for row in list(csv.reader(file))[1:] if int(row[0]) < self._pair]
        self._file = self._path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows([self._columns, *kept])
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return self
        self._board = SummaryWriter(str(self._path.parent), purge_step=self._pair)
        return self

    def write(self, pair: int, number: int, *values: float) -> None:
        if not self._active:
            return
        self._writer.writerow([pair, number, *(f"{value:.6g}" for value in values)])
        self._file.flush()
        if self._board is not None:
            for name, value in zip(self._columns[2:], values):
                self._board.add_scalar(f"{name}/pass {number + 1}", value, pair)

    def __exit__(self, *error) -> None:
        if self._active:
            self._file.close()
            if self._board is not None:
                self._board.close()
