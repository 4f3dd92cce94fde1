"""The real worker process: its answers, when it ends, and that no file or process of it remains."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import SimpleITK as sitk
from processes import isRunning
from wavemorph.models import weights
from wavemorph.system.machine import choose_device
from wavemorph.worker import Worker, load_default_models
from WaveMorphRegistrationLib.engine.job import JobState, RegistrationJob
from WaveMorphRegistrationLib.engine.jobRequest import JobRequest
from WaveMorphRegistrationLib.engine.workerProcess import WorkerProcess

MODULE = Path(__file__).resolve().parents[3] / "WaveMorphRegistration"
QUICK = {"spacing_mm": 4.0, "weights": "none", "threads": 1}


def finish(job, seconds=120.0):
    deadline = time.monotonic() + seconds
    while job.active:
        assert time.monotonic() < deadline, job.log
        job.poll()
        time.sleep(0.02)


@pytest.fixture
def job(tmp_path):
    made = RegistrationJob(temporaryPath=str(tmp_path))
    made.results, made.failures = [], []
    made.onResult = lambda registration, context: made.results.append(registration)
    made.onFailed = made.failures.append
    yield made
    made.close()


def test_a_job_brings_back_the_registration_and_leaves_no_file(job, tmp_path, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK))
    finish(job)
    (registration,) = job.results
    moved = registration.transform.TransformPoint((0.0, 0.0, 0.0))
    assert abs(moved[0] - 4.0) < 1.0 and abs(moved[2] - 3.0) < 1.0
    assert registration.fixed is tiny_pair[0]
    assert list(tmp_path.iterdir()) == []
    assert any("Engine ready on CPU" in line for line in job.log)


def test_the_second_job_runs_in_the_same_process(job, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK))
    finish(job)
    first = job.workerProcessId
    job.start(JobRequest(*tiny_pair, QUICK))
    finish(job)
    assert job.workerProcessId == first
    assert len(job.results) == 2


def test_a_job_runs_in_the_c_locale_and_in_a_folder_with_spaces_and_accents(tmp_path, tiny_pair, monkeypatch):
    for name in ("LC_ALL", "LANG"):
        monkeypatch.setenv(name, "C")
    folder = tmp_path / "Über den Wölken, côté 2"
    folder.mkdir()
    job = RegistrationJob(temporaryPath=str(folder))
    job.start(JobRequest(*tiny_pair, QUICK))
    finish(job)
    job.close()
    assert job.error == ""


def test_an_error_of_the_engine_is_a_message(job, tiny_pair):
    job.start(JobRequest(tiny_pair[0], tiny_pair[1] * 0, QUICK))
    finish(job)
    assert job.state is JobState.Failed
    assert job.failures == [job.error]
    assert "constant" in job.error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("raise ImportError('libcudart.so.99: cannot open shared object')", "PyTorch is installed but cannot be used"),
        ("", "PyTorch is installed but cannot be used"),  # a partial installation: an empty module
        ("raise ModuleNotFoundError(\"No module named 'typing_extensions'\")", "A Python package is missing"),
    ],
)
def test_a_torch_that_cannot_be_imported_has_its_own_message(job, tiny_pair, tmp_path, monkeypatch, content, words):
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(content + "\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    job.start(JobRequest(*tiny_pair, QUICK))
    finish(job)
    assert words in job.error


def test_the_worker_ends_when_its_input_closes_even_during_a_job(tiny_pair, job):
    job.start(JobRequest(*tiny_pair, {**QUICK, "spacing_mm": 2.0}))
    while job.stage != "Affine":
        job.poll()
    process = job._worker
    process._process.stdin.close()
    process._process.wait(3)
    assert process.exitCode == 0
    finish(job)


def test_the_worker_ends_when_its_parent_is_killed(tmp_path, tiny_pair):
    """As when the application crashes during a registration."""
    for name, image in zip(("fixed", "moving"), tiny_pair):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    script = f"""
import sys, time
sys.path.insert(0, {str(MODULE)!r})
from WaveMorphRegistrationLib.engine.workerProcess import WorkerProcess
worker = WorkerProcess()
worker.start()
worker.send({{"job": 1, "folder": {str(tmp_path)!r}, "settings": {{"spacing_mm": 1.0, "weights": "none"}}}})
while True:
    for event in worker.events():
        if event["event"] == "progress" and event["stage"] == "Affine":
            print(worker.processId, flush=True)
    time.sleep(0.02)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert isRunning(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 3
    while isRunning(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not isRunning(worker)


def test_an_idle_worker_ends(monkeypatch):
    monkeypatch.setenv("WAVEMORPH_IDLE_SECONDS", "0.5")
    worker = WorkerProcess()
    worker.start()
    worker._process.wait(60)
    assert worker.exitCode == 0
    assert not worker.send({"job": 1})
    worker.close()


def test_the_default_models_are_loaded_before_the_first_job():
    weights._load_cached.cache_clear()
    load_default_models()
    assert weights._load_cached.cache_info().misses == 2
    weights.resolve("auto", choose_device("auto"))
    weights.resolve_segmentation_model(choose_device("auto"))
    assert weights._load_cached.cache_info().misses == 2


def test_a_line_that_cannot_be_read_is_logged_and_the_worker_continues():
    source = io.StringIO("nonsense\n" + json.dumps(["no", "job"]) + "\n")
    sink = io.StringIO()
    worker = Worker(source, sink)
    exitCodes = []
    original, os._exit = os._exit, exitCodes.append
    try:
        worker._listen()
    finally:
        os._exit = original
    events = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["log", "log"]
    assert "nonsense" in events[0]["message"]
    assert exitCodes == [0]


def test_running_out_of_memory_in_the_worker_is_a_message(monkeypatch, tmp_path):
    sink = io.StringIO()
    worker = Worker(io.StringIO(), sink)

    def exhausted(job):
        raise MemoryError

    monkeypatch.setattr(worker, "_register", exhausted)
    worker._do({"job": 4, "folder": str(tmp_path)})
    event = json.loads(sink.getvalue())
    assert (event["event"], event["job"], event["kind"]) == ("error", 4, "OutOfMemoryError")
    assert event["message"].startswith("Memory ran out")
