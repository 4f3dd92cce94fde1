"""The multiresolution optimizer: known displacements are found, and the border stays where it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from displacements import SIZE, bump, smooth_noise
from wavemorph.registration.deformable import optimizer
from wavemorph.registration.deformable.optimizer import (
    OptimizationProblem,
    OptimizationSchedule,
    PyramidLevel,
    optimize,
)
from wavemorph.registration.similarity.lncc import LocalCorrelation
from wavemorph.registration.similarity.segmentation import SegmentationDifference
from wavemorph.spatial.displacement import invert, resize, warp
from wavemorph.spatial.filters import smooth

SCHEDULE = OptimizationSchedule(levels=(PyramidLevel(2, 40), PyramidLevel(1, 20)))
NEVER = 1.1  # a correlation that no level reaches


def unrelated_segmentations() -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of the fixed and of the moving volume on half the lattice, which have nothing in common."""
    return tuple(F.avg_pool3d(smooth_noise(1, 3.0, seed), 2) for seed in (1, 2))


def matching_segmentations(fixed: torch.Tensor, moving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps on half the lattice that agree where the images do."""
    return F.avg_pool3d(fixed, 2), F.avg_pool3d(moving, 2)


def make_similarity(fixed, moving, weight, level, same_subject, scanned=None):
    return LocalCorrelation(fixed, moving, weight)


def problem(fixed, moving, segmentations=None, weight=None) -> OptimizationProblem:
    return OptimizationProblem(fixed, moving, torch.ones_like(fixed) if weight is None else weight, segmentations)


def mean_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm(dim=1).mean())


@pytest.fixture
def pair():
    """(fixed, moving, truth): fixed(x) = moving(x + truth(x)), so the displacement to be found is `truth`."""
    moving = smooth_noise(1, 1.5, 0)
    moving = (moving - moving.min()) / (moving.max() - moving.min())
    truth = bump(2.0)
    return warp(moving, truth), moving, truth


def test_a_known_displacement_is_found(pair):
    fixed, moving, truth = pair
    found = optimize(problem(fixed, moving), SCHEDULE, make_similarity)
    inner = (slice(None), slice(None), *[slice(6, -6)] * 3)
    assert (found - truth)[inner].norm(dim=1).mean() < 0.25 * truth[inner].norm(dim=1).mean()


def test_the_displacement_is_zero_on_the_border(pair):
    fixed, moving, _ = pair
    schedule = OptimizationSchedule(levels=(PyramidLevel(1, 10),))
    found = optimize(problem(fixed, moving), schedule, make_similarity)
    for axis in (2, 3, 4):
        assert found.select(axis, 0).abs().max() == 0
        assert found.select(axis, -1).abs().max() == 0


def test_the_optimizer_begins_with_the_given_displacement(pair):
    fixed, moving, truth = pair
    found = optimize(problem(fixed, moving), SCHEDULE, make_similarity, start=truth)
    assert mean_error(found, truth) < 0.1


def test_a_pair_that_is_aligned_but_for_noise_hardly_moves(pair):
    fixed, _, _ = pair
    noisy = fixed + 0.01 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(6))
    found = optimize(problem(fixed, noisy), SCHEDULE, make_similarity)
    assert found.norm(dim=1).mean() < 0.1


def test_a_level_has_its_own_first_step_and_gaussian_of_the_force_where_it_names_them():
    schedule = OptimizationSchedule(
        levels=(PyramidLevel(2, 9), PyramidLevel(1, 9, initial_step=0.9, fluid_sigma=5.0)),
        initial_step=0.6,
        fluid_sigma=4.0,
        elastic_sigma=0.8,
        same_subject_initial_step=0.3,
        same_subject_sigmas=(2.0, 1.0),
    )
    coarse, fine = (schedule.regularization(level, same_subject=False) for level in schedule.levels)
    assert coarse == (0.6, 4.0, 0.8)
    assert fine == (0.9, 5.0, 0.8)
    assert {schedule.regularization(level, same_subject=True) for level in schedule.levels} == {(0.3, 2.0, 1.0)}


def test_the_first_step_of_a_level_is_as_long_as_it_says(pair):
    fixed, moving, _ = pair
    moved = [
        optimize(problem(fixed, moving), OptimizationSchedule(levels=(level,), elastic_sigma=0.0), make_similarity)
        for level in (PyramidLevel(1, 1, initial_step=0.05), PyramidLevel(1, 1, initial_step=0.1))
    ]
    inner = (slice(None), slice(None), *[slice(6, -6)] * 3)
    first, second = (each[inner].square().sum(1).mean().sqrt().item() for each in moved)
    assert second == pytest.approx(2 * first, rel=0.05)


def test_voxels_without_weight_do_not_matter(pair):
    fixed, moving, _ = pair
    weight = torch.ones_like(fixed)
    weight[..., 20:] = 0
    other = fixed.clone()
    other[..., 26:] = smooth_noise(1, 1.0, 9)[..., 26:]
    schedule = OptimizationSchedule(levels=(PyramidLevel(1, 5),))
    first, second = (
        optimize(problem(image, moving, weight=weight), schedule, make_similarity) for image in (fixed, other)
    )
    assert torch.allclose(first[..., :20], second[..., :20], atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_progress_reaches_one_and_never_falls(pair, bidirectional):
    fixed, moving, _ = pair
    reported = []
    schedule = dataclasses.replace(SCHEDULE, bidirectional=bidirectional)
    optimize(problem(fixed, moving), schedule, make_similarity, progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == pytest.approx(1.0)
    assert max(reported[:-1]) <= 1.0


def test_a_pair_recognized_as_one_subject_is_finished_with_a_smoother_force(pair):
    fixed, moving, truth = pair
    schedule = OptimizationSchedule(levels=(PyramidLevel(2, 40), PyramidLevel(1, 10)), fluid_sigma=1.0)
    errors = []
    for threshold in (0.5, NEVER):
        noisy = moving + 0.02 * torch.randn(moving.shape, generator=torch.Generator().manual_seed(3))
        chosen = dataclasses.replace(schedule, same_subject_threshold=threshold)
        found = optimize(problem(fixed, noisy), chosen, lambda f, m, w, *_: LocalCorrelation(f, m, w, signed=False))
        errors.append(mean_error(found, truth))
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize(
    ("level", "threshold", "counts"), [(True, NEVER, True), (False, NEVER, False), (True, 0.01, False)]
)
def test_the_segmentation_term_counts_at_its_levels_and_only_for_two_subjects(pair, level, threshold, counts):
    fixed, moving, _ = pair
    schedule = OptimizationSchedule(
        levels=(PyramidLevel(2, 3), PyramidLevel(2, 3, segmentation=level)), same_subject_threshold=threshold
    )
    found = [
        optimize(problem(fixed, moving, segmentations), schedule, make_similarity)
        for segmentations in (None, matching_segmentations(fixed, moving))
    ]
    assert (not torch.equal(*found)) == counts


def test_segmentations_that_contradict_the_images_are_left_out(pair):
    fixed, moving, truth = pair
    wrong = unrelated_segmentations()
    schedule = OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 8, segmentation=True)),
        same_subject_threshold=NEVER,
        segmentation_weight=1e4,
    )
    errors = []
    for segmentations, max_similarity_drop in ((None, 0.01), (wrong, 0.01), (wrong, 9.0)):
        chosen = dataclasses.replace(schedule, max_similarity_drop=max_similarity_drop)
        errors.append(mean_error(optimize(problem(fixed, moving, segmentations), chosen, make_similarity), truth))
    assert errors[1] < 1.5 * errors[0]
    assert errors[1] < 0.2 * errors[2], errors


def test_a_small_drop_of_similarity_does_not_discard_the_segmentations(pair):
    fixed, moving, _ = pair
    schedule = OptimizationSchedule(
        levels=(PyramidLevel(2, 40), PyramidLevel(2, 8, segmentation=True)),
        same_subject_threshold=NEVER,
        segmentation_weight=5.0,
    )
    wrong, found = unrelated_segmentations(), []
    for segmentations, max_similarity_drop in ((None, 0.0), (wrong, 0.0), (wrong, 0.5)):
        chosen = dataclasses.replace(
            schedule,
            max_similarity_drop=max_similarity_drop,
            same_subject_sigmas=(schedule.fluid_sigma, schedule.elastic_sigma),
        )
        found.append(optimize(problem(fixed, moving, segmentations), chosen, make_similarity))
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert not torch.allclose(found[0], found[2], atol=0.05)


def test_the_finest_level_of_both_directions_begins_with_the_mean_of_the_forward_map_and_the_inverted_backward_map(
    pair,
):
    fixed, moving, truth = pair
    coarse, fine = PyramidLevel(2, 10), PyramidLevel(1, 0)
    segmentations = tuple(F.avg_pool3d(smooth_noise(1, 2.0, seed), 2) for seed in (1, 2))
    schedule = OptimizationSchedule(levels=(coarse, fine), bidirectional=True, same_subject_threshold=NEVER)
    start = resize(0.5 * truth, tuple(n // 2 for n in SIZE))
    found = optimize(problem(fixed, moving, segmentations), schedule, make_similarity, start)

    fixed, moving = F.avg_pool3d(fixed, 2), F.avg_pool3d(moving, 2)
    at_half = dataclasses.replace(schedule, levels=(PyramidLevel(1, 10),), bidirectional=False)
    forward = optimize(problem(fixed, moving, segmentations), at_half, make_similarity, start)
    backward = optimize(problem(moving, fixed, segmentations[::-1]), at_half, make_similarity, invert(start))
    expected = resize((forward + invert(backward)) / 2, SIZE)
    assert torch.allclose(found, expected, atol=1e-5)
    assert mean_error(found, truth) < (0.5 * truth).norm(dim=1).mean()


def reference_gradient_rms(image: torch.Tensor, weight: torch.Tensor) -> float:
    level = PyramidLevel(1, 1)
    levels = optimizer._MultiresolutionOptimizer(SCHEDULE, make_similarity, lambda fraction: None, (level,))
    return float(levels._reference_gradient_rms(problem(image, image, weight=weight), level, False, 1.5))


def test_the_reference_gradient_of_the_middle_planes_is_about_that_of_all_planes(monkeypatch):
    image = smooth(torch.randn(1, 1, 96, 40, 40, generator=torch.Generator().manual_seed(1)), 1.5)
    found = []
    for many in (64, 1000):
        monkeypatch.setattr(optimizer, "_MANY_PLANES", many)
        found.append(reference_gradient_rms(image, torch.ones_like(image)))
    assert found[0] == pytest.approx(found[1], rel=0.1)
    assert found[0] != found[1]


def test_the_reference_gradient_is_that_of_all_planes_where_the_middle_ones_have_no_weight():
    image = smooth(torch.randn(1, 1, 96, 20, 20, generator=torch.Generator().manual_seed(1)), 1.5)
    weight = torch.zeros_like(image)
    weight[:, :, :24] = 1
    assert reference_gradient_rms(image, weight) > 0


def test_the_force_of_the_segmentation_term_is_kept_for_as_many_iterations_as_the_schedule_says(pair, monkeypatch):
    fixed, moving, truth = pair
    calls, original = [], SegmentationDifference.value_and_gradient
    monkeypatch.setattr(
        SegmentationDifference, "value_and_gradient", lambda self, u: calls.append(1) or original(self, u)
    )
    found, counts = [], []
    for interval in (1, 3):
        calls.clear()
        schedule = OptimizationSchedule(
            levels=(PyramidLevel(2, 7, segmentation=True),),
            same_subject_threshold=NEVER,
            segmentation_interval=interval,
        )
        segmentations = matching_segmentations(fixed, moving)
        found.append(optimize(problem(fixed, moving, segmentations), schedule, make_similarity))
        counts.append(len(calls))
    assert counts == [7, 3]
    errors = [mean_error(displacement, truth) for displacement in found]
    assert not torch.equal(*found)
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_a_pair_of_one_subject_in_the_forward_direction_is_one_in_the_backward_direction(pair):
    fixed, moving, _ = pair
    decisions = []

    def make(fixed, moving, weight, level, same_subject, scanned=None):
        decisions.append(same_subject)
        return LocalCorrelation(fixed, moving, weight)

    schedule = OptimizationSchedule(
        levels=(PyramidLevel(2, 3), PyramidLevel(1, 1)), bidirectional=True, same_subject_threshold=0.01
    )
    optimize(problem(fixed, moving), schedule, make)
    first = decisions.index(True)
    # the forward level, that level again, the backward level, the finest: two calls each
    assert 0 < first < len(decisions) - 4
    assert all(decisions[first:])


@pytest.mark.parametrize("factors", [(1,), (1, 1), (2, 1)])
def test_the_displacement_to_begin_with_is_left_as_it_is(pair, factors):
    fixed, moving, truth = pair
    start = truth.clone()
    schedule = dataclasses.replace(SCHEDULE, levels=tuple(PyramidLevel(factor, 2) for factor in factors))
    found = optimize(problem(fixed, moving), schedule, make_similarity, start)
    assert torch.equal(start, truth)
    assert not torch.equal(found, start)


def half_scanned(axis: int, first: int) -> torch.Tensor:
    """Bool: scanned from the index `first` along an axis on."""
    scanned = torch.ones(1, 1, *SIZE, dtype=torch.bool)
    scanned.narrow(axis, 0, first).zero_()
    return scanned


def test_what_both_volumes_show_is_found_where_the_moving_one_is_warped(pair):
    fixed, moving, _ = pair
    shift = torch.zeros(1, 3, *SIZE)
    shift[:, 2] = 4.0
    fixed_scanned, moving_scanned = half_scanned(3, 10), half_scanned(4, 20)
    everywhere = problem(fixed, moving)
    assert everywhere.scanned_under(shift) is None
    in_moving = dataclasses.replace(everywhere, moving_scanned=moving_scanned)
    assert torch.equal(in_moving.scanned_under(shift), half_scanned(4, 16))
    in_fixed = dataclasses.replace(everywhere, fixed_scanned=fixed_scanned)
    assert torch.equal(in_fixed.scanned_under(shift), fixed_scanned)
    in_both = dataclasses.replace(in_moving, fixed_scanned=fixed_scanned)
    assert torch.equal(in_both.scanned_under(shift), half_scanned(4, 16) & fixed_scanned)


def test_the_reversed_problem_has_the_volumes_with_what_was_scanned_of_each_exchanged(pair):
    fixed, moving, _ = pair
    maps, weight = unrelated_segmentations(), torch.rand_like(fixed)
    scanned = half_scanned(3, 10), half_scanned(4, 20)
    there = OptimizationProblem(fixed, moving, weight, maps, *scanned)
    back = there.reversed()
    assert back.fixed is moving
    assert back.moving is fixed
    assert back.weight is weight
    assert back.segmentations == maps[::-1]
    assert (back.fixed_scanned, back.moving_scanned) == scanned[::-1]


def test_a_voxel_of_a_coarser_level_was_scanned_where_all_voxels_in_it_were(pair):
    fixed, moving, _ = pair
    whole = OptimizationProblem(fixed, moving, torch.ones_like(fixed), None, half_scanned(3, 9), half_scanned(4, 8))
    coarse = whole.downsampled(4)
    assert coarse.fixed_scanned[..., :3, :].max() == 0
    assert coarse.fixed_scanned[..., 3:, :].min() == 1
    assert coarse.moving_scanned[..., :2].max() == 0
    assert coarse.moving_scanned[..., 2:].min() == 1
    assert whole.downsampled(1) is whole


def test_each_level_is_told_what_both_volumes_show_under_the_displacement_it_begins_with(pair):
    fixed, moving, _ = pair
    told = []

    def make(fixed, moving, weight, level, same_subject, scanned=None):
        if scanned is not None:
            told.append((level.factor, tuple(scanned.shape[2:])))
        return LocalCorrelation(fixed, moving, weight, scanned=scanned)

    cut = dataclasses.replace(problem(fixed, moving), moving_scanned=half_scanned(4, 20))
    optimize(cut, dataclasses.replace(SCHEDULE, same_subject_threshold=NEVER), make)
    assert told == [(2, tuple(n // 2 for n in SIZE)), (1, SIZE)]


def test_the_part_that_both_volumes_show_is_aligned_up_to_where_the_scan_ends(pair):
    fixed, moving, truth = pair
    scanned = half_scanned(4, 20)
    ended = torch.where(scanned > 0, moving, 0.0)
    near, errors = (slice(None), slice(None), slice(8, -8), slice(8, -8), slice(20, 25)), []
    for known in (None, scanned):
        cut = dataclasses.replace(problem(fixed, ended), moving_scanned=known)
        found = optimize(cut, SCHEDULE, lambda f, m, w, level, same, s=None: LocalCorrelation(f, m, w, scanned=s))
        errors.append(mean_error(found[near], truth[near]))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.5
