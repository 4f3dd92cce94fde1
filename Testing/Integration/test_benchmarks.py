"""The benchmarks: tables and plots, peers that are missing or crash, and the direction of the peers' transforms."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types

import benchmark
import gpu
import methods
import numpy as np
import organs
import phantoms
import pytest
import reliability
import scaling
import SimpleITK as sitk
import torch
import unet
from benchmark import Case, Row
from dicom_files import write_stack
from pointsets import SHIFT as HEAD_SHIFT
from wavemorph.cli.demo import template_path
from wavemorph.errors import InputError
from wavemorph.registration.deformable.inference import predict
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.preprocessing import bounding_box
from wavemorph.training.loop import Trainer
from wavemorph.training.recipe import RECIPES
from wavemorph.training.synthetic_pairs import TrainingPair

SHIFT = np.array([2.0, -1.5, 1.0])
ROWS = [
    Row("a", "own", "affine", {"Dice": 0.585, "HD95 mm": None, "wall s": 0.2, "CPU s": 0.3}),
    Row("a", "own", "balanced", {"Dice": 0.8307, "HD95 mm": 2.5, "wall s": 19.6, "CPU s": 35.1}),
    Row("a", "own", "greedy", {}, "not installed (pip install picsl_greedy)"),
    Row("b", "template", "balanced", {"error mm, mean": 0.754, "95 %": 1.7, "CPU s": 35.0}),
    Row("b", "template", "syn", {"error mm, mean": 7.0, "95 %": 9.0, "CPU s": 60.0}),
    Row("b", "template", "demons", {"wall s": 1.0, "CPU s": 1.0}, "failed: ended by signal 11"),
]


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Files of a phantom and the same one shifted, on small lattices that are rotated and flipped."""
    folder = tmp_path_factory.mktemp("shifted")
    lattice, other = (phantoms.random_geometry(seed, size=(34, 32, 30), extent_mm=44.0) for seed in (3, 4))
    center = phantoms.center_of(lattice)
    other.SetOrigin((np.array(other.GetOrigin()) + center + SHIFT - phantoms.center_of(other)).tolist())
    sitk.WriteImage(phantoms.head(lattice), str(folder / "fixed.nii.gz"))
    sitk.WriteImage(phantoms.head(other, center + SHIFT), str(folder / "moving.nii.gz"))
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((0.4 * SHIFT).tolist())
    sitk.WriteTransform(affine, str(folder / "affine.tfm"))
    return folder, center


def test_each_case_has_a_table_with_the_columns_of_its_rows():
    lines = benchmark.table(ROWS).splitlines()
    assert lines[1] == "### a"
    assert lines[3] == "| method | Dice | HD95 mm | wall s | CPU s |"
    assert lines[5] == "| affine alone | 0.585 | - | 0 | 0 |"
    assert lines[6] == "| WaveMorph Balanced | 0.831 | 2.500 | 20 | 35 |"
    assert "| method | error mm, mean | 95 % | wall s | CPU s |" in lines


def test_a_method_without_a_result_names_the_reason_in_its_row():
    text = benchmark.table(ROWS)
    assert "greedy, NCC 2x2x2, 100x50x10: not installed (pip install picsl_greedy) | - | - | - | - |" in text
    assert "SimpleITK diffeomorphic demons: failed: ended by signal 11 | - | - | 1 | 1 |" in text


def test_a_missing_peer_is_a_row_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setitem(methods.NEEDS, "greedy", methods.Peer("pip install nothing", module="no_such_module"))
    row = benchmark.run("greedy", Case("a", "a", "f", "m"), "affine.tfm", tmp_path, 1)
    assert row.problem == "not installed (pip install nothing)"
    assert methods.Peer("apt-get install nothing", program="no-such-program").version is None


def test_a_crash_is_a_row_and_not_the_end(tmp_path):
    row = benchmark.run("demons", Case("a", "a", "absent.nii.gz", "absent.nii.gz"), "absent.tfm", tmp_path, 1)
    assert row.problem.startswith("failed: ")
    assert row.numbers["CPU s"] > 0


