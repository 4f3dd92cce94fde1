"""Warnings: a result that should not be trusted has a sentence, and a good one has none."""

from __future__ import annotations

import re

import pytest
from wavemorph.registration.report import quality_warnings

GOOD = {
    "transform_type": "deformable",
    "similarity": {"before": 0.3, "after": 0.6},
    "jacobian": {"max": 2.5},
    "folding": {"strict_voxels": 0},
    "displacement_mm": {"max": 12.0},
    "segmentation": {"before": 0.7, "after": 0.75, "rotation_deg": {"fixed": 4, "moving": 35}},
}


def test_a_good_result_has_no_warning():
    assert quality_warnings(GOOD) == []
    assert quality_warnings({**GOOD, "segmentation": None}) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"similarity": {"before": 0.3, "after": 0.3}},
            "The deformation did not increase the similarity of the volumes",
        ),
        (
            {"similarity": {"before": 0.3, "after": 0.3}, "transform_type": "rigid"},
            "The alignment did not increase the similarity of the volumes",
        ),
        (
            {"similarity": {"before": 0.05, "after": 0.08}},
            r"similarity after registration is low \(local correlation 0.08\)",
        ),
        ({"folding": {"strict_voxels": 7}}, "7 voxels are folded"),
        ({"jacobian": {"max": 31.0}}, "31 times as large"),
        ({"displacement_mm": {"max": 55.0}}, "55 mm, which is implausible"),
        ({"segmentation": {**GOOD["segmentation"], "after": 0.21}}, r"structures of the brain overlap by only 0.21"),
        (
            {"segmentation": {**GOOD["segmentation"], "rotation_deg": {"fixed": 4, "moving": 92}}},
            r"brain in the moving volume is rotated by 92 degrees; .* left and right may be exchanged",
        ),
    ],
)
def test_each_warning_names_the_value_that_is_wrong(change, expected):
    sentences = quality_warnings({**GOOD, **change})
    assert any(re.search(expected, sentence) for sentence in sentences)


def test_a_pair_that_is_similar_from_the_start_has_no_warning_for_gaining_nothing():
    assert quality_warnings({**GOOD, "similarity": {"before": 0.95, "after": 0.95}}) == []
