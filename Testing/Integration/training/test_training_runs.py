"""Whole trainings: several processes, the paper's protocols on miniatures, the default recipe, the shipped model."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as distributed
from stand_in_device import DEVICE, stand_in_device
from wavemorph.cli.main import main
from wavemorph.models.weights import DEFAULT_MODEL, load, resolve
from wavemorph.network import NetworkConfig, WaveMorphNetwork
from wavemorph.registration.deformable.inference import predict
from wavemorph.spatial.displacement import warp
from wavemorph.training.datasets import DataPairs, IxiData
from wavemorph.training.loop import Trainer
from wavemorph.training.recipe import RECIPES
from wavemorph.training.synthetic_pairs import SPACING_MM, SyntheticPairs, load_template


class OnePair:
    """The same pair again and again."""

    def __init__(self, pair, spacing_mm=SPACING_MM):
        self._pair, self.spacing_mm = pair, spacing_mm

    def __getitem__(self, index):
        return self._pair


def set_learning_rate(config, rate: float) -> None:
    """High enough that a few pairs are enough."""
    config.write_text(json.dumps({**json.loads(config.read_text()), "learning_rate": rate}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def second_of_two(monkeypatch):
    """Starts a command as the second of two processes, with the variables of `torchrun`; this process is the first."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in {**common, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with_timeout = functools.partial(distributed.init_process_group, timeout=datetime.timedelta(minutes=2))
    monkeypatch.setattr(distributed, "init_process_group", with_timeout)
    started = []

    def start(command):
        environment = {**os.environ, "RANK": "1", "OMP_NUM_THREADS": "1"}
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environment}
        started.append(subprocess.Popen([sys.executable, "-m", "wavemorph.cli", *command], **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_two_processes_step_by_the_mean_of_their_gradients(ixi, tmp_path, tiny_config, second_of_two, monkeypatch):
    common = ["--data", str(ixi), "--config", str(tiny_config), "--pairs", "1", "--device", "cpu"]
    command = ["train", "--recipe", "ixi", "--output", str(tmp_path / "two"), *common]
    other = second_of_two(command)
    assert main(command) == 0
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors[-2000:]
    assert not distributed.is_initialized()
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    trained = load(tmp_path / "two" / "ixi.safetensors", "cpu").network.state_dict()

    changes = json.loads(tiny_config.read_text())
    network = NetworkConfig.from_dict({**RECIPES["ixi"].network.to_dict(), **changes.pop("network")})
    recipe = dataclasses.replace(RECIPES["ixi"], network=network, pairs=1, clip=1e9, **changes)
    source, gradients = DataPairs(IxiData(ixi)), []
    for index in range(2):
        single = Trainer(recipe, OnePair(source[index], 1.0), tmp_path / str(index))
        single.run()
        gradients.append({name: p.grad.clone() for name, p in single.network.named_parameters()})
    torch.manual_seed(recipe.seed)
    before = WaveMorphNetwork(network).state_dict()
    for name, value in trained.items():
        mean = (gradients[0][name] + gradients[1][name]) / 2
        change, clear = value - before[name], mean.abs() > 1e-4 * mean.abs().max() + 1e-6
        expected = -recipe.learning_rate * mean.sign()  # the first step of Adam
        assert torch.allclose(change[clear], expected[clear], rtol=0.05), name


def test_a_short_training_on_miniature_ixi_ends_in_a_model_and_the_papers_table(ixi, tmp_path, tiny_config, capsys):
    set_learning_rate(tiny_config, 5e-3)
    common = ["--recipe", "ixi", "--data", str(ixi), "--output", str(tmp_path), "--config", str(tiny_config)]
    assert main(["train", *common, "--pairs", "30", "--device", "cpu"]) == 0
    model = tmp_path / "ixi.safetensors"
    assert load(model, "cpu").card.extra["recipe"]["pairs"] == 30
    capsys.readouterr()
    assert main(["protocol", "--data-set", "ixi", "--data", str(ixi), "--weights", str(model), "--device", "cpu"]) == 0
    header, before, after = capsys.readouterr().out.strip().splitlines()
    assert "DSC" in header and "folded" in header
    dice_before, dice_after = (float(line.split("+-")[0].split()[-1]) for line in (before, after))
    assert dice_after > dice_before + 0.03
    assert after.split()[-1] == "3"


def test_the_ablation_on_miniature_oasis_ends_in_a_table_of_twelve(oasis, tmp_path, tiny_config, capsys):
    set_learning_rate(tiny_config, 1e-2)
    command = ["ablation", "--data-set", "oasis", "--data", str(oasis), "--output", str(tmp_path / "out")]
    assert main([*command, "--config", str(tiny_config), "--pairs", "8", "--device", "cpu"]) == 0
    lines = (tmp_path / "out" / "table.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 13
    assert {line[:24].strip() for line in lines[1:]} >= {"mswf + dysample", "max + nearest", "merging + trilinear"}
    assert capsys.readouterr().out.splitlines()[-13:] == lines
    assert len({line[24:52] for line in lines[1:]}) > 6  # they are different networks


@pytest.fixture(scope="module")
def synthetic():
    return SyntheticPairs(load_template(), seed=5)


def test_the_default_recipe_learns_a_pair_that_is_repeated(synthetic, tmp_path):
    network = dataclasses.replace(
        RECIPES["wavemorph"].network, channels=(4, 8, 8), passes_mm=(8.0, 4.0), bottleneck_blocks=1
    )
    recipe = dataclasses.replace(RECIPES["wavemorph"], network=network, pairs=20, learning_rate=8e-3)
    Trainer(recipe, OnePair(synthetic[2]), tmp_path).run()
    with (tmp_path / "losses.csv").open(newline="") as file:
        similarity = [float(row["similarity"]) for row in csv.DictReader(file) if row["pass"] == "1"]
    assert min(similarity[-5:]) < 0.8 * similarity[0]


def test_training_in_several_passes_on_synthetic_pairs_stays_on_its_device(tmp_path):
    template = torch.rand(1, 2, 88, 104, 80, generator=torch.Generator().manual_seed(0)).half()
    network = dataclasses.replace(
        RECIPES["wavemorph"].network, channels=(4, 8, 8), passes_mm=(8.0, 8.0), bottleneck_blocks=1
    )
    recipe = dataclasses.replace(RECIPES["wavemorph"], network=network, pairs=2, precision="float32")
    with stand_in_device():
        trainer = Trainer(recipe, SyntheticPairs(template, device=DEVICE, shapes=0.5), tmp_path, DEVICE)
        assert trainer.run()
        assert next(trainer.network.parameters()).device == DEVICE


def test_the_shipped_model_aligns_pairs_that_it_was_not_trained_on():
    model = resolve("auto", "cpu")
    assert model.card.name == DEFAULT_MODEL
    trained = RECIPES[DEFAULT_MODEL]
    assert dataclasses.replace(model.network.config, passes_mm=trained.network.passes_mm) == trained.network
    unseen, errors, differences = SyntheticPairs(load_template(), seed=77, shapes=0.0), [], []
    for index in range(2):
        pair = unseen[index]
        with torch.inference_mode():
            found, _ = predict(model.network, pair.fixed, pair.moving, SPACING_MM)
        inside = pair.weight[:, 0] > 0
        for displacement in (torch.zeros_like(found), found):
            errors.append(float((displacement - pair.truth).norm(dim=1)[inside].mean()))
            warped = warp(pair.moving_target, displacement)
            differences.append(float((warped - pair.fixed_target).square()[:, 0][inside].mean()))
    assert np.mean(errors[1::2]) < 0.85 * np.mean(errors[::2])
    assert np.mean(differences[1::2]) < 0.6 * np.mean(differences[::2])
