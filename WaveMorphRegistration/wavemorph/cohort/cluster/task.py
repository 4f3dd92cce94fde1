"""What a worker process does with one job."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_one_job = threading.Lock()  # at a time in a process, also where its Dask worker has several threads


@dataclass(frozen=True)
class Share:
    """What a worker may use of its machine.

    Attributes:
        threads: for torch and SimpleITK; None for an equal part of the cores.
        workers_on: how many workers there are on each host.
        gpus: the one GPU that worker n sees is gpus[n]; empty where workers choose their device themselves.
    """

    threads: int | None = None
    workers_on: Mapping[str, int] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()


def work(function: Callable[[Any], Any], share: Share, job: Any) -> Any:
    """function(job) with the threads, the memory and the GPU that this worker may use."""
    with _one_job:
        _limit(share)
        return function(job)


def versions() -> dict[str, str]:
    """Of what both sides of a connection must have in common."""
    import platform

    import distributed

    from ...system.version import __version__

    return {
        "wavemorph": __version__,
        "distributed": distributed.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }


def _limit(share: Share) -> None:
    from dask.system import CPU_COUNT
    from distributed import get_worker

    from ...system.process import set_passive_wait

    set_passive_wait()  # before torch is imported
    worker = get_worker()
    if share.gpus:  # before torch looks for GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpus[int(worker.name) % len(share.gpus)]
    import SimpleITK as sitk
    import torch

    from ...system.machine import limit_memory

    host = worker.address.rsplit(":", 1)[0].split("://")[-1]
    threads = share.threads or max(1, CPU_COUNT // share.workers_on.get(host, 1))
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    limit_memory(worker.memory_manager.memory_limit)
