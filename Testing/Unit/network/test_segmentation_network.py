"""The segmentation network: its configuration, and the shapes it takes and gives."""

from __future__ import annotations

import pytest
import torch
from wavemorph.errors import InputError, SettingsError
from wavemorph.network import NetworkConfig, SegmentationNetwork, WaveMorphNetwork
from wavemorph.network.segmentation import STRUCTURES


def test_a_segmentation_network_needs_one_image_with_sides_it_can_halve():
    with pytest.raises(SettingsError, match="one image"):
        NetworkConfig(output="segmentation")
    with pytest.raises(SettingsError, match="one image"):
        NetworkConfig(inputs="image")
    network = SegmentationNetwork(NetworkConfig(channels=(4, 4, 8), output="segmentation", inputs="image"))
    assert network(torch.zeros(1, 1, 16, 12, 8)).shape == (1, len(STRUCTURES), 8, 6, 4)
    with pytest.raises(InputError, match="multiples of 4"):
        network(torch.zeros(1, 1, 15, 12, 8))


def test_the_registration_network_keeps_its_own_head_and_the_first_structure_is_the_outside():
    assert isinstance(WaveMorphNetwork().flow, torch.nn.Conv3d)
    assert STRUCTURES[0] == "outside"
