"""The segmentation of one volume: which of several passes counts, flips and shifts, and cancellation."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from segmentations import PointwiseNetwork, confident_structures, lattice
from wavemorph.errors import Cancelled
from wavemorph.registration.segmentation import inference, plausibility
from wavemorph.registration.segmentation.inference import SegmentationInput, segment
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.preprocessing import foreground


def phantom_input(atlas, on_forward=lambda: None) -> SegmentationInput:
    image = phantoms.head(phantoms.regular((32, 36, 30), (3.0, 3.0, 3.0)), noise=5.0)
    return SegmentationInput(PointwiseNetwork(), image, foreground(image), atlas, on_forward)


@pytest.fixture
def never_converged(monkeypatch):
    """So that the search tries every start."""
    for module in (inference, plausibility):
        monkeypatch.setattr(module, "ROTATION_TOLERANCE_DEG", -1.0)


def test_the_most_confident_segmentation_counts_and_the_first_of_equals(monkeypatch, never_converged):
    passes = []
    found, atlas = confident_structures(lattice())

    def less_and_less_confident(*_):
        even = torch.full_like(found.probabilities, 1 / found.probabilities.shape[1])
        probabilities = torch.lerp(found.probabilities, even, 0.002 * len(passes))
        passes.append(dataclasses.replace(found, probabilities=probabilities))
        return passes[-1]

    monkeypatch.setattr(inference, "_segment_on_grid", less_and_less_confident)
    best = segment(phantom_input(atlas))
    assert len(passes) == inference._MAX_REORIENTATIONS * (1 + len(inference._ROTATED_STARTS))
    assert best.probabilities is passes[0].probabilities


def test_a_more_confident_segmentation_that_is_more_rotated_in_its_lattice_does_not_count(monkeypatch):
    found, atlas = confident_structures(lattice())
    even = torch.full_like(found.probabilities, 1 / found.probabilities.shape[1])
    passes = []

    def more_and_more_confident(*_):
        probabilities = torch.lerp(found.probabilities, even, 0.05 - 0.002 * len(passes))
        passes.append(dataclasses.replace(found, probabilities=probabilities))
        return passes[-1]

    monkeypatch.setattr(inference, "_segment_on_grid", more_and_more_confident)
    monkeypatch.setattr(inference, "is_converged", lambda *_: False)
    monkeypatch.setattr(
        inference,
        "rotation_in_lattice_deg",
        lambda each, _: 12.0 if each.probabilities is passes[0].probabilities else 26.0,
    )
    best = segment(phantom_input(atlas))
    assert len(passes) > 1 and best.probabilities is passes[0].probabilities


def test_a_pass_over_the_mirrored_volume_on_shifted_lattices_gives_the_same_places(template):
    grid = make_working_grid(template, (np.array((20, 30, 40)), np.array((140, 190, 130))), 1.0, 2.0, 16)
    source = SegmentationInput(PointwiseNetwork(), template, foreground(template), {})
    plain, flipped = (
        inference._segment_on_grid(source, grid, flip, pad_shift) for flip, pad_shift in ((False, 0), (True, 6))
    )
    assert float((plain.probabilities - flipped.probabilities).abs().max()) < 1e-5
    assert not torch.allclose(plain.probabilities, plain.probabilities.flip(-1), atol=0.1)


def test_segmentation_can_be_cancelled_before_each_pass(monkeypatch, never_converged):
    found, atlas = confident_structures(lattice())
    passes, calls = [], []
    monkeypatch.setattr(inference, "_segment_on_grid", lambda *_: passes.append(1) or found)

    def on_forward():
        calls.append(len(calls))
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        segment(phantom_input(atlas, on_forward))
    assert calls == [0, 1, 2]
    assert len(passes) == 2


def test_turned_starts_are_not_tried_where_a_brain_is_nearly_upright(monkeypatch):
    found, atlas = confident_structures(lattice())
    monkeypatch.setattr(inference, "look_along", lambda *_: pytest.fail("tried"))
    monkeypatch.setattr(plausibility, "rotation_in_lattice_deg", lambda *_: 10.1)
    search = inference.Search(found, converged=False, confident=True)
    assert inference.look_everywhere(phantom_input(atlas), search) is search
    monkeypatch.setattr(plausibility, "rotation_in_lattice_deg", lambda *_: 35.0)
    monkeypatch.setattr(inference, "look_along", lambda source, given, axes: len(list(axes)))
    assert inference.look_everywhere(phantom_input(atlas), search) == len(inference._ROTATED_STARTS)


@pytest.mark.parametrize(
    ("sides_mm", "heights_mm"),
    [((240, 240, 176), [192]), ((240, 240, 240), [192]), ((160, 200, 240), [256, 192]), ((360, 280, 320), [])],
)
def test_of_a_volume_larger_than_a_head_the_upper_part_is_looked_at_if_that_is_not_larger(
    sides_mm, heights_mm, monkeypatch
):
    looked_at, network = [], PointwiseNetwork()
    monkeypatch.setattr(inference, "_SPACING_MM", 4.0)  # lattices of sides that are multiples of 64 mm
    monkeypatch.setattr(inference, "_MAX_VOXELS", inference._MAX_VOXELS / 4**3)
    network.register_forward_pre_hook(lambda _, images: looked_at.append(4 * images[0].shape[2]))
    image = sitk.Image([side // 8 for side in sides_mm], sitk.sitkFloat32) + 1.0
    image.SetSpacing((8.0, 8.0, 8.0))
    source = SegmentationInput(network, image, image > 0, confident_structures(lattice())[1])
    assert inference.first_look(source) == inference.Search()
    assert looked_at == heights_mm
