"""The summary of a report on the command line."""

from __future__ import annotations

import pytest
from wavemorph.cli.summary import summary

REPORT = {
    "verdict": {"level": "good", "reasons": [], "probability_wrong": 0.01},
    "subject": {
        "kind": "body",
        "extent_mm": [311.2, 219.8, 336.4],
        "working_spacing_mm": [2.0, 2.0, 2.04],
        "unseen_percent": 4.4,
    },
    "similarity": {"before": 0.2, "after": 0.6, "measure": "squared"},
    "segmentation": None,
    "folding": {"central_voxels": 0, "strict_voxels": 0, "evaluated_voxels": 10},
    "jacobian": {"min": 0.5, "max": 2.0, "sd_log": 0.2},
    "displacement_mm": {"mean": 2.0, "max": 9.0},
    "inverse_consistency_mm": {"mean": 0.0, "p99": 0.0, "max": 0.0, "inverse": "fields"},
    "seconds": {"total": 3.0},
    "device": {"type": "cpu"},
    "peak_memory_mb": {"process": 500.0},
    "warnings": ["Look."],
    "notes": ["Coarser."],
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "subject              body, 311 x 220 x 336 mm, worked at 2 mm; 4 % not in the moving volume"),
        ({"unseen_percent": 0.0, "kind": "brain"}, "subject              brain, 311 x 220 x 336 mm, worked at 2 mm"),
        (
            {"unseen_percent": 0.2, "extent_mm": [15.1, 9.54, 0.31], "working_spacing_mm": [0.0512] * 3},
            "subject              body, 15 x 9.5 x 0.31 mm, worked at 0.051 mm",
        ),
    ],
)
def test_the_line_after_the_verdict_says_what_was_taken_for_the_subject(change, expected):
    assert summary({**REPORT, "subject": {**REPORT["subject"], **change}}).splitlines()[1] == expected


def test_warnings_come_last_but_for_notes():
    assert summary(REPORT).splitlines()[-2:] == ["warning: Look.", "note: Coarser."]
    assert not any("warning" in line or "note" in line for line in summary({**REPORT, "warnings": [], "notes": []}))


def test_the_first_lines_are_the_verdict_and_its_reasons_which_are_not_repeated_as_warnings():
    verdict = {"level": "check", "reasons": ["The outlines overlap by only 0.60.", "Look."], "probability_wrong": 0.5}
    lines = summary({**REPORT, "verdict": verdict}).splitlines()
    assert lines[:3] == [
        "verdict              check",
        "reason: The outlines overlap by only 0.60.",
        "reason: Look.",
    ]
    assert sum("Look." in line for line in lines) == 1
    assert summary(REPORT).splitlines()[0] == "verdict              good"


@pytest.mark.parametrize("level", ["good", "check", "do not trust"])
def test_the_expected_error_is_told_where_it_holds_alone(level):
    expected = {"probability_percent": 90, "median_mm": 1.25, "p95_mm": 3.5}
    text = summary({**REPORT, "expected_error": expected, "verdict": {"level": level, "reasons": []}})
    line = next(line for line in text.splitlines() if line.startswith("expected error"))
    assert ("1.25 mm" in line) == (level != "do not trust")
    assert ("not known" in line) == (level == "do not trust")
