"""Similarity where a volume was not scanned everywhere: only voxels that both volumes show count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from displacements import smooth_noise
from wavemorph.registration.similarity.lncc import LocalCorrelation
from wavemorph.registration.similarity.mind import MindSsc
from wavemorph.spatial.displacement import gradient_wrt_displacement, warp_image
from wavemorph.system import strategy

SIZE = (13, 14, 15)
MODES = [(signed, stride) for signed in (True, False) for stride in (1, 2)]


def image(seed: int, sigma: float = 1.0) -> torch.Tensor:
    noise = smooth_noise(1, sigma, seed, SIZE)
    return (noise - noise.min()) / (noise.max() - noise.min())


def oblique_cut() -> torch.Tensor:
    """Of 0 and 1: the scan ends at an oblique plane through the lattice."""
    k, j, i = torch.meshgrid(*[torch.arange(n) for n in SIZE], indexing="ij")
    return (k + 0.4 * j - 0.3 * i < 8).float()[None, None]


def wild(original: torch.Tensor, scanned: torch.Tensor, seed: int) -> torch.Tensor:
    """The image with absurd values where it was not scanned."""
    noise = 1e3 * torch.randn(original.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(scanned > 0, original, noise)


def test_local_correlation_at_the_edge_of_a_scan_is_pearsons_of_the_scanned_voxels_of_the_window():
    fixed, moving, scanned = image(0), image(1), oblique_cut()
    only = torch.zeros_like(fixed)
    only[0, 0, 7, 6, 7] = 1
    window = (0, 0, slice(5, 10), slice(4, 9), slice(5, 10))
    inside = scanned[window] > 0
    assert 0.2 < inside.float().mean() < 0.8
    expected = np.corrcoef(fixed[window][inside], moving[window][inside])[0, 1]
    for signed in (True, False):
        measure = LocalCorrelation(fixed, moving, only, radius=2, signed=signed, noise=1e-9, scanned=scanned)
        assert float(measure.compare(moving)[0]) == pytest.approx(expected if signed else expected**2, abs=1e-4)


def test_windows_count_by_the_fraction_of_them_that_was_scanned():
    fixed, moving, scanned = image(0), image(1), oblique_cut()
    both, values, fractions = torch.zeros_like(fixed), [], []
    for k, j, i in ((3, 5, 6), (7, 6, 7)):
        only = torch.zeros_like(fixed)
        only[0, 0, k, j, i] = both[0, 0, k, j, i] = 1
        values.append(LocalCorrelation(fixed, moving, only, radius=2, scanned=scanned).value())
        fractions.append(float(scanned[0, 0, k - 2 : k + 3, j - 2 : j + 3, i - 2 : i + 3].mean()))
    assert fractions[0] == 1 > fractions[1]
    found = LocalCorrelation(fixed, moving, both, radius=2, scanned=scanned).value()
    assert found == pytest.approx(np.average(values, weights=fractions), abs=1e-5)


@pytest.mark.parametrize(("signed", "stride"), MODES)
def test_the_slope_of_local_correlation_at_the_edge_of_a_scan_agrees_with_finite_differences(signed, stride):
    similarity = LocalCorrelation(
        image(0), image(1), torch.ones(1, 1, *SIZE), radius=2, signed=signed, stride=stride, scanned=oblique_cut()
    )
    warped = image(1)
    direction = smooth_noise(1, 1.0, 3, SIZE)
    expected = float((similarity.compare(warped)[1] * direction).sum())
    above, below = (float(similarity.compare(warped + sign * 2e-3 * direction)[0]) for sign in (1, -1))
    finite = (above - below) / 4e-3
    assert abs(finite) > 1e-4
    assert expected == pytest.approx(finite, rel=0.01)


@pytest.mark.parametrize(("signed", "stride"), MODES)
def test_values_that_were_not_scanned_change_neither_local_correlation_nor_its_slope(signed, stride):
    fixed, moving, scanned = image(0), image(1), oblique_cut()
    plain, disturbed = (
        LocalCorrelation(f, m, torch.ones_like(f), radius=2, signed=signed, stride=stride, scanned=scanned).compare(m)
        for f, m in ((fixed, moving), (wild(fixed, scanned, 4), wild(moving, scanned, 5)))
    )
    assert float(disturbed[0]) == pytest.approx(float(plain[0]), rel=1e-6)
    assert torch.allclose(disturbed[1], plain[1], rtol=1e-5, atol=1e-8)
    assert float(plain[1][scanned == 0].abs().max()) == 0 < float(plain[1].abs().max())


@pytest.mark.parametrize(("signed", "stride"), MODES)
def test_a_scan_of_everything_is_as_none_away_from_the_border(signed, stride):
    fixed, moving = image(0), image(1)
    weight = torch.zeros_like(fixed)
    weight[..., 4:-4, 4:-4, 4:-4] = 1  # whole windows only
    everything = torch.ones_like(fixed)
    plain, scanned = (
        LocalCorrelation(fixed, moving, weight, radius=2, signed=signed, stride=stride, scanned=each).compare(moving)
        for each in (None, everything)
    )
    assert float(scanned[0]) == pytest.approx(float(plain[0]), rel=1e-5)
    assert torch.allclose(scanned[1], plain[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("signed", "stride"), MODES)
@pytest.mark.parametrize("is_cut", [True, False])
def test_local_correlation_slab_by_slab_equals_that_of_whole_fields(monkeypatch, signed, stride, is_cut):
    torch.manual_seed(0)
    size = (29, 14, 15)
    fixed, moving, weight = (torch.rand(1, 1, *size) for _ in range(3))
    scanned = torch.rand(1, 1, *size) > 0.3 if is_cut else None
    shift = smooth_noise(3, 2.0, 3, size)
    found = []
    for block in (None, 100):
        monkeypatch.setattr(strategy, "CPU", dataclasses.replace(strategy.CPU, block_voxels=block))
        measure = LocalCorrelation(fixed, moving, weight, radius=2, signed=signed, stride=stride, scanned=scanned)
        _, derivative = measure.compare(moving)
        found.append([measure.value(shift), derivative, measure.value_and_gradient(shift)[1]])
    (value, derivative, force), in_slabs = found
    assert in_slabs[0] == pytest.approx(value, rel=1e-5)
    assert torch.equal(in_slabs[1], derivative)
    assert torch.equal(in_slabs[2], force)


@pytest.mark.parametrize("is_given", [True, False])
def test_the_force_is_the_gradient_of_the_warped_image_times_the_derivative_by_it(is_given):
    measure = LocalCorrelation(image(0), image(1), torch.ones(1, 1, *SIZE), radius=2, scanned=oblique_cut())
    shift, out = smooth_noise(3, 2.0, 3, SIZE), torch.full((1, 3, *SIZE), torch.nan)
    warped = warp_image(image(1), shift)
    value, force = measure.value_and_gradient(shift, **({"out": out} if is_given else {}))
    expected_value, derivative = measure.compare(warped)
    assert torch.equal(force, gradient_wrt_displacement(warped, derivative))
    assert float(value) == float(expected_value)
    assert (force is out) == is_given


def test_self_similarity_does_not_read_what_was_not_scanned():
    fixed, moving, scanned = image(0), image(1), oblique_cut()
    plain, disturbed = (
        MindSsc(f, m, torch.ones_like(f), scanned)
        for f, m in ((fixed, moving), (wild(fixed, scanned, 4), wild(moving, scanned, 5)))
    )
    assert plain.value() < 0
    assert disturbed.value() == pytest.approx(plain.value(), rel=1e-5)
    slopes = [similarity.compare(MindSsc.descriptor(image(2)))[1] for similarity in (plain, disturbed)]
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-9)


def test_self_similarity_with_everything_scanned_is_as_with_none_away_from_the_border():
    fixed, moving = image(0), image(1)
    weight = torch.zeros_like(fixed)
    weight[..., 3:-3, 3:-3, 3:-3] = 1
    values = [MindSsc(fixed, moving, weight, scanned).value() for scanned in (None, torch.ones_like(fixed))]
    assert values[1] == pytest.approx(values[0], rel=1e-3)
