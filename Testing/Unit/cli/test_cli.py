"""The command line: what it writes, and the one sentence with which it ends where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import wavemorph
from dicom_files import write_stack
from pointsets import brain_points, moved
from wavemorph.cli.main import main, make_parser
from wavemorph.io.outputs import REGISTRATION_OUTPUTS, write_image
from wavemorph.io.points import read_points
from wavemorph.registration import pipeline
from wavemorph.registration.deformable import stage

QUICK = ("--spacing", "4", "--weights", "none", "--quiet")


@pytest.fixture
def pair(pair_folder):
    return ["--fixed", str(pair_folder / "fixed.nii.gz"), "--moving", str(pair_folder / "moving.nii.gz"), *QUICK]


def refused(capsys, *arguments) -> tuple[int, str]:
    """(exit code, sentence), after checking that the output is exactly one sentence."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("wavemorph: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    assert printed.err.rstrip().endswith((".", "?"))
    return code, printed.err


def test_apply_warps_images_and_labels_and_maps_points(pair_folder, tmp_path, capsys):
    shift = tmp_path / "shift.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (4.0, 0.0, 3.0)), str(shift))
    fixed, moving, labels = (str(pair_folder / f"{n}.nii.gz") for n in ("fixed", "moving", "moving_labels"))
    apply = ["apply", "--transform", str(shift), "--reference", fixed]
    assert main([*apply, "--image", moving, "--output", str(tmp_path / "w.nii.gz")]) == 0
    real = sitk.ReadImage(moving, sitk.sitkFloat64)
    expected = sitk.Resample(real, sitk.ReadImage(fixed), sitk.ReadTransform(str(shift)))
    warped = sitk.ReadImage(str(tmp_path / "w.nii.gz"))
    assert warped.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(warped), np.rint(sitk.GetArrayFromImage(expected)))
    assert main([*apply, "--labels", labels, "--output", str(tmp_path / "l.nii.gz")]) == 0
    warped_labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "l.nii.gz")))
    own = sitk.GetArrayFromImage(sitk.ReadImage(str(pair_folder / "fixed_labels.nii.gz")))
    assert set(np.unique(warped_labels)) == {0, 1, 2}
    shared = np.count_nonzero((warped_labels == own) & (own > 0))
    assert 2 * shared / (np.count_nonzero(warped_labels) + np.count_nonzero(own)) > 0.9
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n-4,5,6\n")
    assert main(["apply", "--transform", str(shift), "--points", str(tmp_path / "p.csv"), "--output",
                     str(tmp_path / "p.mrk.json")]) == 0  # fmt: skip
    assert np.allclose(read_points(tmp_path / "p.mrk.json").positions, [(5, 2, 6), (0, 5, 9)])
    assert capsys.readouterr().err == ""


