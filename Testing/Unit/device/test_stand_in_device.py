"""The device of these tests itself: what it refuses, what it counts, and that it computes as the CPU does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stand_in_device import DEVICE, DeviceMixError, stand_in_device

VALUES = torch.arange(12.0).view(3, 4)

REFUSED = {
    "a sum with a tensor of the CPU": lambda x: x + torch.ones(3, 4),
    "a factory without a device": lambda x: x * torch.linspace(0, 1, 4),
    "an operation in place": lambda x: x.add_(torch.ones(4)),
    "an operation in place on the CPU": lambda x: torch.ones(3, 4).add_(x),
    "concatenation": lambda x: torch.cat([x, torch.ones(1, 4)]),
    "concatenation with a number": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "an index on the CPU": lambda x: x[torch.tensor([0, 2])],
    "a mask on the CPU": lambda x: x[torch.ones(3, 4, dtype=torch.bool)],
    "a convolution with weights on the CPU": lambda x: F.conv1d(x[:, None], torch.ones(1, 1, 3)),
    "double precision": lambda x: x.double(),
    "a factory in double precision": lambda x: torch.zeros(3, dtype=torch.float64, device=DEVICE),
}
WAITING = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 1).any()),
    "int": lambda x: int(x.sum()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy to the CPU": lambda x: torch.empty(3, 4).copy_(x),
    "copy from the CPU": lambda x: torch.ones(3, 4).to(x.device),
    "a tensor of given values": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "nonzero": lambda x: (x > 1).nonzero(),
    "a mask as an index": lambda x: x[x > 1],
    "an assignment through a mask": lambda x: x.__setitem__(x > 1, x[0, :1].expand(10)),
    "unique": lambda x: torch.unique(x),
    "equal": lambda x: torch.equal(x, x),
}
FREE = {
    "arithmetic with numbers": lambda x: (x * 2 + 1).clamp_(min=0).sum(),
    "arithmetic with a tensor of one number": lambda x: x * torch.tensor(2.0),
    "factories on the device": lambda x: x + torch.ones(3, 4, device=DEVICE) + x.new_zeros(3, 4),
    "slices": lambda x: x[1:, ::2].clone(),
    "a choice by a mask": lambda x: torch.where(x > 1, x, 0.0),
    "reductions": lambda x: (x.amax(), x.mean(), (x > 1).any()),
    "sampling": lambda x: F.grid_sample(x[None, None], torch.zeros(1, 2, 2, 2, device=DEVICE), align_corners=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_would_refuse_or_copy_silently_is_an_error(name):
    with stand_in_device(), torch.inference_mode():
        x = VALUES.to(DEVICE)
        with pytest.raises(DeviceMixError):
            REFUSED[name](x)


@pytest.mark.parametrize("name", WAITING)
def test_each_wait_of_the_host_is_counted(name):
    with stand_in_device() as log, torch.inference_mode():
        x = VALUES.to(DEVICE)
        log.clear()
        WAITING[name](x)
    assert len(log.waits) == 1


@pytest.mark.parametrize("name", FREE)
def test_work_on_the_device_alone_is_no_wait(name):
    with stand_in_device() as log, torch.inference_mode():
        x = VALUES.to(DEVICE)
        log.clear()
        found = FREE[name](x)
        assert all(each.device == DEVICE for each in (found if isinstance(found, tuple) else (found,)))
    assert log.waits == []
    assert log.launches > 0


def test_values_on_the_device_are_those_of_the_cpu_and_copies_share_nothing():
    with stand_in_device():
        original = VALUES.clone()
        x = original.to(DEVICE)
        x[1:].mul_(3)
        back = x.cpu()
        x.zero_()
    assert torch.equal(original, VALUES)
    assert torch.equal(back, torch.cat([VALUES[:1], 3 * VALUES[1:]]))


def test_a_step_of_training_on_the_device_changes_the_weights_as_on_the_cpu():
    weights = []
    with stand_in_device():
        for device in (torch.device("cpu"), DEVICE):
            torch.manual_seed(0)
            layer = torch.nn.Conv1d(1, 2, 3).to(device)
            optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
            layer(VALUES[:, None].to(device)).square().mean().backward()
            optimizer.step()
            weights.append(layer.weight.detach().cpu())
    assert torch.equal(*weights)


def test_memory_on_the_device_is_counted_until_it_is_freed():
    with stand_in_device(counts_memory=True) as log:
        x = torch.zeros(1000, device=DEVICE)
        y = x + 1
        part = y[:10]
        del y
        assert log.bytes == 8000  # the part keeps the whole
        del x, part
        assert log.bytes == 0
    assert log.peak_bytes == 8000
