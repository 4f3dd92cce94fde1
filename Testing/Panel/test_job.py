"""The states and messages of a job, by the events that its worker sends; its private folder, and a full disk."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import slicer
from fakeWorker import FakeWorker
from wavemorph.io.fields import rounded_inverse_field, rounded_whole_field
from wavemorph.io.images import same_lattice
from wavemorph.io.result import Registration
from wavemorph.registration import pipeline
from wavemorph.settings import Settings
from wavemorph.worker import Worker
from WaveMorphRegistrationLib.engine import jobFolders
from WaveMorphRegistrationLib.engine.job import JobState, RegistrationJob
from WaveMorphRegistrationLib.engine.jobRequest import JobRequest

QUICK = Settings(spacing_mm=4.0, threads=1, inverse=False).to_dict()  # as the panel sends them: recorded once
RAW_ITK_ERROR = (
    "Exception thrown in SimpleITK ImageFileWriter_Execute: /tmp/ITK/Modules/IO/NRRD/src/itkNrrdImageIO.cxx:1349:\n"
    "ITK ERROR: NrrdImageIO(0x55a632743b60): Write: Error writing fixed.nrrd:\n"
    "[nrrd] nrrdSave:\n[nrrd] nrrdWrite: trouble"
)


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
    assert job.error.startswith(f'The temporary folder "{tmp_path / "nowhere"}" cannot be used (No such file')


def test_a_prepared_worker_runs_the_job(job, tiny_pair):
    job.prepareWorker()
    worker = job.workerProcessId
    assert worker is not None and not job.active
    job.prepareWorker()
    job.start(JobRequest(*tiny_pair, QUICK))
    job.poll()
    assert job.workerProcessId == worker
    assert len(job.results) == 1


def test_a_worker_that_fails_before_there_is_a_job_fails_none_and_is_replaced(job, tiny_pair):
    job.prepareWorker()
    first = job.workerProcessId
    job._worker.answer({"event": "error", "job": None, "kind": "TorchError", "message": "broken", "details": "why"})
    job.poll()
    assert (job.state, job.failures) == (JobState.Idle, [])
    assert any("why" in line for line in job.log)
    job._worker.crash()
    job.start(JobRequest(*tiny_pair, QUICK))
    job.poll()
    assert job.workerProcessId != first
    assert (job.failures, len(job.results)) == ([], 1)


def test_only_the_volumes_that_are_wanted_are_computed(job, tiny_pair):
    job.start(JobRequest(*tiny_pair, QUICK, outputs=("jacobian",)))
    (message,) = job._worker.messages
    assert message["outputs"] == ["jacobian"]


@pytest.mark.parametrize(
    ("outputs", "rotation_deg", "files"),
    [
        (("field", "warped", "jacobian"), 5, {"field.npy", "field_lattice.json", "warped.nrrd", "jacobian.nrrd"}),
        (("field",), 170, {"displacement.nrrd"}),  # as one field the map could not be inverted
        (("warped", "inverse"), 5, {"warped.nrrd", "inverse_field.npy", "inverse_field_lattice.json"}),
        (("inverse",), 170, {"inverse_displacement.nrrd", "inverse_correction.nrrd"}),  # likewise
        ((), 5, set()),
    ],
)
def test_the_worker_saves_nothing_but_what_is_wanted(
    random_registration, tmp_path, monkeypatch, tiny_pair, outputs, rotation_deg, files
):
    registration = dataclasses.replace(random_registration(3), report={"transform_type": "deformable"})
    registration.affine = sitk.AffineTransform(
        phantoms.rotation((0, 0, rotation_deg)).ravel().tolist(), registration.affine.GetTranslation()
    )
    monkeypatch.setattr(pipeline, "register", lambda *arguments, **options: registration)
    JobRequest(*tiny_pair, QUICK).write(tmp_path)
    sink = io.StringIO()
    Worker(io.StringIO(), sink)._do({"job": 1, "folder": str(tmp_path), "settings": QUICK, "outputs": list(outputs)})
    event = json.loads(sink.getvalue().splitlines()[-1])
    assert event["event"] == "result", event
    always = {"affine.tfm", "report.json", "moving_corners.json"}
    assert {path.name for path in (tmp_path / "result").iterdir()} == always | files
    loaded = Registration.load(tmp_path / "result")
    assert not loaded.is_linear
    if loaded.field is not None:
        exact = rounded_whole_field(registration)
        assert np.array_equal(loaded.field.vectors, exact.vectors)
        assert same_lattice(loaded.field.lattice, exact.lattice)
    if loaded.inverse_field is not None:
        exact = rounded_inverse_field(registration)
        assert np.array_equal(loaded.inverse_field.vectors, exact.vectors)
        assert same_lattice(loaded.inverse_field.lattice, exact.lattice)


@pytest.fixture
def slicerPath(tmp_path, monkeypatch):
    """The temporary path that is set in Slicer."""
    path = tmp_path / "Slicer temporary"
    path.mkdir()
    monkeypatch.setattr(slicer.app, "temporaryPath", str(path), raising=False)
    return path


@pytest.fixture
def jobInSlicer(recordings, slicerPath):
    """A job in the temporary path that is set in Slicer."""
    made = RegistrationJob(lambda: FakeWorker(recordings))
    yield made
    made.close()


def endedProcessId() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_folder_of_a_job_is_private_and_in_slicers_temporary_path(jobInSlicer, slicerPath, tiny_pair):
    jobInSlicer.start(JobRequest(*tiny_pair, QUICK))
    (folder,) = slicerPath.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert str(os.getpid()) in folder.name
    jobInSlicer.poll()
    assert list(slicerPath.iterdir()) == []


def test_without_a_usable_path_of_slicer_the_systems_is_taken(slicerPath, monkeypatch):
    slicerPath.rmdir()
    assert os.path.isdir(jobFolders.temporaryPath())


def test_folders_of_dead_processes_are_removed_at_the_start_and_no_others(slicerPath):
    import WaveMorphRegistration

    dead, alive = endedProcessId(), os.getpid()
    for name in (f"wavemorph-job-{dead}-abc", f"wavemorph-job-{alive}-abc", "wavemorph-other", f"other-{dead}-abc"):
        (slicerPath / name).mkdir()
        (slicerPath / name / "fixed.nrrd").write_text("voxels")
    (slicerPath / f"wavemorph-job-{dead}-file").write_text("a file")
    (slicerPath / f"wavemorph-job-{dead}-link").symlink_to(slicerPath / "wavemorph-other")
    old = slicerPath / f"wavemorph-job-{alive}-old"
    old.mkdir()
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    WaveMorphRegistration.removeOldFolders()
    assert sorted(path.name for path in slicerPath.iterdir()) == sorted(
        [
            f"wavemorph-job-{alive}-abc",
            "wavemorph-other",
            f"other-{dead}-abc",
            f"wavemorph-job-{dead}-file",
            f"wavemorph-job-{dead}-link",
        ]
    )
    assert (slicerPath / "wavemorph-other" / "fixed.nrrd").exists()


def test_a_disk_without_space_is_one_sentence_before_anything_is_written(
    jobInSlicer, slicerPath, tiny_pair, monkeypatch
):
    usage = shutil.disk_usage(slicerPath)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    jobInSlicer.start(JobRequest(*tiny_pair, QUICK))
    assert jobInSlicer.state is JobState.Failed
    assert jobInSlicer.error.startswith(
        f'The temporary folder "{slicerPath}" has 2 MB of free space, and this registration needs'
    )
    assert "choose another temporary folder" in jobInSlicer.error
    assert list(slicerPath.iterdir()) == []


def test_a_disk_that_fills_while_volumes_are_copied_is_one_sentence(jobInSlicer, slicerPath, tiny_pair, monkeypatch):
    def fails(*arguments):
        raise RuntimeError(RAW_ITK_ERROR)

    monkeypatch.setattr(sitk, "WriteImage", fails)
    jobInSlicer.start(JobRequest(*tiny_pair, QUICK))
    assert jobInSlicer.state is JobState.Failed
    assert jobInSlicer.error.startswith(f'The volumes could not be copied to the temporary folder "{slicerPath}" (')
    assert "0x" not in jobInSlicer.error and "\n" not in jobInSlicer.error and ".cxx" not in jobInSlicer.error
    assert list(slicerPath.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError(RAW_ITK_ERROR), OSError(28, "No space left on device")])
def test_a_disk_that_fills_while_the_result_is_written_is_one_sentence(tmp_path, tiny_pair, monkeypatch, error):
    JobRequest(*tiny_pair, QUICK).write(tmp_path)

    class Unwritable:
        def save(self, folder):
            raise error

    monkeypatch.setattr(pipeline, "register", lambda *arguments, **options: Unwritable())
    sink = io.StringIO()
    Worker(io.StringIO(), sink)._do({"job": 1, "folder": str(tmp_path), "settings": QUICK})
    event = json.loads(sink.getvalue().splitlines()[-1])
    assert (event["event"], event["kind"], event["details"]) == ("error", "OutputError", "")
    assert event["message"].startswith(f'The result could not be written to the temporary folder "{tmp_path.parent}" (')
    assert "is the disk full?" in event["message"]
    assert "0x" not in event["message"] and "\n" not in event["message"]
