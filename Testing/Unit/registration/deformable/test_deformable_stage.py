"""The deformable stage: results that are discarded, initial transforms that are continued, measures that are chosen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from pointsets import brain_points, moved
from wavemorph import Settings, register
from wavemorph.models.weights import ModelCard
from wavemorph.network import NetworkConfig
from wavemorph.registration import pipeline
from wavemorph.registration.deformable import stage
from wavemorph.registration.deformable.inference import predict
from wavemorph.registration.deformable.optimizer import PyramidLevel
from wavemorph.registration.schedules import body_schedule
from wavemorph.registration.similarity.lncc import LocalCorrelation
from wavemorph.registration.similarity.mind import MindSsc
from wavemorph.registration.similarity.mutual_information import MutualInformation
from wavemorph.spatial.filters import smooth
from wavemorph.spatial.preprocessing import Pair, WorkingPair


class ConstantModel:
    """A model whose displacement is always the same: `voxels` upwards (S) in the middle, less around."""

    card, sha256 = ModelCard(name="constant", description="", config={}), "0" * 64

    def __init__(self, voxels: float):
        self.network, self.voxels = self, voxels
        self.config = NetworkConfig(channels=(4, 8), flow_level=0, output="displacement")

    def decode_symmetric(self, fixed, moving):
        step = torch.zeros(1, 3, *fixed.shape[2:])
        axes = [torch.linspace(-1, 1, n) for n in fixed.shape[2:]]
        k, j, i = torch.meshgrid(*axes, indexing="ij")
        step[0, 0] = self.voxels * (1 - k**2) * (1 - j**2) * (1 - i**2)
        return step


def test_a_network_result_that_does_not_raise_correlation_is_discarded_with_a_note(monkeypatch):
    monkeypatch.setattr(pipeline, "resolve", lambda *_: ConstantModel(4.0))
    fixed = phantoms.head(phantoms.regular((48, 48, 48), (2.0, 2.0, 2.0)), (0.0, 0.0, 0.0))
    result = register(fixed, fixed, Settings(preset="Instant", spacing_mm=2.0, affine=False))
    assert result.report["displacement_mm"]["max"] < 1e-3
    assert any("did not improve the alignment; its result was discarded" in note for note in result.report["notes"])
    assert result.report["warnings"] == []


@pytest.mark.parametrize(("affine", "uses_network"), [(True, False), (False, True)])
def test_instant_refines_what_is_known_to_be_no_brain_instead_of_using_the_network(monkeypatch, affine, uses_network):
    """Of a pair that is aligned already nothing is known: brains are not looked for."""
    predicted = []
    monkeypatch.setattr(stage, "predict", lambda *a, **k: predicted.append(1) or predict(*a, **k))
    lattice = phantoms.regular((48, 48, 48), (4.0, 4.0, 4.0))
    fixed = phantoms.torso(lattice)
    moving = sitk.Resample(fixed, lattice, rotation_with_wave(lattice).GetNthTransform(1), sitk.sitkLinear)
    report = register(fixed, moving, Settings(preset="Instant", affine=affine)).report
    assert bool(predicted) == uses_network
    assert ("Refinement" in report["seconds"]) != uses_network
    assert uses_network or report["similarity"]["after"] > report["similarity"]["before"] + 0.1


def rotation_with_wave(lattice: sitk.Image) -> sitk.Transform:
    """x -> affine(wave(x)): 20 degrees, 12 mm, and a wave of 4 mm."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05 * phantoms.rotation((0, 0, 20))).ravel().tolist())
    affine.SetTranslation((5.0, -8.0, 7.0))
    points = phantoms.physical_points(lattice)
    vectors = np.zeros_like(points)
    vectors[..., 0] = 4 * np.sin(points[..., 2] / 10)
    wave = sitk.GetImageFromArray(vectors, isVector=True)
    wave.CopyInformation(lattice)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(wave)])


