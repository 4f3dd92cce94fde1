"""The 24 ways in which a box can lie, on phantoms whose header is turned."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
from pointsets import moved
from wavemorph.registration.linear.mutual_information import estimate_affine, estimate_rigid
from wavemorph.registration.linear.orientation import likeliest_rotation, quarter_turns
from wavemorph.registration.segmentation.plausibility import angle_between_deg
from wavemorph.spatial.preprocessing import Pair, foreground

TILT = phantoms.rotation((6, -5, 7))


@pytest.fixture(scope="module")
def pair():
    """(fixed, moving): one head, the moving one rotated by some degrees."""
    moving = phantoms.turned(phantoms.head(phantoms.regular(), noise=0.02, seed=2), TILT)
    return phantoms.head(phantoms.regular(), noise=0.02), moving


def test_there_are_24_quarter_turns_and_none_mirrors():
    turns = quarter_turns()
    assert len({turn.tobytes() for turn in turns}) == 24
    assert np.array_equal(turns[0], np.eye(3))
    for turn in turns:
        assert np.array_equal(turn @ turn.T, np.eye(3)) and np.linalg.det(turn) == pytest.approx(1)


@pytest.mark.parametrize("which", range(0, 24, 3))
@pytest.mark.parametrize("estimate", [estimate_affine, estimate_rigid])
def test_a_head_is_aligned_whatever_orientation_its_file_states(pair, which, estimate):
    fixed, moving = pair
    turn = quarter_turns()[which]
    turned = phantoms.turned(moving, turn)
    found = estimate(fixed, turned, foreground(fixed), foreground(turned), length_scale=0.4)
    points = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    assert np.linalg.norm(moved(found, points) - points @ (turn @ TILT).T, axis=1).max() < 2.5


@pytest.mark.parametrize("which", [1, 9, 17])
def test_the_likeliest_rotation_is_the_turn_of_the_header(pair, which):
    fixed, moving = pair
    turn = quarter_turns()[which]
    rotation = likeliest_rotation(Pair(fixed, phantoms.turned(moving, turn)), seed=0)
    assert angle_between_deg(rotation, turn @ TILT) < 5
