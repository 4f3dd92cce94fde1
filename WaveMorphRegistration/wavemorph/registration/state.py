"""What travels through the stages of a registration. Each stage takes it and returns what it adds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import SimpleITK as sitk
import torch

from ..io.result import Registration
from ..models.weights import LoadedModel
from ..settings import Settings
from ..spatial.grid import WorkingGrid
from ..spatial.preprocessing import Pair, WorkingPair
from .segmentation.pair import PairSegmentation

Progress = Callable[[str, float, str], None]


class StageTimer:
    """Reports progress, and measures the seconds of each stage."""

    def __init__(self, progress: Progress):
        self._progress, self._stage = progress, "Preparing"
        self._seconds: dict[str, float] = {}
        self._began = self._since = time.perf_counter()

    def start(self, stage: str, fraction: float) -> None:
        """Begin a stage; `fraction` (0 to 1) of the whole work is done."""
        self._close()
        self._stage = stage
        self._progress(stage, fraction, "")

    def report(self, fraction: float, message: str) -> None:
        """Report progress within the stage. May raise `errors.Cancelled`."""
        self._progress(self._stage, fraction, message)

    def finish(self) -> dict[str, float]:
        """Seconds by stage, and "total"."""
        self._close()
        self._progress("Done", 1.0, "")
        total = time.perf_counter() - self._began
        return {**{stage: round(value, 3) for stage, value in self._seconds.items()}, "total": round(total, 3)}

    def _close(self) -> None:
        now = time.perf_counter()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._since = now


@dataclass(frozen=True)
class Job:
    """What is to be done: the pair, the settings, and where it runs.

    model: of the registration network, or None. on_map: called with the registration before it is measured.
    """

    pair: Pair
    settings: Settings
    device: torch.device
    model: LoadedModel | None
    timer: StageTimer
    on_map: Callable[[Registration], None] = lambda registration: None


@dataclass(frozen=True)
class LinearAlignment:
    """transform(x) = affine(remainder(x)), fixed points -> moving points in LPS mm.

    remainder: the non-linear part of the initial transform, or None.
    """

    affine: sitk.AffineTransform
    remainder: sitk.Transform | None = None


@dataclass(frozen=True)
class AlignedPair:
    """A job after the linear stage, on its working grid.

    segmentation: of both brains, or None where there are none or none are plausible. notes: for the report.
    """

    job: Job
    linear: LinearAlignment
    segmentation: PairSegmentation | None
    grid: WorkingGrid
    working: WorkingPair
    notes: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> float:
        """The largest spacing of the working grid."""
        return max(self.grid.spacing)
