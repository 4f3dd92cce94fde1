"""When the worker makes the outputs of a job: while the map is measured, unless something speaks against it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph import Settings, worker
from wavemorph.errors import Cancelled
from wavemorph.io.fields import rounded_whole_field
from wavemorph.io.result import Registration
from wavemorph.registration import pipeline

OUTPUTS = ["warped", "jacobian", "field"]
SETTINGS = Settings(spacing_mm=4.0, weights="none", affine=False, threads=1).to_dict()


@pytest.fixture
def folder(tmp_path, tiny_pair):
    """With the volumes of a job."""
    for name, image in zip(("fixed", "moving"), tiny_pair):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    return tmp_path


@pytest.fixture
def begun(monkeypatch):
    """The registrations of which outputs were begun, each with whether it had its report then."""
    seen, begin = [], worker._Making.begin

    def noted(self, registration):
        seen.append((registration, bool(registration.report)))
        begin(self, registration)

    monkeypatch.setattr(worker._Making, "begin", noted)
    return seen


def events_of(folder, **job):
    sink = io.StringIO()
    worker.Worker(io.StringIO(), sink)._do(
        {"job": 1, "folder": str(folder), "settings": SETTINGS, "outputs": OUTPUTS, **job}
    )
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def check_result(folder, registration):
    """That what was saved is what the registration has, made anew."""
    loaded = Registration.load(folder / "result")
    again = Registration(
        registration.affine, registration.displacement, None, None, registration.working_jacobian,
        fixed=registration.fixed, moving=registration.moving,
    )  # fmt: skip
    for name in ("warped", "jacobian"):
        assert np.array_equal(*(sitk.GetArrayFromImage(getattr(each, name)) for each in (loaded, again)))
    assert np.array_equal(loaded.field.vectors, rounded_whole_field(again).vectors)


def test_outputs_are_begun_before_the_map_is_measured(folder, begun):
    assert events_of(folder)[-1]["event"] == "result"
    ((registration, was_reported),) = begun
    assert not was_reported
    assert registration.report["verdict"]
    check_result(folder, registration)


@pytest.mark.parametrize("reason", ["large volumes", "transforms stored coarser"])
def test_outputs_are_made_after_everything_else_where_that_is_needed(folder, begun, monkeypatch, reason):
    if reason == "large volumes":
        monkeypatch.setattr(worker, "_MAX_VOXELS_MADE_EARLY", 1000)
    job = {"store_spacing_mm": 8.0} if reason == "transforms stored coarser" else {}
    assert events_of(folder, **job)[-1]["event"] == "result"
    ((registration, was_reported),) = begun
    assert was_reported
    assert ("stored" in registration.report) == bool(job)
    check_result(folder, registration)


def test_the_outputs_are_those_of_the_last_map_where_memory_ran_out_after_the_first(folder, begun, monkeypatch):
    measured = pipeline.quality

    def once_without_memory(*arguments):
        if len(begun) == 1:
            raise MemoryError
        return measured(*arguments)

    monkeypatch.setattr(pipeline, "quality", once_without_memory)
    assert events_of(folder)[-1]["event"] == "result"
    first, second = (registration for registration, _ in begun)
    assert second.displacement.GetSpacing()[0] > first.displacement.GetSpacing()[0]
    check_result(folder, second)


def test_a_job_that_is_cancelled_after_its_outputs_were_begun_saves_nothing(folder, begun, monkeypatch):
    def cancelled(*_):
        raise Cancelled("Canceled.")

    monkeypatch.setattr(pipeline, "quality", cancelled)
    assert events_of(folder)[-1] == {"event": "cancelled", "job": 1}
    assert len(begun) == 1
    assert not (folder / "result").exists()


def test_what_goes_wrong_with_an_output_ends_the_job(folder, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("wavemorph.io.fields.rounded_whole_field", fails)
    event = events_of(folder)[-1]
    assert (event["event"], event["kind"]) == ("error", "OutOfMemoryError")
    assert not (folder / "result").exists()


@pytest.mark.parametrize(
    "error", [None, MemoryError(), RuntimeError("not enough memory: you tried to allocate 9 bytes")]
)
def test_the_inverse_is_in_two_parts_where_memory_runs_out_for_one_field(folder, monkeypatch, error):
    def fails(*_):
        raise error

    if error is not None:
        monkeypatch.setattr("wavemorph.spatial.inverse_field.fit_inverse_field", fails)
    events = events_of(folder, settings={**SETTINGS, "inverse": True}, outputs=["inverse"])
    assert events[-1]["event"] == "result"
    loaded = Registration.load(folder / "result")
    assert (loaded.inverse_field is None, loaded.inverse_correction is None) == (error is not None, error is None)


def test_an_inverse_field_that_fails_otherwise_ends_the_job(folder, monkeypatch):
    def fails(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("wavemorph.spatial.inverse_field.fit_inverse_field", fails)
    event = events_of(folder, settings={**SETTINGS, "inverse": True}, outputs=["inverse"])[-1]
    assert (event["event"], event["message"]) == ("error", "RuntimeError: broken")


def test_a_linear_map_has_its_registered_volume_and_no_field(folder, begun):
    settings = {**SETTINGS, "transform_type": "rigid", "affine": True}
    assert events_of(folder, settings=settings)[-1]["event"] == "result"
    assert [was_reported for _, was_reported in begun] == [False]
    loaded = Registration.load(folder / "result")
    assert loaded.is_linear and loaded.field is None
    expected = begun[0][0].warp(begun[0][0].moving)
    assert np.array_equal(sitk.GetArrayFromImage(loaded.warped), sitk.GetArrayFromImage(expected))
