"""The segmentation stage of a registration: when it runs, how, and what happens where it fails."""

from __future__ import annotations

import phantoms
import pytest
import wavemorph
from wavemorph.errors import Cancelled
from wavemorph.registration.segmentation import stage


@pytest.fixture
def phantom():
    return phantoms.head(phantoms.regular((32, 36, 30), (3.0, 3.0, 3.0)), noise=5.0)


@pytest.mark.parametrize(("preset", "flip_tta"), [("Balanced", False), ("Precise", True)])
def test_precise_segments_with_flip_test_time_augmentation(phantom, preset, flip_tta, monkeypatch):
    given = []

    def segment_once(source, flip_tta):
        given.append(flip_tta)
        raise Cancelled

    monkeypatch.setattr(stage, "segment", segment_once)
    with pytest.raises(Cancelled):
        wavemorph.register(phantom, phantom, wavemorph.Settings(preset=preset))
    assert given == [flip_tta]


def test_without_networks_nothing_is_segmented_and_the_report_says_so(phantom, monkeypatch):
    monkeypatch.setattr(stage, "segment", lambda *_, **__: pytest.fail("segmented"))
    settings = wavemorph.Settings(weights="none", affine=False, spacing_mm=4.0)
    assert wavemorph.register(phantom, phantom, settings).report["segmentation"] is None


def test_without_memory_for_the_segmentation_the_registration_continues(phantom, monkeypatch):
    calls = []

    def exhausted(*_, **__):
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(stage, "segment", exhausted)
    result = wavemorph.register(phantom, phantom, wavemorph.Settings(affine=False, spacing_mm=4.0))
    assert calls
    assert result.report["segmentation"] is None
