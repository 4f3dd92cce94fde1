"""BIDS in and out, against PyBIDS and the BIDS validator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.cohort.bids import BidsLayout, BidsTemplate, scans_of_person, subjects_from_bids, template_label
from wavemorph.cohort.subjects import Subject
from wavemorph.cohort.template.study import STATE_FOLDER
from wavemorph.errors import InputError, OutputError
from wavemorph.io.outputs import USUAL_NAMES

VALIDATOR = Path(sys.executable).parent / "bids-validator-deno"
SCANS = (
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_run-2_T1w.nii.gz",
    "sub-02/anat/sub-02_acq-mprage_T1w.nii.gz",
    "sub-02/anat/sub-02_T2w.nii.gz",
)


def volume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def dataset(tmp_path):
    """A raw data set of two subjects; one has sessions and runs, the other an acquisition and a T2w volume."""
    folder = tmp_path / "raw"
    for scan in SCANS:
        volume(folder / scan)
    description = {"Name": "Two people", "BIDSVersion": "1.10.0", "Authors": ["A. One", "B. Two"], "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t41\tF\nsub-02\tn/a\tM\n")
    return folder


@pytest.fixture
def derivative(dataset, tmp_path):
    """The layout of a study of this data set, with a file for each output."""
    layout = BidsLayout(tmp_path / "out", "MNI", volume(tmp_path / "template.nii.gz"), dataset)
    layout.write_description()
    for subject in subjects_from_bids(dataset):
        for output in USUAL_NAMES:
            path = layout.path(subject, output)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name.endswith(".nii.gz"):
                shutil.copy(subject.volume, path)
            else:
                report = {"subject": {"kind": "brain"}, "warnings": []}
                path.write_text(json.dumps({layout.report_entry: report}))
    for name in ("subjects.tsv", "quality.html"):
        (layout.folder / name).write_text("text")
    return layout.folder


def issues(folder: Path) -> dict[str, set[str]]:
    """The codes of what the BIDS validator finds, by severity."""
    done = subprocess.run([VALIDATOR, "--format", "json", folder], capture_output=True, text=True, check=False)
    found: dict[str, set[str]] = {"error": set(), "warning": set()}
    for issue in json.loads(done.stdout)["issues"]["issues"]:
        found.setdefault(issue["severity"], set()).add(issue["code"])
    return found


def test_sessions_runs_and_acquisitions_are_subjects_of_their_own(dataset):
    subjects = subjects_from_bids(dataset)
    assert [subject.name for subject in subjects] == [
        "sub-01_ses-1",
        "sub-01_ses-2_run-1",
        "sub-01_ses-2_run-2",
        "sub-02_acq-mprage",
    ]
    assert [str(subject.volume.relative_to(dataset)) for subject in subjects] == list(SCANS[:4])
    assert subjects[1].entities == {
        "subject": "01",
        "session": "2",
        "run": "1",
        "datatype": "anat",
        "suffix": "T1w",
    }


def test_participants_become_covariates(dataset):
    assert [subject.covariates for subject in subjects_from_bids(dataset)][-2:] == [
        {"age": "41", "sex": "F"},
        {"age": "n/a", "sex": "M"},
    ]


def test_columns_of_sessions_become_covariates_and_stand_before_those_of_the_subject(dataset):
    table = "session_id\tage\tdose\nses-1\t41\t0\n2\t43\t5\n"
    (dataset / "sub-01" / "sub-01_sessions.tsv").write_text(table)
    subjects = {subject.name: subject.covariates for subject in subjects_from_bids(dataset)}
    assert subjects["sub-01_ses-1"] == {"age": "41", "sex": "F", "dose": "0"}
    assert subjects["sub-01_ses-2_run-1"] == {"age": "43", "sex": "F", "dose": "5"}
    assert subjects["sub-02_acq-mprage"] == {"age": "n/a", "sex": "M"}
    (dataset / "sub-01" / "sub-01_sessions.tsv").write_text("session\tage\nses-1\t41\n")
    with pytest.raises(InputError, match="has no column session_id"):
        subjects_from_bids(dataset)


@pytest.mark.parametrize("label", ["01", "sub-01"])
def test_the_scans_of_one_person_are_found(dataset, label):
    names = [scan.name for scan in scans_of_person(dataset, label)]
    assert names == ["sub-01_ses-1", "sub-01_ses-2_run-1", "sub-01_ses-2_run-2"]
    with pytest.raises(InputError, match="no T1w volume of the subject '7'; its subjects are 01, 02"):
        scans_of_person(dataset, "7")


def test_a_data_set_without_participants_has_no_covariates(dataset):
    (dataset / "participants.tsv").unlink()
    assert all(subject.covariates == {} for subject in subjects_from_bids(dataset))


def test_another_suffix_chooses_other_volumes(dataset):
    assert [subject.name for subject in subjects_from_bids(dataset, "T2w")] == ["sub-02"]


def test_masks_are_not_used_and_derivatives_are_not_read(dataset):
    volume(dataset / "sub-02/anat/sub-02_desc-brain_mask.nii.gz")
    volume(dataset / "derivatives/other/sub-02/anat/sub-02_desc-preproc_T1w.nii.gz")
    subjects = subjects_from_bids(dataset)
    assert len(subjects) == 4
    assert all(subject.mask is None and subject.labels is None for subject in subjects)


def test_what_lies_in_another_space_already_is_left_out(dataset):
    volume(dataset / "sub-02/anat/sub-02_acq-mprage_space-MNI_T1w.nii.gz")
    assert len(subjects_from_bids(dataset)) == 4


def test_reading_writes_nothing_into_the_data_set(dataset):
    before = sorted(dataset.rglob("*"))
    subjects_from_bids(dataset)
    assert sorted(dataset.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
        (lambda folder: (folder / "dataset_description.json").unlink(), "has no file dataset_description.json"),
        (lambda folder: (folder / "dataset_description.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "dataset_description.json").write_text("[]"), "no names with values"),
        (lambda folder: (folder / "participants.tsv").write_text("name\tage\nsub-01\t3\n"), "no column participant_id"),
        (lambda folder: (folder / "participants.tsv").write_bytes(b"\xff\xfe\xff"), "cannot be read"),
        (lambda folder: volume(folder / SCANS[0][:-3]), "2 volumes sub-01_ses-1_T1w"),
        (lambda folder: [shutil.rmtree(folder / name) for name in ("sub-01", "sub-02")], "has no volumes"),
    ],
)
def test_what_is_no_data_set_is_refused_with_a_sentence(dataset, change, sentence):
    change(dataset)
    with pytest.raises(InputError, match=sentence):
        subjects_from_bids(dataset)


def test_a_suffix_that_no_volume_has_is_answered_with_those_that_there_are(dataset):
    with pytest.raises(InputError, match=r"no volume with the suffix 'PDw'; it has T1w \(4\), T2w \(1\)"):
        subjects_from_bids(dataset, "PDw")


def test_a_missing_pybids_is_named(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "bids.layout", None)
    with pytest.raises(InputError, match=r"pip install 'wavemorph\[cohort\]'"):
        subjects_from_bids(dataset)


def test_each_output_has_its_bids_name(dataset, tmp_path):
    layout = BidsLayout(tmp_path, "MNI", tmp_path / "template.nii.gz")
    subject = subjects_from_bids(dataset)[1]
    folder, stem = tmp_path / "sub-01/ses-2/anat", "sub-01_ses-2_run-1"
    assert {output: layout.path(subject, output) for output in USUAL_NAMES} == {
        "transform": folder / f"{stem}_from-T1w_to-MNI_mode-image_xfm.h5",
        "inverse": folder / f"{stem}_from-MNI_to-T1w_mode-image_xfm.h5",
        "warped": folder / f"{stem}_space-MNI_desc-registered_T1w.nii.gz",
        "jacobian": folder / f"{stem}_space-MNI_desc-jacobian_map.nii.gz",
        "error_map": folder / f"{stem}_space-MNI_desc-expectedError_map.nii.gz",
        "report": folder / f"{stem}_from-T1w_to-MNI_mode-image_xfm.json",
    }


def test_the_derivative_passes_the_bids_validator(derivative):
    assert issues(derivative) == {"error": set(), "warning": set()}


@pytest.fixture
def template_derivative(dataset, tmp_path):
    """A template of this data set, with a file for each output."""
    names = BidsTemplate(tmp_path / "template", "elderly", dataset)
    names.write_description()
    volume(names.template)
    for subject in subjects_from_bids(dataset):
        for output in ("transform", "inverse"):
            path = names.path(subject, output)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("map")
    for name in ("subjects.tsv", "convergence.tsv", "template.json"):
        (names.folder / name).write_text("{}")
    (names.folder / STATE_FOLDER).mkdir()
    (names.folder / STATE_FOLDER / "record.json").write_text("{}")
    return names.folder


def test_a_template_as_a_derivative_passes_the_bids_validator(template_derivative):
    assert issues(template_derivative) == {"error": set(), "warning": set()}
    (template_derivative / "tpl-elderly" / "anat" / "tpl-elderly_T1w.json").unlink()
    assert "SIDECAR_KEY_REQUIRED" in issues(template_derivative)["error"]


def test_pybids_finds_the_maps_of_a_template(dataset, template_derivative):
    from bids.layout import BIDSLayout

    layout = BIDSLayout(dataset, validate=False, derivatives=[template_derivative])
    maps = {"suffix": "xfm", "mode": "image", "extension": ".h5", "return_type": "filename"}
    assert len(layout.get(**maps, **{"from": "T1w", "to": "elderly"})) == 4
    (back,) = layout.get(**maps, **{"from": "elderly", "to": "T1w"}, subject="02")
    assert Path(back).name == "sub-02_acq-mprage_from-elderly_to-T1w_mode-image_xfm.h5"


def test_the_validator_would_find_a_missing_sidecar(derivative):
    (derivative / "space-MNI_desc-registered_T1w.json").unlink()
    assert "SIDECAR_KEY_REQUIRED" in issues(derivative)["error"]


def test_pybids_finds_transforms_and_volumes(dataset, derivative):
    from bids.layout import BIDSLayout

    layout = BIDSLayout(dataset, validate=False, derivatives=[derivative])
    maps = {"suffix": "xfm", "mode": "image", "extension": ".h5", "session": "2", "run": 2}
    (forward,) = layout.get(**maps, **{"from": "T1w", "to": "MNI"}, return_type="filename")
    (backward,) = layout.get(**maps, **{"from": "MNI", "to": "T1w"}, return_type="filename")
    assert Path(forward).name == "sub-01_ses-2_run-2_from-T1w_to-MNI_mode-image_xfm.h5"
    (transform,) = layout.get(**maps, **{"from": "T1w", "to": "MNI"})
    assert transform.get_metadata()["Registration"]["subject"] == {"kind": "brain"}
    assert Path(backward).name == "sub-01_ses-2_run-2_from-MNI_to-T1w_mode-image_xfm.h5"
    assert len(layout.get(space="MNI", desc="registered", suffix="T1w", extension=".nii.gz")) == 4
    assert len(layout.get(space="MNI", desc="jacobian", suffix="map")) == 4
    registered = layout.get(space="MNI", desc="registered", subject="02", extension=".nii.gz")[0]
    assert registered.get_metadata()["SpatialReference"] == "bids::sourcedata/MNI.nii.gz"
    assert (derivative / "sourcedata/MNI.nii.gz").is_file()


def test_the_description_names_the_program_and_the_source(derivative, dataset):
    description = json.loads((derivative / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "WaveMorph"
    assert description["SourceDatasets"] == [{"URL": dataset.as_uri()}]
    assert description["Authors"] == ["A. One", "B. Two"]


def test_a_doi_stands_for_the_folder_of_the_source(dataset, tmp_path):
    path = dataset / "dataset_description.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "DatasetDOI": "doi:10.1/x"}))
    BidsLayout(tmp_path / "out", "MNI", volume(tmp_path / "t.nii.gz"), dataset).write_description()
    text = (tmp_path / "out" / "dataset_description.json").read_text()
    assert json.loads(text)["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]
    assert str(tmp_path) not in text


def test_a_raw_data_set_is_never_described_anew(dataset, tmp_path):
    before = (dataset / "dataset_description.json").read_bytes()
    layout = BidsLayout(dataset, "MNI", volume(tmp_path / "template.nii.gz"), dataset)
    with pytest.raises(OutputError, match="another BIDS data set"):
        layout.write_description()
    assert (dataset / "dataset_description.json").read_bytes() == before
    assert not (dataset / "sourcedata").exists()


def test_a_description_can_be_written_again(derivative, dataset, tmp_path):
    BidsLayout(derivative, "MNI", tmp_path / "template.nii.gz", dataset).write_description()
    assert issues(derivative)["error"] == set()


@pytest.mark.parametrize("name", ["", "mni-152", "a/b", "mni_152"])
def test_a_template_with_an_impossible_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="letters and digits"):
        BidsLayout(tmp_path, name, tmp_path / "template.nii.gz")


def test_a_subject_from_elsewhere_has_no_bids_name(tmp_path):
    layout = BidsLayout(tmp_path, "MNI", tmp_path / "template.nii.gz")
    with pytest.raises(InputError, match="not read from a BIDS data set"):
        layout.path(Subject("head", tmp_path / "head.nii.gz"), "warped")


@pytest.mark.parametrize(
    ("path", "label"), [("a/mni_152-2009.nii.gz", "mni1522009"), ("_.nii", "template"), ("T.nrrd", "T")]
)
def test_the_label_of_a_template_is_its_name_without_signs(path, label):
    assert template_label(path) == label
