"""`register` where something is missing, forbidden or taken over: what is refused, tried again, stopped and kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from pointsets import brain_points, moved, shift_error
from wavemorph import Settings, register
from wavemorph.errors import Cancelled, InputError, OutOfMemoryError, SettingsError
from wavemorph.models.weights import ModelCard
from wavemorph.network import NetworkConfig
from wavemorph.registration import pipeline as registration
from wavemorph.registration.deformable.optimizer import PyramidLevel

QUICK = Settings(spacing_mm=4.0, weights="none")


@pytest.mark.parametrize("stop_at", ["Affine", "Refinement", "Finishing"])
def test_it_can_be_cancelled_at_each_stage(tiny_pair, monkeypatch, stop_at):
    monkeypatch.setattr(registration, "estimate_affine", lambda *_, **__: sitk.AffineTransform(3))

    def progress(stage, fraction, message):
        if stage == stop_at:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        register(*tiny_pair, QUICK, progress)


def test_the_number_of_threads_is_used_and_given_back(tiny_pair):
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    result = register(*tiny_pair, dataclasses.replace(QUICK, threads=2, affine=False))
    assert result.report["device"]["threads"] == 2
    assert (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) == before


def test_a_coarser_grid_is_taken_and_named_where_the_voxels_are_limited(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, spacing_mm=2.0, max_voxels=10000, affine=False))
    assert np.prod(result.working_jacobian.GetSize()) <= 10000
    assert any("at most 10000 voxels" in sentence for sentence in result.report["warnings"])


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_out_of_memory_is_tried_again_coarser_and_said(tiny_pair, monkeypatch, failure):
    calls, optimize = [], registration.optimize

    def refuse_once(fixed, *rest, **named):
        calls.append(fixed.shape)
        if len(calls) == 1:
            raise failure
        return optimize(fixed, *rest, **named)

    monkeypatch.setattr(registration, "refine", refuse_once)
    result = register(*tiny_pair, dataclasses.replace(QUICK, spacing_mm=2.5, affine=False))
    assert np.prod(calls[1]) < np.prod(calls[0])
    assert any("Memory ran out at 2.50 mm" in sentence for sentence in result.report["warnings"])
    assert shift_error(result) < 1.0


def test_memory_that_never_suffices_ends_in_one_sentence(tiny_pair, monkeypatch):
    def refuse(*_, **named):
        raise MemoryError

    monkeypatch.setattr(registration, "refine", refuse)
    with pytest.raises(OutOfMemoryError, match="not enough memory even for a working grid"):
        register(*tiny_pair, dataclasses.replace(QUICK, affine=False))


def test_other_errors_are_not_taken_for_memory(tiny_pair, monkeypatch):
    def break_(*_, **named):
        raise RuntimeError("something else")

    monkeypatch.setattr(registration, "refine", break_)
    with pytest.raises(RuntimeError, match="something else"):
        register(*tiny_pair, dataclasses.replace(QUICK, affine=False))


def test_volumes_that_do_not_overlap_are_refused(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin((500.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not overlap"):
        register(fixed, far, dataclasses.replace(QUICK, affine=False))


def test_instant_without_a_model_is_refused(tiny_pair):
    with pytest.raises(SettingsError, match="Instant needs a model"):
        register(*tiny_pair, Settings(preset="instant", weights="none"))


def test_settings_are_checked_when_they_are_made():
    assert Settings(preset="precise").preset == "Precise"
    for wrong in ({"preset": "Fast"}, {"threads": 0}, {"spacing_mm": 50.0}, {"max_voxels": 10}, {"device": "tpu"}):
        with pytest.raises(SettingsError):
            Settings(**wrong)
    assert Settings.from_dict(Settings(threads=3).to_dict()) == Settings(threads=3)
    with pytest.raises(SettingsError, match="Unknown setting 'speed'"):
        Settings.from_dict({"speed": 1})


class OneStep:
    """A model that always answers with the same displacement: `voxels` upwards (S) in the middle, less around."""

    card, sha256 = ModelCard(name="one step", description="", config={}), "0" * 64

    def __init__(self, voxels: float):
        self.network, self.voxels = self, voxels
        self.config = NetworkConfig(channels=(4, 8), flow_level=0, output="displacement")

    def decode_symmetric(self, fixed, moving):
        step = torch.zeros(1, 3, *fixed.shape[2:])
        axes = [torch.linspace(-1, 1, n) for n in fixed.shape[2:]]
        k, j, i = torch.meshgrid(*axes, indexing="ij")
        step[0, 0] = self.voxels * (1 - k**2) * (1 - j**2) * (1 - i**2)
        return step


def test_an_answer_that_brings_the_two_no_closer_is_put_aside_and_said(monkeypatch):
    monkeypatch.setattr(registration, "resolve", lambda *_: OneStep(4.0))
    fixed = phantoms.head(phantoms.regular((48, 48, 48), (2.0, 2.0, 2.0)), (0.0, 0.0, 0.0))
    result = register(fixed, fixed, Settings(preset="Instant", spacing_mm=2.0, affine=False))
    assert result.report["displacement_mm"]["max"] < 1e-3
    assert any("did not bring the two closer" in warning for warning in result.report["warnings"])


def turned_and_bent(lattice: sitk.Image) -> sitk.Transform:
    """x -> affine(bend(x)): 20 degrees, 12 mm, and a wave of 4 mm."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05 * phantoms.rotation((0, 0, 20))).ravel().tolist())
    affine.SetTranslation((5.0, -8.0, 7.0))
    points = phantoms.physical_points(lattice)
    vectors = np.zeros_like(points)
    vectors[..., 0] = 4 * np.sin(points[..., 2] / 10)
    bend = sitk.GetImageFromArray(vectors, isVector=True)
    bend.CopyInformation(lattice)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(bend)])


