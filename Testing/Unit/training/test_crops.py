"""Labelled crops: each by its number alone, and training on them goes on exactly."""

from __future__ import annotations

import pytest
import torch
from miniatures import ANATOMY, losses_of
from wavemorph.network import NetworkConfig
from wavemorph.network.anatomy import STRUCTURES
from wavemorph.training.atlas import load_atlas
from wavemorph.training.crops import LabelledCrops
from wavemorph.training.loop import Ahead, AnatomyTrainer
from wavemorph.training.recipe import Recipe


@pytest.fixture(scope="module")
def atlas():
    return load_atlas()


@pytest.fixture(scope="module")
def crops(atlas):
    return LabelledCrops(atlas, seed=3, size=(32, 40, 24))


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


def test_crops_made_ahead_are_the_same_crops_in_any_order(crops):
    ahead = Ahead(crops)
    for index in (0, 1, 2, 7, 3):
        assert torch.equal(ahead[index].image, crops[index].image)


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
