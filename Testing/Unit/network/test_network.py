"""The network: wavelets against PyWavelets, DySample against trilinear interpolation, symmetry, all ablations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import pywt
import torch
import torch.nn.functional as F
from miniatures import small_network, smooth_volumes
from wavemorph.errors import InputError, SettingsError
from wavemorph.network import NetworkConfig, WaveMorphNetwork, complexity, wavelet
from wavemorph.network.config import DOWNSAMPLINGS, UPSAMPLINGS
from wavemorph.network.convnext import ChannelNorm, ConvNextBlock, Pointwise
from wavemorph.network.dysample import DySample
from wavemorph.network.force import correlation_force
from wavemorph.network.mswf import WaveletFusion
from wavemorph.spatial.displacement import compose, exponentiate, warp
from wavemorph.spatial.filters import smooth

SMALL = {"channels": (4, 8, 8), "bottleneck_blocks": 1, "bottleneck_kernel": 3}


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(size=(8, 12, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    return noise(1, 1, *size, seed=1), noise(1, 1, *size, seed=2)


def perturbed(network: WaveMorphNetwork) -> WaveMorphNetwork:
    """With random weights in every layer, as after training: fresh ones leave the flow at almost zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def test_haar_agrees_with_pywavelets_in_all_eight_bands():
    image = noise(1, 2, 8, 10, 12)
    bands = wavelet.decompose(image).reshape(8, 2, 4, 5, 6)
    for channel in range(2):
        expected = pywt.dwtn(image[0, channel].numpy().astype(float), "haar")
        for name, band in zip(wavelet.BANDS, bands):
            key = name.replace("L", "a").replace("H", "d")
            np.testing.assert_allclose(band[channel].numpy(), expected[key], atol=1e-6)


def test_haar_reconstructs_perfectly_and_keeps_the_energy():
    image = noise(2, 3, 8, 10, 12)
    bands = wavelet.decompose(image)
    assert torch.allclose(wavelet.reconstruct(bands), image, atol=1e-5)
    assert bands.pow(2).sum() == pytest.approx(float(image.pow(2).sum()), rel=1e-5)


