"""A template whose process is ended: nothing that was complete is done again, and the result is the same to the bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from small_study import damage, write_torsos
from wavemorph import Settings
from wavemorph.cohort import make_template
from wavemorph.cohort.subjects import Subject
from wavemorph.cohort.template import jobs
from wavemorph.cohort.template.study import STATE_FOLDER, TemplateOptions
from wavemorph.errors import OutputError

SETTINGS = Settings(weights="none", threads=1, spacing_mm=6.0)
OPTIONS = TemplateOptions(rounds=1, spacing_mm=6.0)
SUBJECTS = 2


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_torsos(tmp_path_factory.mktemp("torsos"))


@pytest.fixture(scope="module")
def undisturbed(volumes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "made"
    return folder, make_template(volumes, folder, OPTIONS, SETTINGS)


@pytest.fixture
def calls(monkeypatch):
    """The arguments of what was registered and written by name, and under "end" where the process is ended."""
    seen = {"register": [], "write_transform": [], "end": set()}
    for name in ("register", "write_transform"):
        original = getattr(jobs, name)

        def noted(*arguments, name=name, original=original, **more):
            seen[name].append(arguments)
            if (name, len(seen[name])) in seen["end"]:
                raise KeyboardInterrupt
            return original(*arguments, **more)

        monkeypatch.setattr(jobs, name, noted)
    return seen


def numbers(folder: Path) -> dict[str, tuple]:
    """All numbers of the template and of the maps, by file."""
    image = sitk.ReadImage(str(folder / "template.nii.gz"))
    found = {"template": (image.GetOrigin(), image.GetSpacing(), sitk.GetArrayFromImage(image).tobytes())}
    for path in folder.glob("*/*.h5"):
        read = sitk.CompositeTransform(sitk.ReadTransform(str(path)))
        parts = (read.GetNthTransform(part).GetParameters() for part in range(read.GetNumberOfTransforms()))
        found[path.relative_to(folder).as_posix()] = tuple(parts)
    return found


def test_a_run_that_is_ended_again_and_again_does_only_what_is_left(volumes, undisturbed, calls, tmp_path):
    made = tmp_path / "made"
    # in the linear start, in the round, and while maps are written
    calls["end"] = {("register", 2), ("register", 5), ("write_transform", 3)}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            make_template(volumes, made, OPTIONS, SETTINGS, resume=True)
        assert not (made / "template.nii.gz").exists()
    template = make_template(volumes, made, OPTIONS, SETTINGS, resume=True)
    assert len(calls["register"]) == 2 * SUBJECTS + 2  # and those that were cut off
    assert len(calls["write_transform"]) == 2 * SUBJECTS + 1
    folder, expected = undisturbed
    assert template.rounds == expected.rounds and template.subjects == expected.subjects
    assert numbers(made) == numbers(folder)
    assert len(numbers(made)) == 1 + 2 * SUBJECTS
    for name in ("convergence.tsv", "subjects.tsv", "template.json"):
        assert (made / name).read_bytes() == (folder / name).read_bytes()


def test_a_complete_template_is_left_alone_unless_it_is_made_from_something_else(volumes, undisturbed, calls, tmp_path):
    made = tmp_path / "made"
    shutil.copytree(undisturbed[0], made)
    again = make_template(volumes, made, OPTIONS, SETTINGS, resume=True)
    assert not calls["register"]
    assert (again.rounds, again.subjects, again.left_out) == (
        undisturbed[1].rounds,
        undisturbed[1].subjects,
        undisturbed[1].left_out,
    )
    assert sitk.Hash(again.image) == sitk.Hash(undisturbed[1].image)
    changed = (
        (volumes, OPTIONS, replace(SETTINGS, smoothness="high")),
        (volumes, replace(OPTIONS, rounds=2), SETTINGS),
        (volumes[::-1], OPTIONS, SETTINGS),
    )
    calls["end"] = {("register", 1), ("register", 2), ("register", 3), ("register", 4)}
    for arguments in changed:
        with pytest.raises(KeyboardInterrupt):
            make_template(arguments[0], made, *arguments[1:], resume=True)
    damage(made / "torso-1" / "template_to_subject.h5")
    with pytest.raises(KeyboardInterrupt):
        make_template(volumes, made, OPTIONS, SETTINGS, resume=True)


def test_a_volume_that_changes_meanwhile_begins_everything_anew(volumes, calls, tmp_path):
    own = [Path(shutil.copy(volume, tmp_path)) for volume in volumes]
    calls["end"] = {("register", 4), ("register", 5)}  # in the round, and then at once
    with pytest.raises(KeyboardInterrupt):
        make_template(own, tmp_path / "made", OPTIONS, SETTINGS)
    assert calls["register"][-1][2].transform_type == "deformable"
    damage(own[1])
    with pytest.raises(KeyboardInterrupt):
        make_template(own, tmp_path / "made", OPTIONS, SETTINGS, resume=True)
    assert calls["register"][-1][2].transform_type == "affine"


def test_a_damaged_intermediate_file_is_made_again(volumes, undisturbed, calls, tmp_path):
    made = tmp_path / "made"
    calls["end"] = {("register", 2 * SUBJECTS)}
    with pytest.raises(KeyboardInterrupt):
        make_template(volumes, made, OPTIONS, SETTINGS)
    work = made / STATE_FOLDER / "work"
    damage(work / "subjects" / "torso-0" / "registration" / "displacement.nrrd")
    make_template(volumes, made, OPTIONS, SETTINGS, resume=True)
    assert len(calls["register"]) == 2 * SUBJECTS + 2  # the one that was cut off, and the damaged one
    assert numbers(made) == numbers(undisturbed[0])


def test_a_folder_that_is_not_empty_is_refused_without_resume(volumes, undisturbed, tmp_path):
    with pytest.raises(OutputError, match="holds a template already; continue it with --resume"):
        make_template(volumes, undisturbed[0], OPTIONS, SETTINGS)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="not empty, and is not that of a template"):
        make_template(volumes, tmp_path, OPTIONS, SETTINGS, resume=True)


def test_a_template_of_a_bids_data_set_is_a_bids_derivative(volumes, calls, tmp_path):
    entities = {"session": "1", "suffix": "T1w", "datatype": "anat"}
    subjects = [
        Subject(f"sub-0{n}_ses-1", volume, entities={"subject": f"0{n}", **entities})
        for n, volume in enumerate(volumes)
    ]
    (tmp_path / "raw").mkdir()
    description = {"Name": "Heads", "BIDSVersion": "1.10.0"}
    (tmp_path / "raw" / "dataset_description.json").write_text(json.dumps(description))
    made = tmp_path / "made"
    options = replace(OPTIONS, begin_with=volumes[0])
    make_template(subjects, made, options, SETTINGS, bids=tmp_path / "raw")
    for n in range(SUBJECTS):
        stem = made / f"sub-0{n}" / "ses-1" / "anat" / f"sub-0{n}_ses-1"
        assert Path(f"{stem}_from-T1w_to-template_mode-image_xfm.h5").is_file()
        assert Path(f"{stem}_from-template_to-T1w_mode-image_xfm.h5").is_file()
    assert (made / "tpl-template" / "anat" / "tpl-template_T1w.nii.gz").is_file()
    assert json.loads((made / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert len(calls["register"]) == SUBJECTS
    make_template(subjects, made, options, SETTINGS, bids=tmp_path / "raw", resume=True)
    assert len(calls["register"]) == SUBJECTS
