"""What the machine offers: device, free memory, peak memory; by the standard library and torch on all platforms."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from .errors import DeviceError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """ "auto" takes CUDA, then Apple's MPS, then the CPU. Raises DeviceError if the device asked for is not there."""
    has_mps = hasattr(torch.backends, "mps") and torch.backends.mps.is_available()
    available = [d for d, there in (("cuda", torch.cuda.is_available()), ("mps", has_mps), ("cpu", True)) if there]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise DeviceError(
            f"The device {name!r} is not available to torch {torch.__version__}; available: {', '.join(available)}."
        )
    return torch.device(name)


def free_memory(device: torch.device) -> int:
    """Bytes that a job may hope for on the device; a share of the whole where the system does not say what is free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if sys.platform == "win32":
        return _windows_free_memory()
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


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


def keep_freed_memory() -> None:
    """Let this process keep large blocks that it frees, instead of returning each to the system (glibc only).

    Fields of tens of megabytes come and go at every iteration; handing their pages back and forth costs more time than
    the arithmetic on them. It holds for the whole process, so it is for programs of our own, not for a library call.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**28)


def _windows_free_memory() -> int:
    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "free", "page", "free_page", "virtual", "unused", "more")),
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free)


def _windows_peak_memory() -> int:
    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            *((name, ctypes.c_size_t) for name in ("peak", "working", "a", "b", "c", "d", "pagefile", "peak_pagefile")),
        ]

    counters = Counters(size=ctypes.sizeof(Counters))
    kernel = ctypes.windll.kernel32
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo(ctypes.c_void_p(kernel.GetCurrentProcess()), ctypes.byref(counters), counters.size)
    return int(counters.peak)
