"""The training loop: time limits, checkpoints, recipes, and what is refused."""

from __future__ import annotations

import json

import pytest
from miniatures import tiny_recipe
from wavemorph.cli.main import main
from wavemorph.errors import InputError, SettingsError
from wavemorph.training.datasets import DataPairs, IxiData
from wavemorph.training.loop import Trainer
from wavemorph.training.recipe import RECIPES, Recipe


def test_a_time_limit_ends_training_between_two_pairs_and_run_returns_false(ixi, tmp_path):
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


def test_the_polynomial_learning_rate_falls_to_zero_and_recipes_survive_a_round_trip():
    recipe = RECIPES["ixi"]
    assert recipe.learning_rate_at(0) == pytest.approx(1e-4)
    assert recipe.learning_rate_at(recipe.pairs // 2) == pytest.approx(1e-4 * 0.5**0.9, rel=1e-3)
    assert recipe.learning_rate_at(recipe.pairs) == 0
    for recipe in RECIPES.values():
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(SettingsError, match="Unknown decay"):
        tiny_recipe(decay="steps")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--recipe", "ixi", "--output", "OUT"], "give its folder as --data"),
        (["train", "--recipe", "oasis", "--data", "NOWHERE", "--output", "OUT"], "no .nii.gz files"),
        (["train", "--recipe", "ixi", "--data", "NOWHERE", "--output", "OUT"], "atlas.pkl"),
        (["train", "--recipe", "wavemorph", "--config", "NOWHERE", "--output", "OUT"], "cannot be read"),
    ],
)
def test_a_training_that_cannot_start_ends_in_one_sentence(tmp_path, capsys, arguments, expected):
    arguments = [str(tmp_path / word.lower()) if word.isupper() else word for word in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert "Traceback" not in error
