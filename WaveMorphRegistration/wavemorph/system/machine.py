"""Devices, free memory and peak memory, from the standard library and torch, on all platforms."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import DeviceError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_KEEP_FREED = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28}
_MALLOC_DEFAULTS = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 2**17, _M_TOP_PAD: 2**17}

_keeping = 0  # contexts in which freed memory is kept
_keeping_lock = threading.Lock()
_working: set[torch.device] = set()  # on which a registration's operations have run
_share: int | None = None  # bytes that this process may use of the memory of the machine


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else Apple's MPS, else the CPU. Raises DeviceError if not available.

    Of several GPUs "cuda" is the one with the most free memory; "cuda:1" is the second one. "auto" passes over devices
    that cannot do what a registration needs.
    """
    has_mps = hasattr(torch.backends, "mps") and torch.backends.mps.is_available()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = {"cuda": gpus > 0, "mps": has_mps, "cpu": True}
    available = [device for device, is_usable in usable.items() if is_usable]
    kind, _, number = name.partition(":")
    if name == "auto":
        candidates = (_of_kind(each, gpus, "") for each in available)
        return next(device for device in candidates if device.type == "cpu" or not hindrance(device))
    if kind not in available or (number and int(number) >= gpus):
        each = [f"cuda:{index}" for index in range(gpus)] if gpus > 1 or number else ["cuda"] * gpus
        raise DeviceError(
            f"The device {name!r} is not available to torch {torch.__version__}; available: "
            f"{', '.join([*each, *(other for other in available if other != 'cuda')])}."
        )
    device = _of_kind(kind, gpus, number)
    if kind != "cpu" and (reason := hindrance(device)):
        raise DeviceError(
            f"The device {name!r} cannot do with torch {torch.__version__} what a registration needs ({reason}); "
            "choose cpu, or install another version of torch."
        )
    return device


def _of_kind(kind: str, gpus: int, number: str) -> torch.device:
    if kind != "cuda":
        return torch.device(kind)
    return torch.device("cuda", int(number) if number else _emptiest_gpu(gpus))


def hindrance(device: torch.device) -> str:
    """What torch says against a registration on the device, in one line; "" where its operations run.

    Versions of torch lack operations for Apple's GPUs, or kernels for older GPUs. Another process may have the GPU.
    """
    if device in _working:
        return ""
    try:
        _try_operations(device)
    except RuntimeError as error:
        return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    _working.add(device)
    return ""


def _try_operations(device: torch.device) -> None:
    """What torch does not have for every device: operations of a registration in three dimensions."""
    F = torch.nn.functional  # not imported above: a worker says itself what is wrong with a torch without it
    with torch.inference_mode():
        image, nodes = torch.ones(1, 2, 6, 6, 6, device=device), torch.zeros(1, 6, 6, 6, 3, device=device)
        image = F.conv3d(image, torch.ones(2, 1, 3, 3, 3, device=device), padding=1, groups=2)
        for padding in ("zeros", "border"):
            image = F.grid_sample(image, nodes, padding_mode=padding, align_corners=True)
        image = F.interpolate(F.avg_pool3d(image, 2), size=(6, 6, 6), mode="trilinear")
        image = F.interpolate(F.pad(image, (1,) * 6, mode="replicate"), size=(4, 4, 4), mode="area")
        crossed = torch.linalg.cross(nodes[0, 0, 0], nodes[0, 0, 1], dim=1)[:, 0]
        rows = torch.zeros(6, dtype=torch.long, device=device)
        added = torch.zeros(4, device=device).index_add_(0, rows, crossed)
        torch.quantile(torch.cat([added, image.flatten()]), torch.tensor([0.1, 0.9], device=device)).tolist()


def _emptiest_gpu(count: int) -> int:
    """The number of the GPU with the most free memory; one that another process keeps for itself has none."""

    def free(index: int) -> int:
        try:
            return int(torch.cuda.mem_get_info(index)[0])
        except RuntimeError:
            return 0

    return max(range(count), key=free) if count > 1 else 0


