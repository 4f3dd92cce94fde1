"""A template of a few torsos that breathe, with the maps of each and what a failing subject does."""

from __future__ import annotations

import csv
import json

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from pointsets import moved
from wavemorph import Settings
from wavemorph.cohort import make_template
from wavemorph.cohort.template.shape import rigid_fit
from wavemorph.cohort.template.study import STATE_FOLDER, TemplateOptions
from wavemorph.errors import InputError, SettingsError

SETTINGS = Settings(weights="none")
FACTORS = {"in": -0.7, "middle": 0.0, "out": 0.7}  # of breathing


def anatomy() -> np.ndarray:
    points = np.random.default_rng(0).uniform(-1, 1, (1500, 3)) * phantoms.TORSO_RADII
    return points[phantoms.in_torso(points, 0.9)]


def in_subject(points: np.ndarray, factor: float) -> np.ndarray:
    """Where a subject shows points of the plain torso: y with y + factor * breathing(y) = x."""
    found = points
    for _ in range(30):
        found = points - factor * phantoms.breathing(found)
    return found


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torsos")
    paths = []
    for seed, (name, factor) in enumerate(FACTORS.items()):

        def deformation(points: np.ndarray, factor: float = factor) -> np.ndarray:
            return factor * phantoms.breathing(points)

        lattice = phantoms.regular((40, 34, 40), (4.6, 4.4, 4.8))
        sitk.WriteImage(phantoms.torso(lattice, deformation, noise=15, seed=seed), str(folder / f"{name}.nii.gz"))
        paths.append(folder / f"{name}.nii.gz")
    return paths


@pytest.fixture(scope="module")
def made(volumes, tmp_path_factory):
    """(folder, template, sentences) of three torsos and a damaged file."""
    output = tmp_path_factory.mktemp("template")
    damaged = output / "damaged.nii.gz"
    damaged.write_bytes(volumes[0].read_bytes()[:2000])
    sentences: list[str] = []
    options = TemplateOptions(rounds=1, spacing_mm=5.0)
    template = make_template([*volumes, damaged], output / "result", options, SETTINGS, report=sentences.append)
    return output / "result", template, sentences


def test_the_shape_of_the_template_is_the_mean_of_the_subjects(made):
    folder, _, _ = made
    points = anatomy()
    placed = [
        moved(sitk.ReadTransform(str(folder / name / "subject_to_template.h5")), in_subject(points, factor))
        for name, factor in FACTORS.items()
    ]
    mean, target = np.mean(placed, axis=0), np.mean([in_subject(points, f) for f in FACTORS.values()], axis=0)
    errors = np.linalg.norm(rigid_fit(mean, target)(mean) - target, axis=1)
    assert errors.mean() < 0.6  # voxels of 5 mm; a single subject is 1.4 mm away


def test_the_maps_of_a_subject_are_inverse_to_each_other(made):
    folder, template, _ = made
    points = anatomy()[:200]
    for name in template.subjects:
        there, back = (
            sitk.ReadTransform(str(folder / name / f"{which}.h5"))
            for which in ("subject_to_template", "template_to_subject")
        )
        assert np.linalg.norm(moved(back, moved(there, points)) - points, axis=1).mean() < 0.1


def test_a_damaged_subject_is_left_out_with_a_sentence(made):
    folder, template, _ = made
    assert template.subjects == tuple(FACTORS) and list(template.left_out) == ["damaged"]
    with open(folder / "subjects.tsv", encoding="utf-8", newline="") as stream:
        rows = {row["subject"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert rows["in"]["used"] == "yes" and rows["damaged"]["used"] == "no"
    assert "cut short" in rows["damaged"]["reason"]
    assert not (folder / "damaged").exists()


def test_each_round_is_reported_and_written(made):
    folder, template, sentences = made
    assert len(sentences) == 2 and sentences[1].startswith("round 1: 3 subjects")
    written = json.loads((folder / "template.json").read_text(encoding="utf-8"))
    assert [each["number"] for each in written["rounds"]] == [0, 1]
    assert template.rounds[1].similarity > 0.9
    lines = (folder / "convergence.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and lines[0].startswith("number\tspacing_mm\tsubjects\tshape_mean_mm")


def test_the_template_is_written_and_nothing_temporary_is_left(made):
    folder, template, _ = made
    image = sitk.ReadImage(str(folder / "template.nii.gz"))
    assert np.array_equal(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(template.image))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [STATE_FOLDER, "template.nii.gz", "template.json", "convergence.tsv", "subjects.tsv", *FACTORS]
    )
    assert [path.name for path in (folder / STATE_FOLDER).iterdir()] == ["record.json"]


def test_a_symmetric_template_equals_its_mirror_image(volumes, tmp_path):
    turned = sitk.ReadImage(str(volumes[1]))  # lies askew, so that its plane of symmetry is none of the lattice
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.1, 0.08, (4.0, 0.0, 0.0))
    sitk.WriteImage(sitk.Resample(turned, turned, turn, sitk.sitkLinear, -1000.0), str(tmp_path / "begin.nii.gz"))
    options = TemplateOptions(rounds=1, symmetric=True, begin_with=tmp_path / "begin.nii.gz")
    template = make_template(volumes[:2], tmp_path / "made", options, SETTINGS)
    values = sitk.GetArrayFromImage(template.image).astype(int)
    assert np.array_equal(values, values[:, :, ::-1])
    assert template.image.GetSize() == turned.GetSize()


def test_too_few_subjects_are_refused(volumes, tmp_path):
    with pytest.raises(InputError, match="at least 2 subjects, not 1"):
        make_template(volumes[:1], tmp_path / "made", settings=SETTINGS)
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(InputError, match="Only 1 of 2 subjects can be used"):
        make_template([damaged, volumes[0]], tmp_path / "made", settings=SETTINGS)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [STATE_FOLDER]


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"rounds": 51}, {"spacing_mm": -1.0}])
def test_choices_out_of_range_are_refused(wrong):
    with pytest.raises(SettingsError):
        TemplateOptions(**wrong)
