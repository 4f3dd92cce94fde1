"""How many worker processes a machine gets, and what each of them may use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...errors import SettingsError

# Peak resident memory of a worker that registers heads at 1 mm, and a tenth more. Measured: 2079 MB after six subjects
# (Balanced, one thread; `wavemorph cohort` on `wavemorph population`; 1839 MB after the first)
PEAK_BYTES = 2_300_000_000


@dataclass(frozen=True)
class Machine:
    """What can be used: cores, bytes of memory that are free, the GPUs by CUDA's names for them, and Apple's GPU."""

    cores: int
    free_bytes: int
    gpus: tuple[str, ...] = ()
    mps: bool = False


@dataclass(frozen=True)
class Plan:
    """The workers of one machine.

    Attributes:
        workers: processes; each works on one job at a time.
        threads: of each, for torch and SimpleITK.
        bytes_each: the memory that each may use.
        gpus: the one GPU that worker n sees is gpus[n]; empty where workers choose their device themselves.
    """

    workers: int
    threads: int
    bytes_each: int
    gpus: tuple[str, ...] = ()


def plan_workers(machine: Machine, wanted: int | None = None, device: str = "auto") -> Plan:
    """The workers for the device of `Settings`: one for each GPU, or as many as cores and memory allow.

    Raises SettingsError where more are wanted than there are GPUs.
    """
    gpus = machine.gpus if device in ("auto", "cuda") else ()
    if gpus:
        if wanted is not None and wanted > len(gpus):
            raise SettingsError(
                f"Each worker has a GPU of its own, and there are {len(gpus)}; give --workers {len(gpus)} at most, "
                "or --device cpu."
            )
        workers = wanted or len(gpus)
    elif device not in ("auto", "cpu") or (device == "auto" and machine.mps):  # one certain GPU, or Apple's
        workers = wanted or 1
    else:
        workers = wanted or max(1, min(machine.cores, machine.free_bytes // PEAK_BYTES))
    return Plan(workers, max(1, machine.cores // workers), machine.free_bytes // workers, gpus[:workers])


def this_machine() -> Machine:
    """The machine of this process, within the limits of its container."""
    import torch
    from dask.system import CPU_COUNT

    from ...system.machine import free_memory

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible[:gpus] if len(visible) >= gpus else [str(number) for number in range(gpus)]
    has_mps = hasattr(torch.backends, "mps") and torch.backends.mps.is_available()
    return Machine(CPU_COUNT, free_memory(torch.device("cpu")), tuple(names), has_mps)