@pytest.mark.parametrize("voxels", [0.0, 2.0])
def test_a_bent_initial_transform_is_kept_and_continued_on_the_fixed_side(monkeypatch, voxels):
    model = OneStep(voxels)
    monkeypatch.setattr(registration, "resolve", lambda *_: model)
    monkeypatch.setattr(registration, "_is_closer", lambda *_: True)
    lattice = phantoms.regular((44, 48, 44), (2.0, 2.0, 2.0))
    initial = turned_and_bent(lattice)
    fixed = phantoms.head(lattice, (0.0, 0.0, 0.0))
    turned_back = initial.GetNthTransform(0).GetInverse()
    moving = sitk.Resample(fixed, phantoms.regular((60, 60, 60), (2.0, 2.0, 2.0)), turned_back, sitk.sitkLinear)
    result = register(fixed, moving, Settings(preset="Instant", spacing_mm=2.0), initial_transform=initial)
    points = brain_points()
    step = np.zeros_like(points)
    if voxels:
        field = model.decode_symmetric(torch.zeros(1, 1, *result.working_jacobian.GetSize()[::-1]), None)[0, 0]
        at = [result.working_jacobian.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in points]
        i, j, k = np.round(np.transpose(at)).astype(int)
        step[:, 2] = 2.0 * field.numpy()[k, j, i]
    expected = moved(initial, points + step)
    errors = np.linalg.norm(moved(result.transform, points) - expected, axis=1)
    assert errors.mean() < 0.2
    assert errors.max() < 0.6


@pytest.mark.parametrize(("similarity", "told"), [("lncc", True), ("mi", False)])
def test_only_a_correlation_tells_whether_the_two_are_alike(tiny_pair, similarity, told, monkeypatch):
    asked, whole = [], registration.optimize

    def optimize(fixed, moving, weight, plan, *rest, **more):
        asked.append(plan)
        return whole(fixed, moving, weight, plan, *rest, **more)

    monkeypatch.setattr(registration, "refine", optimize)
    register(*tiny_pair, dataclasses.replace(QUICK, similarity=similarity, affine=False))
    assert [plan.alike < 1 for plan in asked] == [told]


def test_windows_are_smaller_and_stand_closer_where_the_two_are_alike():
    shifted = [torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    weight = torch.zeros(1, 1, 24, 24, 24)
    weight[..., 12, 12, 12] = 1
    reached = []
    for alike in (False, True):
        make = registration._similarity_maker("auto", True)
        _, slope = make(shifted[0], weight, PyramidLevel(2, 10), alike)(shifted[1])
        reached.append([int(n.max() - n.min() + 1) for n in slope.nonzero().T[2:]])
    assert reached == [[10] * 3, [5] * 3]


@pytest.mark.parametrize("preset", ["Balanced", "Precise"])
def test_only_the_plans_of_pairs_whose_tissues_are_seen_ask_for_tissues(preset):
    for same, close, tissues in np.ndindex(2, 2, 2):
        plan = registration._plans(bool(same), bool(close), bool(tissues))[preset]
        assert any(level.tissues for level in plan.levels) == bool(same and close and tissues)
