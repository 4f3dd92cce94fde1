"""Which of several GPUs is taken, what of it is free, and that an idle worker frees it; torch's answers are made up."""

from __future__ import annotations

import io
import types

import pytest
import torch
from stand_in_device import DEVICE, stand_in_device
from wavemorph import Settings, worker
from wavemorph.errors import DeviceError, SettingsError
from wavemorph.models import weights
from wavemorph.system import machine

GB = 10**9


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch report GPUs with so much free memory, None for one that another process keeps for itself."""

    def report(*free, reserved=0, allocated=0, capability=(9, 0)):
        def mem_get_info(device):
            index = device if isinstance(device, int) else device.index
            if free[index] is None:
                raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable")
            return free[index], 80 * GB

        made = types.SimpleNamespace(emptied=0)

        def empty_cache():
            made.emptied += 1

        for name, value in {
            "is_available": lambda: bool(free),
            "device_count": lambda: len(free),
            "mem_get_info": mem_get_info,
            "memory_reserved": lambda device: reserved,
            "memory_allocated": lambda device: allocated,
            "get_device_capability": lambda device: capability,
            "empty_cache": empty_cache,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(machine, "_working", set())
        monkeypatch.setattr(machine, "_try_operations", lambda device: None)
        return made

    return report


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_the_gpu_with_the_most_free_memory_is_taken(gpus, name):
    gpus(3 * GB, 70 * GB, 40 * GB)
    assert machine.choose_device(name) == torch.device("cuda:1")
    gpus(5 * GB, None, 4 * GB)
    assert machine.choose_device(name) == torch.device("cuda:0")


def test_a_gpu_can_be_named_whatever_is_free_of_it(gpus):
    gpus(3 * GB, 70 * GB)
    assert machine.choose_device("cuda:0") == torch.device("cuda:0")
    assert machine.choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "name", "listed"),
    [
        ((GB, GB), "cuda:2", "available: cuda:0, cuda:1, cpu."),
        ((GB,), "cuda:1", "available: cuda:0, cpu."),
        ((GB,), "mps", "available: cuda, cpu."),
        ((), "cuda", "available: cpu."),
        ((), "cuda:0", "available: cpu."),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(gpus, monkeypatch, free, name, listed):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    gpus(*free)
    with pytest.raises(DeviceError) as raised:
        machine.choose_device(name)
    assert str(raised.value) == f"The device {name!r} is not available to torch {torch.__version__}; {listed}"


UNSUPPORTED = "CUDA error: no kernel image is available for execution on the device.\nMore lines."


@pytest.fixture
def fails_on(monkeypatch):
    """Makes the operations of a registration fail on devices of some kinds; gives what they were tried on."""

    def fail(*kinds):
        tried = []

        def operate(device):
            tried.append(str(device))
            if device.type in kinds:
                raise NotImplementedError(UNSUPPORTED)

        monkeypatch.setattr(machine, "_try_operations", operate)
        return tried

    return fail


def test_a_gpu_that_cannot_do_what_a_registration_needs_is_passed_over(gpus, fails_on, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    gpus(GB)
    tried = fails_on("cuda")
    assert machine.choose_device("auto") == torch.device("mps")
    fails_on("cuda", "mps")
    machine._working.clear()
    assert machine.choose_device("auto") == torch.device("cpu")
    assert tried == ["cuda:0", "mps"]


def test_a_named_gpu_that_cannot_do_it_is_refused_in_torchs_words_and_tried_again_the_next_time(gpus, fails_on):
    gpus(GB, 2 * GB)
    fails_on("cuda")
    with pytest.raises(DeviceError) as raised:
        machine.choose_device("cuda:1")
    assert "'cuda:1' cannot do" in str(raised.value)
    assert "(CUDA error: no kernel image is available for execution on the device); choose cpu" in str(raised.value)
    tried = fails_on()
    assert machine.choose_device("cuda:1") == machine.choose_device("cuda:1") == torch.device("cuda:1")
    assert tried == ["cuda:1"]


def test_the_operations_that_are_tried_run_on_a_cpu_and_on_the_stand_in_for_a_gpu_and_fail_where_one_is_missing(
    monkeypatch,
):
    monkeypatch.setattr(machine, "_working", set())
    assert machine.hindrance(torch.device("cpu")) == ""
    with stand_in_device():
        assert machine.hindrance(DEVICE) == ""
    assert machine._working == {torch.device("cpu"), DEVICE}
    assert "meta" in machine.hindrance(torch.device("meta"))

    def missing(*arguments, **options):
        raise NotImplementedError("The operator 'aten::grid_sampler_3d' is not implemented for the MPS device")

    monkeypatch.setattr(torch.nn.functional, "grid_sample", missing)
    machine._working.clear()
    assert "aten::grid_sampler_3d" in machine.hindrance(torch.device("cpu"))


def test_settings_take_a_numbered_gpu_and_refuse_other_names():
    assert Settings(device="cuda:11").device == "cuda:11"
    assert Settings(device="CUDA").device == "cuda"
    for wrong in ("cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:1 "):
        with pytest.raises(SettingsError, match="choose one of auto, cpu, cuda, mps"):
            Settings(device=wrong)


def test_what_torch_keeps_of_freed_tensors_is_free_memory_too(gpus):
    gpus(GB, 7 * GB, reserved=3 * GB, allocated=2 * GB)
    assert machine.free_memory(torch.device("cuda", 1)) == 8 * GB


def test_apples_gpu_has_no_more_free_memory_than_metal_recommends(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 5000, raising=False)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2000, raising=False)
    assert machine.free_memory(torch.device("mps")) == 3000
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10**18, raising=False)
    assert 0 < machine.free_memory(torch.device("mps")) < 10**15  # of the system


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_multiplies_in_bfloat16_from_ampere_on(gpus, capability, expected):
    gpus(GB, capability=capability)
    assert machine.computes_in_bfloat16(torch.device("cuda", 0)) is expected


class Clock:
    """Stands still except while the worker waits for a job."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_an_idle_worker_frees_the_gpu_once_and_a_job_later_again(gpus, monkeypatch):
    """Its models too: nothing of them is kept in the process."""
    made, clock, released_at = gpus(GB), Clock(), []
    weights.resolve_segmentation_model("cpu")
    assert weights._load_cached.cache_info().currsize > 0
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(worker, "load_default_models", lambda: None)
    monkeypatch.setattr(worker, "_describe_engine", dict)
    one = worker.Worker(io.StringIO(), io.StringIO())
    monkeypatch.setattr(one, "_listen", lambda: None)
    original = worker.release_gpu

    def release():
        original()
        released_at.append(clock.now)
        if len(released_at) == 1:
            one._jobs.put({"job": 1, "folder": "nowhere"})

    monkeypatch.setattr(worker, "release_gpu", release)
    assert one.run(idle_seconds=200.0) == 0
    assert len(released_at) == 2 == made.emptied
    assert released_at[0] > worker.RELEASE_SECONDS
    assert weights._load_cached.cache_info().currsize == 0


def test_without_a_gpu_an_idle_worker_keeps_its_models(gpus, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    made = gpus()
    weights.resolve_segmentation_model("cpu")
    worker.release_gpu()
    assert made.emptied == 0
    assert weights._load_cached.cache_info().currsize > 0
