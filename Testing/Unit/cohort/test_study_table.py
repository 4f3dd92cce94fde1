"""subjects.tsv: its cells, its order, and that it is always whole."""

from __future__ import annotations

import csv

import pandas as pd
import pytest
from wavemorph.cohort.study.run import read_table
from wavemorph.cohort.study.table import COLUMNS, StudyTable, failed_row, row_of_report
from wavemorph.errors import OutputError

REPORT = {
    "verdict": {"level": "check", "reasons": ["One reason.", "Another."]},
    "similarity": {"before": 0.5, "after": 0.9, "measure": "local correlation"},
    "folding": {"central_voxels": 0, "strict_voxels": 3},
    "jacobian": {"min": 0.25, "max": 2.0, "sd_log": 0.1},
    "displacement_mm": {"mean": 1.5, "max": 9.0},
    "subject": {"unseen_percent": 1.0},
    "segmentation": None,
    "seconds": {"Affine": 1.0, "total": 12.5},
    "peak_memory_mb": {"process": 1234.5},
}


def test_a_row_has_every_number_of_the_report_and_leaves_out_what_is_not_there():
    row = row_of_report(REPORT)
    assert set(row) < set(COLUMNS)
    assert (row["verdict"], row["reasons"]) == ("check", "One reason. Another.")
    assert (row["similarity_before"], row["similarity_after"]) == (0.5, 0.9)
    assert (row["folded_voxels_central"], row["folded_voxels_strict"]) == (0, 3)
    assert (row["jacobian_min"], row["jacobian_max"], row["jacobian_sd_log"]) == (0.25, 2.0, 0.1)
    assert (row["displacement_mean_mm"], row["displacement_max_mm"]) == (1.5, 9.0)
    assert (row["unseen_percent"], row["seconds"], row["peak_memory_mb"]) == (1.0, 12.5, 1234.5)
    assert row["structures_before"] is None and row["expected_error_median_mm"] is None
    more = {**REPORT, "segmentation": {"before": 0.6, "after": 0.8}}
    more["expected_error"] = {"median_mm": 0.7, "p95_mm": 1.9, "probability_percent": 90}
    row = row_of_report(more)
    assert (row["structures_before"], row["structures_after"]) == (0.6, 0.8)
    assert (row["expected_error_median_mm"], row["expected_error_p95_mm"]) == (0.7, 1.9)


def test_the_rows_have_the_order_of_the_subjects_whenever_they_are_done(tmp_path):
    table = StudyTable(tmp_path, ["01", "02", "03"], {"01": {"age": "61"}, "02": {}, "03": {"age": "", "site": "x"}})
    table.add({"subject": "03", **row_of_report(REPORT), "report": "03/report.json"})
    table.add(failed_row("01", 'The moving image "a\tb" is\ncut short; copy it again.'))
    table.write()
    frame = read_table(table.path)
    assert list(frame["subject"]) == ["01", "03"]
    assert list(frame.columns) == [*COLUMNS, "age", "site"]
    assert frame["error"][0] == "The moving image 'a b' is cut short; copy it again."
    assert frame["age"][0] == 61 and pd.isna(frame["age"][1]) and frame["site"][1] == "x"
    assert pd.isna(frame["similarity_after"][0]) and frame["similarity_after"][1] == 0.9
    assert frame["report"][1] == "03/report.json"
    assert (table.count("done"), table.count("failed")) == (1, 1)
    with open(table.path, newline="") as stream:  # another reader finds the same cells
        lines = list(csv.reader(stream, delimiter="\t"))
    assert {len(line) for line in lines} == {len(COLUMNS) + 2}
    assert lines[1][3] == "n/a"


def test_the_first_subject_that_is_done_is_in_the_table_at_once(tmp_path):
    table = StudyTable(tmp_path, ["01"], {"01": {}})
    table.add(failed_row("01", "It failed."))
    assert list(read_table(table.path)["error"]) == ["It failed."]


def test_a_table_that_cannot_be_written_is_one_sentence_and_the_former_one_stays(tmp_path, monkeypatch):
    table = StudyTable(tmp_path, ["01"], {"01": {}})
    table.add(failed_row("01", "It failed."))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="cannot be written"):
        table.write()
    assert list(read_table(table.path)["error"]) == ["It failed."]
