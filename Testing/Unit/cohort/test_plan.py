"""How many workers a machine gets, and what each may use; the keys of Slurm."""

from __future__ import annotations

import pytest
from wavemorph.cohort.cluster.opening import slurm_job
from wavemorph.cohort.cluster.plan import PEAK_BYTES, Machine, plan_workers, this_machine
from wavemorph.errors import SettingsError


@pytest.mark.parametrize(
    ("cores", "peaks", "workers", "threads"),
    [(16, 100, 16, 1), (16, 5.5, 5, 3), (16, 0.5, 1, 16), (2, 100, 2, 1), (3, 2.0, 2, 1)],
)
def test_there_are_as_many_workers_as_cores_and_memory_allow(cores, peaks, workers, threads):
    plan = plan_workers(Machine(cores, int(peaks * PEAK_BYTES)))
    assert (plan.workers, plan.threads) == (workers, threads)
    assert plan.workers * plan.bytes_each <= peaks * PEAK_BYTES
    assert plan.workers * plan.threads <= cores


def test_the_user_may_ask_for_fewer_workers_and_for_more():
    machine = Machine(8, 4 * PEAK_BYTES)
    assert plan_workers(machine, 2).threads == 4
    crowded = plan_workers(machine, 12)
    assert (crowded.workers, crowded.threads, crowded.bytes_each) == (12, 1, 4 * PEAK_BYTES // 12)


def test_each_gpu_has_one_worker():
    machine = Machine(16, 100 * PEAK_BYTES, gpus=("0", "3"))
    for device in ("auto", "cuda"):
        plan = plan_workers(machine, device=device)
        assert (plan.workers, plan.gpus, plan.threads) == (2, ("0", "3"), 8)
    assert plan_workers(machine, 1).gpus == ("0",)
    assert plan_workers(machine, device="cpu").gpus == ()
    with pytest.raises(SettingsError, match=r"has a GPU of its own, and there are 2; give --workers 2"):
        plan_workers(machine, 3)


def test_one_certain_gpu_and_apples_have_one_worker():
    machine = Machine(16, 100 * PEAK_BYTES, gpus=("0", "1"))
    plan = plan_workers(machine, device="cuda:1")
    assert (plan.workers, plan.gpus) == (1, ())
    assert plan_workers(Machine(8, 100 * PEAK_BYTES, mps=True)).workers == 1


def test_the_gpus_of_this_machine_have_the_names_that_the_user_made_visible(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert this_machine().gpus == ("4", "6")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert this_machine().gpus == ("0", "1")


def test_the_keys_of_slurm_are_those_of_dask_jobqueue():
    keys = ["cores=4", "memory=8GB", "job_extra_directives=--gres=gpu:1", "job_extra_directives=--exclusive"]
    expected = {"cores": 4, "memory": "8GB", "job_extra_directives": ["--gres=gpu:1", "--exclusive"]}
    assert slurm_job(keys) == expected


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("partition=long", "Slurm has no 'partition=long'; give KEY=VALUE with one of cores, processes, memory"),
        ("queue", "Slurm has no 'queue'"),
        ("cores=many", "The value of cores for Slurm must be a whole number of 1 or more, not 'many'"),
        ("cores=0", "not '0'"),
    ],
)
def test_a_key_that_slurm_does_not_have_is_one_sentence(key, sentence):
    with pytest.raises(SettingsError, match=sentence):
        slurm_job([key])
