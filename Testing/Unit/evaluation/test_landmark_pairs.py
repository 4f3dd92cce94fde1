"""Which landmarks of two lists are compared: names, order, and landmarks without a position."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.evaluation.landmarks import landmark_report, pair_landmarks
from wavemorph.io.points import point_list

PLACES = {"AC": (0.0, 1.5, -4.0), "PC": (0.0, -25.0, -3.0), "L": (40.0, 10.0, 20.0), "R": (-40.0, 10.0, 20.0)}


def listed(names, unset=(), called=None):
    """The landmarks of these names, in this order; called: the names that they have in the list instead."""
    entries = [(name, None if name in unset else np.array(PLACES[name])) for name in names]
    return point_list([((called or {}).get(name, name), position) for name, position in entries])


def compared(fixed, moving):
    """(largest distance in mm, names of the pairs, pairs)."""
    pairs = pair_landmarks(fixed, moving)
    return landmark_report(pairs, sitk.Transform())["max"], pairs.names, pairs


@pytest.mark.parametrize("order", list(itertools.permutations(PLACES))[::5])
def test_the_same_names_are_paired_in_any_order_without_a_remark(order):
    error, names, pairs = compared(listed(PLACES), listed(order))
    assert error == 0
    assert names == list(PLACES)
    assert (pairs.paired_by, pairs.left_out, pairs.remarks) == ("name", [], [])


def test_pairs_of_which_either_landmark_has_no_position_are_left_out_and_said():
    error, names, pairs = compared(listed(PLACES, unset=("L",)), listed(PLACES, unset=("PC",)))
    assert error == 0
    assert names == ["AC", "R"]
    assert pairs.left_out == ["PC", "L"]
    assert '"PC", "L"' in pairs.remarks[0]


def test_landmarks_without_a_position_keep_their_place_where_pairs_follow_the_order():
    unnamed = dict.fromkeys(PLACES, "")
    error, names, pairs = compared(listed(PLACES, ("L",), unnamed), listed(PLACES, ("PC",), unnamed))
    assert error == 0
    assert names == ["1", "4"]
    assert pairs.paired_by == "order"
    assert pairs.left_out == ["2", "3"]
    assert len(pairs.remarks) == 1


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ({"AC": "F-1", "PC": "F-2", "L": "F-3", "R": "F-4"}, 'only the fixed list holds "AC", "PC", "L", "R"'),
        ({"R": "L"}, '"L" 2 times'),
        ({"R": ""}, "1 landmarks of the moving list have no name"),
        (dict.fromkeys(PLACES, ""), "the moving list has no names"),
    ],
)
def test_names_that_are_not_one_set_lead_to_pairs_by_order_with_the_reason(called, words):
    error, names, pairs = compared(listed(PLACES), listed(PLACES, called=called))
    assert error == 0
    assert names == list(PLACES)
    assert pairs.paired_by == "order"
    assert words in pairs.remarks[0]


def test_names_that_contradict_the_order_are_said():
    fixed, moving = listed(PLACES, called={"R": "right"}), listed(["L", "PC", "AC", "R"])
    pairs = pair_landmarks(fixed, moving)
    assert pairs.paired_by == "order"
    assert '"AC" is number 1 of the fixed and 3 of the moving list: check the names.' in pairs.remarks[0]


def test_of_lists_of_different_length_the_common_names_are_paired_and_the_others_listed():
    error, names, pairs = compared(listed(["R", "AC", "L"]), listed(["L", "PC", "R", "AC"]))
    assert error == 0
    assert names == ["R", "AC", "L"]
    assert pairs.left_out == ["PC"]
    assert '"PC"' in pairs.remarks[0]


def test_lists_that_cannot_be_paired_are_refused_with_the_reason():
    with pytest.raises(InputError, match=r'3 fixed and 4 moving landmarks.*only the fixed list holds "x"'):
        pair_landmarks(listed(["AC", "PC", "L"], called={"AC": "x", "PC": "y", "L": "z"}), listed(PLACES))
    with pytest.raises(InputError, match=r'3 fixed and 4 moving landmarks.*"AC" 2 times'):
        pair_landmarks(listed(["AC", "PC", "L"], called={"PC": "AC"}), listed(PLACES))
    with pytest.raises(InputError, match="No landmark has a position in both lists"):
        pair_landmarks(listed(["AC", "PC"], unset=("PC",)), listed(["AC", "PC"], unset=("AC",)))


def test_distances_are_measured_in_the_moving_space():
    shift = sitk.TranslationTransform(3, (3.0, 0.0, 4.0))
    report = landmark_report(pair_landmarks(listed(PLACES), listed(["L", "R", "AC", "PC"])), shift)
    assert report["mean"] == report["max"] == pytest.approx(5.0)
    assert report["landmarks"][0] == {"name": "AC", "error_mm": pytest.approx(5.0)}