@pytest.mark.parametrize("voxels", [0.0, 2.0])
def test_a_nonlinear_initial_transform_is_kept_and_continued_on_the_fixed_side(monkeypatch, voxels):
    model = ConstantModel(voxels)
    monkeypatch.setattr(pipeline, "resolve", lambda *_: model)
    monkeypatch.setattr(stage, "_raises_correlation", lambda *_: True)
    lattice = phantoms.regular((44, 48, 44), (2.0, 2.0, 2.0))
    initial = rotation_with_wave(lattice)
    fixed = phantoms.head(lattice, (0.0, 0.0, 0.0))
    inverse_rotation = initial.GetNthTransform(0).GetInverse()
    moving = sitk.Resample(fixed, phantoms.regular((60, 60, 60), (2.0, 2.0, 2.0)), inverse_rotation, sitk.sitkLinear)
    result = register(
        fixed, moving, Settings(preset="Instant", spacing_mm=2.0, affine=False), initial_transform=initial
    )
    points = brain_points()
    step = np.zeros_like(points)
    if voxels:
        decoded = model.decode_symmetric(torch.zeros(1, 1, *result.working_jacobian.GetSize()[::-1]), None)[0, 0]
        at = [result.working_jacobian.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in points]
        i, j, k = np.round(np.transpose(at)).astype(int)
        step[:, 2] = 2.0 * decoded.numpy()[k, j, i]
    expected = moved(initial, points + step)
    errors = np.linalg.norm(moved(result.transform, points) - expected, axis=1)
    assert errors.mean() < 0.2
    assert errors.max() < 0.6


@pytest.mark.parametrize(("similarity", "recognized"), [("lncc", True), ("mi", False)])
def test_only_by_a_correlation_pairs_of_one_subject_are_recognized(tiny_pair, similarity, recognized, monkeypatch):
    schedules, optimize = [], stage.optimize

    def record(problem, schedule, *rest):
        schedules.append(schedule)
        return optimize(problem, schedule, *rest)

    monkeypatch.setattr(stage, "optimize", record)
    monkeypatch.setattr(Pair, "as_body", lambda pair: pair)  # the phantom as a brain
    register(*tiny_pair, Settings(spacing_mm=2.9, weights="none", similarity=similarity, affine=False))
    assert [schedule.same_subject_threshold < 1 for schedule in schedules] == [recognized]


