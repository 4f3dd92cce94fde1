"""Designs from the columns of participants.tsv and sessions.tsv."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph import cohort
from wavemorph.cohort.finished import read_finished
from wavemorph.cohort.morphometry.covariates import covariates_of, design_of_covariates, is_participants_table
from wavemorph.cohort.runner import SerialRunner
from wavemorph.cohort.study import run as studies
from wavemorph.errors import InputError

AGES = {"sub-01": "30", "sub-02": "41.5", "sub-03": "52", "sub-04": "47", "sub-05": "66", "sub-06": "58"}


def row(name: str, status: str = "done", **cells: str) -> dict[str, str]:
    return {"subject": name, "status": status, "seconds": "12", **cells}


def rows(**columns: list[str]) -> list[dict[str, str]]:
    """Six subjects who are done, with these columns besides their age."""
    return [
        row(name, age=age, **{column: cells[number] for column, cells in columns.items()})
        for number, (name, age) in enumerate(AGES.items())
    ]


def test_columns_of_numbers_and_of_words_become_regressors():
    cells = covariates_of(rows(sex=list("FMFMFM"), site=["a", "b", "c", "a", "b", "c"]))
    design, notes = design_of_covariates(cells, ["age", "sex"], "table")
    assert design.subjects == tuple(AGES) and design.columns == ("age", "sex_M", "intercept")
    assert design.matrix[:, 0].tolist() == [float(age) for age in AGES.values()]
    assert design.matrix[:, 1].tolist() == [0, 1, 0, 1, 0, 1] and notes == ()
    three, _ = design_of_covariates(cells, ["site"], "table")
    assert three.columns == ("site_b", "site_c", "intercept")
    assert three.matrix[:, :2].tolist() == [[0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]


def test_who_lacks_a_value_is_left_out_and_named():
    weights = rows(weight=["70", "n/a", "60", "", "80", "77"])
    cells = covariates_of([*weights, row("sub-07", age="20", weight="71")])
    design, notes = design_of_covariates(cells, ["weight"], "table")
    assert design.subjects == ("sub-01", "sub-03", "sub-05", "sub-06", "sub-07")
    assert notes == ("sub-02, sub-04 have no value of weight, and are left out.",)
    assert len(design_of_covariates(cells, ["age"], "table")[0].subjects) == 7


def test_who_has_failed_is_no_part_of_the_design():
    cells = covariates_of([*rows(), row("sub-07", "failed", age="33")])
    assert design_of_covariates(cells, ["age"], "table")[0].subjects == tuple(AGES)


def test_numbers_of_the_results_are_no_covariates():
    with pytest.raises(InputError, match="no column 'seconds'; it has age"):
        design_of_covariates(covariates_of(rows()), ["seconds"], "table")


def test_words_among_numbers_are_refused():
    cells = covariates_of(rows(dose=["1", "2", "3", "two", "1", "2"]))
    with pytest.raises(InputError, match=r"'dose' .* mixes numbers with 'two'; write n/a"):
        design_of_covariates(cells, ["dose"], "table")


def test_participants_stand_before_the_columns_of_the_study_and_need_no_prefix(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage\tiq\nsub-01\t31\t99\n02\t42\t101\nsub-99\t1\t1\n")
    assert is_participants_table(path)
    cells = covariates_of([row("sub-01_ses-1", age="30", weeks="0"), row("sub-02", age="41")], path)
    assert cells == {
        "sub-01_ses-1": {"age": "31", "weeks": "0", "iq": "99"},
        "sub-02": {"age": "42", "iq": "101"},
    }


def test_other_tables_are_no_participants(tmp_path):
    path = tmp_path / "design.tsv"
    path.write_text("subject\tparticipant_id\na\t1\n")
    assert not is_participants_table(path) and not is_participants_table(tmp_path / "nothing.tsv")


def test_several_scans_of_one_person_are_noted():
    repeated = [row(f"sub-0{n}_ses-{s}", age=str(30 + 7 * n + s * n)) for n in range(1, 4) for s in (1, 2)]
    _, notes = design_of_covariates(covariates_of(repeated), ["age"], "table")
    assert len(notes) == 1 and notes[0].startswith("sub-01, sub-02, sub-03 are there with several scans")
    other = [row(f"head_{n}", age=str(n * n)) for n in range(6)]
    assert design_of_covariates(covariates_of(other), ["age"], "table")[1] == ()


def test_columns_of_sessions_come_into_the_study_and_into_the_design(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    for subject in ("01", "02", "03"):
        for session in ("a", "b"):
            path = raw / f"sub-{subject}" / f"ses-{session}" / "anat" / f"sub-{subject}_ses-{session}_T1w.nii.gz"
            path.parent.mkdir(parents=True)
            sitk.WriteImage(sitk.GetImageFromArray(np.arange(4096, dtype=np.int16).reshape(16, 16, 16)), str(path))
        lines = ["session_id\tweeks\tage", f"ses-a\t0\t{subject}", f"b\t{int(subject) ** 2}\tn/a"]
        (raw / f"sub-{subject}" / f"sub-{subject}_sessions.tsv").write_text("\n".join(lines) + "\n")
    (raw / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    people = "".join(f"sub-0{number}\t50\tF\n" for number in (1, 2, 3))
    (raw / "participants.tsv").write_text("participant_id\tage\tsex\n" + people)
    monkeypatch.setattr(studies, "register_subject", lambda job: row(job.subject.name))
    monkeypatch.setattr(studies, "write_quality_page", lambda *_: None)
    fixed = next(raw.rglob("*.nii.gz"))
    cohort.run(fixed, output=tmp_path / "study", bids=raw, runner=SerialRunner())
    cells = covariates_of(read_finished(tmp_path / "study"))
    assert cells["sub-02_ses-a"] == {"age": "02", "sex": "F", "weeks": "0"}
    design, _ = design_of_covariates(cells, ["weeks"], "subjects.tsv")
    assert design.matrix[:, 0].tolist() == [0, 1, 0, 4, 0, 9]