def test_one_process_is_measured_and_scored(tmp_path, shifted):
    folder, _ = shifted
    paths = [str(folder / f"{role}.nii.gz") for role in ("fixed", "moving")]
    points = np.zeros((4, 3)) + phantoms.center_of(sitk.ReadImage(paths[0]))
    case = Case("a", "a", *paths, points=(points, points + SHIFT))
    row = benchmark.run("affine", case, str(folder / "affine.tfm"), tmp_path, 1)
    assert row.problem is None
    assert row.numbers["error mm, mean"] == pytest.approx(0.6 * np.linalg.norm(SHIFT))
    assert row.numbers["folded %"] == row.numbers["strict %"] == 0
    assert 0.01 < row.numbers["peak GB"] < 4


def test_the_command_writes_table_json_and_plot(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    made = {(row.group, row.method): row for row in ROWS}
    cases = [Case("a", "own", "f", "m"), Case("b", "template", "f", "m")]
    monkeypatch.setattr(benchmark, "built_in_cases", lambda *_: cases)
    monkeypatch.setattr(benchmark, "start_of", lambda *_: "")
    monkeypatch.setattr(
        benchmark,
        "run",
        lambda method, case, *_: made.get((case.group, method), Row(case.name, case.group, method, {}, "left out")),
    )
    files = [str(tmp_path / name) for name in ("table.md", "rows.json", "plot.png")]
    arguments = ["benchmark.py", "--methods", "affine", "balanced", "syn", "demons"]
    monkeypatch.setattr("sys.argv", [*arguments, "--output", files[0], "--json", files[1], "--plot", files[2]])
    benchmark.main()
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "table.md").read_text()
    assert " cores, " in printed.splitlines()[0]
    assert f"torch {torch.__version__}" in printed.splitlines()[0]
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["machine"]["python"]
    assert len(content["rows"]) == 8
    assert content["rows"][1]["numbers"]["Dice"] == 0.8307
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["greedy", "elastix", "convex-adam"])
def test_the_transform_of_a_peer_maps_fixed_points_to_moving_points(method, shifted, tmp_path, monkeypatch):
    if not methods.NEEDS[method].present:
        pytest.skip(f"{method} is not installed ({methods.NEEDS[method].source})")
    monkeypatch.setitem(methods.ELASTIX, "MaximumNumberOfIterations", 60)
    monkeypatch.setitem(methods.ELASTIX, "NumberOfResolutions", 2)
    monkeypatch.setitem(methods.ELASTIX, "GridSpacingSchedule", [2.0, 1.0])
    folder, center = shifted
    output = str(tmp_path / "found.h5")
    threads = torch.get_num_threads()
    paths = [str(folder / name) for name in ("fixed.nii.gz", "moving.nii.gz", "affine.tfm")]
    methods.METHODS[method](*paths, output, threads)
    transform = sitk.ReadTransform(output)
    points = center + np.random.default_rng(0).uniform(-8, 8, (100, 3))
    moved = np.array([transform.TransformPoint(point.tolist()) for point in points])
    assert np.linalg.norm(np.mean(moved - points - SHIFT, axis=0)) < 0.25 * np.linalg.norm(SHIFT)


def test_the_u_net_has_the_size_of_voxelmorph():
    network = unet.UNet()
    assert sum(p.numel() for p in network.parameters()) == 327_331
    volume = torch.rand(1, 1, 16, 32, 48)
    assert network.decode(volume, volume).shape == (1, 3, 8, 16, 24)
    assert network(volume, volume).shape == (1, 3, 16, 32, 48)


def test_the_u_net_trains_by_the_recipe_of_our_network(tmp_path):
    class Source:
        spacing_mm = 2.0

        def __getitem__(self, index: int) -> TrainingPair:
            volume = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(index))
            return TrainingPair(volume, volume.flip(2), volume, volume.flip(2), torch.ones_like(volume))

    recipe = RECIPES["wavemorph"]
    recipe = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, passes_mm=(4.0, 2.0)), pairs=1)
    network = unet.UNet(recipe.network)
    before = network.down[0][0].weight.detach().clone()
    trainer = Trainer(recipe, Source(), tmp_path, network=network)
    assert trainer.run()
    assert trainer.network is network
    assert not torch.equal(before, network.down[0][0].weight)
    pair = Source()[0]
    with torch.inference_mode():
        found, _ = predict(network.eval(), pair.fixed, pair.moving, 2.0)
    assert found.shape == (1, 3, 32, 32, 32)
    assert torch.isfinite(found).all()


