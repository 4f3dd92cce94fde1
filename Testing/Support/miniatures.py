"""Data sets of four shells in the paper's layouts, small networks, and a pair of smooth random volumes for them."""

from __future__ import annotations

import csv
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter
from wavemorph.network import NetworkConfig, WaveMorphNetwork
from wavemorph.spatial.filters import smooth
from wavemorph.training.recipe import Recipe

SIDE = 24
TINY = {"channels": [4, 4, 8], "kernels": [3, 3, 3, 1], "bottleneck_blocks": 1, "bottleneck_kernel": 3}
TINY_SEGMENTATION = {**TINY, "output": "segmentation", "inputs": "image", "symmetric": False}


def subject(seed):
    """A ball of four shells with a soft edge, a little to one side, and its shells as labels 1 to 4."""
    generator = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1) - SIDE / 2 - generator.uniform(-2, 2, 3)
    radius = np.sqrt((points**2).sum(-1)) + gaussian_filter(generator.standard_normal((SIDE,) * 3), 3) * 4
    labels = np.digitize(-radius, (-9, -7, -5, -3)).astype(np.int16)
    volume = gaussian_filter(labels / 4.0, 0.7).astype(np.float32)
    return volume, labels


def write_ixi(folder: Path) -> Path:
    for part, count in (("Train", 4), ("Val", 1), ("Test", 3)):
        (folder / part).mkdir()
        for n in range(count):
            with (folder / part / f"subject_{n}.pkl").open("wb") as file:
                pickle.dump(subject(10 * len(part) + n), file)
    with (folder / "atlas.pkl").open("wb") as file:
        pickle.dump(subject(0), file)
    return folder


def write_oasis(folder: Path) -> Path:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for number in (1, 2, 3, 438, 439, 440):
        volume, labels = subject(number)
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / "imagesTr" / f"OASIS_{number:04}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / "labelsTr" / f"OASIS_{number:04}_0000.nii.gz"))
    (folder / "pairs_val.csv").write_text("fixed,moving\n438,439\n439,440\n")
    return folder


def tiny_recipe(**changes) -> Recipe:
    network = NetworkConfig.from_dict({**TINY, "symmetric": False})
    return dataclasses.replace(Recipe("tiny", "ixi", network, pairs=8, learning_rate=1e-3), **changes)


def small_network(**changes) -> WaveMorphNetwork:
    """Untrained, with displacements of some voxels."""
    torch.manual_seed(0)
    values = {"channels": (4, 8, 8), "bottleneck_blocks": 1, "bottleneck_kernel": 3, "flow_deviation": 0.3}
    return WaveMorphNetwork(NetworkConfig(**{**values, **changes})).eval()


def smooth_volumes(size=(24, 20, 28)) -> list[torch.Tensor]:
    """A fixed and a moving volume, (1, 1, D, H, W), between 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    return [smooth(torch.rand(1, 1, *size, generator=generator), 1.5).mul(3).sub(1).clamp(0, 1) for _ in range(2)]


def losses_of(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "losses.csv").open(newline="") as file:
        return [(row["pair"], row["pass"], row["loss"]) for row in csv.DictReader(file)]
