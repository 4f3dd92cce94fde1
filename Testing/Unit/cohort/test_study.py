"""A study in this process: what is written, what fails, and what --resume does again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import SimpleITK as sitk
from small_study import SETTINGS, damage, write_heads
from wavemorph import cohort
from wavemorph.cohort.runner import SerialRunner
from wavemorph.cohort.study import registering
from wavemorph.errors import InputError, OutputError, SettingsError
from wavemorph.system.private_folders import lock_folder, unlock


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads"), 2)


@pytest.fixture
def registered(monkeypatch):
    """The names of the volumes that are registered."""
    names, register = [], registering.register

    def noted(fixed, moving, *rest, **more):
        names.append(moving.name)
        return register(fixed, moving, *rest, **more)

    monkeypatch.setattr(registering, "register", noted)
    return names


def run(heads, output, settings=SETTINGS, **more):
    template, files = heads
    return cohort.run(template, files, output=output, settings=settings, runner=SerialRunner(), **more)


def test_every_subject_has_its_files_its_row_and_its_record(heads, tmp_path):
    table = run(heads, tmp_path / "study")
    assert list(table["subject"]) == ["head-0", "head-1"]
    assert list(table["status"]) == ["done", "done"]
    assert (table["similarity_after"] > table["similarity_before"]).all()
    for _, row in table.iterrows():
        report = json.loads((tmp_path / "study" / row["report"]).read_text())
        assert row["similarity_after"] == pytest.approx(report["similarity"]["after"], abs=1e-5)
        assert row["verdict"] == report["verdict"]["level"]
        warped = sitk.ReadImage(str(tmp_path / "study" / row["warped"]))
        assert warped.GetSize() == sitk.ReadImage(str(heads[0])).GetSize()
        assert (tmp_path / "study" / row["transform"]).is_file() and (tmp_path / "study" / row["jacobian"]).is_file()
    assert table["inverse"].isna().all() and table["error_map"].isna().all()
    assert (tmp_path / "study" / "subjects.tsv").is_file()


def test_a_corrupt_file_costs_one_row(heads, tmp_path):
    template, files = heads
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(files[0].read_bytes()[:5000])
    table = run((template, [broken, tmp_path / "missing.nii.gz", files[1]]), tmp_path / "study")
    assert list(table["status"]) == ["failed", "failed", "done"]
    assert "cut short or damaged" in table["error"][0]
    assert "missing.nii.gz' does not exist" in table["error"][1]
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == [".wavemorph", "head-1", "subjects.tsv"]


def test_resuming_does_what_is_missing_changed_or_damaged_and_nothing_else(heads, tmp_path, registered):
    template, files = heads
    own = [tmp_path / file.name for file in files]
    for copy, file in zip(own, files):
        copy.write_bytes(file.read_bytes())
    study = tmp_path / "study"
    first = run((template, own), study)
    assert registered == ["head-0.nii.gz", "head-1.nii.gz"]

    def again(settings=SETTINGS, **more):
        registered.clear()
        table = run((template, own), study, settings, resume=True, **more)
        return list(registered), table

    names, table = again()
    assert names == [] and table.equals(first)
    damage(study / "head-1" / "registered.nii.gz")
    assert again()[0] == ["head-1.nii.gz"]
    (study / "head-0" / "report.json").unlink()
    assert again()[0] == ["head-0.nii.gz"]
    own[0].write_bytes(files[1].read_bytes())
    assert again()[0] == ["head-0.nii.gz"]
    assert again(replace(SETTINGS, smoothness="high"))[0] == ["head-0.nii.gz", "head-1.nii.gz"]
    assert again(replace(SETTINGS, smoothness="high", threads=2))[0] == []


def test_a_subject_that_fails_when_resumed_keeps_no_files_of_its_former_volume(heads, tmp_path):
    template, files = heads
    own = tmp_path / "own.nii.gz"
    own.write_bytes(files[0].read_bytes())
    study = tmp_path / "study"
    run((template, [own]), study)
    own.write_bytes(b"nothing")
    table = run((template, [own]), study, resume=True)
    assert list(table["status"]) == ["failed"]
    assert not [path for path in study.rglob("*") if path.is_file() and path.name != "subjects.tsv"]


def test_a_table_brings_masks_and_covariates(heads, tmp_path):
    template, files = heads
    mask = sitk.Cast(sitk.ReadImage(str(files[0])) > 10, sitk.sitkUInt8)
    sitk.WriteImage(mask, str(tmp_path / "mask.nii.gz"))
    rows = ["subject,volume,mask,age,site", f"anna,{files[0]},mask.nii.gz,61,north", f"bert,{files[1]},,,south"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    arguments = {"output": tmp_path / "study", "settings": SETTINGS, "runner": SerialRunner(), "outputs": ["report"]}
    table = cohort.run(template, table=tmp_path / "list.csv", **arguments)
    assert list(table["subject"]) == ["anna", "bert"] and list(table["site"]) == ["north", "south"]
    assert table["age"][0] == 61
    record = json.loads((tmp_path / "study" / ".wavemorph" / "anna" / "record.json").read_text())
    assert set(record["made_from"]["inputs"]) == {"fixed", "moving", "moving_mask"}


def test_the_folder_must_be_new_or_that_of_the_study_that_is_resumed(heads, tmp_path):
    study = tmp_path / "study"
    (study / ".wavemorph").mkdir(parents=True)
    with pytest.raises(OutputError, match="holds a study already; continue it with --resume"):
        run(heads, study)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    for resume in (False, True):
        with pytest.raises(OutputError, match="is not empty, and is not that of a study; name a new one"):
            run(heads, other, resume=resume)
    with pytest.raises(OutputError, match="is a file; name a folder"):
        run(heads, other / "notes.txt")
    lock = lock_folder(study / ".wavemorph")
    try:
        with pytest.raises(OutputError, match="Another process works on the study"):
            run(heads, study, resume=True)
    finally:
        unlock(lock)


def test_what_cannot_be_run_is_refused_before_a_folder_is_made(heads, tmp_path):
    template, files = heads
    arguments = {"output": tmp_path / "study", "settings": SETTINGS, "runner": SerialRunner()}
    with pytest.raises(InputError, match="give one of them"):
        cohort.run(template, files, table="list.csv", **arguments)
    with pytest.raises(InputError, match="give one of them"):
        cohort.run(template, **arguments)
    with pytest.raises(InputError, match="does not exist"):
        cohort.run(tmp_path / "none.nii.gz", files, **arguments)
    with pytest.raises(SettingsError, match="unknown output 'picture'; choose of transform, inverse"):
        cohort.run(template, files, outputs=["picture"], **arguments)
    with pytest.raises(SettingsError, match="There is no output"):
        cohort.run(template, files, outputs=[], **arguments)
    (tmp_path / "list.csv").write_text(f"volume,status\n{files[0]},new\n")
    with pytest.raises(InputError, match='has a column "status", which the results have too'):
        cohort.run(template, table=tmp_path / "list.csv", **arguments)
    assert not (tmp_path / "study").exists()


def test_an_unexpected_error_is_one_sentence_in_the_row(heads, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(registering, "register", broken)
    table = run(heads, tmp_path / "study")
    assert set(table["error"]) == {"Unexpected ZeroDivisionError (division by zero)."}


def test_a_relative_path_means_the_same_to_a_worker_in_another_folder(heads, tmp_path, monkeypatch):
    template, files = heads
    jobs = []

    class Elsewhere:
        def run(self, function, given, stage):
            jobs.extend(given.values())
            monkeypatch.chdir("/")
            yield from SerialRunner().run(function, given, stage)

    monkeypatch.chdir(files[0].parent)
    table = cohort.run(template.name, [files[0].name], output=tmp_path / "study", settings=SETTINGS, runner=Elsewhere())
    assert list(table["status"]) == ["done"]
    assert jobs[0].fixed.is_absolute() and jobs[0].subject.volume.is_absolute()
