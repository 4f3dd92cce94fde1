"""Morphometry: designs and contrasts, its statistics against SciPy and the textbook, and effects of known place."""

from __future__ import annotations

import csv
import json
import sys

import nibabel
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import studies
from scipy import ndimage, stats
from wavemorph.cli.main import main
from wavemorph.cohort.morphometry import analyze
from wavemorph.cohort.morphometry.design import contrast_of, read_design
from wavemorph.cohort.morphometry.inference import infer, split
from wavemorph.cohort.morphometry.maps import FWHM_PER_SIGMA, read_log_jacobians
from wavemorph.cohort.morphometry.nifti import as_nifti
from wavemorph.errors import InputError, OutputError, SettingsError

PLACE = np.array([16.0, -10.0, 8.0])  # LPS mm, where one group has more tissue
COUNT = 12


def design_file(folder, text):
    path = folder / "design.tsv"
    path.write_text(text.replace(" ", "\t"))
    return path


def voxels(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def template_lattice() -> sitk.Image:
    image = sitk.Image((24, 26, 22), sitk.sitkFloat32)
    image.SetSpacing((4.0, 4.0, 4.0))
    image.SetOrigin((-46.0, -50.0, -42.0))
    return image


def distance_to(place) -> np.ndarray:
    return np.linalg.norm(phantoms.physical_points(template_lattice()) - np.asarray(place), axis=-1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Subjects sub-00 to sub-11 whose maps are smooth noise; those of odd number have 40 % more tissue at PLACE."""
    folder = tmp_path_factory.mktemp("study")
    lattice = template_lattice()
    head = (distance_to((0, 0, 0)) < 36).astype(np.float32) * 100
    generator = np.random.default_rng(4)
    rows = []
    for number in range(COUNT):
        noise = ndimage.gaussian_filter(generator.standard_normal(head.shape), 1.5)
        log = 0.08 * noise / noise.std() + (number % 2) * np.log(1.4) * (distance_to(PLACE) < 14)
        volumes = {"jacobian": np.exp(log).astype(np.float32), "warped": head}
        verdict = "do not trust" if number == 3 else "good"
        rows.append(studies.done(folder, f"sub-{number:02}", lattice, verdict=verdict, **volumes))
    studies.write_table(folder, [*rows, {"subject": "broken", "status": "failed", "error": "Damaged."}])
    text = "subject group age\n" + "".join(f"sub-{n:02} {n % 2} {(n * 7) % 12}\n" for n in range(COUNT))
    design_file(folder, text)
    return folder


@pytest.fixture(scope="module")
def result(study):
    return analyze(study, study / "design.tsv", "group", permutations=200)


def test_more_tissue_is_found_where_it_is_and_with_its_sign(result):
    t = result.maps.image(result.statistics.t)
    peak = np.unravel_index(voxels(t).argmax(), t.GetSize()[::-1])
    assert np.linalg.norm(np.array(t.TransformIndexToPhysicalPoint([int(n) for n in peak[::-1]])) - PLACE) < 12
    significant = voxels(result.maps.image(result.statistics.significant)) > 0
    near = distance_to(PLACE)[significant] < 24  # the ball and what smoothing adds
    assert near.mean() > 0.95
    assert significant[distance_to(PLACE) < 8].mean() > 0.8
    assert result.report["significant_ml"]["more_tissue"] > 2
    assert result.report["significant_ml"]["less_tissue"] < 0.1


def test_the_effect_is_the_difference_of_the_logarithms(result):
    effect = voxels(result.maps.image(result.statistics.effect))
    assert effect[distance_to(PLACE) < 5].mean() == pytest.approx(np.log(1.4), abs=0.08)


def test_the_other_sign_is_found_with_the_other_contrast(study, result):
    other = analyze(study, study / "design.tsv", "-1,0,0", permutations=200)
    assert np.allclose(other.statistics.t, -result.statistics.t)
    assert other.report["significant_ml"]["less_tissue"] == result.report["significant_ml"]["more_tissue"]


def test_a_regressor_without_effect_finds_nothing(study):
    assert not analyze(study, study / "design.tsv", "age", permutations=200).statistics.significant.any()


def test_participants_tsv_is_a_design_and_words_are_groups(study, result, tmp_path):
    lines = [f"sub-{n:02}\t{'patient' if n % 2 else 'control'}\t{(n * 7) % 12}\tx\n" for n in range(COUNT)]
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tdiagnosis\tage\tsite\n" + "".join(lines) + "sub-77\tcontrol\t5\tx\n")
    made = analyze(study, path, "diagnosis_patient", columns=["diagnosis", "age"], permutations=200)
    assert made.report["columns"] == ["diagnosis_patient", "age", "intercept"]
    assert np.array_equal(made.statistics.t, result.statistics.t)


def test_the_columns_of_a_design_are_chosen(study):
    made = analyze(study, study / "design.tsv", "group", columns=["group"], permutations=100)
    assert made.report["columns"] == ["group", "intercept"]
    with pytest.raises(InputError, match="no column 'height'; it has group, age"):
        analyze(study, study / "design.tsv", "group", columns=["height"])
    with pytest.raises(InputError, match=r'Say which columns of "subjects.tsv" are regressors; there are none'):
        analyze(study, None, "group")


def test_clusters_have_their_peak_in_ras(result):
    assert result.clusters["Peak Stat"].iloc[0] == pytest.approx(result.report["t"]["max"], rel=1e-5)
    peak = result.clusters[["X", "Y", "Z"]].iloc[0].to_numpy(float)
    assert np.linalg.norm(peak - PLACE * (-1, -1, 1)) < 12


def test_the_results_replace_no_file(result, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        result.save(tmp_path / "file")


def test_doubtful_and_unused_subjects_are_noted(result):
    assert any("sub-03" in note and "do not trust" in note for note in result.notes)
    assert any("leaves out broken" in note for note in result.notes)


def test_the_command_writes_the_results_and_says_what_is_significant(study, result, tmp_path, capsys):
    folder = tmp_path / "out"
    arguments = ["--design", str(study / "design.tsv"), "--contrast", "group", "--permutations", "200", "--quiet"]
    assert main(["morphometry", "--cohort", str(study), "--output", str(folder), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "12, 9 degrees of freedom" in printed and "ml with more tissue, 0." in printed
    mask = voxels(sitk.ReadImage(str(folder / "mask.nii.gz"))) > 0
    for name, expected in (
        ("t", result.statistics.t),
        ("effect", result.statistics.effect),
        ("minus_log10_p", result.statistics.log_p),
        ("minus_log10_p_fwe", result.statistics.log_p_fwe),
        ("mean_log_jacobian", result.maps.values.mean(0)),
    ):
        written = voxels(sitk.ReadImage(str(folder / f"{name}.nii.gz")))
        assert np.allclose(written[mask], expected, atol=1e-4) and not written[~mask].any()
    with open(folder / "clusters.tsv", newline="") as stream:
        assert len(list(csv.DictReader(stream, delimiter="\t"))) == len(result.clusters)
    picture = voxels(sitk.ReadImage(str(folder / "morphometry.png")))
    assert picture.shape[:2] == (500, 1300) and np.ptp(picture) > 100
    assert json.loads((folder / "morphometry.json").read_text()) == result.report


def test_the_command_ends_with_a_sentence(study, tmp_path, capsys):
    arguments = ["--design", str(study / "design.tsv"), "--contrast", "height", "--quiet"]
    assert main(["morphometry", "--cohort", str(study), "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "'height' is no column of the design, which has group, age, intercept" in error
    assert "Traceback" not in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("sub-00 1\nsub-99 0\nsub-01 1\nsub-02 0\nsub-04 1\n", "names sub-99, which the study does not have"),
        ("sub-00 1\nbroken 0\nsub-01 1\nsub-02 0\nsub-04 1\n", "registration of broken .* has failed"),
    ],
)
def test_subjects_without_a_result_are_named(study, tmp_path, rows, sentence):
    with pytest.raises(InputError, match=sentence):
        analyze(study, design_file(tmp_path, "subject group\n" + rows), "group")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"smoothing_mm": -1}, "smoothing must lie"),
        ({"smoothing_mm": float("nan")}, "smoothing must lie"),
        ({"permutations": 10}, "at least 100 permutations, not 10"),
    ],
)
def test_numbers_out_of_range_are_refused(study, settings, sentence):
    with pytest.raises(SettingsError, match=sentence):
        analyze(study, study / "design.tsv", "group", **settings)


def test_a_missing_nilearn_is_named(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn.mass_univariate", None)
    with pytest.raises(InputError, match=r"pip install 'wavemorph\[cohort\]'"):
        analyze(study, study / "design.tsv", "group")


def test_an_intercept_is_added_where_there_is_none(tmp_path):
    design = read_design(design_file(tmp_path, "subject age\n" + "".join(f"s{n} {n * n}\n" for n in range(6))))
    assert design.columns == ("age", "intercept")
    assert design.subjects == ("s0", "s1", "s2", "s3", "s4", "s5")
    assert np.array_equal(design.matrix, [[n * n, 1] for n in range(6)])
    assert design.freedom == 4


def test_no_intercept_is_added_to_groups_that_sum_to_one(tmp_path):
    rows = "".join(f"s{n} {int(n % 2 == 0)} {int(n % 2)}\n" for n in range(6))
    assert read_design(design_file(tmp_path, "subject a b\n" + rows)).columns == ("a", "b")


def test_a_csv_of_another_program_is_read(tmp_path):
    path = tmp_path / "design.csv"
    path.write_bytes(b"\xef\xbb\xbfsubject, age\r\n" + b"".join(b"s%d, %d\r\n" % (n, n) for n in range(6)) + b"\r\n")
    assert read_design(path).columns == ("age", "intercept")


ROWS = "".join(f"s{n} {n} {n % 2}\n" for n in range(8))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "needs a line of names"),
        ("subject age\n", "needs a line of names"),
        ("subject age group\n" + ROWS + "s1 3 0\n", "'s1' twice"),
        ("subject age age\n" + ROWS, "column 'age' twice"),
        ("subject age group\n" + ROWS + "s8 f 0\n", "Line 10 .* 'f' for 'age', which is no number"),
        ("subject age group\n" + ROWS + "s8 n/a 0\n", "'n/a' for 'age'"),
        ("subject age group\n" + ROWS + "s8 inf 0\n", "'inf' for 'age'"),
        ("subject age group\n" + ROWS + "s8 1\n", "Line 10 .* has 2 values for 3 columns"),
        ("subject age months\n" + "".join(f"s{n} {n} {12 * n}\n" for n in range(8)), "age, months .* are collinear"),
        ("subject a b c\n" + "".join(f"s{n} {n} {n * n} {n - n * n}\n" for n in range(8)), "a, b, c .* are collinear"),
        ("subject a b\n" + "".join(f"s{n} {n} 0\n" for n in range(8)), "'b' .* is 0 for each subject"),
        (
            "subject age group\n" + "s1 1 0\ns2 2 1\ns3 4 0\ns4 3 1\n",
            "4 subjects and 3 columns .* 1 degrees of freedom",
        ),
    ],
)
def test_a_design_that_cannot_be_used_is_refused_with_a_sentence(tmp_path, text, sentence):
    with pytest.raises(InputError, match=sentence):
        read_design(design_file(tmp_path, text))


def test_a_design_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_design(tmp_path / "nothing.tsv")


def test_units_do_not_make_a_design_collinear(tmp_path):
    rows = "".join(f"s{n} {1e9 * (n % 3)} {1e-9 * n}\n" for n in range(8))
    assert read_design(design_file(tmp_path, "subject a b\n" + rows)).columns == ("a", "b", "intercept")


@pytest.fixture
def two_columns(tmp_path):
    return read_design(design_file(tmp_path, "subject age group\n" + ROWS))


@pytest.mark.parametrize(
    ("text", "weights"),
    [("age", [1, 0, 0]), ("intercept", [0, 0, 1]), ("0,1,0", [0, 1, 0]), ("1, -1", [1, -1, 0]), ("-2 0 1", [-2, 0, 1])],
)
def test_a_contrast_is_a_name_or_numbers(two_columns, text, weights):
    assert contrast_of(text, two_columns).tolist() == weights


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sex", "no column of the design, which has age, group, intercept"),
        ("1", "has 1 numbers"),
        ("1,2,3,4", "has 4 numbers"),
        ("0,0,0", "one that is not 0"),
        ("1,nan,0", "finite"),
        ("", "has 0 numbers"),
    ],
)
def test_a_contrast_that_cannot_be_used_is_refused(two_columns, text, sentence):
    with pytest.raises(InputError, match=sentence):
        contrast_of(text, two_columns)


def noise(subjects: int, voxels: int, seed: int) -> np.ndarray:
    """Correlated between neighbors, as smoothed maps are."""
    return ndimage.gaussian_filter1d(np.random.default_rng(seed).standard_normal((subjects, voxels)), 3, axis=1)


def test_two_groups_agree_with_a_t_test():
    values, group = noise(11, 50, 0), np.array([0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1.0])
    found = infer(values, np.column_stack([group, np.ones(11)]), np.array([1.0, 0]), 100)
    expected = stats.ttest_ind(values[group == 1], values[group == 0])
    assert np.allclose(found.t, expected.statistic)
    assert np.allclose(found.log_p, -np.log10(expected.pvalue))
    assert np.allclose(found.effect, values[group == 1].mean(0) - values[group == 0].mean(0))


def test_a_mean_agrees_with_a_t_test():
    values = noise(9, 50, 1) + 0.1
    found = infer(values, np.ones((9, 1)), np.array([1.0]), 200)
    expected = stats.ttest_1samp(values, 0)
    assert np.allclose(found.t, expected.statistic)
    assert np.allclose(found.log_p, -np.log10(expected.pvalue))


def textbook_t(values: np.ndarray, matrix: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(matrix.T @ matrix)
    coefficients = inverse @ matrix.T @ values
    residuals = values - matrix @ coefficients
    variance = (residuals**2).sum(0) / (len(matrix) - matrix.shape[1])
    return contrast @ coefficients / np.sqrt(variance * (contrast @ inverse @ contrast))


THREE_GROUPS = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]]
AGE = np.array([4, 1, 6, 2, 9, 3, 5, 7, 8, 2, 4, 1.0])
DESIGNS = [
    (np.column_stack([THREE_GROUPS, AGE]), np.array([1.0, -1, 0, 0])),
    (np.column_stack([THREE_GROUPS, AGE]), np.array([0.5, 0.5, -1, 0])),
    (np.column_stack([THREE_GROUPS, AGE]), np.array([0, 0, 0, -3.0])),
    (np.column_stack([AGE, AGE**2, np.ones(12)]), np.array([1.0, 2, 0])),
    (np.column_stack([AGE, np.ones(12)]), np.array([0.0, 1])),
]


@pytest.mark.parametrize(("matrix", "contrast"), DESIGNS)
def test_contrasts_agree_with_the_textbook(matrix, contrast):
    values = noise(12, 40, 5)
    found = infer(values, matrix, contrast, 100)
    assert np.allclose(found.t, textbook_t(values, matrix, contrast))
    tested, others = split(matrix, contrast)
    coefficient = np.linalg.lstsq(np.column_stack([tested, others]), values, rcond=None)[0][0]
    assert np.allclose(found.effect, coefficient)
    assert others.shape == (12, matrix.shape[1] - 1)


@pytest.mark.parametrize(("matrix", "contrast"), DESIGNS)
def test_nilearn_permutes_the_same_t(matrix, contrast):
    from nilearn.mass_univariate import permuted_ols

    values = noise(12, 40, 6)
    tested, others = split(matrix, contrast)
    t = permuted_ols(tested[:, None], values, others, model_intercept=False, n_perm=0)["t"].ravel()
    assert np.allclose(t, textbook_t(values, matrix, contrast))


def test_a_mean_of_one_group_alone_is_refused():
    with pytest.raises(InputError, match="compares a mean with 0"):
        infer(noise(12, 5, 0), THREE_GROUPS, np.array([1.0, 0, 0]), 100)


@pytest.mark.parametrize(
    ("matrix", "contrast"),
    [DESIGNS[0], DESIGNS[4], (np.column_stack([np.arange(12) % 2, np.ones(12)]), np.array([1.0, 0]))],
)
def test_without_an_effect_one_study_in_twenty_finds_one(matrix, contrast):
    found = [infer(noise(12, 60, seed), matrix, contrast, 100, seed).significant.any() for seed in range(60)]
    assert sum(found) <= stats.binom.ppf(0.999, 60, 0.05)  # 9


def test_a_strong_effect_is_significant_in_nearly_every_study():
    group = np.arange(12) % 2
    matrix = np.column_stack([group, np.ones(12)])
    found = 0
    for seed in range(10):
        values = noise(12, 60, seed)
        values[:, 20:30] += 6 * values.std() * group[:, None]
        significant = infer(values, matrix, np.array([1.0, 0]), 100, seed).significant
        found += significant[20:30].any()
    assert found >= 9


def test_maps_are_smoothed_as_much_as_was_asked(tmp_path):
    lattice = sitk.Image((31, 31, 31), sitk.sitkFloat32)
    lattice.SetSpacing((2.0, 2.0, 2.0))
    jacobian = np.ones((31, 31, 31), np.float32)
    jacobian[15, 15, 15] = np.e  # its logarithm is 1
    row = studies.done(tmp_path, "s", lattice, jacobian=jacobian, warped=jacobian)
    other = studies.done(tmp_path, "t", lattice, jacobian=np.ones_like(jacobian), warped=jacobian)
    mask = tmp_path / "mask.nii.gz"
    everywhere = sitk.Cast(lattice, sitk.sitkUInt8) + 1
    everywhere.CopyInformation(lattice)
    sitk.WriteImage(everywhere, str(mask))
    maps = read_log_jacobians(tmp_path, [row, other], 6.0, mask)
    found = voxels(maps.image(maps.values[0]))
    impulse = np.zeros((31, 31, 31))
    impulse[15, 15, 15] = 1
    expected = ndimage.gaussian_filter(impulse, 6.0 / FWHM_PER_SIGMA / 2.0)
    assert np.abs(found - expected).max() < 0.03 * expected.max()


def test_fine_maps_are_tested_on_a_lattice_that_fits_the_smoothing(tmp_path):
    lattice = sitk.Image((40, 40, 40), sitk.sitkFloat32)
    row = studies.done(
        tmp_path, "s", lattice, **{key: np.ones((40, 40, 40), np.float32) for key in ("jacobian", "warped")}
    )
    slope = phantoms.physical_points(lattice)[..., 0].astype(np.float32)
    other = studies.done(tmp_path, "t", lattice, jacobian=np.exp(slope / 40), warped=slope)
    maps = read_log_jacobians(tmp_path, [row, other], 6.0)
    assert maps.mask.GetSize() == (20, 20, 20) and maps.mask.GetSpacing() == (2.0, 2.0, 2.0)
    inside = voxels(maps.mask) > 0
    where = phantoms.physical_points(maps.mask)[inside][:, 0]
    middle = np.abs(where - 19.5) < 10
    assert np.allclose(maps.values[1][middle], where[middle] / 40, atol=0.01)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: row.update(jacobian="n/a"), "no file 'jacobian' of sub-2"),
        (lambda row: row.update(jacobian="../x.nii.gz"), "no file 'jacobian' of sub-2"),
        (lambda row: row.update(warped="sub-2/gone.nii.gz"), "no file 'warped' of sub-2"),
    ],
)
def test_a_map_that_is_missing_is_named(tmp_path, change, sentence):
    lattice = template_lattice()
    array = np.ones((22, 26, 24), np.float32)
    rows = [studies.done(tmp_path, name, lattice, jacobian=array, warped=array) for name in ("sub-1", "sub-2")]
    change(rows[1])
    with pytest.raises(InputError, match=sentence):
        read_log_jacobians(tmp_path, rows, 6.0)


def test_maps_on_different_lattices_are_refused(tmp_path):
    array = np.ones((22, 26, 24), np.float32)
    shifted = template_lattice()
    shifted.SetOrigin((0.0, 0.0, 0.0))
    rows = [
        studies.done(tmp_path, name, lattice, jacobian=array, warped=array)
        for name, lattice in (("sub-1", template_lattice()), ("sub-2", shifted))
    ]
    with pytest.raises(InputError, match="sub-2 are on another lattice than those of sub-1"):
        read_log_jacobians(tmp_path, rows, 6.0)


def test_equal_maps_and_an_empty_mask_are_refused(tmp_path):
    array = (distance_to((0, 0, 0)) < 30).astype(np.float32)
    rows = [studies.done(tmp_path, name, template_lattice(), jacobian=1 + array, warped=array) for name in ("a", "b")]
    with pytest.raises(InputError, match="equal"):
        read_log_jacobians(tmp_path, rows, 6.0)
    empty = template_lattice()
    sitk.WriteImage(empty, str(tmp_path / "mask.nii.gz"))
    with pytest.raises(InputError, match=r"mask .* is empty"):
        read_log_jacobians(tmp_path, rows, 6.0, tmp_path / "mask.nii.gz")


def test_folded_voxels_have_a_finite_logarithm(tmp_path):
    array = (distance_to((0, 0, 0)) < 30).astype(np.float32)
    folded = np.where(distance_to((0, 0, 0)) < 6, -0.5, 1.0).astype(np.float32)
    rows = [
        studies.done(tmp_path, name, template_lattice(), jacobian=jacobian, warped=array)
        for name, jacobian in (("a", folded), ("b", np.ones_like(folded)))
    ]
    maps = read_log_jacobians(tmp_path, rows, 0.0)
    assert np.isfinite(maps.values).all() and maps.values.min() == pytest.approx(np.log(0.01))


def test_a_volume_is_the_same_for_nilearn_as_in_its_file(tmp_path):
    image = phantoms.random_geometry(4)
    array = np.random.default_rng(0).random(image.GetSize()[::-1], np.float32)
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(image)
    sitk.WriteImage(made, str(tmp_path / "v.nii"))
    expected, found = nibabel.load(tmp_path / "v.nii"), as_nifti(made)
    assert np.allclose(found.affine, expected.affine, atol=1e-3)
    assert np.array_equal(found.get_fdata(), expected.get_fdata())
