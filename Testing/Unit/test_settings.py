"""The settings of a registration are checked when they are made."""

from __future__ import annotations

import pytest
from wavemorph import Settings
from wavemorph.errors import SettingsError


def test_settings_are_checked_when_they_are_made():
    assert Settings(preset="precise").preset == "Precise"
    for wrong in (
        {"preset": "Fast"},
        {"threads": 0},
        {"spacing_mm": 500.0},
        {"spacing_mm": 0.0},
        {"max_voxels": 10},
        {"device": "tpu"},
    ):
        with pytest.raises(SettingsError):
            Settings(**wrong)
    assert Settings.from_dict(Settings(threads=3).to_dict()) == Settings(threads=3)
    assert not Settings().inverse
    with pytest.raises(SettingsError, match="Unknown setting 'speed'"):
        Settings.from_dict({"speed": 1})
