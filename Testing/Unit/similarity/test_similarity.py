"""Similarities: values against direct formulas, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from wavemorph.similarity.lncc import LocalCorrelation
from wavemorph.similarity.mind import MindSsc, SquaredDifference
from wavemorph.similarity.mutual_information import MutualInformation
from wavemorph.similarity.segmentation import SegmentationDifference
from wavemorph.spatial import displacement as field
from wavemorph.spatial.filters import box_mean, smooth

SIZE = (12, 13, 14)


def image(seed: int) -> torch.Tensor:
    noise = smooth(torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed)), 1.0)
    return (noise - noise.min()) / (noise.max() - noise.min())


def weight() -> torch.Tensor:
    ones = torch.zeros(1, 1, *SIZE)
    ones[..., 3:-3, 3:-3, 3:-3] = 1  # whole windows only
    return ones


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_window_means_agree_with_average_pooling(radius):
    pooled = F.avg_pool3d(image(0), 2 * radius + 1, 1, radius)
    assert torch.allclose(box_mean(image(0), radius), pooled, atol=1e-5)


def test_local_correlation_is_pearsons_in_each_window():
    fixed, moving = image(0), image(1)
    only = torch.zeros_like(fixed)
    only[0, 0, 6, 6, 7] = 1
    window = (0, 0, slice(4, 9), slice(4, 9), slice(5, 10))
    expected = np.corrcoef(fixed[window].flatten(), moving[window].flatten())[0, 1]
    value, _ = LocalCorrelation(fixed, only, radius=2, signed=True, noise=1e-9)(moving)
    assert value == pytest.approx(expected, abs=1e-4)
    value, _ = LocalCorrelation(fixed, only, radius=2, signed=False, noise=1e-9)(moving)
    assert value == pytest.approx(expected**2, abs=1e-4)


def test_windows_at_every_second_voxel_hold_what_pearson_sees_there():
    fixed, moving = image(0), image(1)
    only = torch.zeros_like(fixed)
    only[0, 0, 6, 6, 8] = 1  # one of the eight voxels of the stride (3, 3, 4)
    window = (0, 0, slice(4, 10), slice(4, 10), slice(6, 12))
    expected = np.corrcoef(fixed[window].flatten(), moving[window].flatten())[0, 1]
    value, slope = LocalCorrelation(fixed, only, radius=2, signed=True, noise=1e-9, stride=2)(moving)
    assert value == pytest.approx(expected, abs=1e-4)
    inside = torch.zeros_like(slope, dtype=torch.bool)
    inside[window] = True
    assert float(slope[inside].abs().max()) > 0 and float(slope[~inside].abs().max()) == 0


def test_squared_correlation_does_not_mind_reversed_contrast():
    fixed = image(0)
    measure = LocalCorrelation(fixed, weight(), signed=False)
    assert measure(1 - fixed)[0] == pytest.approx(measure(fixed)[0], abs=1e-4)
    assert LocalCorrelation(fixed, weight(), signed=True)(1 - fixed)[0] < -0.9


def test_self_similarity_ignores_contrast_and_sees_displacement():
    fixed = image(0)
    measure = MindSsc(fixed, weight())
    assert measure(MindSsc.features(fixed))[0] == pytest.approx(0, abs=1e-6)
    assert measure(MindSsc.features(1 - fixed))[0] == pytest.approx(0, abs=1e-4)
    assert measure(MindSsc.features(fixed.roll(1, 2)))[0] < -1e-3


def test_mutual_information_agrees_with_a_smoothed_histogram():
    fixed, moving = image(0), (1 - image(0)) ** 2
    rows, columns = (np.rint(v.numpy().ravel() * 43 / 1.2 + 2).astype(int) for v in (fixed, moving))
    joint = gaussian_filter(np.histogram2d(rows, columns, bins=np.arange(49) - 0.5)[0], 1.0, mode="nearest") + 1e-9
    joint /= joint.sum()
    expected = np.sum(joint * np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True))))
    value, _ = MutualInformation(fixed, torch.ones_like(fixed))(moving)
    assert value == pytest.approx(expected, rel=0.1)
    assert MutualInformation(fixed, torch.ones_like(fixed))(image(1))[0] < 0.5 * value


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda f, w: LocalCorrelation(f, w, radius=2, signed=True), 0.01),
        (lambda f, w: LocalCorrelation(f, w, radius=2, signed=False), 0.01),
        (lambda f, w: LocalCorrelation(f, w, radius=2, signed=True, stride=2), 0.01),  # one side is odd
        (lambda f, w: LocalCorrelation(f, w, radius=2, signed=False, stride=2), 0.01),
        (SquaredDifference, 0.01),
        (MindSsc, 0.01),
    ],
)
def test_gradients_agree_with_finite_differences(make, tolerance):
    similarity = make(image(0), weight())
    warped = similarity.features(image(1)).clone()
    direction = smooth(torch.randn(warped.shape, generator=torch.Generator().manual_seed(3)), 1.0)
    _, gradient = similarity(warped)
    slope = float((gradient * direction).sum())
    step = 2e-3
    finite = (similarity(warped + step * direction)[0] - similarity(warped - step * direction)[0]) / (2 * step)
    assert slope == pytest.approx(finite, rel=tolerance, abs=1e-6)
    assert abs(finite) > 1e-5


def test_the_gradient_of_mutual_information_points_uphill_by_the_right_amount():
    def large(seed: int) -> torch.Tensor:
        noise = smooth(torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(seed)), 1.5)
        return 0.1 + 0.8 * (noise - noise.min()) / (noise.max() - noise.min())

    fixed = large(0)
    warped = 0.7 * (1 - fixed) + 0.3 * large(1)
    similarity = MutualInformation(fixed, torch.ones_like(fixed))
    direction = (1 - fixed) - warped
    slope = float((similarity(warped)[1] * direction).sum())
    finite = (similarity(warped + 0.03 * direction)[0] - similarity(warped - 0.03 * direction)[0]) / 0.06
    assert slope == pytest.approx(finite, rel=0.1)
    assert finite > 0.1


@pytest.mark.parametrize("signed", [True, False])
def test_the_value_alone_is_the_value_with_its_slope(signed):
    generator = torch.Generator().manual_seed(4)
    fixed, moving = (smooth(torch.rand(1, 1, 16, 18, 20, generator=generator), 1.0) for _ in range(2))
    similarity = LocalCorrelation(fixed, torch.ones_like(fixed), radius=2, signed=signed)
    assert similarity.value(moving) == pytest.approx(similarity(moving)[0], rel=1e-6)


@pytest.mark.parametrize("coarser", [1, 2])
def test_the_force_of_tissues_is_the_slope_that_small_displacements_give(coarser):
    generator = torch.Generator().manual_seed(0)
    size, own = (32, 36, 40), (32 // coarser, 36 // coarser, 40 // coarser)
    tissues = [field.smooth(torch.randn(1, 3, *own, generator=generator), 6 / coarser) for _ in range(2)]
    weight = field.smooth(torch.rand(1, 1, *size, generator=generator), 4.0)
    displacement = field.smooth(torch.randn(1, 3, *size, generator=generator), 4.0) * 20
    compared = SegmentationDifference(*tissues, weight, share=3.0)
    _, force = compared.force(displacement)
    nudge = force / force.abs().max()
    above, below = (compared.force(displacement + sign * 0.05 * nudge)[0] for sign in (1, -1))
    assert force.shape == displacement.shape
    assert float((force * nudge).sum()) == pytest.approx((above - below) / 0.1, rel=0.1)


def test_tissues_count_by_their_weighted_squares():
    generator = torch.Generator().manual_seed(1)
    fixed, moving = (torch.rand(1, 2, 8, 8, 8, generator=generator) for _ in range(2))
    weight = (torch.rand(1, 1, 8, 8, 8, generator=generator) > 0.4).float()
    value, _ = SegmentationDifference(fixed, moving, weight, share=6.0).force(torch.zeros(1, 3, 8, 8, 8))
    squares = ((fixed - moving) ** 2 * weight).sum() / weight.sum()
    assert value == pytest.approx(-3.0 * float(squares), rel=1e-5)
