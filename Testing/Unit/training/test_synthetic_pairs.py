"""Synthetic pairs of subjects, and the template they come from."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from wavemorph.cli.demo import template_path
from wavemorph.errors import InputError
from wavemorph.spatial import displacement as field


@pytest.fixture(scope="module")
def synthetic():
    return anatomy.SyntheticPairs(anatomy.load_template(), seed=5)


@pytest.fixture(scope="module")
def pairs(synthetic):
    """One of random shapes, one of a brain."""
    return synthetic[0], synthetic[1]


def test_a_synthetic_pair_is_the_same_at_every_call_and_another_for_another_index(synthetic, pairs):
    other, first, again = *pairs, synthetic[1]
    for part in ("fixed", "moving", "fixed_anatomy", "moving_anatomy", "weight", "truth"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.fixed, other.fixed)


def test_the_truth_of_a_synthetic_pair_aligns_the_anatomies_without_folding(pairs):
    for pair in pairs:
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