def free_memory(device: torch.device) -> int:
    """Bytes of free memory on the device; half of all memory where the system does not report it.

    On Linux the limits of a container (control group) and of the process (`ulimit -v`) count too, and everywhere what
    `limit_memory` has set.
    """
    if device.type == "cuda":
        # what torch keeps of freed tensors is free for new ones, though not for other processes
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return_freed_memory()
    free = _free_system_memory()
    if _share is not None:
        free = min(free, _share - (_kilobytes("/proc/self/status", "VmRSS") or 0))
    if device.type == "mps":  # shares the memory of the system
        free = min(free, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return max(free, 0)


def limit_memory(share: int | None) -> None:
    """From now on `free_memory` is at most what this process has left of `share` bytes, its part of the machine."""
    global _share
    _share = share


def _free_system_memory() -> int:
    if sys.platform == "win32":
        return _windows_free_memory()
    if sys.platform == "linux":
        bounds = [_free_in_system(), _free_in_groups(), _free_address_space()]
        if known := [bound for bound in bounds if bound is not None]:
            return min(known)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def release_device_memory(device: torch.device) -> None:
    """Give memory that torch keeps of freed tensors back, so that other processes and larger blocks can have it."""
    return_freed_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16, faster than in float32: a CPU by AVX-512 BF16 or AMX, a recent GPU.

    False where torch cannot tell: a CPU without these instructions emulates bfloat16, which is slower.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    read: Callable[[], dict[str, bool]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = read() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak resident memory of this process, and of torch on the GPU, in MB."""
    if sys.platform == "win32":
        host = _windows_peak_memory()
    elif (status := Path("/proc/self/status")).exists():  # getrusage would count the process that this one came from
        host = int(status.read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024
    else:
        import resource  # absent on Windows

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = {"process": round(host / 1e6, 1)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peak


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the context the process keeps large blocks that it frees, instead of returning each (glibc only).

    Fields of tens of megabytes are allocated and freed at every iteration; returning their pages to the system takes
    more time than the arithmetic on them. At the end the defaults of glibc are set, and free memory is returned: at
    that of the outermost or last one, where there are several at a time.
    """
    global _keeping
    with _keeping_lock:
        _keeping += 1
        _set_malloc_options(_KEEP_FREED)
    try:
        yield
    finally:
        with _keeping_lock:
            _keeping -= 1
            is_last = _keeping == 0
            if is_last:
                _set_malloc_options(_MALLOC_DEFAULTS)
        if is_last:
            return_freed_memory()


def _set_malloc_options(options: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    for option, value in options.items():
        mallopt(option, value)


def return_freed_memory() -> None:
    """Return free memory that the process has kept to the system (glibc only)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _free_in_system(meminfo: str | os.PathLike = "/proc/meminfo") -> int | None:
    return _kilobytes(meminfo, "MemAvailable")


def _free_in_groups(
    own: str | os.PathLike = "/proc/self/cgroup", root: str | os.PathLike = "/sys/fs/cgroup"
) -> int | None:
    """Bytes left by the tightest control group of this process, version 2 or 1; None without a limit.

    The limits of all parent groups count too. In a container the root is the container's own group, whatever its path.
    Page cache that the kernel would drop first does not count as used.
    """
    bounds = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = Path(root), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = Path(root) / "memory"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if top == folder or top in folder.parents:
                bounds.append(_left_in_group(folder, *names))
    return min((bound for bound in bounds if bound is not None), default=None)


def _left_in_group(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if not most.isdigit() or not used.isdigit():  # no such group, or "max"
        return None
    dropped = re.search(rf"^{cache} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return int(most) - int(used) + (int(dropped.group(1)) if dropped else 0)


def _free_address_space() -> int | None:
    import resource  # absent on Windows

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _kilobytes("/proc/self/status", "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _kilobytes(path: str | os.PathLike, name: str) -> int | None:
    """Bytes, from a line such as "VmSize:   123 kB" in a file of /proc."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", _text(path), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _text(path: str | os.PathLike) -> str:
    """The contents, or "" where the file is missing or may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _kernel32() -> Any:
    return getattr(ctypes, "windll").kernel32  # noqa: B009 - exists on Windows only


def _windows_free_memory() -> int:
    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "free", "page", "free_page", "virtual", "unused", "more")),
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    _kernel32().GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free)


def _windows_peak_memory() -> int:
    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            *((name, ctypes.c_size_t) for name in ("peak", "working", "a", "b", "c", "d", "pagefile", "peak_pagefile")),
        ]

    counters = Counters(size=ctypes.sizeof(Counters))
    kernel = _kernel32()
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo(ctypes.c_void_p(kernel.GetCurrentProcess()), ctypes.byref(counters), counters.size)
    return int(counters.peak)
