"""The commands template and longitudinal: what they pass on, what they print, and their exit codes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.cli.cohorts import longitudinal as longitudinal_command
from wavemorph.cli.cohorts import template as template_command
from wavemorph.cli.main import main
from wavemorph.cohort.longitudinal import study as longitudinal_study
from wavemorph.cohort.longitudinal.structures import StructureVolume
from wavemorph.cohort.runner import SerialRunner
from wavemorph.cohort.template import study as template_study


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    for command in (template_command, longitudinal_command):
        monkeypatch.setattr(command, "runner_of", lambda options, progress: contextlib.nullcontext(SerialRunner()))


@pytest.fixture
def volumes(tmp_path):
    paths = []
    for name in ("a", "b"):
        sitk.WriteImage(
            phantoms.head(phantoms.regular((10, 10, 10), (9.0, 9.0, 9.0))), str(tmp_path / f"{name}.nii.gz")
        )
        paths.append(str(tmp_path / f"{name}.nii.gz"))
    return paths


def data_set(folder: Path, scans: list[str], suffix: str = "T1w") -> Path:
    """A BIDS data set with these scans, such as "sub-01/ses-1"."""
    for scan in scans:
        path = folder / scan / "anat" / f"{scan.replace('/', '_')}_{suffix}.nii.gz"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkInt16), str(path))
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return folder


def test_a_template_of_one_subject_is_refused_in_a_sentence(volumes, tmp_path, capsys):
    assert main(["template", "--volumes", volumes[0], "--output", str(tmp_path / "made")]) == 2
    assert "needs at least 2 subjects, not 1" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_the_options_of_a_template_are_passed_on(volumes, tmp_path, monkeypatch, capsys):
    asked = {}

    def make(subjects, output, options, settings, runner, report, bids, resume):
        asked.update(names=[each.name for each in subjects], options=options, settings=settings, resume=resume)
        return template_study.Template(sitk.Image(), (), ("a",), {"b": "It is damaged."})

    monkeypatch.setattr(template_study, "make_template", make)
    arguments = ["--rounds", "2", "--spacing", "3", "--symmetric", "--begin-with", volumes[0], "--preset", "Instant"]
    code = main(["template", "--volumes", *volumes, "--output", str(tmp_path / "made"), *arguments, "--threads", "1"])
    assert code == 10
    assert asked["names"] == ["a", "b"]
    assert asked["options"] == template_study.TemplateOptions(2, 3.0, True, volumes[0])
    assert asked["settings"].preset == "Instant" and asked["settings"].threads == 1 and not asked["resume"]
    printed = capsys.readouterr().out
    assert "left out: b: It is damaged." in printed and "the template of 1 subjects" in printed


def test_a_template_of_a_bids_data_set_is_asked_for_as_a_derivative(tmp_path, monkeypatch):
    raw, asked = data_set(tmp_path / "raw", ["sub-01", "sub-02"], "T2w"), {}

    def make(subjects, *rest, bids, resume):
        asked.update(names=[each.name for each in subjects], bids=bids, resume=resume)
        return template_study.Template(sitk.Image(), (), ("sub-01", "sub-02"), {})

    monkeypatch.setattr(template_study, "make_template", make)
    command = ["template", "--bids", str(raw), "--suffix", "T2w", "--output", str(tmp_path / "made"), "--resume"]
    assert main(command) == 0
    assert asked == {"names": ["sub-01", "sub-02"], "bids": str(raw), "resume": True}


def test_volumes_are_printed_by_structure_and_time(volumes, tmp_path, monkeypatch, capsys):
    rows = [StructureVolume("thalamus", "a", 10.0, 0.0), StructureVolume("thalamus", "b", 9.7, -3.0)]
    verdict = {"level": "check", "reasons": ["It is blurred."], "probability_wrong": 0.2}
    report = {"times": [{"name": "a", "verdict_against_first": None}, {"name": "b", "verdict_against_first": verdict}]}

    def compare(*arguments, **more):
        return longitudinal_study.Longitudinal(sitk.Image(), rows, report, {"a": None, "b": None})

    monkeypatch.setattr(longitudinal_study, "compare_times", compare)
    assert main(["longitudinal", "--volumes", *volumes, "--output", str(tmp_path / "made")]) == 0
    printed = capsys.readouterr().out
    assert "10.000 ml (+0.00 %)" in printed and "9.700 ml (-3.00 %)" in printed
    assert "verdict on b: check" in printed and "reason: It is blurred." in printed


def test_the_sessions_of_a_subject_of_a_data_set_are_the_times(tmp_path, monkeypatch, capsys):
    raw = data_set(tmp_path / "raw", ["sub-07/ses-1", "sub-07/ses-2", "sub-08/ses-1"])
    compared = []

    def compare(times, *rest, **more):
        compared.extend(time.name for time in times)
        return longitudinal_study.Longitudinal(sitk.Image(), (), {"times": []}, {})

    monkeypatch.setattr(longitudinal_study, "compare_times", compare)
    command = ["longitudinal", "--bids", str(raw), "--output", str(tmp_path / "made")]
    assert main([*command, "--subject", "07"]) == 0
    assert compared == ["sub-07_ses-1", "sub-07_ses-2"]
    assert main(command) == 2 and "--subject LABEL; give both" in capsys.readouterr().err


def test_one_time_alone_is_refused_in_a_sentence(volumes, tmp_path, capsys):
    assert main(["longitudinal", "--volumes", volumes[0], "--output", str(tmp_path / "made")]) == 2
    assert "2 to 20 times, not 1" in capsys.readouterr().err
