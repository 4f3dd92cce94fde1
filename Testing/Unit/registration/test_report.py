"""Doubts: a result that should not be trusted says so in words, and a good one keeps silent."""

from __future__ import annotations

import re

import pytest
from wavemorph.registration.report import quality_warnings

GOOD = {
    "similarity": {"before": 0.3, "after": 0.6},
    "jacobian": {"max": 2.5},
    "folding": {"strict_voxels": 0},
    "displacement_mm": {"max": 12.0},
    "anatomy": {"before": 0.7, "after": 0.75, "turned_degrees": {"fixed": 4, "moving": 35}},
}


def test_a_good_result_raises_no_doubt():
    assert quality_warnings(GOOD) == []
    assert quality_warnings({**GOOD, "anatomy": None}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"similarity": {"before": 0.3, "after": 0.3}}, "did not make the two volumes more alike"),
        ({"similarity": {"before": 0.05, "after": 0.08}}, r"hardly alike .* \(local correlation 0.08\)"),
        ({"folding": {"strict_voxels": 7}}, "7 voxels are folded"),
        ({"jacobian": {"max": 31.0}}, "31 times as large"),
        ({"displacement_mm": {"max": 55.0}}, "55 mm: implausible"),
        ({"anatomy": {**GOOD["anatomy"], "after": 0.21}}, r"network sees overlap by only 0.21"),
        (
            {"anatomy": {**GOOD["anatomy"], "turned_degrees": {"fixed": 4, "moving": 92}}},
            r"brain in the moving volume lies 92 degrees off upright; .* left and right may be exchanged",
        ),
    ],
)
def test_each_doubt_has_its_sentence_with_the_value_seen(change, said):
    sentences = quality_warnings({**GOOD, **change})
    assert any(re.search(said, sentence) for sentence in sentences)


def test_a_pair_that_is_alike_from_the_start_is_not_blamed_for_gaining_nothing():
    assert quality_warnings({**GOOD, "similarity": {"before": 0.95, "after": 0.95}}) == []
