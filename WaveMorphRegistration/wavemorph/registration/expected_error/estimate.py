"""The expected error of a map in mm, voxel by voxel (ours).

A linear quantile regression of the logarithm of the error on the features of `features`. It was fitted to pairs with a
known map; Testing/RELIABILITY.md compares it with the true error of others.
"""

from __future__ import annotations

import SimpleITK as sitk
import torch

from ...spatial.grid import image_from_tensor, tensor_from_image
from ...spatial.preprocessing import Pair
from ..deformable.stage import Contrast
from ..state import AlignedPair
from .coefficients import BIASES, COEFFICIENTS, LIMIT, PROBABILITY
from .features import ErrorFeatures, error_features


def estimate_error(
    aligned: AlignedPair, contrast: Contrast, displacement: torch.Tensor
) -> tuple[sitk.Image, dict[str, float]]:
    """(the expected error on the lattice of the fixed image, its entry in the report).

    The image is float32, in mm: the error is below it with `PROBABILITY`; 0 outside the subject. In the entry,
    "median_mm" and "p95_mm" are over the voxels of the subject. displacement: (1, 3, D, H, W) in voxels of the working
    grid.
    """
    outline = _outline(aligned.job.pair)
    on_grid = tensor_from_image(aligned.grid.resample(outline, None, sitk.sitkNearestNeighbor), displacement.device)
    features = error_features(aligned, contrast, displacement, (on_grid > 0).float())
    bounds = error_bounds_mm(features)
    within = bounds[features.inside > 0.5]
    quantiles = torch.quantile(within if len(within) else bounds.flatten(), bounds.new_tensor([0.5, 0.95])).tolist()
    entry = {"median_mm": quantiles[0], "p95_mm": quantiles[1], "probability_percent": 100 * PROBABILITY}
    return _on_fixed_lattice(image_from_tensor(bounds, features.grid), outline, aligned.job.pair.inputs[0]), entry


def error_bounds_mm(features: ErrorFeatures) -> torch.Tensor:
    """(d, h, w) on the grid of the features: the error that is not exceeded with `PROBABILITY`, mm."""
    chosen = [features.names.index(name) for name in COEFFICIENTS]
    numbers = torch.tensor(list(COEFFICIENTS.values()), device=features.values.device).T
    weight, mean, deviation = (column.view(-1, 1, 1, 1) for column in numbers)
    standardized = ((features.values[chosen] - mean) / deviation).clamp_(-LIMIT, LIMIT)
    return ((standardized * weight).sum(0) + BIASES[features.subject]).exp() * max(features.grid.spacing)


def _outline(pair: Pair) -> sitk.Image:
    """The fixed subject with what it encloses, a uint8 mask."""
    return pair.fixed_foreground if pair.subjects is None else pair.subjects[0].outline


def _on_fixed_lattice(bounds: sitk.Image, outline: sitk.Image, fixed: sitk.Image) -> sitk.Image:
    """The bounds within the outline; beyond the outermost nodes their value goes on."""
    identity = sitk.Transform()
    inside = sitk.Resample(outline, fixed, identity, sitk.sitkNearestNeighbor)
    everywhere = sitk.Resample(bounds, fixed, identity, sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)
    return everywhere * sitk.Cast(inside > 0, sitk.sitkFloat32)
