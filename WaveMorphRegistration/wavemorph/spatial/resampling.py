"""Resampling of volumes to a working grid, with smoothing where the grid is coarser than the volume."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .filters import smooth
from .grid import WorkingGrid, array_from_tensor, tensor_from_image

_LARGE_VOLUME_VOXELS = 2**25  # from here on a second copy of the volume as float32 is avoided
_LARGE_VOLUME_SLAB_PLANES = 64
_MAX_REACH_VOXELS = 18  # of smoothing and linear interpolation together
_MAX_SIGMA_VOXELS = 6.4  # a Gaussian that is cut off at 16 voxels


def resample_to_grid(
    image: sitk.Image,
    grid: WorkingGrid,
    transform: sitk.Transform | None,
    slab: int | None = None,
    continue_edges: bool = False,
) -> np.ndarray:
    """(D, H, W) float32: `image` at the nodes of the grid, smoothed where the grid is coarser.

    transform: linear, grid points -> image points in LPS mm, or None for the identity. Beyond the image its darkest
    value is filled in; with continue_edges, that of its nearest voxel. slab: planes of the grid that are resampled at
    once; large images are processed in slabs, so that no float32 copy of the whole image is held.
    """
    darkest = float(sitk.GetArrayViewFromImage(image).min())
    spacing = max(grid.spacing)
    if slab is None:
        slab = grid.size[2] if image.GetNumberOfPixels() < _LARGE_VOLUME_VOXELS else _LARGE_VOLUME_SLAB_PLANES
    values = np.full(grid.shape, darkest, np.float32)
    for first in range(0, grid.size[2], slab):
        part = grid.slab(first, min(slab, grid.size[2] - first))
        needed = _crop_for_grid(image, part, transform) if part.size != grid.size else image
        if needed is not None:
            source = antialiased(sitk.Cast(needed, sitk.sitkFloat32), spacing)
            resampled = part.resample(source, transform, sitk.sitkLinear, darkest, continue_edges)
            values[first : first + slab] = sitk.GetArrayViewFromImage(resampled)
    return values


def _crop_for_grid(image: sitk.Image, grid: WorkingGrid, transform: sitk.Transform | None) -> sitk.Image | None:
    """The box of the image that resampling to the grid reads, smoothing included; None where they do not meet."""
    corners = []
    for corner in np.ndindex(2, 2, 2):
        point = grid.point(np.array(corner) * (np.array(grid.size) - 1))
        point = transform.TransformPoint(point) if transform is not None else point
        corners.append(image.TransformPhysicalPointToContinuousIndex(point))
    first = np.maximum(np.floor(np.min(corners, axis=0)).astype(int) - _MAX_REACH_VOXELS, 0)
    last = np.minimum(np.ceil(np.max(corners, axis=0)).astype(int) + _MAX_REACH_VOXELS, np.array(image.GetSize()) - 1)
    if np.any(last < first):
        return None
    return sitk.RegionOfInterest(image, (last - first + 1).tolist(), first.tolist())


def antialiased(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The image, smoothed along the axes on which `spacing_mm` is coarser than its own spacing.

    The variance of the Gaussian is that of a box of the coarse voxel minus that of a box of the fine one. This is close
    to the mean over coarse voxels, on which the networks are trained.
    """
    own = np.array(image.GetSpacing())
    sigmas = np.minimum(np.sqrt(np.maximum(spacing_mm**2 - own**2, 0) / 12) / own, _MAX_SIGMA_VOXELS)
    if sigmas.max() < 0.35:
        return image
    values = tensor_from_image(image)
    smooth(values, sigmas[::-1].tolist(), out=values)
    result = sitk.GetImageFromArray(array_from_tensor(values)[0])
    result.CopyInformation(image)
    return result
