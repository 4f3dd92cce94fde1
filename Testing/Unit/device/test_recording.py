"""Steps that are recorded once and replayed give what plain steps give; what cannot be recorded is computed plainly."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import types

import numpy as np
import pytest
import SimpleITK as sitk
import stand_in_recording
import torch
from displacements import bump, tapered_noise
from wavemorph import Settings, register
from wavemorph.registration.deformable.optimizer import (
    OptimizationProblem,
    OptimizationSchedule,
    PyramidLevel,
    optimize,
)
from wavemorph.registration.deformable.stage import similarity_factory
from wavemorph.spatial.displacement import warp
from wavemorph.system import recording, strategy

SIZE = (18, 20, 16)
CPU = torch.device("cpu")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Calls a function as on a GPU, with plain steps, or with steps that `record` records; [] grows by each try."""
    monkeypatch.setattr(recording, "can_record", lambda device: recording.failure() is None)
    monkeypatch.setattr(recording, "_failure", None)

    def call(function, record=None):
        tries = []

        def counted(repeated, device):
            tries.append(device)
            return record(repeated, device)

        monkeypatch.setattr(strategy, "CPU", dataclasses.replace(strategy.CUDA, records_steps=record is not None))
        monkeypatch.setattr(recording, "record", counted)
        with torch.inference_mode():
            return function(), tries

    return call


def problem(scanned_to: int | None, with_segmentation: bool) -> OptimizationProblem:
    moving = tapered_noise(1, 1.5, 0, SIZE)
    moving = (moving - moving.min()) / (moving.max() - moving.min())
    fixed = warp(moving, bump(2.0, SIZE))
    weight, scanned = (fixed > 0.2).float(), None
    if scanned_to is not None:
        scanned = torch.ones_like(fixed, dtype=torch.bool)
        scanned[..., scanned_to:] = False
    return OptimizationProblem(fixed, moving, weight, (fixed, moving) if with_segmentation else None, scanned, scanned)


def found_by(similarity, given, schedule, progress=lambda fraction: None):
    return optimize(given, schedule, similarity_factory(similarity, True), progress=progress)


SCHEDULE = OptimizationSchedule(
    levels=(PyramidLevel(2, 21, True), PyramidLevel(1, 21, True)),
    bidirectional=True,
    tolerance=-100.0,  # never converged
    same_subject_threshold=2.0,
    max_similarity_drop=2.0,
)


@pytest.mark.parametrize("similarity", ["lncc", "mind", "mi", "auto"])
@pytest.mark.parametrize("scanned_to", [None, 12])
@pytest.mark.parametrize("with_segmentation", [False, True])
def test_recorded_steps_give_the_displacement_of_plain_ones_to_the_bit(
    as_on_a_gpu, similarity, scanned_to, with_segmentation
):
    given = problem(scanned_to, with_segmentation)
    plain, _ = as_on_a_gpu(lambda: found_by(similarity, given, SCHEDULE))
    replayed, tries = as_on_a_gpu(lambda: found_by(similarity, given, SCHEDULE), stand_in_recording.record)
    assert len(tries) >= (6 if with_segmentation else 3)  # levels: one coarse in both directions, one fine
    assert recording.failure() is None
    assert plain.abs().max() > 0.5
    assert torch.equal(replayed, plain)


def test_a_level_converges_at_the_same_iteration_with_recorded_steps(as_on_a_gpu):
    schedule = OptimizationSchedule(levels=(PyramidLevel(1, 100),), tolerance=0.05)
    given, counts = problem(None, False), []
    for record in (None, stand_in_recording.record):
        done: list[float] = []
        as_on_a_gpu(lambda done=done: found_by("lncc", given, schedule, done.append), record)
        counts.append(len(done))
    assert counts[0] == counts[1] < 100


def test_a_whole_registration_with_recorded_steps_is_the_same(as_on_a_gpu, tiny_pair):
    settings = Settings(preset="Precise", spacing_mm=5.0, affine=False)
    fields = []
    for record in (None, stand_in_recording.record):
        result, tries = as_on_a_gpu(lambda: register(*tiny_pair, settings), record)
        fields.append(sitk.GetArrayFromImage(result.displacement))
    assert len(tries) >= 3
    assert np.abs(fields[0]).max() > 2
    assert np.array_equal(*fields)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
    ids=["forbidden", "memory"],
)
def test_what_cannot_be_recorded_is_computed_plainly_and_not_tried_again(as_on_a_gpu, failure, caplog):
    def record(function, device):
        stand_in_recording.record(function, device)  # the function runs, and nothing is computed
        raise failure

    given = problem(None, True)
    plain, _ = as_on_a_gpu(lambda: found_by("lncc", given, SCHEDULE))
    with caplog.at_level(logging.INFO, "wavemorph"):
        fallen_back, tries = as_on_a_gpu(lambda: found_by("lncc", given, SCHEDULE), record)
    assert torch.equal(fallen_back, plain)
    assert len(tries) == 1
    assert recording.failure() == str(failure) and str(failure) in caplog.text


