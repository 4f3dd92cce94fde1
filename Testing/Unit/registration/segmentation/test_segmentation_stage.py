"""The segmentation stage of a registration: when it runs, how, and what happens where it fails."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import wavemorph
from segmentations import RAS, confident_structures, lattice
from wavemorph.errors import Cancelled
from wavemorph.registration.segmentation import stage
from wavemorph.registration.segmentation.inference import Search
from wavemorph.registration.segmentation.plausibility import angle_between_deg


@pytest.fixture
def phantom():
    return phantoms.head(phantoms.regular((32, 36, 30), (3.0, 3.0, 3.0)), noise=5.0)


@pytest.mark.parametrize(("preset", "flip_tta"), [("Balanced", False), ("Precise", True)])
def test_precise_segments_with_flip_test_time_augmentation(phantom, preset, flip_tta, monkeypatch):
    brain, _ = confident_structures(lattice())
    given = []

    def finish_once(source, found, flip_tta):
        given.append(flip_tta)
        raise Cancelled

    monkeypatch.setattr(stage, "first_look", lambda source: Search(brain, converged=True, confident=True))
    monkeypatch.setattr(stage, "finish", finish_once)
    with pytest.raises(Cancelled):
        wavemorph.register(phantom, phantom, wavemorph.Settings(preset=preset))
    assert given == [flip_tta]


@pytest.mark.parametrize("wrong", ["fixed", "moving"])
def test_where_one_brain_is_found_the_other_is_looked_for_as_it_fits_that_one(phantom, wrong, monkeypatch):
    brain, _ = confident_structures(lattice())
    turn = phantoms.rotation((0, 0, 180))
    turned = phantoms.turned(phantom, turn)
    pair = (turned, phantom) if wrong == "fixed" else (phantom, turned)
    looked_along = []

    def first_look(source):
        upright = np.allclose(source.image.GetDirection(), phantom.GetDirection())
        return Search(brain, converged=True, confident=True) if upright else Search(confident=True)

    def look_along(source, found, axes):
        looked_along.append((source.image, *axes))
        raise Cancelled

    monkeypatch.setattr(stage, "first_look", first_look)
    monkeypatch.setattr(stage, "look_along", look_along)
    monkeypatch.setattr(stage, "head_axes", lambda found, atlas: RAS)
    with pytest.raises(Cancelled):
        wavemorph.register(*pair)
    ((image, axes),) = looked_along
    assert np.allclose(image.GetDirection(), turned.GetDirection())
    assert angle_between_deg(axes, turn @ RAS) < 5


def test_without_networks_nothing_is_segmented_and_the_report_says_so(phantom, monkeypatch):
    monkeypatch.setattr(stage, "first_look", lambda *_, **__: pytest.fail("segmented"))
    settings = wavemorph.Settings(weights="none", affine=False, spacing_mm=4.0)
    assert wavemorph.register(phantom, phantom, settings).report["segmentation"] is None


def test_without_memory_for_the_segmentation_the_registration_continues(phantom, monkeypatch):
    calls = []

    def exhausted(*_, **__):
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(stage, "first_look", exhausted)
    result = wavemorph.register(phantom, phantom, wavemorph.Settings(affine=False, spacing_mm=4.0))
    assert calls
    assert result.report["segmentation"] is None
