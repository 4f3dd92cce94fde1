"""The presets as data."""

from __future__ import annotations

import numpy as np
import pytest
from wavemorph.registration.schedules import choose_schedule


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
