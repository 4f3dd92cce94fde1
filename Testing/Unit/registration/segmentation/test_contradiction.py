"""Segmentations of two brains that contradict each other are left out, with a note."""

from __future__ import annotations

import dataclasses

import pytest
import SimpleITK as sitk
import torch
from segmentations import affine_of, lattice, round_structures
from wavemorph import Settings, register
from wavemorph.registration import pipeline
from wavemorph.registration.segmentation.pair import PairSegmentation


def pair_of(moving_order: slice) -> PairSegmentation:
    """Structures, and the same moved; in reverse order each is taken for another one."""
    fixed = round_structures(lattice())
    moving = round_structures(lattice(), affine_of((5, 3, -4), (1.04, 0.98, 1.0), (6.0, -3.0, 4.0)))
    outside, structures = moving.probabilities[:, :1], moving.probabilities[:, 1:]
    moving = dataclasses.replace(moving, probabilities=torch.cat([outside, structures[:, moving_order]], 1))
    return PairSegmentation(fixed, moving, {"name": "stand-in", "sha256": ""})


SAME, OTHERS = slice(None), torch.arange(10, -1, -1)


def test_structures_that_agree_after_their_alignment_do_not_contradict_each_other():
    pair = pair_of(SAME)
    assert pair.dice_after(sitk.AffineTransform(3), pair.fixed.grid) < pair.alignment[1]
    assert not pair.contradicts_itself


def test_structures_in_other_places_contradict_each_other():
    assert pair_of(OTHERS).contradicts_itself


def test_between_a_head_and_a_skull_stripped_brain_they_are_kept():
    pair = pair_of(OTHERS)
    stripped = dataclasses.replace(pair.moving, skull_stripped=not pair.moving.skull_stripped)
    assert not dataclasses.replace(pair, moving=stripped).contradicts_itself


@pytest.mark.parametrize("initial", [None, sitk.AffineTransform(3)], ids=["", "with an initial transform"])
def test_without_an_initial_transform_such_a_pair_is_registered_as_a_body_with_a_note(tiny_pair, monkeypatch, initial):
    monkeypatch.setattr(pipeline, "segment_pair", lambda job: pair_of(OTHERS))
    settings = Settings(spacing_mm=5.0, weights="none", transform_type="rigid")
    report = register(*tiny_pair, settings, initial_transform=initial).report
    notes = [note for note in report["notes"] if "structures of the two brains" in note]
    if initial is None:
        assert len(notes) == 1 and "(Dice)" in notes[0]
        assert report["segmentation"] is None and report["subject"]["kind"] == "body"
    else:
        assert notes == [] and report["segmentation"] is not None
