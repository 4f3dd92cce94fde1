"""How a GPU computes against how a CPU computes, both on the CPU: one result but for rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from displacements import SIZE, bump, smooth_noise, tapered_noise
from wavemorph import Settings, register
from wavemorph.models.weights import resolve
from wavemorph.registration.deformable import inference
from wavemorph.spatial.displacement import constant, exponentiate, invert, warp_image
from wavemorph.spatial.folding import blend_smoothed, folding_mask, remove_folds, smooth_patch, smooth_sharp_bends
from wavemorph.spatial.inversion import invert_at_points, make_two_part_inverse, regularize_and_invert
from wavemorph.system import strategy
from wavemorph.system.strategy import ACCELERATOR, CPU, CUDA, strategy_for

SHARP = bump(6.0) + 1.2 * tapered_noise(3, 1.0, 4)


@pytest.fixture
def on_both(monkeypatch):
    """Calls a function as on a CPU, then as on a GPU; returns both results."""

    def call(function):
        found = []
        for chosen in (CPU, ACCELERATOR):
            with monkeypatch.context() as context:
                context.setattr(strategy, "CPU", chosen)
                found.append(function())
        return found

    return call


def test_the_cpu_has_its_strategy_and_all_others_have_one_of_which_cuda_also_records_steps():
    assert strategy_for(torch.device("cpu")) is CPU
    for other in ("mps", "xpu", "meta"):
        assert strategy_for(torch.device(other)) is ACCELERATOR
    for gpu in ("cuda", "cuda:1"):
        assert strategy_for(torch.device(gpu)) is CUDA
    assert dataclasses.replace(ACCELERATOR, records_steps=True) == CUDA
    assert CPU.waits and not ACCELERATOR.waits
    assert not CPU.records_steps and not ACCELERATOR.records_steps


def test_a_constant_on_a_device_stays_where_it_is_however_many_others_are_made():
    kept = constant((0.25, 4.0), torch.device("cpu"))
    for number in range(2000):
        constant((float(number), 0.5), torch.device("cpu"))
    assert constant((0.25, 4.0), torch.device("cpu")) is kept


@pytest.mark.parametrize("longest", [0.0, 0.05, 0.124, 1.0, 7.3, 40.0])
def test_the_exponential_without_a_wait_is_that_with_one(on_both, longest):
    velocity = tapered_noise(3, 3.0, 1)
    velocity = velocity * (longest / velocity.abs().max())
    plain, whole = on_both(lambda: exponentiate(velocity))
    assert torch.allclose(plain, whole, atol=1e-5)


def test_an_image_is_warped_in_3d_as_in_one_tall_picture(on_both):
    image, displacement = smooth_noise(1, 2.0, 0), 4 * tapered_noise(3, 2.0, 1)
    plain, whole = on_both(lambda: warp_image(image, displacement))
    assert float((plain - whole).abs().max()) < float(image.diff(dim=2).abs().max()) / 200 + 1e-6


def test_an_inverse_that_nobody_looks_at_stays_once_it_is_found(on_both):
    plain, whole = on_both(lambda: invert(bump(5.0), iterations=30))
    assert torch.allclose(plain, whole, atol=1e-6)


@pytest.mark.parametrize("displacement", [bump(2.0), SHARP, 6 * tapered_noise(3, 0.8, 3)], ids=["none", "few", "many"])
def test_folds_are_found_and_removed_in_whole_fields_as_at_nodes(on_both, displacement):
    plain, whole = on_both(lambda: folding_mask(displacement, 0.02))
    assert torch.equal(plain, whole)
    within = tapered_noise(1, 2.0, 1)[0, 0] > 0
    assert torch.equal(*on_both(lambda: folding_mask(displacement, 0.02, within)))
    plain, whole = on_both(lambda: remove_folds(displacement))
    assert torch.allclose(plain, whole, atol=1e-5)
    assert not bool(folding_mask(whole, 0.0).any())


def test_sharp_bends_are_smoothed_in_whole_fields_as_in_blocks(on_both):
    patch = smooth_patch(tapered_noise(1, 2.0, 5)[0, 0] > 0.1, 1)
    for function in (lambda: smooth_sharp_bends(SHARP), lambda: blend_smoothed(SHARP, patch, 1.3)):
        plain, whole = on_both(function)
        assert not torch.equal(plain, SHARP)
        assert torch.allclose(plain, whole, atol=1e-5)


def test_points_are_inverted_with_masks_as_with_lists(on_both):
    points = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) * 28
    plain, whole = on_both(lambda: invert_at_points(bump(5.0), points, torch.zeros(3, 500), steps=20, tolerance=1e-3))
    assert plain.abs().max() > 2
    assert torch.allclose(plain, whole, atol=1e-5)


def test_the_inverse_in_whole_fields_is_that_at_nodes(on_both):
    after = bump(3.0)
    after[..., 24:] += tapered_noise(3, 1.0, 4)[..., 24:]
    changed = (after != bump(3.0)).any(1)[0]

    def parts():
        inverse = make_two_part_inverse(bump(3.0))
        before = inverse.first.clone(), inverse.second.clone(), inverse.error.clone()
        inverse.update(after, changed)
        return *before, inverse.first, inverse.second, inverse.error

    for plain, whole in zip(*on_both(parts)):
        assert torch.allclose(plain, whole, atol=2e-5)


def test_a_map_is_regularized_and_inverted_in_whole_fields_as_at_nodes(on_both):
    for plain, whole in zip(*on_both(lambda: regularize_and_invert(SHARP))):
        assert plain.shape == (1, 3, *SIZE)
        assert torch.allclose(plain, whole, atol=1e-3)


def test_the_networks_passes_in_bfloat16_move_no_voxel_by_much(monkeypatch):
    network, found = resolve("auto", "cpu").network, []
    fixed, moving = (smooth_noise(1, 3.0, seed, (32, 40, 32)).mul(8).add(0.5).clamp(0, 1) for seed in (0, 1))
    for halves in (False, True):
        monkeypatch.setattr(inference, "computes_in_bfloat16", lambda device, halves=halves: halves)
        monkeypatch.setattr(strategy, "CPU", dataclasses.replace(CPU, halves_passes=True))
        with torch.inference_mode():
            found.append(inference.predict(network, fixed, moving, 4.0)[0])
    assert found[1].dtype == torch.float32
    assert found[0].abs().max() > 0.5
    assert 0 < (found[1] - found[0]).abs().mean() < 0.05 * found[0].abs().mean()


def test_a_registration_as_on_a_gpu_gives_the_map_that_the_cpu_gives(on_both, tiny_pair):
    """But for some iterations more, since the host looks at the convergence less often."""
    settings = Settings(spacing_mm=4.0, affine=False)
    fields = [sitk.GetArrayFromImage(each.displacement) for each in on_both(lambda: register(*tiny_pair, settings))]
    assert np.abs(fields[0]).max() > 2
    assert np.abs(fields[1] - fields[0]).max() < 0.02 * np.abs(fields[0]).max()
