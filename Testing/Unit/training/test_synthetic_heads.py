"""Labeled crops: each follows from its number alone, and a training on them continues exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from miniatures import TINY_SEGMENTATION, losses_of
from scipy import ndimage
from wavemorph.network import NetworkConfig
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.spatial.grid import tensor_from_array
from wavemorph.training.brain_atlas import Atlas
from wavemorph.training.loop import PrefetchedSource, SegmentationTrainer
from wavemorph.training.recipe import Recipe
from wavemorph.training.synthetic_heads import LabeledCrops


@pytest.fixture(scope="module")
def atlas():
    """A ball of the eleven structures, each where its seed is the nearest, in place of the template."""
    shape, far = (80, 88, 80), 80
    generator = np.random.default_rng(0)
    points = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"), -1)
    seeds = generator.uniform(-27, 27, (len(STRUCTURES) - 1, 3))
    nearest = ((points[..., None, :] - seeds) ** 2).sum(-1).argmin(-1) + 1
    labels = np.where((points**2).sum(-1) < 37**2, nearest, 0)
    t1 = np.r_[0.0, generator.uniform(0.3, 1.0, len(STRUCTURES) - 1)][labels]
    covered = ~np.isin(labels, [STRUCTURES.index(name) for name in ("outside", "cortex", "cerebellar cortex")])
    depth = ndimage.distance_transform_edt(~covered) - ndimage.distance_transform_edt(covered)
    to_ventricles = ndimage.distance_transform_edt(labels != STRUCTURES.index("ventricles"))
    coarse = [np.arange((n + 2 * far) // 2) * 2 + 0.5 - far - (n - 1) / 2 for n in shape]
    outside = np.sqrt(sum(axis**2 for axis in np.meshgrid(*coarse, indexing="ij"))).clip(37) - 37
    tensors = [tensor_from_array(array)[None, None] for array in (t1, labels, depth, to_ventricles, outside)]
    return Atlas(tensors[0], tensors[1], torch.cat(tensors[2:4], 1), tensors[4], (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def crops(atlas):
    return LabeledCrops(atlas, seed=3, size=(32, 40, 24))


def test_a_crop_depends_on_its_number_alone_and_its_probabilities_add_up_to_one(atlas, crops):
    again = LabeledCrops(atlas, seed=3, size=(32, 40, 24))
    for index in (0, 5, 11):
        crop = crops[index]
        assert torch.equal(crop.image, again[index].image)
        assert crop.image.shape == (1, 1, 32, 40, 24)
        assert crop.probabilities.shape == (1, len(STRUCTURES), 16, 20, 12)
        assert torch.allclose(crop.probabilities.sum(1), torch.ones(()), atol=1e-5)
        assert float(crop.image.min()) >= 0 and float(crop.image.max()) < 1.2001
    assert any(float(crops[index].probabilities[:, 1:].sum()) > 0 for index in (0, 5, 11))
    assert not torch.equal(crops[0].image, LabeledCrops(atlas, seed=4, size=(32, 40, 24))[0].image)


def test_prefetched_crops_are_the_same_crops_in_any_order(crops):
    prefetched = PrefetchedSource(crops)
    for index in (0, 1, 2, 7, 3):
        assert torch.equal(prefetched[index].image, crops[index].image)


def test_a_stopped_training_on_crops_continues_exactly(crops, tmp_path):
    recipe = Recipe("small", "synthetic-heads", NetworkConfig.from_dict(TINY_SEGMENTATION), pairs=4, learning_rate=1e-3)
    whole = SegmentationTrainer(recipe, crops, tmp_path / "whole")
    assert whole.run()
    assert not SegmentationTrainer(recipe, crops, tmp_path / "halves").run(until_pair=2)
    rest = SegmentationTrainer(recipe, crops, tmp_path / "halves")
    assert rest.run()
    assert losses_of(tmp_path / "halves") == losses_of(tmp_path / "whole")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, rest.network.state_dict()[name]), name
