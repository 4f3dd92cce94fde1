"""Synthetic pairs of subjects, and the template they come from."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from wavemorph.cli.demo import template_path
from wavemorph.errors import InputError
from wavemorph.spatial.displacement import least_corner_jacobian, warp
from wavemorph.training.synthetic_pairs import SyntheticPairs, load_template


@pytest.fixture(scope="module")
def synthetic():
    return SyntheticPairs(load_template(), seed=5)


@pytest.fixture(scope="module")
def pairs(synthetic):
    """One of random shapes, one of a brain."""
    return synthetic[0], synthetic[1]


def test_a_synthetic_pair_is_the_same_at_every_call_and_another_for_another_index(synthetic, pairs):
    other, first, again = *pairs, synthetic[1]
    for part in ("fixed", "moving", "fixed_target", "moving_target", "weight", "truth"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.fixed, other.fixed)


def test_the_truth_of_a_synthetic_pair_aligns_the_targets_without_folding(pairs):
    for pair in pairs:
        before, after = (
            float(((pair.fixed_target - moving) ** 2 * pair.weight).mean())
            for moving in (pair.moving_target, warp(pair.moving_target, pair.truth))
        )
        assert after < 0.6 * before
        assert least_corner_jacobian(pair.truth).min() > 0
        for image in (pair.fixed, pair.moving):
            assert torch.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 1.2 + 1e-6


def test_the_template_has_the_axes_of_working_grids():
    """Axes S, A, R: nibabel reads the same values at the same points."""
    image = nibabel.load(template_path())
    values, brain = image.get_fdata(), load_template()[0, 0].float()
    first = image.affine @ (0, 0, 0, 1)
    assert np.array_equal(np.sign(np.diag(image.affine)[:3]), (1, 1, 1))
    assert first[0] < 0
    for i, j, k in ((60, 80, 70), (120, 150, 90), (100, 60, 40)):
        assert float(brain[k, j, i]) == pytest.approx(values[i, j, k] / values.max(), abs=2e-3)


def test_a_file_that_is_not_a_template_is_refused(tmp_path):
    path = tmp_path / "template.pt"
    path.write_bytes(b"no template")
    with pytest.raises(InputError, match="cannot be read"):
        load_template(path)
