"""Similarity measures: values against direct formulas, derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from wavemorph.registration.similarity.contrast import contrast_agreement, global_correlation
from wavemorph.registration.similarity.lncc import LocalCorrelation
from wavemorph.registration.similarity.mind import MindSsc, SquaredDifference
from wavemorph.registration.similarity.mutual_information import MutualInformation
from wavemorph.registration.similarity.segmentation import SegmentationDifference
from wavemorph.spatial.displacement import warp_image
from wavemorph.spatial.filters import smooth

SIZE = (12, 13, 14)


def image(seed: int) -> torch.Tensor:
    noise = smooth(torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed)), 1.0)
    return (noise - noise.min()) / (noise.max() - noise.min())


def weight() -> torch.Tensor:
    ones = torch.zeros(1, 1, *SIZE)
    ones[..., 3:-3, 3:-3, 3:-3] = 1  # whole windows only
    return ones


def test_local_correlation_is_pearsons_in_each_window():
    fixed, moving = image(0), image(1)
    only = torch.zeros_like(fixed)
    only[0, 0, 6, 6, 7] = 1
    window = (0, 0, slice(4, 9), slice(4, 9), slice(5, 10))
    expected = np.corrcoef(fixed[window].flatten(), moving[window].flatten())[0, 1]
    value, _ = LocalCorrelation(fixed, moving, only, radius=2, signed=True, noise=1e-9).compare(moving)
    assert float(value) == pytest.approx(expected, abs=1e-4)
    value, _ = LocalCorrelation(fixed, moving, only, radius=2, signed=False, noise=1e-9).compare(moving)
    assert float(value) == pytest.approx(expected**2, abs=1e-4)


def test_windows_at_every_second_voxel_have_pearsons_correlation_and_a_slope_in_them_alone():
    fixed, moving = image(0), image(1)
    only = torch.zeros_like(fixed)
    only[0, 0, 6, 6, 8] = 1  # one of the eight voxels of the stride (3, 3, 4)
    window = (0, 0, slice(4, 10), slice(4, 10), slice(6, 12))
    expected = np.corrcoef(fixed[window].flatten(), moving[window].flatten())[0, 1]
    value, slope = LocalCorrelation(fixed, moving, only, radius=2, signed=True, noise=1e-9, stride=2).compare(moving)
    assert float(value) == pytest.approx(expected, abs=1e-4)
    inside = torch.zeros_like(slope, dtype=torch.bool)
    inside[window] = True
    assert float(slope[inside].abs().max()) > 0 and float(slope[~inside].abs().max()) == 0


def test_only_the_squared_correlation_is_invariant_to_reversed_contrast():
    fixed = image(0)
    squared = [LocalCorrelation(fixed, moving, weight(), signed=False).value() for moving in (fixed, 1 - fixed)]
    assert squared[1] == pytest.approx(squared[0], abs=1e-4)
    assert LocalCorrelation(fixed, 1 - fixed, weight(), signed=True).value() < -0.9


def test_self_similarity_is_invariant_to_contrast_and_falls_with_displacement():
    fixed = image(0)
    assert MindSsc(fixed, fixed, weight()).value() == pytest.approx(0, abs=1e-6)
    assert MindSsc(fixed, 1 - fixed, weight()).value() == pytest.approx(0, abs=1e-4)
    assert MindSsc(fixed, fixed.roll(1, 2), weight()).value() < -1e-3


def test_mutual_information_agrees_with_a_smoothed_histogram():
    fixed, moving = image(0), (1 - image(0)) ** 2
    rows, columns = (np.rint(v.numpy().ravel() * 43 / 1.2 + 2).astype(int) for v in (fixed, moving))
    joint = gaussian_filter(np.histogram2d(rows, columns, bins=np.arange(49) - 0.5)[0], 1.0, mode="nearest") + 1e-9
    joint /= joint.sum()
    expected = np.sum(joint * np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True))))
    value = MutualInformation(fixed, moving, torch.ones_like(fixed)).value()
    assert float(value) == pytest.approx(expected, rel=0.1)
    assert MutualInformation(fixed, image(1), torch.ones_like(fixed)).value() < 0.5 * value


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda f, m, w: LocalCorrelation(f, m, w, radius=2, signed=True), 0.01),
        (lambda f, m, w: LocalCorrelation(f, m, w, radius=2, signed=False), 0.01),
        (lambda f, m, w: LocalCorrelation(f, m, w, radius=2, signed=True, stride=2), 0.01),  # one side is odd
        (lambda f, m, w: LocalCorrelation(f, m, w, radius=2, signed=False, stride=2), 0.01),
        (SquaredDifference, 0.01),
        (MindSsc, 0.01),
    ],
)
def test_slopes_agree_with_finite_differences(make, tolerance):
    similarity = make(image(0), image(1), weight())
    warped = (MindSsc.descriptor(image(1)) if make is MindSsc else image(1)).clone()
    direction = smooth(torch.randn(warped.shape, generator=torch.Generator().manual_seed(3)), 1.0)
    _, slope = similarity.compare(warped)
    expected = float((slope * direction).sum())
    step = 2e-3
    above, below = (float(similarity.compare(warped + sign * step * direction)[0]) for sign in (1, -1))
    finite = (above - below) / (2 * step)
    assert expected == pytest.approx(finite, rel=tolerance, abs=1e-6)
    assert abs(finite) > 1e-5


def test_the_slope_of_mutual_information_agrees_with_finite_differences():
    def large(seed: int) -> torch.Tensor:
        noise = smooth(torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(seed)), 1.5)
        return 0.1 + 0.8 * (noise - noise.min()) / (noise.max() - noise.min())

    fixed = large(0)
    warped = 0.7 * (1 - fixed) + 0.3 * large(1)
    similarity = MutualInformation(fixed, warped, torch.ones_like(fixed))
    direction = (1 - fixed) - warped
    slope = float((similarity.compare(warped)[1] * direction).sum())
    above, below = (float(similarity.compare(warped + sign * 0.03 * direction)[0]) for sign in (1, -1))
    finite = (above - below) / 0.06
    assert slope == pytest.approx(finite, rel=0.1)
    assert finite > 0.1


@pytest.mark.parametrize("signed", [True, False])
def test_the_value_alone_equals_the_value_with_its_slope(signed):
    generator = torch.Generator().manual_seed(4)
    fixed, moving = (smooth(torch.rand(1, 1, 16, 18, 20, generator=generator), 1.0) for _ in range(2))
    similarity = LocalCorrelation(fixed, moving, torch.ones_like(fixed), radius=2, signed=signed)
    assert similarity.value() == pytest.approx(float(similarity.compare(moving)[0]), rel=1e-6)
    displacement = smooth(torch.randn(1, 3, 16, 18, 20, generator=generator), 3.0) * 10
    expected = float(similarity.value_and_gradient(displacement)[0])
    assert similarity.value(displacement) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(float(similarity.compare(warp_image(moving, displacement))[0]), rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda f, m, w: LocalCorrelation(f, m, w, radius=2, signed=False),
        SquaredDifference,
        MindSsc,
        MutualInformation,
    ],
)
def test_the_gradient_with_respect_to_the_displacement_agrees_with_finite_differences(make):
    generator = torch.Generator().manual_seed(0)
    size = (32, 36, 40)
    fixed, moving = (smooth(torch.rand(1, 1, *size, generator=generator), 5.0) for _ in range(2))
    fixed, moving = ((each - each.min()) / (each.max() - each.min()) for each in (fixed, moving))
    inside = F.pad(torch.ones(1, 1, 20, 24, 28), (6,) * 6)  # the moving image is continued beyond its border
    similarity = make(fixed, moving, inside)
    displacement = smooth(torch.randn(1, 3, *size, generator=generator), 4.0) * 20
    _, gradient = similarity.value_and_gradient(displacement)
    assert gradient.shape == displacement.shape
    direction = smooth(gradient, 2.0)
    direction = direction / direction.abs().max()
    above, below = (similarity.value(displacement + sign * 0.1 * direction) for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx((above - below) / 0.2, rel=0.1)
    assert above > below


@pytest.mark.parametrize("coarser", [1, 2])
def test_the_gradient_of_the_segmentation_term_agrees_with_finite_differences(coarser):
    generator = torch.Generator().manual_seed(0)
    size, own = (32, 36, 40), (32 // coarser, 36 // coarser, 40 // coarser)
    maps = [smooth(torch.randn(1, 3, *own, generator=generator), 6 / coarser) for _ in range(2)]
    weight = smooth(torch.rand(1, 1, *size, generator=generator), 4.0)
    displacement = smooth(torch.randn(1, 3, *size, generator=generator), 4.0) * 20
    term = SegmentationDifference(*maps, weight, factor=3.0)
    _, force = term.value_and_gradient(displacement)
    direction = force / force.abs().max()
    above, below = (float(term.value_and_gradient(displacement + sign * 0.05 * direction)[0]) for sign in (1, -1))
    assert force.shape == displacement.shape
    assert float((force * direction).sum()) == pytest.approx((above - below) / 0.1, rel=0.1)


def test_the_segmentation_term_is_the_weighted_squared_difference_of_the_maps():
    generator = torch.Generator().manual_seed(1)
    fixed, moving = (torch.rand(1, 2, 8, 8, 8, generator=generator) for _ in range(2))
    weight = (torch.rand(1, 1, 8, 8, 8, generator=generator) > 0.4).float()
    value, _ = SegmentationDifference(fixed, moving, weight, factor=6.0).value_and_gradient(torch.zeros(1, 3, 8, 8, 8))
    squares = ((fixed - moving) ** 2 * weight).sum() / weight.sum()
    assert float(value) == pytest.approx(-3.0 * float(squares), rel=1e-5)


def test_contrast_agreement_is_one_for_one_contrast_minus_one_for_a_reversed_one_and_small_for_both():
    fixed = smooth(torch.randn(1, 1, 48, 48, 48, generator=torch.Generator().manual_seed(0)), 3.0)
    fixed = (fixed - fixed.min()) / (fixed.max() - fixed.min())
    inside = F.pad(torch.ones(1, 1, 24, 24, 24), (12,) * 6)  # whole windows only
    assert contrast_agreement(fixed, 0.2 + 0.5 * fixed, inside, 2.0) == pytest.approx(1, abs=0.05)
    assert contrast_agreement(fixed, 1 - fixed, inside, 2.0) == pytest.approx(-1, abs=0.05)
    both = fixed.clone()
    both[:, :, 24:] = 1 - fixed[:, :, 24:]
    assert abs(contrast_agreement(fixed, both, inside, 2.0)) < 0.3


def test_the_global_correlation_is_pearsons_over_the_weighted_voxels():
    generator = torch.Generator().manual_seed(2)
    fixed, moving = image(0), 0.5 * image(0) + image(1)
    inside = torch.rand(fixed.shape, generator=generator) > 0.4
    expected = np.corrcoef(fixed[inside].numpy(), moving[inside].numpy())[0, 1]
    assert global_correlation(fixed, moving, inside.float()) == pytest.approx(expected, abs=1e-5)
    fractions = torch.rand(fixed.shape, generator=generator)
    a, b, w = (each.numpy().ravel().astype(float) for each in (fixed, moving, fractions))
    covariance = np.cov(a, b, aweights=w)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert global_correlation(fixed, moving, fractions) == pytest.approx(expected, abs=1e-5)
    assert global_correlation(fixed, torch.ones_like(fixed), fractions) == pytest.approx(0, abs=1e-3)
