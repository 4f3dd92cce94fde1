"""The host waits for the device at most once in ten iterations, wherever something is iterated."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from displacements import bump, tapered_noise
from stand_in_device import DEVICE, stand_in_device
from wavemorph.models.weights import resolve
from wavemorph.registration.deformable.inference import predict
from wavemorph.registration.deformable.optimizer import (
    OptimizationProblem,
    OptimizationSchedule,
    PyramidLevel,
    optimize,
)
from wavemorph.registration.deformable.stage import similarity_factory
from wavemorph.spatial import folding, inversion
from wavemorph.spatial.displacement import invert, warp

SIZE = (16, 18, 20)
LEVEL = PyramidLevel(1, 30)


@pytest.fixture
def log():
    with stand_in_device() as log, torch.inference_mode():
        yield log


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """(fixed, moving) on the device."""
    moving = tapered_noise(1, 1.5, 0, SIZE)
    moving = (moving - moving.min()) / (moving.max() - moving.min())
    return warp(moving, bump(2.0, SIZE)).to(DEVICE), moving.to(DEVICE)


@pytest.mark.parametrize("similarity", ["lncc", "mind", "mi", "auto"])
@pytest.mark.parametrize("with_segmentation", [False, True])
def test_thirty_more_iterations_of_the_optimizer_are_at_most_three_more_waits(log, similarity, with_segmentation):
    fixed, moving = images()
    segmentations = (fixed, moving) if with_segmentation else None
    problem = OptimizationProblem(fixed, moving, torch.ones_like(fixed), segmentations)
    waits = []
    for iterations in (30, 60):
        level = dataclasses.replace(LEVEL, iterations=iterations, segmentation=with_segmentation)
        schedule = OptimizationSchedule(levels=(level,), tolerance=-100.0)  # never converged
        log.clear()
        optimize(problem, schedule, similarity_factory(similarity, True))
        waits.append(len(log.waits))
    assert waits[1] - waits[0] <= 3
    assert waits[0] <= 3 + 2  # and at most two for a level as such


def test_a_level_that_converges_ends_on_the_device_too(log):
    fixed, moving = images()
    done: list[float] = []
    schedule = OptimizationSchedule(levels=(dataclasses.replace(LEVEL, iterations=100),), tolerance=100.0)
    optimize(OptimizationProblem(fixed, moving, torch.ones_like(fixed)), schedule, similarity_factory("lncc", True),
             progress=done.append)  # fmt: skip
    assert len(done) - 1 == 30  # the first look after the twentieth


def test_the_passes_of_the_network_never_wait(log):
    with torch.inference_mode(False):
        network = resolve("auto", DEVICE).network
    fixed, moving = images()
    predict(network, fixed, moving, 4.0)  # puts constants on the device
    log.clear()
    predict(network, fixed, moving, 4.0)
    assert len(network.config.passes_mm) > 1
    assert log.waits == []
    assert log.launches > 100


def test_folds_are_removed_with_one_wait_in_ten_rounds(log, monkeypatch):
    rounds = counted(monkeypatch, folding, "blend_smoothed")
    folded = (6 * tapered_noise(3, 0.8, 3, SIZE)).to(DEVICE)
    log.clear()
    repaired = folding.remove_folds(folded)
    assert len(rounds) >= 10
    assert len(log.waits) <= len(rounds) / 10
    assert not bool(folding.folding_mask(repaired, 0.0).any())
    assert bool(folding.folding_mask(folded, 0.0).any())


def test_a_field_that_has_to_be_scaled_down_ends_without_folds(log):
    folded = (30 * tapered_noise(3, 0.5, 3, SIZE)).to(DEVICE)
    log.clear()
    repaired = folding.remove_folds(folded, rounds=10)
    assert len(log.waits) <= 10
    assert not bool(folding.folding_mask(repaired, 0.0).any())


def test_newtons_method_waits_once_in_ten_iterations(log):
    displacement = bump(4.0, SIZE).to(DEVICE)
    log.clear()
    invert(displacement, iterations=20, tolerance=0.0)
    assert len(log.waits) == 2


def test_regularizing_and_inverting_waits_once_in_ten_iterations(log, monkeypatch):
    sharp = (bump(4.0, SIZE) + 1.2 * tapered_noise(3, 1.0, 4, SIZE)).to(DEVICE)
    inversion.regularize_and_invert(sharp)  # puts constants on the device
    iterations = counted(monkeypatch, inversion, "_newton_step")
    iterations_of_folding = counted(monkeypatch, folding, "blend_smoothed")
    log.clear()
    inversion.regularize_and_invert(sharp)
    assert len(iterations) >= 8  # of the inversion at all nodes, and twelve more on a coarser lattice
    assert len(log.waits) <= (len(iterations) + len(iterations_of_folding) + 12) / 10


def counted(monkeypatch, module, name: str) -> list:
    """Grows by one with each call of a function of the module."""
    calls, original = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: calls.append(1) or original(*arguments))
    return calls
