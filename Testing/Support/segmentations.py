"""Segmentations of brains that do not exist: round structures at fixed points, and a network that needs no training."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from wavemorph.network import NetworkConfig
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.registration.segmentation.brain import BrainSegmentation
from wavemorph.spatial.grid import WorkingGrid

RAS = np.diag([-1.0, -1.0, 1.0])  # columns are LPS vectors


def lattice(size=(36, 40, 38), spacing=4.0) -> WorkingGrid:
    """A grid along R, A, S, centered on the origin."""
    origin = -RAS @ (np.array(size) - 1) * spacing / 2
    return WorkingGrid(size, (spacing,) * 3, tuple(origin.tolist()), RAS)


def affine_of(angles_deg, scales, shift_mm) -> sitk.AffineTransform:
    """Scales along x, y, z, then rotations about x, y, z, then a shift, LPS mm."""
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(*np.radians(angles_deg))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.reshape(rotation.GetMatrix(), (3, 3)) @ np.diag(scales)).ravel().tolist())
    affine.SetTranslation(shift_mm)
    return affine


def structure_centers() -> np.ndarray:
    """LPS mm of eleven structures."""
    return np.random.default_rng(3).uniform(-45, 45, (len(STRUCTURES) - 1, 3))


def round_structures(grid: WorkingGrid, affine: sitk.Transform | None = None) -> BrainSegmentation:
    """Eleven round structures at fixed points in mm, the same for every grid, through `affine`."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    points = np.stack([i, j, k], -1).reshape(-1, 3) @ grid.matrix[:3, :3].T + grid.origin
    if affine is not None:
        points = points @ np.reshape(affine.GetMatrix(), (3, 3)).T + affine.TransformPoint((0.0, 0.0, 0.0))
    distances = ((points[:, None] - structure_centers()) ** 2).sum(-1)
    structures = np.exp(-distances / (2 * 12.0**2))
    structures = structures / np.maximum(structures.sum(1, keepdims=True), 1) * 0.9
    whole = np.concatenate([1 - structures.sum(1, keepdims=True), structures], 1).T.reshape(1, -1, *grid.shape)
    return BrainSegmentation(torch.tensor(whole, dtype=torch.float32), grid, skull_stripped=True)


def confident_structures(grid: WorkingGrid) -> tuple[BrainSegmentation, dict[str, list[float]]]:
    """The same structures with probabilities near 0 and 1, and the atlas that has them at the same points."""
    probabilities = round_structures(grid).probabilities ** 8
    found = BrainSegmentation(probabilities / probabilities.sum(1, keepdim=True), grid, skull_stripped=True)
    centers, volumes = found.centroids()[1:].tolist(), found.volumes_ml()[1:].tolist()
    return found, {name: [*center, ml] for name, center, ml in zip(STRUCTURES[1:], centers, volumes)}


class PointwiseNetwork(torch.nn.Module):
    """In place of the segmentation network: tells structures by the brightness of each voxel alone."""

    config = NetworkConfig(flow_level=1, output="segmentation", inputs="image")

    def __init__(self):
        super().__init__()
        self.steepness = torch.nn.Parameter(torch.tensor(50.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 1, D, H, W) -> logits on half the lattice."""
        tones = torch.linspace(0, 1, len(STRUCTURES)).view(1, -1, 1, 1, 1)
        return -self.steepness * (torch.nn.functional.avg_pool3d(image, 2) - tones) ** 2
