"""A device that is not the CPU, without hardware: tensors that are computed by the CPU, but refuse to mix with its own.

    with stand_in_device() as log:
        register(..., device of the settings chosen as DEVICE)
    log.waits          # where the host would have waited for the device

As on a GPU, tensors that are made without a device are on the CPU; an operation on tensors of both devices is an error,
unless those of the CPU are single numbers; `.to(device)`, `.cpu()` and `copy_` are the only crossings. Stricter than a
GPU, an index on the other device and float64 on the device, which Apple's GPUs lack, are errors too.

Device type and backend are PyTorch's own for devices out of its tree ("PrivateUse1").
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

_NOT_ON_DEVICE = (torch.float64, torch.complex128)
# operations whose result has a size or value that the host needs
WAITING = {"item", "_local_scalar_dense", "is_nonzero", "nonzero", "nonzero_numpy", "argwhere", "masked_select",
            "equal", "allclose", "unique_consecutive", "_unique2", "unique_dim", "bincount"}  # fmt: skip
_CROSSING = {"to", "_to_copy", "copy_", "cpu"}
_INDEXING = {"index", "index_put", "index_put_"}
_NEEDS_ONE_DEVICE = {"cat", "stack", "index", "index_select", "gather", "take"}
_HOST = torch.device("cpu")


class DeviceMixError(RuntimeError):
    """What a GPU would refuse, or do only by an implicit copy, or could not do because it lacks float64."""


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("stand_in", backend_module=_Module())
DEVICE = torch.device("stand_in", 0)


@dataclass
class DeviceLog:
    """waits: (operation, where) of each wait of the host for the device. launches: operations on the device.

    bytes, peak_bytes: memory of its tensors now, and the most since the last `clear`.
    """

    waits: list[tuple[str, str]] = field(default_factory=list)
    launches: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    _users: dict[int, int] = field(default_factory=dict)  # tensors by the address of their memory

    def clear(self) -> None:
        self.waits.clear()
        self.launches, self.peak_bytes = 0, self.bytes

    def keep(self, tensor: _DeviceTensor) -> None:
        """Count the memory of a tensor until the last tensor that shares it is gone."""
        storage = tensor.host.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return
        self._users[address] = self._users.get(address, 0) + 1
        if self._users[address] == 1:
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(tensor, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            self.bytes -= size


class _DeviceTensor(torch.Tensor):
    """A tensor on DEVICE; `host` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor):
        with torch.inference_mode(host.is_inference()):
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                host.size(),
                strides=host.stride(),
                storage_offset=host.storage_offset(),
                dtype=host.dtype,
                device=DEVICE,
            )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise DeviceMixError(f"{func} outside of `stand_in_device`")

    def tolist(self):
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):
        """Written to a file as a tensor of the CPU, and read back as one."""
        return self.cpu().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"on {DEVICE}: {self.host}"


@contextlib.contextmanager
def stand_in_device(counts_memory: bool = False) -> Iterator[DeviceLog]:
    """Within the context DEVICE can be used; gives a log of what happened on it.

    counts_memory: whether the log knows the memory of the tensors that are made; takes time.
    """
    mode, before = _StandIn(counts_memory), torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(values, device)`: made on the CPU, then copied
    try:
        with mode, mock.patch.object(torch, "Generator", _AnyGenerator):
            yield mode.log
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


class _AnyGenerator(torch.Generator):
    """The CPU's generator in place of the device's, which the backend cannot make."""

    def __new__(cls, device: torch.device | str = "cpu"):
        return super().__new__(cls, "cpu" if torch.device(device).type == DEVICE.type else device)


class _Arguments:
    """The arguments of an operation with the values of its tensors: those of our device, others, and a named device."""

    def __init__(self, args: tuple, kwargs: dict):
        self.ours: list[_DeviceTensor] = []
        self.others: list[torch.Tensor] = []
        self.device: torch.device | None = None
        self.args = [self._on_host(each) for each in args]
        self.kwargs = {key: self._on_host(value) for key, value in kwargs.items()}

    def _on_host(self, value: Any) -> Any:
        if isinstance(value, _DeviceTensor):
            self.ours.append(value)
            return value.host
        if isinstance(value, torch.Tensor):
            self.others.append(value)
        elif isinstance(value, (list, tuple)):
            return type(value)([self._on_host(each) for each in value])
        elif isinstance(value, torch.device):
            self.device = value
            return _HOST
        return value


class _StandIn(TorchDispatchMode):
    def __init__(self, counts_memory: bool):
        super().__init__()
        self.log, self._counts_memory = DeviceLog(), counts_memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given, name = _Arguments(args, kwargs or {}), func.__name__.split(".")[0]
        result_is_ours = bool(given.ours) if given.device is None else given.device.type == DEVICE.type
        if not given.ours and not result_is_ours:
            return func(*args, **(kwargs or {}))
        crosses = False
        if name in _CROSSING:
            if name == "copy_":
                result_is_ours = isinstance(args[0], _DeviceTensor)
            crosses = bool(given.others if result_is_ours else given.ours)
        elif given.ours and given.others:
            self._check(name, given.others)
        found = func(*given.args, **given.kwargs)
        if crosses or name in WAITING or (name in _INDEXING and _has_mask(args[1])):
            self.log.waits.append((name, _where()))
        self.log.launches += 1
        if not result_is_ours:  # `copy_` gives the tensor of the CPU that it was called on
            return found.clone() if crosses and name != "copy_" else found
        return self._wrapped(found, name, given.ours, crosses)

    def _wrapped(self, found: Any, name: str, ours: list[_DeviceTensor], crosses: bool) -> Any:
        """The result of an operation, its tensors on our device; a copy where it came from the CPU."""
        if isinstance(found, (list, tuple)):
            return type(found)([self._wrapped(each, name, ours, crosses) for each in found])
        if not isinstance(found, torch.Tensor):
            return found
        if found.dtype in _NOT_ON_DEVICE:
            raise DeviceMixError(f"{name} makes {found.dtype} on the device, at {_where()}")
        for each in ours:  # changed in place
            if each.host is found:
                return each
        made = _DeviceTensor(found.clone() if crosses else found)
        if self._counts_memory:
            self.log.keep(made)
        return made

    @staticmethod
    def _check(name: str, others: list[torch.Tensor]) -> None:
        """Raise for an operation on tensors of both devices, unless those of the CPU, `others`, are single numbers."""
        if any(each.dim() for each in others) or name in _NEEDS_ONE_DEVICE:
            raise DeviceMixError(f"{name} of tensors on both devices, at {_where()}")


def _has_mask(indices: Any) -> bool:
    return any(isinstance(each, _DeviceTensor) and each.dtype == torch.bool for each in indices)


def _where() -> str:
    """The innermost line of the engine that is running: "spatial/folding.py:30 remove_folds"."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if "wavemorph" in code.co_filename and "/Testing/" not in code.co_filename:
            return f"{code.co_filename.split('/wavemorph/')[-1]}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
    return "a test"
