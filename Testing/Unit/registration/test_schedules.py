"""The presets as data."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from wavemorph.registration.schedules import body_schedule, choose_schedule, with_smoothness
from wavemorph.settings import SMOOTHNESS


@pytest.mark.parametrize("preset", ["Balanced", "Precise"])
def test_only_the_schedules_of_pairs_with_trusted_segmentations_have_levels_with_the_segmentation_term(preset):
    for same_contrast, after_passes, with_segmentation in np.ndindex(2, 2, 2):
        schedule = choose_schedule(preset, bool(same_contrast), bool(after_passes), bool(with_segmentation))
        expected = bool(same_contrast and after_passes and with_segmentation)
        assert any(level.segmentation for level in schedule.levels) == expected


def test_instant_has_no_schedule():
    for case in np.ndindex(2, 2, 2):
        assert choose_schedule("Instant", *map(bool, case)) is None


def test_only_precise_with_trusted_segmentations_runs_in_both_directions():
    for preset in ("Balanced", "Precise"):
        for same_contrast, after_passes, with_segmentation in np.ndindex(2, 2, 2):
            schedule = choose_schedule(preset, bool(same_contrast), bool(after_passes), bool(with_segmentation))
            expected = preset == "Precise" and bool(same_contrast and after_passes and with_segmentation)
            assert schedule.bidirectional == expected


@pytest.mark.parametrize("large_steps", [True, False])
@pytest.mark.parametrize("preset", ["Balanced", "Precise"])
def test_the_schedules_of_bodies_begin_coarser_than_those_of_brains_and_know_neither_segmentations_nor_same_subjects(
    preset, large_steps
):
    schedule = body_schedule(preset, large_steps)
    factors = [level.factor for level in schedule.levels]
    coarsest_of_brains = max(
        level.factor for case in np.ndindex(2, 2, 2) for level in choose_schedule(preset, *map(bool, case)).levels
    )
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > coarsest_of_brains
    assert factors[-1] == 1
    assert not any(level.segmentation for level in schedule.levels)
    assert schedule.same_subject_threshold > 1


@pytest.mark.parametrize("large_steps", [True, False])
def test_precise_works_longer_on_bodies_than_balanced_and_balanced_longer_than_instant(large_steps):
    schedules = [body_schedule(preset, large_steps) for preset in ("Instant", "Balanced", "Precise")]
    instant, balanced, precise = map(work, schedules)
    assert 1.5 * instant < balanced < precise
    assert schedules[2].tolerance < schedules[1].tolerance


def work(schedule):
    """Iterations at full resolution; levels before the finest count twice where both directions are run."""
    *coarser, finest = schedule.levels
    directions = 1 + schedule.bidirectional
    return finest.iterations + directions * sum(level.iterations / level.factor**3 for level in coarser)


@pytest.mark.parametrize("preset", ["Balanced", "Precise"])
def test_bodies_are_registered_in_both_directions_with_large_steps_alone(preset):
    assert body_schedule(preset, large_steps=True).bidirectional
    assert not body_schedule(preset, large_steps=False).bidirectional


def all_schedules():
    for preset, large_steps in itertools.product(("Instant", "Balanced", "Precise"), (True, False)):
        yield body_schedule(preset, large_steps)
    for preset in ("Balanced", "Precise"):
        for case in np.ndindex(2, 2, 2):
            yield choose_schedule(preset, *map(bool, case))


def test_medium_smoothness_is_the_schedule_itself():
    for schedule in all_schedules():
        assert with_smoothness(schedule, "medium") == schedule


def test_the_gaussians_widen_with_the_smoothness_and_the_levels_stay():
    for schedule in all_schedules():
        low, medium, high = (with_smoothness(schedule, smoothness) for smoothness in SMOOTHNESS)
        assert low.fluid_sigma < medium.fluid_sigma < high.fluid_sigma
        assert low.elastic_sigma < medium.elastic_sigma < high.elastic_sigma
        assert low.same_subject_sigmas < medium.same_subject_sigmas < high.same_subject_sigmas
        for levels in zip(low.levels, medium.levels, high.levels):
            own = [level.fluid_sigma for level in levels]
            assert own == [None] * 3 or own == sorted(set(own))
            assert len({replace(level, fluid_sigma=None) for level in levels}) == 1
