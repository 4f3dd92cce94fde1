"""Work that is repeated on the same tensors: a CUDA device records it once, and replays it by one launch (CUDA graphs).

A step of the optimizer launches hundreds of small operations; on a coarse lattice the GPU waits for each launch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from .strategy import strategy_for

_WARM_UP_CALLS = 2  # in which kernels are loaded and constants are copied to the device
_OLDEST_TORCH = (2, 13)  # an earlier one cannot free memory any more once a recording has failed

_logger = logging.getLogger(__name__)
_failure: str | None = None  # of the first recording that failed in this process; its memory stays reserved


def repeated(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The function, or where the strategy for the device says so, one that replays its operations from the third call.

    function: works in place on tensors that outlive the replay, and depends on nothing that changes from its second
    call on but their values. Where recording fails, which the log says, every call is one of the function itself.
    """
    return _Recorded(function, device) if strategy_for(device).records_steps and can_record(device) else function


def failure() -> str | None:
    """Why no more steps are recorded in this process; None as long as none has failed."""
    return _failure


def can_record(device: torch.device) -> bool:
    """Whether recording is safe: in the default stream, after no failure, with a recent version of torch.

    Pairs that are registered at once have streams of their own. There a recording could meet what another thread does
    that is forbidden while one is made, such as waiting for the whole device.
    """
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if _failure is not None or (major, minor) < _OLDEST_TORCH:
        return False
    return bool(torch.cuda.current_stream(device) == torch.cuda.default_stream(device))


def record(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The replay of what `function` launches on a CUDA device, which is not computed now. Raises RuntimeError."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # left even if the recording cannot be ended
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            function()
        finally:
            graph.capture_end()
    return graph.replay


class _Recorded:
    """Calls a function some times, then records it, then replays it."""

    def __init__(self, function: Callable[[], None], device: torch.device):
        self._function, self._device, self._calls = function, device, 0
        self._act = function

    def __call__(self) -> None:
        if self._calls == _WARM_UP_CALLS:
            self._act = self._replay_or_function()
        self._calls += 1
        self._act()

    def _replay_or_function(self) -> Callable[[], None]:
        global _failure
        if _failure is not None:
            return self._function
        try:
            return record(self._function, self._device)
        except RuntimeError as error:  # a forbidden operation, or too little memory; nothing has been computed
            _failure = str(error)
            _logger.info("Steps are not recorded on %s: %s", self._device, error)
            return self._function
