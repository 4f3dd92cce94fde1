"""What one volume of a head shows, by the network's own encoder and decoder (ours): no part of the paper.

Trained on volumes in random contrasts, so that two scans of different contrast come to speak of the same structures.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError
from .config import NetworkConfig
from .network import EncoderDecoder

STRUCTURES = (
    "outside",
    "white matter",
    "cortex",
    "ventricles",
    "cerebellar cortex",
    "cerebellar white matter",
    "brainstem",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "hippocampus",
)


class AnatomyNetwork(EncoderDecoder):
    """One volume at 1 mm to the log-odds of `STRUCTURES`, on the lattice that `config.flow_level` says."""

    def __init__(self, config: NetworkConfig):
        super().__init__(config)
        self.structures = nn.Conv3d(self.features, len(STRUCTURES), 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 1, D, H, W), axes S, A, R, about [0, 1] -> (B, len(STRUCTURES), ...) with sides over 2^flow_level.

        Raises InputError where a side is no multiple of the divisor.
        """
        if image.ndim != 5 or image.shape[1] != 1 or any(n % self.config.divisor for n in image.shape[2:]):
            raise InputError(
                f"The network needs (B, 1, D, H, W) with sides that are multiples of {self.config.divisor}, "
                f"not {tuple(image.shape)}."
            )
        return self.structures(self.trunk(image))
