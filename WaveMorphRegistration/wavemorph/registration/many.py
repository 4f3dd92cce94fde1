"""Several pairs one after another, or several at once where one GPU holds them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from ..errors import Cancelled, SettingsError
from ..io.result import Registration
from ..models.weights import resolve, resolve_segmentation_model
from ..settings import Settings
from ..system.machine import choose_device, freed_memory_kept
from .pipeline import voxel_budget

_MOST_AT_ONCE = 4  # pairs on one GPU: more would only wait for each other
_USUAL_VOXELS = 8_000_000  # of the working grid of a head at 1 mm


class _Reports:
    """The reports of all pairs to one callback, one at a time; the first that ends the work ends it for all pairs."""

    def __init__(self, progress: Callable[[int, str, float, str], None]) -> None:
        self._progress = progress
        self._one = threading.Lock()  # at a time
        self._ended = False

    def of_pair(self, number: int) -> Callable[[str, float, str], None]:
        def report(stage: str, fraction: float, message: str) -> None:
            with self._one:
                self.check()
                try:
                    self._progress(number, stage, fraction, message)
                except Cancelled:
                    self._ended = True
                    raise

        return report

    def end(self) -> None:
        """Pairs at work end at their next report."""
        self._ended = True

    def check(self) -> None:
        """Raises Cancelled where the work was ended."""
        if self._ended:
            raise Cancelled("The registration was canceled.")


def register_many(
    register: Callable[..., Registration],
    pairs: Sequence[Mapping[str, Any]],
    settings: Settings,
    progress: Callable[[int, str, float, str], None],
    at_once: int | None = None,
) -> list[Registration | Exception]:
    """The registration of each pair in the order of the pairs, or the error that ended it.

    register: called as register(settings=, progress=, **pair). at_once: pairs at a time; None for as many as fit on a
    GPU, and one on a CPU. `wavemorph.register_many` documents the rest.
    """
    if at_once is not None and at_once < 1:
        raise SettingsError(f"The number of pairs at once must be at least 1, not {at_once}.")
    device = choose_device(settings.device)
    count = min(len(pairs), at_once or _fitting(device))
    if device.type == "cuda":  # the same one for all: by the time of the second pair another one may be emptier
        settings = replace(settings, device=str(device))
    reports = _Reports(progress)
    if count <= 1:
        return [_outcome(register, number, pair, settings, reports) for number, pair in enumerate(pairs)]
    if settings.max_voxels is None:
        settings = replace(settings, max_voxels=max(16**3, voxel_budget(device) // count))
    _load_models(settings, device)
    with freed_memory_kept(), ThreadPoolExecutor(count, initializer=_take_stream, initargs=(device,)) as pool:
        tasks = [pool.submit(_outcome, register, number, pair, settings, reports) for number, pair in enumerate(pairs)]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            reports.end()
            raise


def _outcome(
    register: Callable[..., Registration],
    number: int,
    pair: Mapping[str, Any],
    settings: Settings,
    reports: _Reports,
) -> Registration | Exception:
    reports.check()
    try:
        return register(settings=settings, progress=reports.of_pair(number), **pair)
    except Cancelled:
        raise
    except Exception as error:
        return error


def _take_stream(device: torch.device) -> None:
    """Give this thread a stream of its own on a CUDA device, so that the operations of several pairs overlap.

    All pairs of a thread share it, because torch keeps freed memory for the stream that it was used in.
    """
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def _load_models(settings: Settings, device: torch.device) -> None:
    """Load what all pairs use before the first stream exists: a copy in one stream is not seen by the others."""
    if settings.weights == "none":
        return
    resolve_segmentation_model(device)
    if settings.deformable:
        resolve(settings.weights, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fitting(device: torch.device) -> int:
    """How many pairs of usual size the device holds at once; on a CPU one, which uses all cores."""
    if device.type != "cuda":
        return 1
    return max(1, min(_MOST_AT_ONCE, voxel_budget(device) // _USUAL_VOXELS))
