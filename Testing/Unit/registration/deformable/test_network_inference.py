"""From the network to a displacement: one pass, several passes, and passes that begin with a displacement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from miniatures import small_network, smooth_volumes
from wavemorph.registration.deformable.inference import predict
from wavemorph.spatial.displacement import border_taper, compose, exponentiate, resize, warp


def test_one_pass_on_the_given_lattice_is_the_exponential_of_the_flow():
    network, (fixed, moving) = small_network(), smooth_volumes()
    with torch.inference_mode():
        displacement, velocity = predict(network, fixed, moving, 1.0)
        flow = network.decode_symmetric(fixed, moving)
        assert torch.allclose(velocity, resize(flow, (24, 20, 28)), atol=1e-6)
        assert torch.allclose(displacement, resize(exponentiate(flow), (24, 20, 28)), atol=1e-5)


def test_each_pass_continues_from_the_displacement_of_the_last_one():
    whole, half = (40, 36, 32), (20, 18, 16)
    network = small_network(passes_mm=(2.0, 1.0), pass_sigma=0.0, symmetric=False)
    (fixed, moving), reported = smooth_volumes(whole), []
    with torch.inference_mode():
        found, velocity = predict(network, fixed, moving, 1.0, progress=reported.append)
        padded = [F.pad(F.avg_pool3d(v, 2), (0, 0, 0, 2)) for v in (fixed, moving)]
        first = resize(exponentiate(network.decode(*padded)), (20, 20, 16))[..., :18, :]
        assert first.shape[2:] == half
        first = resize(first, whole)
        step = resize(exponentiate(network.decode(fixed, warp(moving, first))), whole)
        expected = compose(first, step) * border_taper(whole, torch.device("cpu"))
    assert velocity is None
    assert reported == [0.5, 1.0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)  # volumes are warped to within 1/200 voxel


def test_a_start_is_continued_and_sides_need_not_be_multiples_of_the_divisor():
    network = small_network(passes_mm=(1.0,), pass_sigma=0.0, flow_deviation=0.0, symmetric=False)
    fixed, moving = smooth_volumes((21, 19, 27))
    start = torch.full((1, 3, 21, 19, 27), 0.5)
    with torch.inference_mode():
        found, _ = predict(network, fixed, moving, 1.0, start)
    assert torch.allclose(found, start * border_taper((21, 19, 27), torch.device("cpu")), atol=1e-5)
