"""Recording and replay as by a CUDA graph, on the CPU: operations by operations, on the tensors of the recording.

    replay = record(function, device)      in place of `wavemorph.system.recording.record`

As in a CUDA graph, the function runs once while it is recorded, but computes nothing that lasts; a replay repeats its
operations with the same tensors and numbers, without the function; a wait of the host ends the recording by an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stand_in_device import WAITING
from torch.utils._python_dispatch import TorchDispatchMode


def record(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The replay of the operations of `function`. Raises RuntimeError where the host would wait."""
    tape = _Tape()
    try:
        with tape:
            function()
    finally:
        tape.restore()
    return tape.replay


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, tuple, dict, list[torch.Tensor]]] = []
        self._made: set[int] = set()  # addresses of memory that the function allocates
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # other memory that it changes: all of it

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__.split(".")[0] in WAITING:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        named = dict(zip((argument.name for argument in func._schema.arguments), args)) | kwargs
        changed = [
            named[argument.name]
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write and argument.name in named
        ]
        for each in changed:
            self._keep(each)
        found = func(*args, **kwargs)
        given = {_address(each) for each in _tensors([args, kwargs])}
        fresh = [each for each in _tensors(found) if _address(each) not in given]
        self._made.update(map(_address, fresh))
        if fresh or changed:  # the others are views
            self._operations.append((func, args, kwargs, _tensors(found) if fresh else []))
        return found

    def _keep(self, changed: torch.Tensor) -> None:
        address = _address(changed)
        if address not in self._made and address not in self._before:
            whole = torch.empty(0, dtype=changed.dtype).set_(changed.untyped_storage())
            self._before[address] = whole, whole.clone()

    def restore(self) -> None:
        """Undo what the operations have changed."""
        for whole, before in self._before.values():
            whole.copy_(before)

    def replay(self) -> None:
        """Repeat the operations; what they allocated is filled again."""
        for func, args, kwargs, results in self._operations:
            for kept, found in zip(results, _tensors(func(*args, **kwargs))):
                kept.copy_(found)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, torch.Tensor):
        return [values]
    parts = values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
