"""The labels drawn on the template, and the training of the segmentation network from the command line."""

from __future__ import annotations

import json

import pytest
import torch
from miniatures import TINY_SEGMENTATION
from scipy import ndimage
from wavemorph.cli.main import main
from wavemorph.models.weights import load
from wavemorph.network import SegmentationNetwork
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.training.brain_atlas import load_atlas
from wavemorph.training.synthetic_heads import LabeledCrops
from wavemorph.training.synthetic_pairs import Draw


@pytest.fixture(scope="module")
def atlas():
    return load_atlas()


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
        assert abs(x) < 1, name  # symmetric
    assert facts["brainstem"][2] < facts["thalamus"][2] < facts["caudate"][2]
    assert facts["caudate"][1] < facts["thalamus"][1] < facts["cerebellar cortex"][1]  # LPS: smaller is further front


def test_random_cortical_folds_are_ribbons_over_white_matter_and_other_structures_stay(atlas):
    size = (96, 112, 96)
    crops = LabeledCrops(atlas, seed=3, size=size)
    codes = {name: STRUCTURES.index(name) for name in STRUCTURES}
    middle = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(atlas.t1.shape[2:], size))
    before = atlas.labels[0, 0][middle].long()
    depth, to_ventricles = (part[None, None] for part in (atlas.depths[0, n][middle] for n in (0, 1)))
    assert float(to_ventricles[0, 0][before == codes["ventricles"]].abs().max()) == 0
    assert float(depth[0, 0][before == codes["thalamus"]].mean()) < -1
    fractions = []
    for number in range(3):
        after = crops._with_new_folds(Draw(number, torch.device("cpu")), before, depth, to_ventricles)
        for name in ("thalamus", "putamen", "hippocampus", "brainstem", "cerebellar cortex", "ventricles"):
            assert bool((after[before == codes[name]] == codes[name]).all()), name
        white = (after == codes["white matter"]).numpy()
        beside_fluid = white & ndimage.binary_dilation((after == 0).numpy() & (before != 0).numpy())
        assert beside_fluid.sum() < 0.05 * white.sum()
        fractions.append(float(((after == 0) & (before == codes["cortex"])).sum() / (before == codes["cortex"]).sum()))
    assert min(fractions) > 0 and max(fractions) < 0.8 and max(fractions) - min(fractions) > 0.02


def test_the_command_trains_the_segmentation_network_and_another_training_can_begin_with_it(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"network": TINY_SEGMENTATION}))
    command = ["train", "--recipe", "brain-segmentation", "--config", str(config), "--pairs", "1", "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "first")]) == 0
    model = tmp_path / "first" / "brain-segmentation.safetensors"
    loaded = load(model, "cpu")
    assert isinstance(loaded.network, SegmentationNetwork)
    assert set(loaded.card.extra["atlas"]) == set(STRUCTURES[1:])
    assert main([*command, "--output", str(tmp_path / "second"), "--begin-with", str(model)]) == 0
    second = load(tmp_path / "second" / "brain-segmentation.safetensors", "cpu")
    assert "begun with" in second.card.training
    changes = [
        float((a - b).abs().max())
        for a, b in zip(loaded.network.state_dict().values(), second.network.state_dict().values())
    ]
    assert 0 < max(changes) < 0.02  # one step from where the first ended
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"network": {**TINY_SEGMENTATION, "channels": [4, 8, 8]}}))
    command[4] = str(other)
    assert main([*command, "--output", str(tmp_path / "third"), "--begin-with", str(model)]) != 0
    assert "another network" in capsys.readouterr().err
