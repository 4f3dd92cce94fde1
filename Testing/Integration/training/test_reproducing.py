"""The same command makes the same model again, to the bit."""

from __future__ import annotations

import json

import pytest
from wavemorph.cli.main import main
from wavemorph.models.weights import load

SMALL = {"channels": [4, 8, 8], "bottleneck_blocks": 1, "passes_mm": [8.0, 8.0]}


@pytest.mark.parametrize("recipe", ["wavemorph", "wavemorph-bodies"])
def test_the_same_command_makes_the_same_weights_again_and_another_seed_makes_others(recipe, tmp_path):
    config = tmp_path / "small.json"
    config.write_text(json.dumps({"network": SMALL}))
    files = []
    for name, seed in (("first", "0"), ("again", "0"), ("other", "1")):
        command = ["train", "--recipe", recipe, "--output", str(tmp_path / name), "--config", str(config)]
        assert main([*command, "--pairs", "2", "--seed", seed, "--device", "cpu"]) == 0
        files.append(tmp_path / name / f"{recipe}.safetensors")
    first, again, other = (file.read_bytes() for file in files)
    assert first == again
    assert first != other
    card = load(files[0], "cpu").card
    assert f"--recipe {recipe}" in card.training
    assert "torch" in card.training and "threads" in card.training
