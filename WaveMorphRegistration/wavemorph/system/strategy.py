"""How the engine computes on a device: the one place that decides by the kind of device.

A CPU is limited by memory traffic and waits for nobody, so that work is cut into blocks that fit its cache and is done
at selected nodes only. A GPU is limited by the launch of each operation and by every wait of the host for a result, so
that whole fields are computed, also where nothing is to be done. Each choice gives the same result but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Strategy:
    """Choices for one kind of device.

    block_voxels: filters and local measures are evaluated in blocks of so many voxels; None for whole lattices at once.
    matrix_side_per_weight: a Gaussian is a product with a matrix where a side has at most so many voxels for each of
        its weights on one side.
    splits_samples: `grid_sample` gets as many batch items as there are threads, because it runs one thread for each.
    tall_picture: images are warped as one tall 2D picture, see `spatial.displacement.warp_image`.
    selects_nodes: folds and inverses are computed at lists of nodes, whose number the host must know; otherwise at all
        nodes, with masks.
    halves_passes: whether the network's passes run in bfloat16, where the device multiplies in it. Their result changes
        by its rounding; the optimizer and the composition of the passes stay in float32.
    look_interval: iterations between two looks of the host at a value on the device, such as one that ends a loop.
    records_steps: whether repeated steps are recorded once and replayed, see `recording`.
    """

    block_voxels: int | None
    matrix_side_per_weight: int
    splits_samples: bool
    tall_picture: bool
    selects_nodes: bool
    halves_passes: bool
    look_interval: int
    records_steps: bool = False

    @property
    def waits(self) -> bool:
        """Whether the host may wait for a value in every iteration."""
        return self.look_interval == 1


# several blocks fit into the cache of a CPU
CPU = Strategy(
    block_voxels=400_000,
    matrix_side_per_weight=40,
    splits_samples=True,
    tall_picture=True,
    selects_nodes=True,
    halves_passes=False,
    look_interval=1,
)
ACCELERATOR = Strategy(
    block_voxels=None,
    matrix_side_per_weight=0,
    splits_samples=False,
    tall_picture=False,
    selects_nodes=False,
    halves_passes=True,
    look_interval=10,
)
CUDA = replace(ACCELERATOR, records_steps=True)


def strategy_for(device: torch.device) -> Strategy:
    """The strategy for a device: one for the CPU, one for CUDA devices, one for all others."""
    return {"cpu": CPU, "cuda": CUDA}.get(device.type, ACCELERATOR)