def test_dysample_with_zero_offsets_is_trilinear_upsampling():
    upsample = DySample(8, groups=4)
    torch.nn.init.zeros_(upsample.offset.weight)
    image = noise(2, 8, 3, 4, 5)
    expected = F.interpolate(image, scale_factor=2, mode="trilinear", align_corners=False)
    assert torch.allclose(upsample(image), expected, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_dysample_in_bfloat16_samples_where_it_does_in_float32(autocast):
    """Sides of a hundred voxels and more: positions in bfloat16 would be wrong by half a voxel."""
    layer = DySample(4, groups=2)
    torch.nn.init.zeros_(layer.offset.weight)
    x = torch.arange(112.0).expand(1, 4, 2, 2, 112)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = (layer if autocast else layer.bfloat16())(x.bfloat16())
    positions = ((torch.arange(224) + 0.5) / 2 - 0.5).clamp(0, 111)
    assert (found[0, 0, 0, 0].float() - positions).abs().max() < 0.01


def test_dysample_offsets_move_the_samples_of_their_group_and_axis():
    upsample = DySample(4, groups=2, scope=0.25)
    torch.nn.init.zeros_(upsample.offset.weight)
    with torch.no_grad():  # group 1, component i (x), all eight children: 2 * 0.25 voxels
        upsample.offset.bias.view(2, 3, 8)[1, 0] = 2.0
    ramp = torch.arange(10.0).expand(1, 4, 6, 6, 10).clone()
    moved = upsample(ramp).detach() - F.interpolate(ramp, scale_factor=2, mode="trilinear", align_corners=False)
    inside = moved[..., 2:-3]
    assert torch.allclose(inside[:, :2], torch.zeros(()), atol=1e-5)
    assert torch.allclose(inside[:, 2:], torch.full((), 0.5), atol=1e-5)


def test_dysample_children_have_offsets_of_their_own():
    upsample = DySample(4, groups=1, scope=1.0)
    torch.nn.init.zeros_(upsample.offset.weight)
    with torch.no_grad():  # the child (k, j, i) = (1, 0, 1) moves one voxel along k (z)
        upsample.offset.bias.view(3, 2, 2, 2)[2, 1, 0, 1] = 1.0
    ramp = torch.arange(8.0).view(8, 1, 1).expand(1, 4, 8, 8, 8).clone()
    moved = upsample(ramp).detach() - F.interpolate(ramp, scale_factor=2, mode="trilinear", align_corners=False)
    moved = moved[0, 0, 2:-4]
    assert torch.allclose(moved[1::2, 0::2, 1::2], torch.ones(()), atol=1e-5)
    assert moved.abs().sum().item() == pytest.approx(moved[1::2, 0::2, 1::2].sum().item(), rel=1e-5)


def test_channel_norm_is_layer_norm_at_each_voxel():
    image = noise(2, 6, 3, 4, 5)
    normed = ChannelNorm(6)(image)
    assert torch.allclose(normed.mean(1), torch.zeros(2, 3, 4, 5), atol=1e-5)
    assert torch.allclose(normed.var(1, unbiased=False), torch.ones(2, 3, 4, 5), atol=1e-2)


def test_a_fresh_response_norm_changes_nothing_and_a_trained_one_prefers_strong_channels():
    response = ConvNextBlock(2).response
    image = noise(1, 8, 4, 4, 4)
    image[:, 0] *= 10
    assert torch.equal(response(image), image)
    torch.nn.init.ones_(response.gamma)
    gain = (response(image) / image).mean((0, 2, 3, 4))
    energy = image.pow(2).sum((0, 2, 3, 4)).sqrt()
    assert torch.allclose(gain, 1 + energy / energy.mean(), rtol=1e-4)


def test_kernels_follow_the_number_of_high_pass_directions():
    fusion = WaveletFusion(NetworkConfig(), 4, 8)
    sides = dict(zip(wavelet.BANDS, (conv.kernel_size[0] for conv in fusion.depthwise)))
    assert sides == {"LLL": 7, "LLH": 5, "LHL": 5, "HLL": 5, "LHH": 3, "HLH": 3, "HHL": 3, "HHH": 1}


@pytest.mark.parametrize("kernels", [(7, 5, 3, 1), (5, 3, 3, 1), (3, 3, 3, 3)])
def test_bands_that_are_convolved_together_equal_those_convolved_one_by_one(kernels):
    fusion = WaveletFusion(NetworkConfig(kernels=kernels), 2, 8)
    bands = torch.randn(1, 16, 6, 8, 10, generator=torch.Generator().manual_seed(0))
    plain = torch.cat([conv(band) for conv, band in zip(fusion.depthwise, bands.chunk(8, 1))], 1)
    together = torch.cat([fusion._filter(bands, run) for run in fusion._runs], 1)
    assert torch.allclose(together, plain, atol=1e-6)


@pytest.mark.parametrize(("downsampling", "upsampling"), list(itertools.product(DOWNSAMPLINGS, UPSAMPLINGS)))
def test_each_ablation_runs_forward_and_sends_a_gradient_to_every_parameter(downsampling, upsampling):
    network = perturbed(WaveMorphNetwork(NetworkConfig(downsampling=downsampling, upsampling=upsampling, **SMALL)))
    flow = network(*pair())
    assert flow.shape == (1, 3, 8, 12, 16)
    flow.pow(2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("level", [0, 1])
def test_the_flow_covers_the_full_lattice_wherever_it_is_decoded(level):
    assert WaveMorphNetwork(NetworkConfig(flow_level=level, **SMALL))(*pair()).shape == (1, 3, 8, 12, 16)


def test_a_fresh_network_begins_near_the_identity():
    assert WaveMorphNetwork(NetworkConfig(**SMALL))(*pair()).abs().max() < 1e-2


def test_swapped_inputs_give_the_exact_negative_and_so_the_inverse_map():
    network = perturbed(WaveMorphNetwork(NetworkConfig(**SMALL)))
    fixed, moving = pair((32, 32, 32))
    with torch.inference_mode():
        forward, backward = network.predict_symmetric(fixed, moving), network.predict_symmetric(moving, fixed)
        assert torch.equal(forward, -backward)
        assert forward.abs().max() > 0.05
        forward, backward = (smooth(v, 3.0) for v in (forward, backward))  # as smooth as training makes it
        scale = 1.5 / forward.abs().max()
        round_trip = compose(exponentiate(backward * scale), exponentiate(forward * scale))
    assert round_trip[..., 6:-6, 6:-6, 6:-6].abs().max() < 0.1


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (((1, 1, 8, 8, 10), (1, 1, 8, 8, 10)), "multiples of 4"),
        (((1, 1, 8, 8, 8), (1, 1, 8, 8, 12)), "one shape"),
        (((1, 2, 8, 8, 8), (1, 2, 8, 8, 8)), "one shape"),
    ],
)
def test_inputs_of_the_wrong_shape_are_refused(shapes, expected):
    with pytest.raises(InputError, match=expected):
        WaveMorphNetwork(NetworkConfig(**SMALL))(*(torch.zeros(shape) for shape in shapes))