def test_evaluate_prints_and_writes_overlap_folding_and_landmarks(pair_folder, tmp_path, capsys):
    shift = tmp_path / "shift.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (4.0, 0.0, 3.0)), str(shift))
    (tmp_path / "f.csv").write_text("x,y,z\n1,2,3\n")
    (tmp_path / "m.csv").write_text("x,y,z\n5,2,9\n")
    arguments = ["evaluate", "--transform", shift, "--report", tmp_path / "r.json"]
    arguments += [
        "--fixed-labels",
        pair_folder / "fixed_labels.nii.gz",
        "--moving-labels",
        pair_folder / "moving_labels.nii.gz",
    ]
    arguments += ["--fixed-points", tmp_path / "f.csv", "--moving-points", tmp_path / "m.csv"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "landmarks: mean error 3.000 mm" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["labels"]["mean"]["dice_after"] > 0.9
    assert report["folding"]["strict_percent"] == 0


def write_segmentation(path, labels, names):
    """A segmentation as Slicer writes it: label -> name of the first labels, and label -> place along i in the map."""
    array = np.zeros((20, 20, 40), np.uint8)
    for label, first in labels.items():
        array[5:15, 5:15, first : first + 6] = label
    image = sitk.GetImageFromArray(array)
    for number, (label, name) in enumerate(names.items()):
        for key, value in (("ID", f"S{number}"), ("Name", name), ("LabelValue", label), ("Color", "1 0.5 0")):
            image.SetMetaData(f"Segment{number}_{key}", str(value))
    sitk.WriteImage(image, str(path))


def test_segmentations_are_compared_by_name_and_those_of_one_map_are_listed(tmp_path, capsys):
    fixed, moving = tmp_path / "f.seg.nrrd", tmp_path / "m.seg.nrrd"
    write_segmentation(fixed, {1: 2, 2: 12, 3: 22}, {1: "Liver", 2: "Spleen", 3: "Heart"})
    write_segmentation(moving, {8: 2, 1: 12}, {8: "Liver", 1: "Spleen"})
    arguments = ["evaluate", "--fixed-labels", fixed, "--moving-labels", moving, "--report", tmp_path / "r.json"]
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    assert "3 Heart (fixed only)" in out
    assert "note: 1 structure is in the fixed label map only: Heart." in out
    report = json.loads((tmp_path / "r.json").read_text())["labels"]
    assert report["mean"]["dice_after"] == pytest.approx(2 / 3)
    assert report["mean_common"]["dice_after"] == 1
    assert report["labels"]["1"] == {
        "name": "Liver",
        "fixed_label": 1,
        "moving_label": 8,
        "dice_before": 1.0,
        "dice_after": 1.0,
        "hd95_before_mm": 0.0,
        "hd95_after_mm": 0.0,
    }


def test_apply_keeps_the_names_of_a_segmentation_or_says_that_it_cannot(tmp_path, capsys):
    source, shift = tmp_path / "m.seg.nrrd", tmp_path / "shift.tfm"
    write_segmentation(source, {8: 2, 1: 12}, {8: "Liver", 1: "Spleen"})
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(shift))
    random = sitk.GetImageFromArray(np.random.default_rng(0).random((20, 20, 40), np.float32))
    sitk.WriteImage(random, str(tmp_path / "f.nii.gz"))
    apply = ["apply", "--transform", shift, "--labels", source, "--reference", tmp_path / "f.nii.gz", "--output"]
    assert main([str(argument) for argument in (*apply, tmp_path / "w.seg.nrrd")]) == 0
    assert "note" not in capsys.readouterr().out
    warped = sitk.ReadImage(str(tmp_path / "w.seg.nrrd"))
    assert warped.GetMetaData("Segment0_Name") == "Liver"
    assert warped.GetMetaData("Segment0_Color") == "1 0.5 0"
    assert warped.GetMetaData("Segment1_Extent") == "11 16 5 14 5 14"
    assert main([str(argument) for argument in (*apply, tmp_path / "w.nii.gz")]) == 0
    assert "only .nrrd holds the names" in capsys.readouterr().out