def test_without_a_gpu_its_tables_end_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'cuda' is not available" in last and "--small --device cpu" in last


def test_all_that_is_measured_on_a_gpu_runs_small_on_a_cpu(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    try:
        template_path()
    except InputError:
        pytest.skip("the template in the package nilearn is missing")
    table, picture = tmp_path / "gpu.md", tmp_path / "gpu.png"
    arguments = ["gpu.py", "--small", "--device", "cpu", "--output", str(table), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", arguments)
    gpu.main()
    rows = [line.strip("| ").split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")]
    named = {row[0]: row for row in rows}
    assert float(named["paper's, one pass"][2]) > 0
    assert named["U-Net, one pass"][1] == "327,331"
    columns = named["method"]
    balanced = dict(zip(columns, named["WaveMorph Balanced"]))
    assert float(balanced["error mm, mean"]) == pytest.approx(float(balanced["error mm, mean, CPU"]), abs=0.01)
    assert float(balanced["strict %"]) == 0
    assert len(named["ixi"]) == 6 and float(named["ixi"][-1]) > 0
    assert named["Balanced"][-1] in ("yes", "no")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_refinements_with_plain_and_with_recorded_steps_are_compared_in_voxels(shifted, monkeypatch):
    folder, _ = shifted
    case = Case("shifted", "own", str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz"))
    plan = gpu.Plan(torch.device("cpu"), spacing_mm=4.0, warm_up=1, runs=1, presets=("Instant", "Balanced"))
    (row,) = gpu.recorded_steps(plan, case)
    assert row["steps"] == "refinement of Balanced"
    assert row["plain s"] > 0 and row["recorded s"] > 0
    assert row["difference, voxels"] == row["two plain runs, voxels"] == 0
    assert row["recorded"] == "no, not on this device"

    def differs(fixed, moving, settings):
        vectors = np.full((4, 4, 4, 3), 1.0 + gpu.strategy.CUDA.records_steps)
        image = sitk.GetImageFromArray(vectors, isVector=True)
        image.SetSpacing((2.0, 4.0, 4.0))
        return types.SimpleNamespace(displacement=image, report={"seconds": {"Refinement": 1.5}})

    monkeypatch.setattr(gpu, "register", differs)
    (row,) = gpu.recorded_steps(plan, case)
    assert row["difference, voxels"] == pytest.approx(3**0.5 / 2)
    assert row["plain s"] == 1.5


def test_a_network_that_cannot_be_compiled_has_the_reason_in_its_cell(monkeypatch):
    plan = gpu.Plan.small(torch.device("cpu"))
    monkeypatch.setattr(torch, "compile", lambda network: network)
    assert gpu.compiled_ms(torch.nn.Identity(), lambda network: network(torch.ones(2)), plan) > 0

    def fails(network):
        raise RuntimeError("Cannot find a working triton installation.\nMore lines.")

    monkeypatch.setattr(torch, "compile", fails)
    found = gpu.compiled_ms(torch.nn.Identity(), print, plan)
    assert found == "RuntimeError: Cannot find a working triton installation."


def test_pairs_for_the_gpu_are_all_labeled_volumes_in_both_directions(pair_folder, tmp_path):
    cases = gpu.labeled_cases(str(pair_folder))
    assert [case.name for case in cases] == ["moving.nii.gz to fixed.nii.gz", "fixed.nii.gz to moving.nii.gz"]
    assert cases[0].labels[0].GetSize() == sitk.ReadImage(cases[0].fixed).GetSize()
    assert gpu.labeled_cases(str(tmp_path)) == []


def test_a_target_is_met_missed_or_open():
    tables = {
        "forward": [{"network": "paper's, one pass", "bfloat16 ms": 9.0}],
        "register": [{"method": "WaveMorph Balanced", "s": 1.2, "Dice": 0.833, "Dice, CPU": 0.836, "strict %": 0.0}],
    }
    met = {row["target"]: row["met"] for row in gpu.targets(tables)}
    assert met["forward pass of the paper's network, bfloat16"] == "yes"
    assert (met["Balanced"], met["Instant"]) == ("no", "-")
    assert met["Dice of Balanced off the CPU's"] == "no"


def test_growth_in_proportion_to_the_voxels_has_the_exponent_one():
    rows = [
        {"preset": "Balanced", "side": side, "voxels": side**3, "wall s": 2e-6 * side**3, "CPU s": 4e-6 * side**3,
         "peak GB": 1e-3 * side**1.5} for side in (64, 96, 128)
    ]  # fmt: skip
    assert scaling.exponent(rows, "CPU s") == pytest.approx(1.0)
    assert scaling.exponent(rows, "peak GB") == pytest.approx(0.5)
    assert math.isnan(scaling.exponent(rows[:1], "CPU s"))
    assert "CPU s 1.00, peak GB 0.50" in scaling.table(rows)


def test_the_working_grid_of_a_cube_has_its_voxels(tmp_path):
    try:
        fixed, moving, mask = scaling.make_cube(40, tmp_path)
    except InputError:
        pytest.skip("the template in the package nilearn is missing")
    image = sitk.ReadImage(fixed)
    grid = make_working_grid(image, bounding_box(sitk.ReadImage(mask)), image.GetSpacing()[0], scaling.MARGIN_MM)
    assert grid.size == image.GetSize() == (40, 40, 40)
    assert sitk.ReadImage(moving).GetSize() == (40, 40, 40)


def test_organs_are_registered_and_scored_on_generated_bodies(tmp_path, monkeypatch, capsys):
    output = tmp_path / "table.md"
    arguments = ["organs.py", "--side", "40", "--methods", "none", "balanced", "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    organs.main()
    rows = [line.split("|") for line in output.read_text().splitlines() if line.startswith(("| torso", "| small"))]
    errors = {(row[1].strip(), row[2].strip()): float(row[4].split()[1].split("/")[0]) for row in rows}
    for body in ("torso", "small_animal"):
        assert errors[body, "balanced"] < 0.4 * errors[body, "none"]
    assert errors["small_animal", "balanced"] == pytest.approx(errors["torso", "balanced"] / 15, rel=0.2)


@pytest.fixture
def tilted_series(tmp_path, tiny_pair):
    """F, I and truth as the script wants them; in dcm the moving head by a gantry tilted by 20 degrees."""
    fixed, moving = tiny_pair
    sitk.WriteImage(fixed, str(tmp_path / "F.nii.gz"))
    sitk.WriteImage(moving, str(tmp_path / "I.nii.gz"))
    sitk.WriteTransform(sitk.TranslationTransform(3, HEAD_SHIFT.tolist()), str(tmp_path / "truth.h5"))
    axes = np.reshape(moving.GetDirection(), (3, 3))
    tilt = np.radians(20)
    row, column = axes[:, 0], np.cos(tilt) * axes[:, 1] + np.sin(tilt) * axes[:, 2]
    direction = np.column_stack([row, column, np.cross(row, column)]).ravel().tolist()
    size, step = moving.GetSize(), 1.8
    first = np.array(moving.GetOrigin()) - 20 * axes[:, 2]  # lower, so that the far edge of the head is in it
    positions = [first + step * n * axes[:, 2] for n in range(size[2] + 22)]
    spacing = (*moving.GetSpacing()[:2], 1.0)
    one = (*size[:2], 1)
    planes = [
        sitk.Resample(moving, one, sitk.Transform(), sitk.sitkLinear, place.tolist(), spacing, direction)
        for place in positions
    ]
    stored = [np.clip(sitk.GetArrayFromImage(plane)[0], 0, None).astype(np.uint16) for plane in planes]
    write_stack(tmp_path / "dcm" / "tilt20", stored, positions, [*row, *column], spacing[:2])
    write_stack(tmp_path / "dcm" / "noipp", stored, [None] * len(stored))
    return tmp_path


def test_a_tilted_series_is_registered_as_well_as_the_volume_and_one_without_positions_has_its_reason(
    tilted_series, monkeypatch, capsys
):
    rows = {}
    for name in ("I.nii.gz", "tilt20", "noipp"):
        monkeypatch.setattr(sys, "argv", ["reliability.py", str(tilted_series), "--table", "dicom", "--only", name])
        reliability.main()
        *_, row = capsys.readouterr().out.strip().splitlines()
        rows[name] = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(rows["I.nii.gz"][1]) < 0.5
    assert float(rows["tilt20"][1]) < 0.8
    assert "tilted by 20.0 degrees" in rows["tilt20"][6] and "warning" not in rows["tilt20"][6]
    assert rows["noipp"][1] == "" and "do not say where they lie" in rows["noipp"][6]
