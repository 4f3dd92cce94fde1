"""The states and messages of a job, by the events that its worker sends."""

from __future__ import annotations

import pytest
from fakeWorker import FakeWorker
from wavemorph.settings import Settings
from WaveMorphRegistrationLib.engine.job import JobState, RegistrationJob
from WaveMorphRegistrationLib.engine.jobRequest import JobRequest

QUICK = Settings(spacing_mm=4.0, threads=1, inverse=False).to_dict()  # as the panel sends them: recorded once


@pytest.fixture
def job(recordings, tmp_path):
    made = RegistrationJob(lambda: FakeWorker(recordings), temporaryPath=str(tmp_path))
    made.results, made.failures, made.cancellations = [], [], []
    made.onResult = lambda registration, context: made.results.append((registration, context))
    made.onFailed = made.failures.append
    made.onCanceled = lambda: made.cancellations.append(made.state)
    yield made
    made.close()


def test_a_job_returns_the_registration_with_its_context_and_leaves_no_file(job, tmp_path, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK, context="this pair"))
    assert (job.state, job.active) == (JobState.Running, True)
    job.poll()
    ((registration, context),) = job.results
    moved = registration.transform.TransformPoint((0.0, 0.0, 0.0))
    assert abs(moved[0] - 4.0) < 1.0 and abs(moved[2] - 3.0) < 1.0
    assert registration.fixed is tiny_pair[0]
    assert context == "this pair"
    assert (job.state, job.error) == (JobState.Idle, "")
    assert list(tmp_path.iterdir()) == []
    assert any("Engine ready on CPU" in line for line in job.log)
    assert any("Affine" in line for line in job.log)


def test_a_second_job_is_refused_while_one_runs(job, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK))
    with pytest.raises(RuntimeError, match="is running"):
        job.start(JobRequest(*tiny_pair, QUICK))


def test_a_message_of_the_engine_is_passed_on(job, tiny_pair):
    job.start(JobRequest(tiny_pair[0], tiny_pair[1] * 0, QUICK))
    job.poll()
    assert job.state is JobState.Failed
    assert job.failures == [job.error]
    assert "constant" in job.error


def test_an_unexpected_error_points_to_the_log_and_the_log_has_the_traceback(job, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK))
    error = {"event": "error", "job": 1, "kind": "Unexpected", "message": "ValueError: no"}
    job._worker.answer({**error, "details": "Traceback: here"})
    job.poll()
    assert job.failures == ["An unexpected error occurred in the registration process (ValueError: no); see the log."]
    assert any("Traceback: here" in line for line in job.log)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("ImportError: libcudart.so.99", "PyTorch is installed but cannot be used"),
        ("ModuleNotFoundError: No module named 'typing_extensions'", "A Python package is missing"),
    ],
)
def test_a_torch_that_cannot_be_imported_has_its_own_message(job, tiny_pair, message, words):
    job.start(JobRequest(*tiny_pair, QUICK))
    job._worker.answer({"event": "error", "job": None, "kind": "TorchError", "message": message, "details": ""})
    job.poll()
    assert job.state is JobState.Failed
    assert words in job.error


def test_events_of_an_earlier_job_are_ignored(job, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK))
    job._worker.answer({"event": "cancelled", "job": 0}, {"event": "error", "job": 0, "kind": "Unexpected"})
    job.poll()
    assert job.state is JobState.Running
    assert (job.failures, job.cancellations) == ([], [])


def test_the_status_has_stage_percentage_and_remaining_time(job, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK))
    job._worker.answer({"event": "progress", "job": 1, "stage": "Affine", "fraction": 0.25, "message": ""})
    job.poll()
    assert job.status == "Affine, 25 %"
    job._startTime -= 10.0
    assert job.status.startswith("Affine, 25 %, ") and job.status.endswith(" left")


def test_a_folder_that_cannot_be_written_is_a_message(tiny_pair, tmp_path):
    job = RegistrationJob(temporaryPath=str(tmp_path / "nowhere"))
    job.start(JobRequest(*tiny_pair, QUICK))
    assert job.state is JobState.Failed
    assert "could not be started" in job.error