def test_landmarks_in_another_order_and_without_a_position_are_paired_by_name_and_reported(tmp_path, capsys):
    (tmp_path / "f.csv").write_text("label,l,p,s,defined\nAC,0,1.5,-4,1\nPC,0,-25,-3,1\nL,0,0,0,0\nR,-40,10,20,1\n")
    (tmp_path / "m.csv").write_text("label;r;a;s\nR;40;-10;21,5\nL;-40;-10;20\nPC;;;\nAC;0;-1,5;-4\n")
    arguments = ["evaluate", "--fixed-points", tmp_path / "f.csv", "--moving-points", tmp_path / "m.csv"]
    assert main([*map(str, arguments), "--report", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    assert "landmarks: mean error 0.750 mm, max 1.500 mm, 2 pairs by name" in out
    assert 'holds no position: "PC", "L"' in out
    report = json.loads((tmp_path / "r.json").read_text())["target_registration_error_mm"]
    assert report["max"] == pytest.approx(1.5)
    assert [entry["name"] for entry in report["landmarks"]] == ["AC", "R"]
    assert report["left_out"] == ["PC", "L"]


def test_points_without_a_position_stay_in_the_list_that_is_written(tmp_path, capsys):
    shift = tmp_path / "shift.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (4.0, 0.0, 3.0)), str(shift))
    (tmp_path / "p.csv").write_text("name,x,y,z\nA,1,2,3\nB,,,\n")
    for target in ("q.fcsv", "q.mrk.json", "q.csv"):
        arguments = ["apply", "--transform", shift, "--points", tmp_path / "p.csv", "--output", tmp_path / target]
        assert main([str(argument) for argument in arguments]) == 0
        assert "1 of 2 points have no position" in capsys.readouterr().out
        read = read_points(tmp_path / target)
        assert np.allclose(read.positions, [(5, 2, 6)])
        assert dict(read.unset) == {1: "B"}


def test_models_prints_the_complexity_of_the_network(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WAVEMORPH_MODELS", str(tmp_path))
    assert main(["models", "--complexity"]) == 0
    assert "parameters" in capsys.readouterr().out


def write_bad_inputs(folder, good):
    """Name -> words that its error must contain."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(good))).astype(np.float32)
    spoiled = array.copy()
    spoiled[3, 4, 5] = np.nan
    infinite = array.copy()
    infinite[1, 1, 1] = np.inf
    images = {
        "nan": sitk.GetImageFromArray(spoiled),
        "infinite": sitk.GetImageFromArray(infinite),
        "constant": sitk.GetImageFromArray(np.full_like(array, 7)),
        "thin": sitk.GetImageFromArray(array[:3]),
        "flat": sitk.GetImageFromArray(array[20]),
        "color": sitk.GetImageFromArray(np.stack([array] * 3, -1), isVector=True),
    }
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}.mha"))
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(array)] * 2), str(folder / "series.nii.gz"))
    (folder / "text.nii.gz").write_text("no volume")
    sheared = (
        "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 20 20 20\nencoding: raw\n"
        "endian: little\nspace directions: (1,0,0) (0.3,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    values = np.random.default_rng(0).random((20, 20, 20), np.float32)
    (folder / "sheared.nrrd").write_bytes(sheared.encode() + values.tobytes())
    return {
        "absent.nii.gz": "does not exist",
        "text.nii.gz": "cut short or damaged",
        "flat.mha": "2",
        "series.nii.gz": "2",
        "color.mha": "3",
        "nan.mha": "1 ",
        "infinite.mha": "1 ",
        "constant.mha": "7",
        "thin.mha": "only 3 voxels",
        "sheared.nrrd": "shear",
    }


@pytest.mark.parametrize("command", ["register", "scene"])
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_bad_volume_is_refused_in_one_sentence_and_nothing_is_written(command, role, pair_folder, tmp_path, capfd):
    bad = tmp_path / "bad"
    bad.mkdir()
    other = "moving" if role == "fixed" else "fixed"
    target = ["--transform", tmp_path / "t.h5"] + (["--output", tmp_path / "c.mrb"] if command == "scene" else [])
    for name, words in write_bad_inputs(bad, pair_folder / "fixed.nii.gz").items():
        arguments = [command, f"--{role}", bad / name, f"--{other}", pair_folder / f"{other}.nii.gz", *QUICK, *target]
        code, sentence = refused(capfd, *arguments)
        assert code == 2, name
        assert role in sentence, sentence
        assert words in sentence, sentence
        assert os.listdir(tmp_path) == ["bad"]


def test_bad_masks_labels_and_settings_are_refused(pair, pair_folder, tmp_path, capfd):
    def image(name, array, **geometry):
        made = sitk.GetImageFromArray(array)
        for key, value in geometry.items():
            getattr(made, f"Set{key}")(value)
        sitk.WriteImage(made, str(tmp_path / name))
        return tmp_path / name

    empty = image("empty.nii.gz", np.zeros((20, 20, 20), np.uint8))
    far = image("far.nii.gz", np.ones((20, 20, 20), np.uint8), Origin=(900.0, 0.0, 0.0))
    other = image("other.nii.gz", np.full((20, 20, 20), 9, np.uint8))
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"no weights")
    before = sorted(os.listdir(tmp_path))
    labels = ["--fixed-labels", pair_folder / "fixed_labels.nii.gz"]
    for extra, code, words in (
        (["--fixed-mask", empty], 2, "fixed mask"),
        (["--moving-mask", far], 2, "moving mask"),
        ([*labels, "--moving-labels", other], 2, "no label"),
        (labels, 2, "both label maps"),
        (["--preset", "Fastest"], 2, "Instant, Balanced, Precise"),
        (["--preset", "Instant"], 2, "Instant needs a model"),
        (["--transform-type", "similarity"], 2, "rigid, affine, deformable"),
        (["--transform-type", "rigid", "--aligned"], 2, "aligned already"),
        (["--smoothness", "most"], 2, "low, medium, high"),
        (["--device", "tpu"], 2, "auto, cpu, cuda, mps"),
        (["--threads", "0"], 2, "at least 1"),
        (["--spacing", "999"], 2, "between 0.001 and 100"),
        (["--store-spacing", "0"], 2, "above 0 mm, not 0.0 mm"),
        (["--weights", weights], 5, "w."),
        (["--weights", "unheard-of"], 5, "unheard-of"),
        (["--initial-transform", weights], 2, "initial transform"),
    ):
        got, sentence = refused(capfd, "register", *pair, "--transform", tmp_path / "t.h5", *extra)
        assert got == code, sentence
        assert words in sentence, sentence
        assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_available_is_refused_with_those_that_are(pair, tmp_path, capsys, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, sentence = refused(capsys, "register", *pair, "--transform", tmp_path / "t.h5", "--device", device)
    assert code == 4
    assert f"'{device}' is not available" in sentence
    assert "cpu" in sentence


def test_bad_outputs_are_refused_before_the_work(pair, pair_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    fixed = pair_folder / "fixed.nii.gz"
    content = fixed.read_bytes()
    for extra, words in (
        (["--transform", tmp_path / "t.xyz"], "must end in"),
        (["--transform", tmp_path / "file" / "t.h5"], "not a folder"),
        (["--transform", fixed], "would overwrite the input"),
        (["--transform", tmp_path / "t.h5", "--warped", tmp_path / "../" / tmp_path.name / "t.h5"], "must end in"),
        (["--transform", tmp_path / "t.nii.gz", "--warped", tmp_path / "t.nii.gz"], "given for both"),
    ):
        code, sentence = refused(capsys, "register", *pair, *extra)
        assert code == 3, sentence
        assert words in sentence
        assert os.listdir(tmp_path) == ["file"]
    assert fixed.read_bytes() == content


def test_volumes_far_apart_are_refused_where_they_are_said_to_be_aligned(pair, pair_folder, tmp_path, capsys):
    image = sitk.ReadImage(str(pair_folder / "moving.nii.gz"))
    image.SetOrigin((900.0, 0.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "far.nii.gz"))
    pair[3] = tmp_path / "far.nii.gz"
    code, sentence = refused(capsys, "register", *pair, "--aligned", "--transform", tmp_path / "t.h5")
    assert code == 2
    assert "do not overlap" in sentence


@pytest.mark.parametrize(
    ("error", "expected_code", "expected"),
    [(MemoryError, 6, "not enough memory"), (KeyboardInterrupt, 130, "Canceled")],
)
def test_lack_of_memory_and_an_interruption_end_in_one_sentence_and_write_nothing(
    pair, tmp_path, capsys, monkeypatch, error, expected_code, expected
):
    def fail(*_):
        raise error

    monkeypatch.setattr(stage, "optimize", fail)
    code, sentence = refused(capsys, "register", *pair, "--aligned", "--transform", tmp_path / "t.h5")
    assert code == expected_code
    assert expected in sentence
    assert os.listdir(tmp_path) == []


def test_an_unexpected_error_is_one_sentence_too_unless_its_traceback_is_asked_for(pair, tmp_path, capsys, monkeypatch):
    def break_(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(stage, "optimize", break_)
    arguments = ["register", *pair, "--aligned", "--transform", str(tmp_path / "t.h5")]
    assert refused(capsys, *arguments)[0] == 1
    monkeypatch.setenv("WAVEMORPH_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(arguments)


def test_the_demo_needs_both_volumes_of_an_own_pair(pair_folder, tmp_path, capsys):
    code, sentence = refused(
        capsys, "demo", "--output", tmp_path / "out", "--fixed", pair_folder / "fixed.nii.gz", "--quiet"
    )
    assert code == 2
    assert "needs both" in sentence
    assert os.listdir(tmp_path) == []


def run_into_a_closed_pipe(*arguments, both=False):
    """(exit code, standard error) of the program where the reader of its output has closed its end."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "wavemorph.cli", *(str(argument) for argument in arguments)]
    with os.fdopen(writer, "wb") as output:
        error = output if both else subprocess.PIPE
        done = subprocess.run(command, stdout=output, stderr=error, text=True, check=False)
    return done.returncode, done.stderr


def test_a_reader_that_closes_the_output_ends_the_program_quietly_after_its_files_are_written(tmp_path):
    (tmp_path / "f.csv").write_text("x,y,z\n" + "1,2,3\n" * 4)
    points = ["--fixed-points", tmp_path / "f.csv", "--moving-points", tmp_path / "f.csv"]
    for both in (False, True):
        report = tmp_path / f"r{both}.json"
        assert run_into_a_closed_pipe("evaluate", *points, "--report", report, both=both) == (141, None if both else "")
        assert json.loads(report.read_text())["target_registration_error_mm"]["max"] == 0
    assert run_into_a_closed_pipe("models") == (141, "")
    for option in ("--help", "--version"):
        assert run_into_a_closed_pipe(option)[1] == ""
    assert run_into_a_closed_pipe("evaluate", *points[:2])[0] == 2  # its sentence goes to standard error


def test_every_command_prints_its_help(capsys):
    """A per cent sign in a text would be taken for a format."""
    (commands,) = (action.choices for action in make_parser()._actions if action.choices)
    assert len(commands) >= 14
    for name in commands:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: wavemorph {name}")


def test_the_program_prints_its_version_without_importing_torch():
    code = "import sys; from wavemorph.cli.main import main\ntry: main(['--version'])\n"
    code += "finally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"wavemorph {wavemorph.__version__}"


def test_a_volume_is_released_once_it_is_written_and_can_be_made_again(random_registration, tmp_path):
    registration = random_registration(1)
    before = sitk.GetArrayFromImage(registration.jacobian)
    REGISTRATION_OUTPUTS["jacobian"][0](registration, str(tmp_path / "j.nrrd"))
    assert "jacobian" not in vars(registration)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "j.nrrd"))), before)
    assert np.array_equal(sitk.GetArrayFromImage(registration.jacobian), before)


