"""Data sets of four shells in the paper's layouts, and networks small enough to train on them in seconds."""

from __future__ import annotations

import csv
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from wavemorph.network import NetworkConfig
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


def losses_of(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "losses.csv").open(newline="") as file:
        return [(row["pair"], row["pass"], row["loss"]) for row in csv.DictReader(file)]
