"""The record of a subject: what it was made from, and whether its files are as they were written."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from small_study import damage
from wavemorph.cohort.study.records import Record, checksum, provenance, record_path
from wavemorph.models import weights
from wavemorph.settings import Settings

SETTINGS = Settings(weights="none", threads=1)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"voxels")
    (tmp_path / "out.h5").write_bytes(b"transform")
    return tmp_path


def made_from(study: Path, settings: Settings = SETTINGS, **choices):
    return provenance({"moving": study / "a.nii"}, settings, **choices)


def test_the_checksum_of_a_file_is_its_sha256(study):
    assert checksum(study / "a.nii") == hashlib.sha256(b"voxels").hexdigest()


def test_voxels_in_a_file_of_their_own_belong_to_the_checksum(study):
    (study / "b.mhd").write_bytes(b"header")
    (study / "b.raw").write_bytes(b"one")
    before = checksum(study / "b.mhd")
    (study / "b.raw").write_bytes(b"two")
    assert checksum(study / "b.mhd") != before


def test_each_slice_of_a_folder_belongs_to_the_checksum(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"one")
    before = checksum(tmp_path)
    (tmp_path / "series" / "2.dcm").write_bytes(b"")
    more = checksum(tmp_path)
    (tmp_path / "series" / "2.dcm").rename(tmp_path / "series" / "3.dcm")
    assert len({before, more, checksum(tmp_path)}) == 3


def test_a_record_holds_for_the_same_volumes_settings_and_files_only(study):
    record = Record(made_from(study), {"out.h5": checksum(study / "out.h5")}, {"subject": "a"})
    path = study / "record.json"
    record.write(path)
    read = Record.read(path)
    assert read == record
    assert read.holds(made_from(study), ["out.h5"], study)
    assert read.holds(made_from(study, replace(SETTINGS, threads=2)), ["out.h5"], study)
    assert not read.holds(made_from(study, replace(SETTINGS, smoothness="high")), ["out.h5"], study)
    assert not read.holds(made_from(study, store_spacing=2.0), ["out.h5"], study)
    assert not read.holds(made_from(study), ["out.h5", "jacobian.nii.gz"], study)
    damage(study / "out.h5")
    assert not read.holds(made_from(study), ["out.h5"], study)
    (study / "out.h5").unlink()
    assert not read.holds(made_from(study), ["out.h5"], study)


def test_a_record_does_not_hold_for_another_volume_or_version(study, monkeypatch):
    record = Record(made_from(study), {}, {})
    monkeypatch.setattr("wavemorph.cohort.study.records.__version__", "0.0.0")
    assert not record.holds(made_from(study), [], study)
    monkeypatch.undo()
    damage(study / "a.nii")
    assert not record.holds(made_from(study), [], study)


def test_the_weights_belong_to_what_a_result_is_made_from(study):
    cards = {
        name: (weights.SHIPPED_FOLDER / f"{name}.safetensors").read_bytes()
        for name in ("wavemorph", "brain-segmentation")
    }
    expected = [hashlib.sha256(content).hexdigest() for content in cards.values()]
    found = made_from(study, Settings())["weights"]
    assert [found["registration"], found["segmentation"]] == expected
    assert set(made_from(study, Settings(transform_type="rigid"))["weights"]) == {"segmentation"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"made_from": {}}', '{"made_from": 1, "outputs": 2, "row": 3}'])
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    assert Record.read(tmp_path / "record.json") is None
    assert Record.read(tmp_path / "missing.json") is None


def test_records_are_hidden_from_readers_of_a_data_set_and_each_has_a_folder(tmp_path):
    path = record_path(tmp_path, "sub-01")
    assert path.relative_to(tmp_path).parts[0].startswith(".")
    assert path.parent != record_path(tmp_path, "sub-02").parent