def test_windows_are_smaller_and_at_every_voxel_for_pairs_of_one_subject():
    fixed, moving = (torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    weight = torch.zeros(1, 1, 24, 24, 24)
    weight[..., 12, 12, 12] = 1
    widths = []
    for same_subject in (False, True):
        make = stage.similarity_factory("auto", True)
        _, slope = make(fixed, moving, weight, PyramidLevel(2, 10), same_subject).compare(moving)
        widths.append([int(n.max() - n.min() + 1) for n in slope.nonzero().T[2:]])
    assert widths == [[10] * 3, [5] * 3]


@pytest.mark.parametrize(
    ("name", "same_contrast", "factor", "measure"),
    [
        ("auto", True, 4, MindSsc),
        ("auto", True, 2, LocalCorrelation),
        ("auto", False, 2, MindSsc),
        ("auto", False, 1, LocalCorrelation),
        ("lncc", False, 4, LocalCorrelation),
        ("mind", True, 1, MindSsc),
        ("mi", True, 4, MutualInformation),
    ],
)
def test_the_measure_depends_on_the_setting_the_contrast_and_the_level(name, same_contrast, factor, measure):
    image = torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    make = stage.similarity_factory(name, same_contrast)
    assert type(make(image, image, torch.ones_like(image), PyramidLevel(factor, 1), False)) is measure


def test_the_windows_of_a_level_are_those_of_its_schedule():
    fixed, moving = (torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    weight = torch.zeros(1, 1, 24, 24, 24)
    weight[..., 12, 12, 12] = 1
    for radius, stride, width in ((3, 1, 7), (4, 2, 10)):
        level = PyramidLevel(2, 10, lncc_radius=radius, lncc_stride=stride)
        _, slope = stage.similarity_factory("auto", True)(fixed, moving, weight, level, False).compare(moving)
        assert [int(n.max() - n.min() + 1) for n in slope.nonzero().T[2:]] == [width] * 3


@pytest.mark.parametrize("factor", [1, 4])
def test_the_measures_do_not_read_what_was_not_scanned(factor):
    fixed, moving = (torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    scanned = torch.ones_like(fixed)
    scanned[..., 9:] = 0
    make, values = stage.similarity_factory("auto", True), []
    for beyond in (0.0, 9.0):
        disturbed = torch.where(scanned > 0, moving, beyond * fixed)
        measure = make(fixed, disturbed, torch.ones_like(fixed), PyramidLevel(factor, 1), False, scanned)
        values.append(measure.value())
    assert values[1] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize(("body", "slope", "same"), [(True, 2.0, True), (True, -2.0, False), (False, -2.0, True)])
def test_the_contrast_of_bodies_is_different_where_brighter_meets_darker_at_large_though_not_in_small(
    body, slope, same
):
    texture = smooth(torch.randn(1, 1, 48, 48, 48, generator=torch.Generator().manual_seed(0)), 1.5)
    texture = texture / texture.std()
    ramp = torch.linspace(-1, 1, 48).view(1, 1, 48, 1, 1)
    everywhere = torch.ones_like(texture, dtype=torch.bool)
    working = WorkingPair(texture + 2 * ramp, texture + slope * ramp, torch.ones_like(texture), everywhere, everywhere)
    pair = SimpleNamespace(length_scale=0.5, is_body=body)
    for setting, expected in (("auto", same), ("same", True), ("different", False)):
        job = SimpleNamespace(pair=pair, settings=SimpleNamespace(contrast=setting))
        found = stage.judge_contrast(SimpleNamespace(working=working, job=job, spacing_mm=1.0))
        assert found.same == expected
        assert found.agreement > 0.5
        correlation = np.corrcoef((texture + 2 * ramp).numpy().ravel(), (texture + slope * ramp).numpy().ravel())[0, 1]
        assert found.correlation == pytest.approx(correlation, abs=1e-4)


@pytest.mark.parametrize(("side", "coarsest"), [(8, 2), (16, 4), (24, 8), (200, 8)])
def test_levels_on_which_a_small_lattice_has_no_voxels_inside_are_left_out(side, coarsest):
    schedule = stage._on_lattice(body_schedule("Balanced", large_steps=True), side)
    assert [level.factor for level in schedule.levels] == [f for f in (8, 4, 2, 1) if f <= coarsest]
    assert stage._on_lattice(None, side) is None


def test_a_body_is_registered_on_a_lattice_of_a_few_voxels(tiny_pair):
    result = register(*tiny_pair, Settings(spacing_mm=15.0, weights="none", affine=False))
    assert min(result.working_jacobian.GetSize()) == 8
    assert result.report["folding"]["strict_voxels"] == 0


@pytest.mark.parametrize(
    ("spacing_mm", "is_body", "coarsest"), [(1.0, False, 4), (2.0, False, 4), (4.8, False, 8), (1.0, True, 8)]
)
def test_brains_in_coarse_voxels_begin_as_coarsely_as_bodies(spacing_mm, is_body, coarsest):
    assert schedule_of(is_body, spacing_mm, 1.0).levels[0].factor == coarsest


def schedule_of(is_body, spacing_mm, voxel_mm, same=True, **settings):
    pair = SimpleNamespace(is_body=is_body, finest_voxel_mm=voxel_mm)
    job = SimpleNamespace(pair=pair, settings=Settings(**settings), model=None)
    aligned = SimpleNamespace(job=job, spacing_mm=spacing_mm, grid=SimpleNamespace(size=(60, 60, 60)))
    return stage._schedule(aligned, stage.Contrast(0.9, 0.9, same), with_segmentation=False)


@pytest.mark.parametrize("preset", ["Balanced", "Precise"])
def test_only_bodies_in_one_contrast_take_large_steps_and_only_on_a_grid_finer_than_their_voxels(preset):
    large, small = (body_schedule(preset, large_steps) for large_steps in (True, False))
    assert large != small
    assert schedule_of(True, 2.0, 3.0, preset=preset) == large
    for other in (
        schedule_of(True, 3.0, 3.0, preset=preset),
        schedule_of(True, 2.0, 3.0, same=False, preset=preset),
        schedule_of(True, 2.0, 3.0, preset=preset, similarity="mi"),
        schedule_of(False, 3.2, 4.8, preset=preset),
    ):
        assert other == small