def test_with_an_error_map_and_labels_the_table_and_the_report_have_the_error_of_each_structure(
    random_registration, tmp_path, monkeypatch, capsys
):
    registration = phantoms.with_expected_error(random_registration(1))
    monkeypatch.setattr(pipeline, "register", lambda *_, **__: registration)
    arguments = ["register", "--transform", tmp_path / "t.h5", "--quiet"]
    for which, image in (("fixed", registration.fixed), ("moving", registration.moving)):
        write_image(image, tmp_path / f"{which}.nrrd")
        write_image(sitk.Cast(image > 50, sitk.sitkUInt8) + (image > 400), tmp_path / f"{which}_labels.nrrd")
        arguments += [f"--{which}", tmp_path / f"{which}.nrrd", f"--{which}-labels", tmp_path / f"{which}_labels.nrrd"]
    arguments += ["--error-map", tmp_path / "e.nrrd", "--report", tmp_path / "r.json"]
    assert main(list(map(str, arguments))) == 0
    error = sitk.GetArrayFromImage(phantoms.expected_error(registration.fixed))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "e.nrrd"))), error)
    assert registration.expected_error is not None
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "fixed_labels.nrrd")))
    report = json.loads((tmp_path / "r.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    header = next(index for index, line in enumerate(lines) if line.endswith("expected error mm"))
    for number, line in zip((1, 2), lines[header + 1 :]):
        expected = np.median(error[(labels == number) & (error > 0)])
        assert report["labels"]["labels"][str(number)]["expected_error_mm"] == pytest.approx(expected)
        assert line.split()[-1] == f"{expected:.2f}"


def test_the_series_of_either_volume_is_chosen_by_its_option(tmp_path, tiny_pair, capsys):
    """One disc holds the fixed series, the moving one and a third; apply chooses by --series too."""
    for image, name in zip((*tiny_pair, tiny_pair[0]), ("T1", "T2", "PD")):
        planes = np.clip(sitk.GetArrayFromImage(image), 0, None).astype(np.uint16)
        places = [image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(len(planes))]
        orientation = np.reshape(image.GetDirection(), (3, 3)).T[:2].ravel()
        tags = {"series": f"1.2.{len(name)}.{ord(name[0]) + ord(name[1])}", "SeriesDescription": name}
        write_stack(tmp_path / "CD" / name, planes, places, orientation, image.GetSpacing()[:2], **tags)
    disc, out = str(tmp_path / "CD"), str(tmp_path / "t.h5")
    both = ["register", "--fixed", disc, "--moving", disc, "--transform", out, *QUICK]
    assert '"T2"' in refused(capsys, *both)[1]
    assert '"PD"' in refused(capsys, *both, "--fixed-series", "T1", "--moving-series", "MR")[1]
    assert main([*both, "--fixed-series", "T1", "--series", "T2", "--aligned"]) == 0
    assert shift_of(out) > 2
    apply = ["apply", "--transform", out, "--image", disc, "--reference", str(tmp_path / "CD" / "T1")]
    assert main([*apply, "--output", str(tmp_path / "w.nrrd"), "--series", "T2"]) == 2  # the reference has no T2
    apply[-1] = disc
    assert main([*apply, "--output", str(tmp_path / "w.nrrd"), "--series", "T2", "--reference-series", "T1"]) == 0
    assert sitk.ReadImage(str(tmp_path / "w.nrrd")).GetSize() == tiny_pair[0].GetSize()
    assert main([*apply, "--output", str(tmp_path / "w.nrrd"), "--series", "T2"]) == 0
    assert sitk.ReadImage(str(tmp_path / "w.nrrd")).GetSize() == tiny_pair[1].GetSize()


def shift_of(path: str) -> float:
    """The mean length of the displacement of points of the head, mm."""
    points = brain_points()
    return float(np.linalg.norm(moved(sitk.ReadTransform(path), points) - points, axis=1).mean())


@pytest.mark.parametrize(("level", "code"), [("good", 0), ("check", 7), ("do not trust", 8)])
def test_with_strict_the_verdict_is_the_exit_code_and_the_files_are_written(
    pair, tmp_path, capsys, monkeypatch, level, code
):
    reasons = [] if level == "good" else ["The outlines overlap by only 0.60."]
    given = {"level": level, "reasons": reasons, "probability_wrong": 0.5}
    monkeypatch.setattr(pipeline, "judge", lambda report, length_scale: given)
    output = tmp_path / "t.h5"
    assert main(["register", *pair, "--aligned", "--transform", str(output), "--strict"]) == code
    assert output.exists()
    assert capsys.readouterr().out.splitlines()[0] == f"verdict              {level}"
    assert main(["register", *pair, "--aligned", "--transform", str(output)]) == 0
