"""Instance refinement: known displacements are found, and the border stays where it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from wavemorph.registration.deformable import optimizer as refinement
from wavemorph.registration.deformable.optimizer import OptimizationSchedule, PyramidLevel, optimize
from wavemorph.similarity.lncc import LocalCorrelation
from wavemorph.similarity.segmentation import SegmentationDifference
from wavemorph.spatial import displacement as field

SIZE = (32, 36, 40)
PLAN = OptimizationSchedule(levels=(PyramidLevel(2, 40), PyramidLevel(1, 20)))


def noise(channels: int, sigma: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return field.smooth(torch.randn(1, channels, *SIZE, generator=generator), sigma)


def bump(amplitude: float) -> torch.Tensor:
    """A displacement along k that dies out towards the border."""
    k, j, i = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SIZE], indexing="ij")
    size = amplitude * torch.exp(-4 * (k**2 + j**2 + i**2))
    return torch.stack([size, torch.zeros_like(size), torch.zeros_like(size)])[None]


def unlike_tissues() -> tuple[torch.Tensor, torch.Tensor]:
    """Of fixed and moving, on half the lattice; they have nothing to do with each other."""
    return tuple(torch.nn.functional.avg_pool3d(noise(1, 3.0, seed), 2) for seed in (1, 2))


def make_similarity(fixed, weight, level, alike):
    return LocalCorrelation(fixed, weight)


@pytest.fixture
def pair():
    """(fixed, moving, truth): fixed(x) = moving(x + truth(x)), so the displacement to be found is `truth`."""
    moving = noise(1, 1.5, 0)
    moving = (moving - moving.min()) / (moving.max() - moving.min())
    truth = bump(2.0)
    return field.warp(moving, truth), moving, truth


def test_a_known_displacement_is_found(pair):
    fixed, moving, truth = pair
    found = optimize(fixed, moving, torch.ones_like(fixed), PLAN, make_similarity)
    inner = (slice(None), slice(None), *[slice(6, -6)] * 3)
    assert (found - truth)[inner].norm(dim=1).mean() < 0.25 * truth[inner].norm(dim=1).mean()


def test_the_displacement_ends_where_the_lattice_ends(pair):
    fixed, moving, _ = pair
    found = optimize(
        fixed, moving, torch.ones_like(fixed), OptimizationSchedule(levels=(PyramidLevel(1, 10),)), make_similarity
    )
    for axis in (2, 3, 4):
        assert found.select(axis, 0).abs().max() == 0
        assert found.select(axis, -1).abs().max() == 0


def test_it_begins_where_it_is_told_to(pair):
    fixed, moving, truth = pair
    found = optimize(fixed, moving, torch.ones_like(fixed), PLAN, make_similarity, start=truth)
    assert (found - truth).norm(dim=1).mean() < 0.1


def test_a_pair_that_is_aligned_but_for_noise_hardly_moves(pair):
    fixed, _, _ = pair
    again = fixed + 0.01 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(6))
    found = optimize(fixed, again, torch.ones_like(fixed), PLAN, make_similarity)
    assert found.norm(dim=1).mean() < 0.1


def test_voxels_without_weight_do_not_matter(pair):
    fixed, moving, _ = pair
    weight = torch.ones_like(fixed)
    weight[..., 20:] = 0
    other = fixed.clone()
    other[..., 26:] = noise(1, 1.0, 9)[..., 26:]
    plan = OptimizationSchedule(levels=(PyramidLevel(1, 5),))
    first, second = (optimize(image, moving, weight, plan, make_similarity) for image in (fixed, other))
    assert torch.allclose(first[..., :20], second[..., :20], atol=1e-5)


def test_progress_reaches_one_and_never_falls(pair):
    fixed, moving, _ = pair
    told = []
    optimize(fixed, moving, torch.ones_like(fixed), PLAN, make_similarity, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


def test_a_pair_that_has_become_alike_is_finished_with_a_smoother_force(pair):
    fixed, moving, truth = pair
    plan = OptimizationSchedule(levels=(PyramidLevel(2, 40), PyramidLevel(1, 10)), force_sigma=1.0)
    errors = []
    for alike in (0.5, 1.1):  # reached, and never reached
        noisy = moving + 0.02 * torch.randn(moving.shape, generator=torch.Generator().manual_seed(3))
        chosen = dataclasses.replace(plan, alike=alike)
        found = optimize(
            fixed, noisy, torch.ones_like(fixed), chosen, lambda f, w, *_: LocalCorrelation(f, w, signed=False)
        )
        errors.append(float((found - truth).norm(dim=1).mean()))
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize(("level", "alike", "counts"), [(True, 1.1, True), (False, 1.1, False), (True, 0.01, False)])
def test_tissues_count_at_their_levels_and_only_where_the_two_are_not_alike(pair, level, alike, counts):
    fixed, moving, _ = pair
    tissues = tuple(torch.nn.functional.avg_pool3d(image, 2) for image in (fixed, moving))
    plan = OptimizationSchedule(levels=(PyramidLevel(2, 3), PyramidLevel(2, 3, tissues=level)), alike=alike)
    found = [optimize(fixed, moving, torch.ones_like(fixed), plan, make_similarity, tissues=t) for t in (None, tissues)]
    assert (not torch.equal(*found)) == counts


def test_tissues_that_pull_against_the_images_are_left_out(pair):
    fixed, moving, truth = pair
    misleading = unlike_tissues()
    plan = OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 8, tissues=True)), alike=1.1, segmentation_weight=1e4
    )
    errors = []
    for tissues, max_similarity_drop in ((None, 0.01), (misleading, 0.01), (misleading, 9.0)):
        chosen = dataclasses.replace(plan, max_similarity_drop=max_similarity_drop)
        found = optimize(fixed, moving, torch.ones_like(fixed), chosen, make_similarity, tissues=tissues)
        errors.append(float((found - truth).norm(dim=1).mean()))
    assert errors[1] < 1.5 * errors[0]
    assert errors[1] < 0.2 * errors[2], errors


def test_a_small_fall_of_similarity_does_not_put_tissues_aside(pair):
    fixed, moving, _ = pair
    plan = OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 8, tissues=True)), alike=1.1, segmentation_weight=5.0
    )
    found = []
    for tissues, max_similarity_drop in ((None, 0.0), (unlike_tissues(), 0.0), (unlike_tissues(), 0.5)):
        chosen = dataclasses.replace(
            plan, max_similarity_drop=max_similarity_drop, same_subject_sigmas=(plan.force_sigma, plan.elastic_sigma)
        )
        found.append(optimize(fixed, moving, torch.ones_like(fixed), chosen, make_similarity, tissues=tissues))
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert not torch.allclose(found[0], found[2], atol=0.05)


def test_both_ways_the_finest_level_begins_with_the_mean_of_the_map_and_of_the_inverse_of_the_way_back(pair):
    fixed, moving, truth = pair
    weight, coarse, fine = torch.ones_like(fixed), PyramidLevel(2, 10), PyramidLevel(1, 0)
    tissues = tuple(torch.nn.functional.avg_pool3d(noise(1, 2.0, seed), 2) for seed in (1, 2))
    plan = OptimizationSchedule(levels=(coarse, fine), bidirectional=True, alike=1.1)
    one_way = dataclasses.replace(plan, levels=(coarse,), bidirectional=False)
    start = field.resize(0.5 * truth, tuple(n // 2 for n in SIZE))
    both = optimize(fixed, moving, weight, plan, make_similarity, start, tissues=tissues)

    pooled = [torch.nn.functional.avg_pool3d(image, 2) for image in (fixed, moving, weight)]
    at_half = dataclasses.replace(one_way, levels=(PyramidLevel(1, 10),))
    there = optimize(*pooled, at_half, make_similarity, start, tissues=tissues)
    back = optimize(
        pooled[1], pooled[0], pooled[2], at_half, make_similarity, field.invert(start), tissues=tissues[::-1]
    )
    expected = field.resize((there + field.invert(back)) / 2, SIZE)
    assert torch.allclose(both, expected, atol=1e-5)
    assert (both - truth).norm(dim=1).mean() < (0.5 * truth).norm(dim=1).mean()


def test_both_ways_progress_reaches_one_and_never_falls(pair):
    fixed, moving, _ = pair
    told = []
    plan = dataclasses.replace(PLAN, bidirectional=True)
    optimize(fixed, moving, torch.ones_like(fixed), plan, make_similarity, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert max(told[:-1]) <= 1.0


def test_the_resistance_to_a_shift_is_about_the_same_in_the_middle_planes_as_everywhere(monkeypatch):
    image = field.smooth(torch.randn(1, 1, 96, 40, 40, generator=torch.Generator().manual_seed(1)), 1.5)
    found = []
    for many in (64, 1000):
        monkeypatch.setattr(refinement, "_MANY", many)
        found.append(refinement._reference_gradient_rms(image, torch.ones_like(image), 1.5, LocalCorrelation))
    assert found[0] == pytest.approx(found[1], rel=0.1)
    assert found[0] != found[1]


def test_the_resistance_is_that_of_all_planes_where_the_middle_ones_do_not_count():
    image = field.smooth(torch.randn(1, 1, 96, 20, 20, generator=torch.Generator().manual_seed(1)), 1.5)
    weight = torch.zeros_like(image)
    weight[:, :, :24] = 1
    assert refinement._reference_gradient_rms(image, weight, 1.5, LocalCorrelation) > 0


def test_the_pull_of_tissues_is_kept_for_so_many_iterations(pair, monkeypatch):
    fixed, moving, truth = pair
    tissues = tuple(torch.nn.functional.avg_pool3d(image, 2) for image in (fixed, moving))
    taken, original = [], SegmentationDifference.force
    monkeypatch.setattr(SegmentationDifference, "force", lambda self, u: taken.append(1) or original(self, u))
    found, calls = [], []
    for every in (1, 3):
        taken.clear()
        plan = OptimizationSchedule(levels=(PyramidLevel(2, 7, tissues=True),), alike=1.1, segmentation_interval=every)
        found.append(optimize(fixed, moving, torch.ones_like(fixed), plan, make_similarity, tissues=tissues))
        calls.append(len(taken))
    assert calls == [7, 3]
    errors = [float((displacement - truth).norm(dim=1).mean()) for displacement in found]
    assert not torch.equal(*found)
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_what_is_alike_on_the_way_there_is_alike_on_the_way_back(pair):
    fixed, moving, _ = pair
    told = []

    def make(fixed, weight, level, alike):
        told.append(alike)
        return LocalCorrelation(fixed, weight)

    plan = OptimizationSchedule(levels=(PyramidLevel(2, 3), PyramidLevel(1, 1)), bidirectional=True, alike=0.01)
    optimize(fixed, moving, torch.ones_like(fixed), plan, make)
    first = told.index(True)
    assert 0 < first < len(told) - 4  # the level there, the level again, the level back, the finest: two calls each
    assert all(told[first:])
