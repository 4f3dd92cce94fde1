"""Segmentation of the brain in one volume of a head, by the encoder and decoder of the network (ours).

Trained on volumes of random contrast, so that it works in any contrast. Not part of the paper.
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


class SegmentationNetwork(EncoderDecoder):
    """One volume at 1 mm -> logits of `STRUCTURES`, on a lattice coarser by the factor 2^`config.flow_level`."""

    def __init__(self, config: NetworkConfig):
        super().__init__(config)
        self.structures = nn.Conv3d(self.features, len(STRUCTURES), 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Segment a volume.

        Parameters:
            image: (B, 1, D, H, W), axes S, A, R, voxels of 1 mm, about [0, 1].

        Returns:
            Logits (B, len(STRUCTURES), ...), sides divided by 2^flow_level.

        Raises:
            InputError: a side is not a multiple of the divisor.
        """
        if image.ndim != 5 or image.shape[1] != 1 or any(n % self.config.divisor for n in image.shape[2:]):
            raise InputError(
                f"The network needs (B, 1, D, H, W) with sides that are multiples of {self.config.divisor}, "
                f"not {tuple(image.shape)}."
            )
        return self.structures(self.trunk(image))
