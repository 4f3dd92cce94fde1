"""Intensities made comparable, and the foreground that the working grid is built around."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from . import field
from .errors import InputError
from .geometry import WorkingGrid, array_from_tensor, tensor_from_array, tensor_from_image
from .similarity import LocalCorrelation, box_mean

_REACH_MM = 6.0
_AGREEMENT_MM = 4.0
_LARGE = 2**25  # voxels from which on a second copy as float32 is avoided
_SLAB = 64
_WIDEST = 18  # voxels that smoothing and linear interpolation reach
_BROADEST = 6.4  # voxels: the standard deviation of a Gaussian that reaches 16


class Pair:
    """The two images with their masks (or None) and their foregrounds, as SimpleITK images in LPS mm."""

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
    ):
        self.fixed, self.moving = fixed, moving
        self.fixed_mask, self.moving_mask = fixed_mask, moving_mask
        self.fixed_foreground, self.moving_foreground = foreground(fixed), foreground(moving)


@dataclass(frozen=True)
class WorkingPair:
    """What the deformable stages see, each (1, 1, D, H, W) on the working grid; moving is seen through the affine.

    weight: 0 to 1, where voxels are compared. inside: the fixed foreground.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    weight: torch.Tensor
    inside: torch.Tensor

    def contrast_agreement(self, spacing_mm: float) -> float:
        """1 where brighter meets brighter everywhere, -1 where contrast is reversed, near 0 where the two mix.

        The mean local correlation over its own root mean square: unlike a correlation over the whole image it is not
        raised by both subjects merely lying on a dark background. Taken in windows of 20 mm, from voxels of about 4 mm:
        after an affine alone, smaller structures of two people do not lie on each other yet.
        """
        pool = max(1, round(_AGREEMENT_MM / spacing_mm))
        pool = min(pool, *(n // 5 for n in self.fixed.shape[2:]))
        fixed, moving, weight = (F.avg_pool3d(t, pool) for t in (self.fixed, self.moving, self.weight * self.inside))
        signed = LocalCorrelation(fixed, weight, radius=2, signed=True).value(moving)
        squared = LocalCorrelation(fixed, weight, radius=2, signed=False).value(moving)
        return signed / max(squared, 1e-12) ** 0.5


def prepare(pair: Pair, grid: WorkingGrid, affine: sitk.Transform, device: torch.device) -> WorkingPair:
    """Both images and their masks on the working grid, normalised. Raises InputError where the masks leave nothing."""

    def intensities(image: sitk.Image, transform: sitk.Transform | None) -> torch.Tensor:
        return tensor_from_array(seen_on_grid(image, grid, transform))[None, None].to(device)

    def marked(mask: sitk.Image, transform: sitk.Transform | None) -> torch.Tensor:
        seen = grid.resample(mask, transform, sitk.sitkNearestNeighbor)
        return (tensor_from_image(seen, device) > 0).float()

    inside_fixed, inside_moving = marked(pair.fixed_foreground, None), marked(pair.moving_foreground, affine)
    # where only one of the two has tissue nearby (a stripped skull, a neck outside the field of view) nothing can match
    reach = max(1, round(_REACH_MM / max(grid.spacing)))
    weight = dilated(inside_fixed, reach) * dilated(inside_moving, reach)
    if pair.fixed_mask is not None:
        weight = weight * marked(pair.fixed_mask, None)
    if pair.moving_mask is not None:
        weight = weight * marked(pair.moving_mask, affine)
    if float(weight.sum()) < 64:
        raise InputError(
            f"Only {int(weight.sum())} voxels of the fixed image can be compared with the moving image after the "
            "initial alignment; check that images and masks show the same region."
        )
    return WorkingPair(
        fixed=normalise(intensities(pair.fixed, None), inside_fixed),
        moving=normalise(intensities(pair.moving, affine), inside_moving),
        weight=weight,
        inside=inside_fixed,
    )


def seen_on_grid(
    image: sitk.Image, grid: WorkingGrid, transform: sitk.Transform | None, slab: int | None = None
) -> np.ndarray:
    """(D, H, W) float32: `image`, smoothed where the grid is coarser, at the grid's nodes; outside its darkest value.

    transform: a linear one, grid points -> image points. Where the image is large, only what a slab of the grid needs
    of it is held as float32; slab: planes of the grid in one, by default by the size of the image.
    """
    darkest = float(sitk.GetArrayViewFromImage(image).min())
    spacing = max(grid.spacing)
    if slab is None:
        slab = grid.size[2] if image.GetNumberOfPixels() < _LARGE else _SLAB
    seen = np.full(grid.shape, darkest, np.float32)
    for first in range(0, grid.size[2], slab):
        part = grid.slab(first, min(slab, grid.size[2] - first))
        needed = _part_seen(image, part, transform) if part.size != grid.size else image
        if needed is not None:
            smooth = _antialiased(sitk.Cast(needed, sitk.sitkFloat32), spacing)
            values = part.resample(smooth, transform, sitk.sitkLinear, darkest)
            seen[first : first + slab] = sitk.GetArrayViewFromImage(values)
    return seen


def _part_seen(image: sitk.Image, grid: WorkingGrid, transform: sitk.Transform | None) -> sitk.Image | None:
    """The box of the image that the grid lies in and the smoothing of `_antialiased` reaches; None if there is none."""
    corners = []
    for corner in np.ndindex(2, 2, 2):
        point = grid.point(np.array(corner) * (np.array(grid.size) - 1))
        point = transform.TransformPoint(point) if transform is not None else point
        corners.append(image.TransformPhysicalPointToContinuousIndex(point))
    first = np.maximum(np.floor(np.min(corners, axis=0)).astype(int) - _WIDEST, 0)
    last = np.minimum(np.ceil(np.max(corners, axis=0)).astype(int) + _WIDEST, np.array(image.GetSize()) - 1)
    if np.any(last < first):
        return None
    return sitk.RegionOfInterest(image, (last - first + 1).tolist(), first.tolist())


def foreground(image: sitk.Image) -> sitk.Image:
    """A uint8 mask of the subject on the image's lattice.

    A skull-stripped volume says itself what is background: the one value that fills its corners. Otherwise Otsu's
    threshold, over the intensities between the 1st and 99th percentile so that metal or bright fat don't decide.
    """
    array = sitk.GetArrayViewFromImage(image)
    corners = array[:: max(array.shape[0] - 1, 1), :: max(array.shape[1] - 1, 1), :: max(array.shape[2] - 1, 1)]
    background = np.median(corners)
    share = float(np.mean(array[::2, ::2, ::2] == background))
    if share > 0.2 and np.mean(corners == background) > 0.5:
        mask = array != background
    else:
        low, high = np.percentile(array[::2, ::2, ::2], (1, 99))
        clipped = sitk.Clamp(image, sitk.sitkFloat32, float(low), float(high))
        brighter = sitk.OtsuThreshold(clipped, 0, 1)  # a view does not keep its image alive
        mask = sitk.GetArrayViewFromImage(brighter) > 0
        if not mask.any() or mask.all():
            mask = np.ones(array.shape, bool)
    result = sitk.GetImageFromArray(mask.view(np.uint8))
    result.CopyInformation(image)
    return result


def bounding_box(mask: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """First and last index (i, j, k) of the mask, ignoring planes that hold less than 0.1 % of it (specks, table)."""
    array = sitk.GetArrayViewFromImage(mask) != 0
    first, last = [], []
    for axis in (2, 1, 0):
        counts = array.sum(axis=tuple(a for a in range(3) if a != axis))
        indices = np.flatnonzero(np.cumsum(counts) > 0.001 * counts.sum())
        backwards = np.flatnonzero(np.cumsum(counts[::-1]) > 0.001 * counts.sum())
        first.append(indices[0])
        last.append(array.shape[axis] - 1 - backwards[0])
    return np.array(first), np.array(last)


def normalise(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Map the 0.5th and 99.5th percentile inside `mask` (both (1, 1, D, H, W)) to 0 and 1; clamp to [0, 1.2].

    Where the volume's background is its own darkest value, as after skull stripping, that value becomes 0.
    """
    inside = (mask > 0).flatten().nonzero()[:, 0]
    if len(inside) < 64:
        inside = torch.arange(image.numel(), device=image.device)
    sample = image.flatten()[inside[:: max(1, len(inside) // 200_000)]]
    low, high = torch.quantile(sample, torch.tensor([0.005, 0.995], device=sample.device)).tolist()
    darkest = float(image.amin())
    if int(torch.count_nonzero(image == darkest)) > 0.2 * image.numel():
        low = darkest
    return (image - low).div_(max(high - low, 1e-6)).clamp_(0, 1.2)


def _antialiased(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Smoothed along the axes that the working grid samples more coarsely than the image does.

    By the variance that a box of the grid's voxel has over one of the image's: close to the means over larger voxels
    that the networks know.
    """
    own = np.array(image.GetSpacing())
    sigmas = np.minimum(np.sqrt(np.maximum(spacing_mm**2 - own**2, 0) / 12) / own, _BROADEST)
    if sigmas.max() < 0.35:
        return image
    values = tensor_from_image(image)
    field.smooth(values, sigmas[::-1].tolist(), out=values)
    result = sitk.GetImageFromArray(array_from_tensor(values)[0])
    result.CopyInformation(image)
    return result


def dilated(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """1 within `reach` voxels of the mask along each axis. Window sums: many times faster than pooling on a CPU."""
    return (box_mean(mask, reach) > 0.5 / (2 * reach + 1) ** 3).float()
