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
        {"spacing_mm": 10**400},
        {"error_map": True, "transform_type": "rigid"},
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


def test_the_transform_type_and_the_smoothness_are_checked_and_come_back():
    settings = Settings(transform_type="Rigid", smoothness="HIGH")
    assert (settings.transform_type, settings.smoothness) == ("rigid", "high")
    assert Settings.from_dict(settings.to_dict()) == settings
    assert (Settings().transform_type, Settings().smoothness) == ("deformable", "medium")
    assert Settings().deformable
    assert not settings.deformable
    with pytest.raises(SettingsError, match="transform type 'similarity'; choose one of rigid, affine, deformable"):
        Settings(transform_type="similarity")
    with pytest.raises(SettingsError, match="smoothness 'maximal'; choose one of low, medium, high"):
        Settings(smoothness="maximal")


def test_an_aligned_pair_needs_no_linear_transform():
    with pytest.raises(SettingsError, match="aligned already"):
        Settings(transform_type="rigid", affine=False)