def test_a_step_that_the_host_waits_for_is_not_recorded(as_on_a_gpu):
    x = torch.zeros(3)

    def waits():
        x.add_(1 if float(x.sum()) >= 0 else -1)

    def four_times():
        advance = recording.repeated(waits, CPU)
        for _ in range(4):
            advance()

    as_on_a_gpu(four_times, stand_in_recording.record)
    assert recording.failure() is not None
    assert x.tolist() == [4, 4, 4]


def test_the_stand_in_replays_operations_and_not_the_function(as_on_a_gpu):
    """What the host decides is as it was during the recording: a step that depends on it would be found out."""
    x, calls = torch.zeros(2, 3), []

    def count():
        calls.append(1)
        x[1].add_((x[0] + 1).reshape(-1) * len(calls))

    def five_times():
        advance = recording.repeated(count, CPU)
        for _ in range(5):
            advance()

    as_on_a_gpu(five_times, stand_in_recording.record)
    assert len(calls) == 3
    assert x.tolist() == [[0, 0, 0], [1 + 2 + 3 * 3] * 3]


@pytest.fixture
def cuda(monkeypatch):
    """What is asked of CUDA, by name; `stream` is the current stream."""
    made = types.SimpleNamespace(said=[], stream="default", fails="")

    @contextlib.contextmanager
    def stream(each):
        before, made.stream = made.stream, each
        try:
            yield
        finally:
            made.stream = before

    class Graph:
        def capture_begin(self, capture_error_mode):
            made.said.append(("begin", made.stream, capture_error_mode))

        def capture_end(self):
            made.said.append(("end", made.stream))
            if made.fails:
                raise RuntimeError(made.fails)

        def replay(self):
            made.said.append(("replay", made.stream))

    def new_stream(device):
        return types.SimpleNamespace(device=device, wait_stream=lambda other: made.said.append(("wait", other)))

    for name, value in {
        "current_stream": lambda device: made.stream,
        "default_stream": lambda device: "default",
        "stream": stream,
        "Stream": new_stream,
        "CUDAGraph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    monkeypatch.setattr(recording, "_failure", None)
    return made


GPU = torch.device("cuda", 1)


def test_a_graph_is_recorded_in_a_stream_of_its_own_so_that_other_threads_go_on(cuda):
    replay = recording.record(lambda: cuda.said.append(("function", cuda.stream)), GPU)
    (_, waited), (begin, inside, mode), (_, seen), (end, at_end) = cuda.said
    assert (waited, begin, mode, end) == ("default", "begin", "thread_local", "end")
    assert inside is seen is at_end and inside.device == GPU
    replay()
    assert cuda.said[-1] == ("replay", "default")


@pytest.mark.parametrize("raised_by", ["function", "end"])
def test_a_recording_that_fails_leaves_its_stream_and_the_next_call_is_plain(cuda, raised_by):
    calls = []

    def function():
        calls.append(cuda.stream)
        if raised_by == "function" and cuda.stream != "default":
            raise torch.OutOfMemoryError("CUDA out of memory.")

    cuda.fails = "capture invalidated" if raised_by == "end" else ""
    advance = recording.repeated(function, GPU)
    for _ in range(4):
        advance()
    assert cuda.stream == "default"
    assert [each for each in calls if each == "default"] == ["default"] * 4
    assert "end" in [what for what, *_ in cuda.said]
    assert recording.repeated(function, GPU) is function


def test_steps_are_recorded_on_a_gpu_alone_in_the_default_stream_with_a_recent_torch(cuda, monkeypatch):
    def function():
        pass

    assert recording.repeated(function, GPU) is not function
    for other in ("cpu", "mps", "xpu"):
        assert recording.repeated(function, torch.device(other)) is function
    with torch.cuda.stream("of one of several pairs"):
        assert recording.repeated(function, GPU) is function
    for version, expected in (("2.12.1", False), ("2.9.0", False), ("3.0.0", True)):
        monkeypatch.setattr(torch, "__version__", version)
        assert recording.can_record(GPU) is expected