def test_the_configuration_is_the_same_after_a_round_trip_through_its_dictionary():
    config = NetworkConfig(downsampling="wavelet", kernels=(5, 5, 3, 3), flow_level=0)
    assert NetworkConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "values",
    [
        {"downsampling": "pooling"},
        {"upsampling": "bicubic"},
        {"output": "flow"},
        {"channels": (8,)},
        {"kernels": (4, 3, 3, 1)},
        {"flow_level": 4},
        {"channels": (4, 6)},
        {"depth": 3},
    ],
)
def test_impossible_configurations_are_refused(values):
    with pytest.raises(SettingsError):
        NetworkConfig.from_dict(values)


def test_complexity_counts_what_the_shapes_say():
    config = NetworkConfig(**SMALL, downsampling="merging", upsampling="trilinear", flow_level=1)
    counted = complexity.complexity(config, (8, 8, 8))
    network = WaveMorphNetwork(config)
    assert counted["parameters"] == sum(p.numel() for p in network.parameters())
    stem, halved, quartered = 8**3 * 27 * 2 * 4, 4**3 * 8 * 4 * 8, 2**3 * 8 * 8 * 8
    bottleneck = 2**3 * (8 * 27 + 8 * 16 + 16 * 8)
    decoder = 4**3 * 27 * (16 * 8 + 8 * 3)
    assert counted["multiply_adds"] == stem + halved + quartered + bottleneck + decoder


def test_complexity_counts_the_bands_that_are_convolved_together():
    config = NetworkConfig(**SMALL, flow_level=1)
    network, total = WaveMorphNetwork(config), 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, torch.nn.Conv3d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, DySample):
            total += output.numel() * 8

    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8))
    for fusion, side in zip(network.down, (4, 2)):
        for conv in fusion.depthwise:  # one by one, unlike in the network
            conv(torch.zeros(1, conv.in_channels, side, side, side))
    assert complexity.complexity(config, (8, 8, 8))["multiply_adds"] == total


def test_the_complexity_table_lists_all_twelve(capsys):
    complexity.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert all(line.endswith("G") for line in lines[1:])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_a_pointwise_layer_equals_a_convolution_of_side_one_in_either_memory_format(bias, last):
    layer = Pointwise(6, 5, bias=bias)
    x = noise(2, 6, 4, 5, 7, seed=4)
    x = (x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x).requires_grad_()
    results = [layer(x), F.conv3d(x, layer.weight, layer.bias)]
    assert results[0].shape == results[1].shape
    assert torch.allclose(*results, atol=1e-6)
    direction = noise(*results[0].shape, seed=5)
    slopes = [torch.autograd.grad((result * direction).sum(), [x, *layer.parameters()]) for result in results]
    for plain, own in zip(*slopes):
        assert torch.allclose(plain, own, atol=1e-4)


def test_the_force_is_the_slope_of_local_correlation_with_a_shift():
    """Against autograd through the written-out correlation, with the same windows and noise."""
    fixed, moving = smooth_volumes()
    shift = torch.zeros(1, 3, 24, 20, 28, requires_grad=True)

    def mean(x):
        return F.avg_pool3d(x, 5, 1, 2)

    warped = warp(moving, shift)
    covariance = mean(fixed * warped) - mean(fixed) * mean(warped)
    variances = [mean(x * x) - mean(x) ** 2 + 1e-3 for x in (fixed, warped)]
    (covariance**2 / (variances[0] * variances[1])).sum().backward()
    expected = 0.5 * shift.grad  # the force leaves out the factor of the square
    force = torch.sinh(correlation_force(fixed, moving)) / 4.0
    inside = (..., *(slice(4, -4),) * 3)
    agreement = F.cosine_similarity(force[inside].flatten(), expected[inside].flatten(), dim=0)
    assert agreement > 0.9  # one-sided slopes of the sampler against central differences
    assert 0.7 < float(force[inside].norm() / expected[inside].norm()) < 1.1


def test_without_a_stem_the_first_halving_takes_the_inputs_themselves():
    network = small_network(stem=False, inputs="pair+force")
    assert network.down[0].shortcut.in_channels == 8 * 5
    assert network(*[v[..., :24, :20, :28] for v in smooth_volumes()]).shape == (1, 3, 24, 20, 28)
    with pytest.raises(SettingsError, match="Without a stem"):
        NetworkConfig(stem=False, flow_level=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"inputs": "triple"}, "Unknown inputs"),
        ({"passes_mm": (2.0,), "output": "displacement"}, "needs the output velocity"),
        ({"passes_mm": (0.0,)}, "between 0.1 and 50 mm"),
    ],
)
def test_impossible_passes_are_refused(values, expected):
    with pytest.raises(SettingsError, match=expected):
        NetworkConfig(**values)
