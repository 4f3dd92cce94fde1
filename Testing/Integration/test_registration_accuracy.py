"""What `register` returns for pairs with a known shift: accuracy, report, masks, initial transforms, models."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from pointsets import SHIFT, brain_points, moved, shift_error
from wavemorph import Settings, register
from wavemorph.errors import Cancelled
from wavemorph.models.weights import ModelCard, save_model
from wavemorph.network import NetworkConfig, WaveMorphNetwork
from wavemorph.registration.deformable import stage as deformable_stage
from wavemorph.spatial import resampling
from wavemorph.spatial.preprocessing import Pair
from wavemorph.training.known_deformation import Difference, make_pair

QUICK = Settings(spacing_mm=4.0, weights="none", inverse=True)


def voxels_and_geometry(image: sitk.Image):
    return sitk.GetArrayFromImage(image).tobytes(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()


@pytest.fixture(scope="module")
def registered(tiny_pair):
    """(result, reported progress, voxels and geometry of the inputs before it)."""
    before, reported = [voxels_and_geometry(image) for image in tiny_pair], []
    result = register(*tiny_pair, QUICK, lambda stage, fraction, message: reported.append((stage, fraction)))
    return result, reported, before


def test_the_affine_stage_and_the_deformation_find_a_known_shift(registered):
    result, *_ = registered
    assert shift_error(result) < 0.7
    round_trip = np.linalg.norm(moved(result.inverse, brain_points() + SHIFT) - brain_points(), axis=1)
    assert round_trip.mean() < 0.7
    assert result.report["similarity"]["after"] > 0.9
    assert result.report["warnings"] == []


def test_inputs_are_not_changed(tiny_pair, registered):
    *_, before = registered
    assert [voxels_and_geometry(image) for image in tiny_pair] == before


def test_the_same_inputs_give_the_same_transform(tiny_pair, registered):
    first, second = registered[0], register(*tiny_pair, QUICK)
    assert np.allclose(first.affine.GetParameters(), second.affine.GetParameters(), rtol=0, atol=1e-9)
    fields = [sitk.GetArrayViewFromImage(result.displacement) for result in (first, second)]
    assert np.abs(fields[0] - fields[1]).max() < 1e-3


def test_without_the_affine_stage_the_affine_is_the_identity(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, affine=False))
    assert result.affine.GetParameters() == sitk.AffineTransform(3).GetParameters()
    assert shift_error(result) < 1.0


def test_a_linear_initial_transform_is_where_the_affine_stage_starts(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin(np.add(moving.GetOrigin(), (300.0, 0.0, 0.0)).tolist())
    start = sitk.TranslationTransform(3, (301.0, 0.0, 0.0))
    result = register(fixed, far, QUICK, initial_transform=start)
    points = brain_points()
    errors = np.linalg.norm(moved(result.transform, points) - points - SHIFT - [300.0, 0.0, 0.0], axis=1)
    assert errors.mean() < 0.6


def test_a_deformable_initial_transform_is_kept_and_continued(tiny_pair):
    fixed, moving = tiny_pair
    lattice = sitk.Image(fixed.GetSize(), sitk.sitkVectorFloat64, 3)
    lattice.CopyInformation(fixed)
    bump = np.exp(-(phantoms.physical_points(fixed) ** 2).sum(-1) / (2 * 20.0**2))[..., None]
    field = sitk.GetImageFromArray(bump * np.array([2.0, 0.0, 1.5]) + SHIFT / 2, isVector=True)
    field.CopyInformation(fixed)
    start = sitk.DisplacementFieldTransform(field)
    result = register(fixed, moving, dataclasses.replace(QUICK, preset="Precise"), initial_transform=start)
    assert shift_error(result) < 0.6
    assert result.report["folding"]["strict_voxels"] == 0


def test_only_what_the_fixed_mask_marks_is_compared(tiny_pair):
    """A bright block beside the head moves in the other direction; masked out, it must not matter."""
    fixed, moving = tiny_pair
    disturbed = sitk.GetArrayFromImage(moving)
    positions = phantoms.physical_points(moving)
    disturbed[(np.abs(positions - (-20.0, 10.0, -10.0)) < 9).all(-1)] = 2000
    disturbed = sitk.GetImageFromArray(disturbed)
    disturbed.CopyInformation(moving)
    mask = sitk.GetImageFromArray((phantoms.physical_points(fixed)[..., 0] > -4).astype(np.uint8))
    mask.CopyInformation(fixed)
    points = brain_points()
    points = points[points[:, 0] > 2]

    def error(**masks):
        settings = dataclasses.replace(QUICK, affine=False, spacing_mm=2.0)
        result = register(fixed, disturbed, settings, **masks)
        return np.linalg.norm(moved(result.transform, points) - points - SHIFT, axis=1).mean()

    masked = error(fixed_mask=mask)
    assert masked < 1.2
    moving_mask = sitk.GetImageFromArray((positions[..., 0] > -1).astype(np.uint8))
    moving_mask.CopyInformation(moving)
    assert error(moving_mask=moving_mask) < 1.2


def test_a_reversed_contrast_is_registered(tiny_pair):
    fixed, moving = tiny_pair
    values = sitk.GetArrayFromImage(moving)
    inside = values > 150
    reversed_ = sitk.GetImageFromArray(np.where(inside, 1100 - values, values).astype(np.float32))
    reversed_.CopyInformation(moving)
    result = register(fixed, reversed_, Settings(spacing_mm=2.0, weights="none", contrast="different", affine=False))
    assert result.report["contrast"]["same"] is False
    assert shift_error(result) < 1.0


@pytest.mark.parametrize("similarity", ["lncc", "mind", "mi"])
def test_every_similarity_registers(tiny_pair, similarity):
    result = register(*tiny_pair, dataclasses.replace(QUICK, similarity=similarity, affine=False))
    assert shift_error(result) < 1.3
    assert result.report["settings"]["similarity"] == similarity


def test_the_report_has_the_entries_that_the_documentation_lists(registered):
    report = registered[0].report
    assert set(report) == {
        "subject", "similarity", "folding", "jacobian", "displacement_mm", "inverse_consistency_mm", "contrast",
        "segmentation", "transform_type", "wavemorph",
        "device", "versions", "settings", "peak_memory_mb", "inputs", "weights", "warnings", "notes", "seconds",
        "evidence", "mirrored_gain", "verdict",
    }  # fmt: skip
    assert len(report["inputs"]["fixed"]["sha256"]) == 64
    assert report["weights"] is None
    assert report["peak_memory_mb"]["process"] > 50
    assert {"Preparing", "Affine", "Refinement", "Finishing", "total"} == set(report["seconds"])


def test_without_the_inverse_the_map_is_as_accurate_and_inverse_consistency_is_still_measured(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, inverse=False, affine=False))
    assert shift_error(result) < 1.3
    assert result.report["folding"]["strict_voxels"] == 0
    measured = result.report["inverse_consistency_mm"]
    assert measured["inverse"] == "iteration"
    assert measured["max"] < 0.1
    points = brain_points()
    round_trip = np.linalg.norm(moved(result.inverse, moved(result.transform, points)) - points, axis=1)
    assert round_trip.max() < 0.3


def test_the_inverse_that_was_asked_for_is_the_one_that_is_measured(registered):
    assert registered[0].report["inverse_consistency_mm"]["inverse"] == "fields"


def test_progress_goes_from_zero_to_one_and_never_falls(registered):
    _, reported, _ = registered
    fractions = [fraction for _, fraction in reported]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert list(dict.fromkeys(stage for stage, _ in reported)) == [
        "Preparing",
        "Affine",
        "Refinement",
        "Finishing",
        "Done",
    ]


def test_volumes_far_apart_are_aligned_by_the_affine_stage(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin(np.add(moving.GetOrigin(), (400.0, -250.0, 100.0)).tolist())
    result = register(fixed, far, QUICK)
    points = brain_points()
    expected = points + SHIFT + [400.0, -250.0, 100.0]
    assert np.linalg.norm(moved(result.transform, points) - expected, axis=1).mean() < 0.8


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    """A small network that predicts a smooth nonzero velocity, saved as a model; its result is never discarded."""
    monkeypatch.setattr(deformable_stage, "_raises_correlation", lambda *_: True)
    config = NetworkConfig(channels=(4, 8, 8), kernels=(3, 3, 3, 1), bottleneck_blocks=1, dysample_groups=2)
    torch.manual_seed(0)
    network = WaveMorphNetwork(dataclasses.replace(config, flow_deviation=0.02))
    return save_model(network, ModelCard("tiny", "for tests", {}), tmp_path)


def test_instant_registers_by_the_network_alone(tiny_pair, model_file):
    stages = []
    settings = dataclasses.replace(QUICK, preset="Instant", weights=str(model_file), affine=False)
    result = register(*tiny_pair, settings, lambda stage, *_: stages.append(stage))
    assert "Network" in stages
    assert "Refinement" not in stages
    assert result.velocity is not None
    assert result.report["weights"]["name"] == "tiny"
    assert result.report["displacement_mm"]["max"] > 0
    points = brain_points()
    assert np.linalg.norm(moved(result.inverse, moved(result.transform, points)) - points, axis=1).max() < 0.4


def test_the_optimizer_starts_from_the_displacement_of_the_network(tiny_pair, model_file, monkeypatch):
    starts = []

    def record(problem, schedule, make_similarity, start, *rest):
        starts.append(start)
        raise Cancelled

    monkeypatch.setattr(deformable_stage, "optimize", record)
    monkeypatch.setattr(Pair, "as_body", lambda pair: pair)  # the phantom as a brain
    for weights in (str(model_file), "none"):
        with pytest.raises(Cancelled):
            register(*tiny_pair, dataclasses.replace(QUICK, weights=weights, affine=False))
    assert starts[0].abs().max() > 0
    assert starts[1] is None


def test_a_head_registered_to_noise_has_a_warning():
    lattice = phantoms.regular()
    noise = sitk.GetImageFromArray(np.random.default_rng(0).uniform(100, 200, (44, 52, 48)).astype(np.float32))
    noise.CopyInformation(lattice)
    report = register(phantoms.head(lattice), noise, Settings(spacing_mm=3.0, weights="none", affine=False)).report
    assert report["warnings"]


def test_the_expected_error_bounds_the_true_error_and_is_larger_where_that_is():
    """A head and its deformed copy, of which the moving volume shows three quarters."""
    head = phantoms.head(phantoms.regular((80, 88, 76), (2.0, 2.0, 2.0)), noise=0.01)
    pair = make_pair(head, Difference(noise=0.03, spacing_mm=(2.0, 2.0, 3.0), obliqueness=0.0), seed=3)
    moving = pair.moving[:, :, : 3 * pair.moving.GetSize()[2] // 4]
    settings = Settings(spacing_mm=2.5, weights="none", error_map=True)
    result = register(pair.fixed, moving, settings)

    expected, transform = result.expected_error, result.transform
    assert expected.GetSize() == head.GetSize() and expected.GetOrigin() == head.GetOrigin()
    assert expected[0, 0, 0] == 0  # in air nothing is known
    inside = np.argwhere(sitk.GetArrayViewFromImage(pair.foreground) > 0)[::97, ::-1].tolist()
    points = [head.TransformIndexToPhysicalPoint(index) for index in inside]
    error = np.array([np.subtract(transform.TransformPoint(p), pair.truth.TransformPoint(p)) for p in points])
    error, bound = np.linalg.norm(error, axis=1), np.array([expected[index] for index in inside])
    known = bound > 0
    assert known.mean() > 0.98
    assert np.mean(error[known] < bound[known]) > 0.8
    assert np.median(bound[known]) < 4 * np.median(error[known])
    assert np.corrcoef(np.log(bound[known]), np.log(error[known]))[0, 1] > 0.5
    entry = result.report["expected_error"]
    assert 0 < entry["median_mm"] < entry["p95_mm"]
    assert result.report["seconds"]["Expected error"] > 0


def test_volumes_resampled_in_slabs_are_registered_as_whole_volumes_are(monkeypatch, tiny_pair):
    fixed, moving = (sitk.Cast(image, sitk.sitkInt16) for image in tiny_pair)
    settings = Settings(spacing_mm=4.0, weights="none", affine=False, inverse=True)
    at_once = register(fixed, moving, settings)
    monkeypatch.setattr(resampling, "_LARGE_VOLUME_VOXELS", 0)
    monkeypatch.setattr(resampling, "_LARGE_VOLUME_SLAB_PLANES", 8)
    in_slabs = register(fixed, moving, settings)
    fields = [sitk.GetArrayFromImage(r.displacement) for r in (at_once, in_slabs)]
    assert np.abs(fields[0]).max() > 2
    assert np.abs(fields[0] - fields[1]).max() < 0.02
