"""Losses and measures of training against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.training.losses import diffusion_loss, local_correlation_loss, segmentation_loss
from wavemorph.training.protocol import mean_label_dice


def test_the_loss_of_local_correlation_agrees_with_scipy_in_the_same_windows():
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
    displacement = torch.stack([ramp, torch.zeros_like(ramp), torch.zeros_like(ramp)])[None]
    assert float(diffusion_loss(displacement)) == pytest.approx(0.3**2 / 9)


def test_the_mean_dice_leaves_out_labels_that_neither_map_holds():
    a, b = np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int)
    a[:2], b[:2] = 1, 1
    a[3], b[3, :2] = 2, 2
    assert mean_label_dice(a, b, (1, 2, 3)) == pytest.approx((1.0 + 2 * 8 / 24) / 2)


def test_the_segmentation_loss_is_cross_entropy_and_soft_dice():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, len(STRUCTURES), 8, 8, 8, generator=generator)
    probabilities = torch.randn(1, len(STRUCTURES), 8, 8, 8, generator=generator).mul(3).softmax(1)
    probabilities[:, 4] = 0  # is not present
    entropy, overlap = segmentation_loss(logits, probabilities)
    logs = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))[0].reshape(len(STRUCTURES), -1)
    true = probabilities.numpy()[0].reshape(len(STRUCTURES), -1)
    weights = [0.7, 1, 1, 1.5, 1.2, 1.5, 1.5, 1.5, 1.5, 1.5, 2, 2]
    plain = -sum(weight * (t * log).sum() for weight, t, log in zip(weights, true, logs)) / 512
    assert float(entropy) == pytest.approx(plain, rel=1e-4)
    dices = [
        (2 * (np.exp(log) * t).sum() + 1) / (np.exp(log).sum() + t.sum() + 1)
        for t, log in zip(true, logs)
        if t.sum() > 100
    ]
    present = [t.sum() > 100 for t in true]
    assert not present[4]
    if any(present):
        assert float(overlap) == pytest.approx(np.mean(dices), rel=1e-4)
    same = segmentation_loss(torch.log(probabilities + 1e-9), probabilities)
    assert float(same[0]) < float(entropy)
