"""The verdict and its reasons, from reports of right and of wrong pairs."""

from __future__ import annotations

import copy

import phantoms
import pytest
from wavemorph import Settings, register
from wavemorph.registration import verdict
from wavemorph.registration.verdict import CHECK, DO_NOT_TRUST, GOOD, judge

RIGHT = {
    "transform_type": "deformable",
    "evidence": {
        "similarity": 0.8,
        "similarity_shifted": 0.14,
        "information": 0.7,
        "information_shifted": 0.05,
        "outlines": 0.97,
        "stretch": 0.06,
        "displacement": 3.0,
        "rigid_part": 1.0,
    },
    "subject": {"rotation_deg": 4, "unseen_percent": 2.0},
    "segmentation": {"after": 0.84},
    "contrast": {"same": True},
    "warnings": [],
}
WRONG = copy.deepcopy(RIGHT)
WRONG["evidence"].update(similarity=0.17, similarity_shifted=0.15, information=0.06, information_shifted=0.06)
WRONG["evidence"].update(outlines=0.88, displacement=16.0)
WRONG.update(segmentation=None, contrast={"same": False})


def changed(report: dict, entry: str, **values) -> dict:
    return {**report, entry: {**report[entry], **values}}


def test_a_right_pair_is_good_and_needs_no_reason():
    found = judge(RIGHT)
    assert found["level"] == GOOD and found["reasons"] == [] and found["probability_wrong"] < 0.1


def test_a_wrong_pair_is_not_to_be_trusted_and_the_weightiest_reasons_come_first():
    found = judge(WRONG)
    assert found["level"] == DO_NOT_TRUST and found["probability_wrong"] > 0.9
    assert any("hardly agree more than misaligned copies" in reason for reason in found["reasons"])
    assert any("16 mm on average" in reason for reason in found["reasons"])
    assert len(set(found["reasons"])) == len(found["reasons"])


def with_expected_error(median_mm: float) -> dict:
    subject = {**RIGHT["subject"], "extent_mm": [160.0, 200.0, 128.0]}  # a cube of the same volume has sides of 160 mm
    return {**RIGHT, "subject": subject, "expected_error": {"median_mm": median_mm, "p95_mm": 30.0}}


def test_a_large_expected_error_makes_a_good_result_one_to_check_and_is_told():
    found = judge(with_expected_error(0.08 * 160))
    assert found["level"] == CHECK and "above 12.8 mm" in found["reasons"][0]
    assert judge(with_expected_error(0.07 * 160)) == judge(RIGHT)


def test_an_expected_error_in_part_of_the_subject_is_no_reason():
    part = with_expected_error(2.0)
    part["expected_error"]["p95_mm"] = 60.0
    assert judge(part)["level"] == GOOD


@pytest.mark.parametrize("name", list(verdict.features(RIGHT)))
def test_every_feature_has_a_weight(name):
    assert name in verdict._WEIGHTS


def test_a_displacement_is_told_in_mm_of_the_subject():
    assert any("0.8 mm on average" in reason for reason in judge(WRONG, length_scale=0.05)["reasons"])


def test_twice_the_spacing_is_not_good():
    found = judge(changed(changed(RIGHT, "evidence", stretch=0.69, similarity=0.47), "segmentation", after=0.6))
    assert found["level"] != GOOD
    assert any("99 %; check the voxel spacing" in reason for reason in found["reasons"])


def test_a_warning_makes_a_good_result_one_to_check():
    folded = judge({**RIGHT, "warnings": ["7 voxels are folded; the inverse is not valid there."]})
    assert folded["level"] == CHECK and folded["reasons"] == ["7 voxels are folded; the inverse is not valid there."]


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("similarity", 0.3),
        ("outlines", 0.6),
        ("stretch", 0.6),
        ("displacement", 15.0),
        ("rigid_part", 8.0),
        ("information", 0.06),
    ],
)
def test_each_number_raises_the_probability_that_something_is_wrong(name, worse):
    found = judge(changed(RIGHT, "evidence", **{name: worse}))
    assert found["probability_wrong"] > judge(RIGHT)["probability_wrong"]


def test_a_linear_map_that_agrees_no_more_than_misaligned_copies_is_one_to_check():
    linear = changed({**RIGHT, "transform_type": "affine"}, "evidence", displacement=0.0, rigid_part=0.0)
    aligned = changed(linear, "evidence", similarity=0.24, similarity_shifted=0.12)
    assert judge(aligned)["level"] == GOOD
    astray = judge(changed(linear, "evidence", similarity=0.14, similarity_shifted=0.13))
    assert astray["level"] == CHECK and "hardly agree more than misaligned copies" in astray["reasons"][0]


def test_doubtful_sizes_are_part_of_the_verdict(tiny_pair):
    fixed, moving = tiny_pair
    report = register(fixed, phantoms.scaled(moving, 3.5), Settings(transform_type="affine", weights="none")).report
    assert report["verdict"]["level"] != GOOD
    assert any("spacing of one of them is wrong" in reason for reason in report["verdict"]["reasons"])


@pytest.mark.parametrize(
    ("gain", "level"), [(None, GOOD), (-0.03, GOOD), (0.03, GOOD), (0.07, CHECK), (0.2, DO_NOT_TRUST)]
)
def test_a_pair_that_agrees_better_when_mirrored_is_not_good(gain, level):
    report = {**RIGHT, "mirrored_gain": gain}
    found = judge(report)
    assert found["level"] == level
    assert (level == GOOD) == (found["reasons"] == [])
    if level != GOOD:
        assert found["reasons"][0].startswith("The volumes agree better where the moving one is mirrored")


def test_a_wrong_pair_stays_wrong_where_a_mirrored_one_agrees_a_little_better():
    assert judge({**WRONG, "mirrored_gain": 0.07})["level"] == DO_NOT_TRUST
