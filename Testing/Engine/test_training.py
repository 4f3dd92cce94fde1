"""Training: the same curve after a stop, data sets in the paper's layouts, losses against plain arithmetic."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.ndimage import gaussian_filter, uniform_filter
from wavemorph import field
from wavemorph.cli import main
from wavemorph.demo import template_path
from wavemorph.errors import InputError, SettingsError
from wavemorph.network import AnatomyNetwork, NetworkConfig, WaveMorphNetwork
from wavemorph.network.anatomy import STRUCTURES
from wavemorph.network.passes import predict
from wavemorph.training import anatomy
from wavemorph.training.anatomy import Draw
from wavemorph.training.atlas import load_atlas
from wavemorph.training.crops import LabelledCrops
from wavemorph.training.datasets import IXI_LABELS, DataPairs, IxiData, OasisData, read_pickled
from wavemorph.training.loop import Ahead, AnatomyTrainer, Trainer
from wavemorph.training.losses import diffusion_loss, local_correlation_loss, segmentation_loss
from wavemorph.training.protocol import mean_dice
from wavemorph.training.recipe import RECIPES, Recipe
from wavemorph.weights import DEFAULT_MODEL, load, resolve

SIDE = 24
TINY = {"channels": [4, 4, 8], "kernels": [3, 3, 3, 1], "bottleneck_blocks": 1, "bottleneck_kernel": 3}


def subject(seed):
    """A ball of four shells with a soft edge, a little to one side, and its shells as labels 1 to 4."""
    generator = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1) - SIDE / 2 - generator.uniform(-2, 2, 3)
    radius = np.sqrt((places**2).sum(-1)) + gaussian_filter(generator.standard_normal((SIDE,) * 3), 3) * 4
    labels = np.digitize(-radius, (-9, -7, -5, -3)).astype(np.int16)
    volume = gaussian_filter(labels / 4.0, 0.7).astype(np.float32)
    return volume, labels


@pytest.fixture(scope="module")
def ixi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ixi")
    for part, count in (("Train", 4), ("Val", 1), ("Test", 3)):
        (folder / part).mkdir()
        for n in range(count):
            with (folder / part / f"subject_{n}.pkl").open("wb") as file:
                pickle.dump(subject(10 * len(part) + n), file)
    with (folder / "atlas.pkl").open("wb") as file:
        pickle.dump(subject(0), file)
    return folder


@pytest.fixture(scope="module")
def oasis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oasis")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for number in (1, 2, 3, 438, 439, 440):
        volume, labels = subject(number)
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / "imagesTr" / f"OASIS_{number:04}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / "labelsTr" / f"OASIS_{number:04}_0000.nii.gz"))
    (folder / "pairs_val.csv").write_text("fixed,moving\n438,439\n439,440\n")
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"network": TINY, "learning_rate": 2e-3, "smoothness": 0.1}))
    return path


class OnePair:
    """The same pair again and again."""

    def __init__(self, pair, spacing_mm=anatomy.SPACING_MM):
        self._pair, self.spacing_mm = pair, spacing_mm

    def __getitem__(self, index):
        return self._pair


def tiny_recipe(**changes):
    network = NetworkConfig.from_dict({**TINY, "symmetric": False})
    return dataclasses.replace(Recipe("tiny", "ixi", network, pairs=8, learning_rate=1e-3), **changes)


def losses_of(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return [(row["pair"], row["pass"], row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_training_that_was_stopped_goes_on_with_the_same_losses_and_ends_in_the_same_weights(ixi, tmp_path, stop):
    recipe, source = tiny_recipe(), DataPairs(IxiData(ixi))
    whole = Trainer(recipe, source, tmp_path / "whole")
    assert whole.run()
    assert not Trainer(recipe, source, tmp_path / "halves").run(until_pair=stop)
    rest = Trainer(recipe, source, tmp_path / "halves")
    assert rest.pair == stop
    assert rest.run()
    assert losses_of(tmp_path / "halves") == losses_of(tmp_path / "whole")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, rest.network.state_dict()[name]), name


def test_training_that_was_killed_between_checkpoints_repeats_the_lost_pairs_exactly(ixi, tmp_path, monkeypatch):
    recipe, source = tiny_recipe(), DataPairs(IxiData(ixi))
    Trainer(recipe, source, tmp_path / "whole").run()
    Trainer(recipe, source, tmp_path / "killed").run(until_pair=2)

    class Killed(BaseException):
        pass

    def die(pair, pairs, loss):
        if pair == 5:
            raise Killed

    with pytest.raises(Killed):
        Trainer(recipe, source, tmp_path / "killed").run(progress=die)
    again = Trainer(recipe, source, tmp_path / "killed")
    assert again.pair == 2
    again.run()
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")


def test_two_processes_step_by_the_mean_of_their_gradients(ixi, tmp_path, config):
    common = ["--data", str(ixi), "--config", str(config), "--pairs", "1", "--device", "cpu"]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "wavemorph.cli", "train"]
    run = [sys.executable, *command, "--recipe", "ixi", "--output", str(tmp_path / "two"), *common]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(run, capture_output=True, text=True, check=False, env=one_thread)
    assert finished.returncode == 0, finished.stderr[-2000:]
    together = load(tmp_path / "two" / "ixi.safetensors", "cpu").network.state_dict()

    changes = json.loads(config.read_text())
    network = NetworkConfig.from_dict({**RECIPES["ixi"].network.to_dict(), **changes.pop("network")})
    recipe = dataclasses.replace(RECIPES["ixi"], network=network, pairs=1, clip=1e9, **changes)
    source, gradients = DataPairs(IxiData(ixi)), []
    for index in range(2):
        alone = Trainer(recipe, OnePair(source[index], 1.0), tmp_path / str(index))
        alone.run()
        gradients.append({name: p.grad.clone() for name, p in alone.network.named_parameters()})
    torch.manual_seed(recipe.seed)
    before = WaveMorphNetwork(network).state_dict()
    for name, value in together.items():
        mean = (gradients[0][name] + gradients[1][name]) / 2
        moved, sure = value - before[name], mean.abs() > 1e-4 * mean.abs().max() + 1e-6
        expected = -recipe.learning_rate * mean.sign()  # the first step of Adam
        assert torch.allclose(moved[sure], expected[sure], rtol=0.05), name


def test_a_time_slice_ends_between_two_pairs_and_says_that_it_is_not_done(ixi, tmp_path):
    trainer = Trainer(tiny_recipe(), DataPairs(IxiData(ixi)), tmp_path)
    assert not trainer.run(minutes=0.0)
    assert trainer.pair == 0
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_recipe_and_a_damaged_one_are_refused(ixi, tmp_path):
    source = DataPairs(IxiData(ixi))
    Trainer(tiny_recipe(), source, tmp_path).run(until_pair=1)
    with pytest.raises(InputError, match="another recipe"):
        Trainer(tiny_recipe(smoothness=2.0), source, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        Trainer(tiny_recipe(), source, tmp_path)


def test_the_polynomial_rate_falls_to_nothing_and_recipes_survive_a_round_trip():
    recipe = RECIPES["ixi"]
    assert recipe.rate(0) == pytest.approx(1e-4)
    assert recipe.rate(recipe.pairs // 2) == pytest.approx(1e-4 * 0.5**0.9, rel=1e-3)
    assert recipe.rate(recipe.pairs) == 0
    for recipe in RECIPES.values():
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(SettingsError, match="Unknown decay"):
        tiny_recipe(decay="steps")


def test_the_loss_of_local_correlation_is_what_scipy_computes_in_the_same_windows():
    generator = np.random.default_rng(0)
    a, b = (gaussian_filter(generator.random((16, 18, 20)), 1).astype(np.float64) for _ in range(2))
    mean = lambda x: uniform_filter(x, 9, mode="constant")  # noqa: E731
    covariance = mean(a * b) - mean(a) * mean(b)
    variances = (mean(a * a) - mean(a) ** 2 + 1e-5) * (mean(b * b) - mean(b) ** 2 + 1e-5)
    expected = 1 - np.mean(covariance**2 / variances)
    a, b = (torch.tensor(x, dtype=torch.float64)[None, None] for x in (a, b))
    assert float(local_correlation_loss(a, b)) == pytest.approx(expected, rel=1e-6)


def test_the_diffusion_of_a_linear_field_is_the_square_of_its_slope():
    ramp = torch.arange(6.0).view(6, 1, 1).expand(6, 6, 6) * 0.3
    field_ = torch.stack([ramp, torch.zeros_like(ramp), torch.zeros_like(ramp)])[None]
    assert float(diffusion_loss(field_)) == pytest.approx(0.3**2 / 9)


def test_the_mean_dice_leaves_out_what_neither_map_holds():
    a, b = np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int)
    a[:2], b[:2] = 1, 1
    a[3], b[3, :2] = 2, 2
    assert mean_dice(a, b, (1, 2, 3)) == pytest.approx((1.0 + 2 * 8 / 24) / 2)


def test_pairs_of_ixi_bring_the_atlas_to_each_patient_once_an_epoch(ixi):
    pairs = DataPairs(IxiData(ixi), seed=3)
    atlas = read_pickled(ixi / "atlas.pkl").volume
    first = [pairs[n] for n in range(4)]
    assert all(np.allclose(np.array(pair.moving[0, 0].tolist(), np.float32), atlas) for pair in first)
    sums = [float(pair.fixed.sum()) for pair in first]
    assert len(set(sums)) == 4
    assert sorted(sums) == sorted(float(pairs[n].fixed.sum()) for n in range(4, 8))
    assert len(IXI_LABELS) == 30


def test_the_validation_subjects_of_oasis_never_train(oasis, tmp_path):
    data = OasisData(oasis)
    assert [path.name[6:10] for path in data.training()] == ["0001", "0002", "0003"]
    assert [(m.name[6:10], f.name[6:10]) for m, f in data.pairs()] == [("0439", "0438"), ("0440", "0439")]
    (tmp_path / "imagesTr").mkdir()
    for n in (1, 5, 438, 457):
        (tmp_path / "imagesTr" / f"OASIS_{n:04}_0000.nii.gz").touch()
    without_table = OasisData(tmp_path)
    assert [path.name[6:10] for path in without_table.training()] == ["0001", "0005"]
    with pytest.raises(InputError, match="subject 439 is missing"):
        without_table.pairs()


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", [Evil(), (np.zeros((2, 2, 2)), Evil()), np.array([Evil()], dtype=object), "text"])
def test_a_pickle_that_is_no_pair_of_arrays_is_refused_before_anything_of_it_runs(tmp_path, capsys, content):
    path = tmp_path / "subject.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError):
        read_pickled(path)
    assert "must never run" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    volume, labels = subject(1)
    buffer = io.BytesIO()
    pickle.dump((volume, labels), buffer, protocol)
    (tmp_path / "s.pkl").write_bytes(buffer.getvalue())
    read = read_pickled(tmp_path / "s.pkl")
    assert np.array_equal(read.volume, volume)
    assert np.array_equal(read.labels, labels)


def test_a_short_training_on_miniature_ixi_ends_in_a_model_and_the_papers_table(ixi, tmp_path, config, capsys):
    common = ["--recipe", "ixi", "--data", str(ixi), "--output", str(tmp_path), "--config", str(config)]
    assert main(["train", *common, "--pairs", "100", "--device", "cpu"]) == 0
    model = tmp_path / "ixi.safetensors"
    assert load(model, "cpu").card.extra["recipe"]["pairs"] == 100
    capsys.readouterr()
    assert main(["protocol", "--data-set", "ixi", "--data", str(ixi), "--weights", str(model), "--device", "cpu"]) == 0
    header, before, after = capsys.readouterr().out.strip().splitlines()
    assert "DSC" in header and "folded" in header
    score = lambda line: float(line.split("+-")[0].split()[-1])  # noqa: E731
    assert score(after) > score(before) + 0.03
    assert after.split()[-1] == "3"


def test_training_in_slices_from_the_command_line_goes_on_and_says_so(ixi, tmp_path, config, capsys):
    command = ["train", "--recipe", "ixi", "--data", str(ixi), "--output", str(tmp_path), "--config", str(config)]
    assert main([*command, "--pairs", "4", "--minutes", "0"]) == 0
    assert "stopped at pair 0 of 4" in capsys.readouterr().out
    assert main([*command, "--pairs", "4"]) == 0
    assert "written" in capsys.readouterr().out


def test_the_ablation_on_miniature_oasis_ends_in_a_table_of_twelve(oasis, tmp_path, config, capsys):
    command = ["ablation", "--data-set", "oasis", "--data", str(oasis), "--output", str(tmp_path / "out")]
    assert main([*command, "--config", str(config), "--pairs", "30", "--device", "cpu"]) == 0
    lines = (tmp_path / "out" / "table.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 13
    assert {line[:24].strip() for line in lines[1:]} >= {"mswf + dysample", "max + nearest", "merging + trilinear"}
    assert capsys.readouterr().out.splitlines()[-13:] == lines
    assert len({line[24:52] for line in lines[1:]}) > 6  # they are different networks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--recipe", "ixi", "--output", "OUT"], "give its folder as --data"),
        (["train", "--recipe", "oasis", "--data", "NOWHERE", "--output", "OUT"], "no .nii.gz files"),
        (["train", "--recipe", "ixi", "--data", "NOWHERE", "--output", "OUT"], "atlas.pkl"),
        (["train", "--recipe", "wavemorph", "--config", "NOWHERE", "--output", "OUT"], "cannot be read"),
    ],
)
def test_what_training_cannot_do_is_said_in_one_sentence(tmp_path, capsys, arguments, said):
    arguments = [str(tmp_path / word.lower()) if word.isupper() else word for word in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "Traceback" not in error


@pytest.fixture(scope="module")
def synthetic():
    return anatomy.SyntheticPairs(anatomy.load_template(), seed=5)


def test_a_synthetic_pair_is_the_same_at_every_call_and_another_for_another_index(synthetic):
    first, again, other = synthetic[2], synthetic[2], synthetic[3]
    for part in ("fixed", "moving", "fixed_anatomy", "moving_anatomy", "weight", "truth"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.fixed, other.fixed)


def test_the_truth_of_a_synthetic_pair_aligns_the_anatomies_without_folding(synthetic):
    for index in range(4):
        pair = synthetic[index]
        off = lambda moving, pair=pair: float(((pair.fixed_anatomy - moving) ** 2 * pair.weight).mean())  # noqa: E731
        assert off(field.warp(pair.moving_anatomy, pair.truth)) < 0.6 * off(pair.moving_anatomy)
        assert field.least_corner_jacobian(pair.truth).min() > 0
        for image in (pair.fixed, pair.moving):
            assert torch.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 1.2 + 1e-6


def test_the_template_lies_the_way_round_that_working_grids_do():
    """Axes S, A, R: nibabel finds the same values at the same places."""
    image = nibabel.load(template_path())
    values, brain = image.get_fdata(), anatomy.load_template()[0, 0].float()
    first = image.affine @ (0, 0, 0, 1)
    assert np.array_equal(np.sign(np.diag(image.affine)[:3]), (1, 1, 1))
    assert first[0] < 0
    for i, j, k in ((60, 80, 70), (120, 150, 90), (100, 60, 40)):
        assert float(brain[k, j, i]) == pytest.approx(values[i, j, k] / values.max(), abs=2e-3)


def test_a_template_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "template.pt"
    path.write_bytes(b"no template")
    with pytest.raises(InputError, match="cannot be read"):
        anatomy.load_template(path)


def test_the_default_recipe_learns_a_pair_that_it_sees_often(synthetic, tmp_path):
    network = dataclasses.replace(
        RECIPES["wavemorph"].network, channels=(8, 8, 8, 8), passes_mm=(8.0, 4.0), bottleneck_blocks=1
    )
    recipe = dataclasses.replace(RECIPES["wavemorph"], network=network, pairs=40, learning_rate=4e-3)
    Trainer(recipe, OnePair(synthetic[2]), tmp_path).run()
    with (tmp_path / "losses.csv").open(newline="") as file:
        similarity = [float(row["similarity"]) for row in csv.DictReader(file) if row["pass"] == "1"]
    assert min(similarity[-5:]) < 0.8 * similarity[0]


def test_the_shipped_model_brings_pairs_closer_that_no_training_has_seen():
    model = resolve("auto", "cpu")
    assert model.card.name == DEFAULT_MODEL
    trained = RECIPES[DEFAULT_MODEL]
    assert dataclasses.replace(model.network.config, passes_mm=trained.network.passes_mm) == trained.network
    unseen, errors, differences = anatomy.SyntheticPairs(anatomy.load_template(), seed=77, shapes=0.0), [], []
    for index in range(3):
        pair = unseen[index]
        with torch.inference_mode():
            found, _ = predict(model.network, pair.fixed, pair.moving, anatomy.SPACING_MM)
        inside = pair.weight[:, 0] > 0
        for displacement in (torch.zeros_like(found), found):
            errors.append(float((displacement - pair.truth).norm(dim=1)[inside].mean()))
            seen = field.warp(pair.moving_anatomy, displacement)
            differences.append(float((seen - pair.fixed_anatomy).square()[:, 0][inside].mean()))
    assert np.mean(errors[1::2]) < 0.85 * np.mean(errors[::2])
    assert np.mean(differences[1::2]) < 0.6 * np.mean(differences[::2])


ANATOMY = {**TINY, "channels": [4, 4, 8], "output": "anatomy", "inputs": "image", "symmetric": False}


@pytest.fixture(scope="module")
def atlas():
    return load_atlas()


@pytest.fixture(scope="module")
def crops(atlas):
    return LabelledCrops(atlas, seed=3, size=(32, 40, 24))


def test_the_labels_drawn_on_the_template_are_about_as_large_as_in_a_brain(atlas):
    facts = atlas.facts()
    assert list(facts) == list(STRUCTURES[1:])
    # ml, from the literature on adults, wide
    usual = {
        "white matter": (380, 700), "cortex": (450, 900), "ventricles": (10, 45), "cerebellar cortex": (80, 180),
        "cerebellar white matter": (15, 40), "brainstem": (18, 35), "thalamus": (11, 20), "caudate": (6, 11),
        "putamen": (7, 17), "pallidum": (2.5, 5), "hippocampus": (5, 20),
    }  # fmt: skip
    for name, (low, high) in usual.items():
        x, _, _, volume = facts[name]
        assert low < volume < high, name
        assert abs(x) < 1, name  # both sides alike
    assert facts["brainstem"][2] < facts["thalamus"][2] < facts["caudate"][2]
    assert facts["caudate"][1] < facts["thalamus"][1] < facts["cerebellar cortex"][1]  # LPS: smaller is further front


def test_a_crop_depends_on_its_number_alone_and_its_shares_add_up(atlas, crops):
    again = LabelledCrops(atlas, seed=3, size=(32, 40, 24))
    for index in (0, 5, 11):
        crop = crops[index]
        assert torch.equal(crop.image, again[index].image)
        assert crop.image.shape == (1, 1, 32, 40, 24)
        assert crop.shares.shape == (1, len(STRUCTURES), 16, 20, 12)
        assert torch.allclose(crop.shares.sum(1), torch.ones(()), atol=1e-5)
        assert float(crop.image.min()) >= 0 and float(crop.image.max()) < 1.2001
    assert not torch.equal(crops[0].image, LabelledCrops(atlas, seed=4, size=(32, 40, 24))[0].image)


def test_folds_drawn_anew_are_ribbons_over_white_matter_and_other_structures_stay(atlas):
    size = (96, 112, 96)
    crops = LabelledCrops(atlas, seed=3, size=size)
    codes = {name: STRUCTURES.index(name) for name in STRUCTURES}
    middle = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(atlas.t1.shape[2:], size))
    before = atlas.labels[0, 0][middle].long()
    depth, to_ventricles = (part[None, None] for part in (atlas.depths[0, n][middle] for n in (0, 1)))
    assert float(to_ventricles[0, 0][before == codes["ventricles"]].abs().max()) == 0
    assert float(depth[0, 0][before == codes["thalamus"]].mean()) < -1
    shares = []
    for number in range(3):
        after = crops._folded_anew(Draw(number, torch.device("cpu")), before, depth, to_ventricles)
        for name in ("thalamus", "putamen", "hippocampus", "brainstem", "cerebellar cortex", "ventricles"):
            assert bool((after[before == codes[name]] == codes[name]).all()), name
        white = (after == codes["white matter"]).numpy()
        beside_fluid = white & ndimage.binary_dilation((after == 0).numpy() & (before != 0).numpy())
        assert beside_fluid.sum() < 0.05 * white.sum()
        shares.append(float(((after == 0) & (before == codes["cortex"])).sum() / (before == codes["cortex"]).sum()))
    assert min(shares) > 0 and max(shares) < 0.8 and max(shares) - min(shares) > 0.02


def test_crops_made_ahead_are_the_same_crops_in_any_order(crops):
    ahead = Ahead(crops)
    for index in (0, 1, 2, 7, 3):
        assert torch.equal(ahead[index].image, crops[index].image)


def test_the_loss_of_structures_is_cross_entropy_and_soft_dice():
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(1, len(STRUCTURES), 8, 8, 8, generator=generator)
    shares = torch.randn(1, len(STRUCTURES), 8, 8, 8, generator=generator).mul(3).softmax(1)
    shares[:, 4] = 0  # does not occur
    entropy, overlap = segmentation_loss(odds, shares)
    logs = np.log(np.exp(odds.numpy()) / np.exp(odds.numpy()).sum(1, keepdims=True))[0].reshape(len(STRUCTURES), -1)
    true = shares.numpy()[0].reshape(len(STRUCTURES), -1)
    weights = [0.7, 1, 1, 1.5, 1.2, 1.5, 1.5, 1.5, 1.5, 1.5, 2, 2]
    plain = -sum(weight * (t * log).sum() for weight, t, log in zip(weights, true, logs)) / 512
    assert float(entropy) == pytest.approx(plain, rel=1e-4)
    dices = [
        (2 * (np.exp(log) * t).sum() + 1) / (np.exp(log).sum() + t.sum() + 1)
        for t, log in zip(true, logs)
        if t.sum() > 100
    ]
    occurring = [t.sum() > 100 for t in true]
    assert not occurring[4]
    if any(occurring):
        assert float(overlap) == pytest.approx(np.mean(dices), rel=1e-4)
    same = segmentation_loss(torch.log(shares + 1e-9), shares)
    assert float(same[0]) < float(entropy)


def test_training_on_crops_goes_on_exactly_and_ends_in_a_model_that_can_begin_another(crops, tmp_path, monkeypatch):
    recipe = Recipe("small", "anatomy", NetworkConfig.from_dict(ANATOMY), pairs=4, learning_rate=1e-3)
    whole = AnatomyTrainer(recipe, crops, tmp_path / "whole")
    assert whole.run()
    assert not AnatomyTrainer(recipe, crops, tmp_path / "halves").run(until_pair=2)
    rest = AnatomyTrainer(recipe, crops, tmp_path / "halves")
    assert rest.run()
    assert losses_of(tmp_path / "halves") == losses_of(tmp_path / "whole")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, rest.network.state_dict()[name]), name


def test_the_command_trains_the_network_of_structures_and_another_can_begin_with_it(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"network": ANATOMY}))
    command = ["train", "--recipe", "anatomy", "--config", str(config), "--pairs", "1", "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "first")]) == 0
    model = tmp_path / "first" / "anatomy.safetensors"
    loaded = load(model, "cpu")
    assert isinstance(loaded.network, AnatomyNetwork)
    assert set(loaded.card.extra["atlas"]) == set(STRUCTURES[1:])
    assert main([*command, "--output", str(tmp_path / "second"), "--begin-with", str(model)]) == 0
    second = load(tmp_path / "second" / "anatomy.safetensors", "cpu")
    assert "begun with" in second.card.training
    moved = [
        float((a - b).abs().max())
        for a, b in zip(loaded.network.state_dict().values(), second.network.state_dict().values())
    ]
    assert 0 < max(moved) < 0.02  # one step from where the first ended
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"network": {**ANATOMY, "channels": [4, 8, 8]}}))
    command[4] = str(other)
    assert main([*command, "--output", str(tmp_path / "third"), "--begin-with", str(model)]) != 0
    assert "another network" in capsys.readouterr().err
