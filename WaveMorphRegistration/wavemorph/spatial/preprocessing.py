"""The pair of volumes and what the deformable stages use of it: subject masks, comparable intensities, weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import InputError
from .filters import box_mean
from .grid import WorkingGrid, tensor_from_array, tensor_from_image
from .intensities import comparable, corners_of, is_air_inside
from .resampling import resample_to_grid
from .subject import Subject, find_subject

HEAD_EXTENT_MM = 200.0  # `extent_mm` of an adult head
_WEIGHT_MARGIN_MM = 6.0  # for a head, around the foreground of both volumes, within which voxels are compared


class Pair:
    """The two images, their masks (or None) and their foregrounds, as SimpleITK images in LPS mm.

    inputs: both images as they were given. fixed, moving: with intensities that can be compared.
    length_scale: size of the subject relative to that of a head, by which lengths in mm are multiplied.
    is_body: whether the pair is compared within the outlines of its subjects, as any part of the body but a brain.
    subjects: of both images, where it matters what was scanned of them; else None.
    """

    length_scale = 1.0
    is_body = False
    subjects: tuple[Subject, Subject] | None = None

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
    ):
        self.inputs = fixed, moving
        self.fixed, self.moving = comparable(fixed), comparable(moving)
        self.fixed_mask, self.moving_mask = fixed_mask, moving_mask
        self.fixed_foreground, self.moving_foreground = foreground(self.fixed), foreground(self.moving)

    @property
    def kind(self) -> str:
        """What its subjects are: "brain" or "body"."""
        return "body" if self.is_body else "brain"

    @property
    def finest_voxel_mm(self) -> float:
        """The smallest side of the voxels of both images."""
        return min(*self.fixed.GetSpacing(), *self.moving.GetSpacing())

    def with_subjects(self) -> Pair:
        """The same pair with the subjects of both images, so that the edges of the scans are known."""
        pair = copy.copy(self)
        fixed = find_subject(self.fixed, self.fixed_foreground)
        pair.subjects = fixed, find_subject(self.moving, self.moving_foreground)
        return pair

    def as_body(self) -> Pair:
        """The same pair as any part of the body of any size: compared within the outlines of its subjects."""
        pair = self.with_subjects()
        assert pair.subjects is not None
        pair.is_body = True
        pair.fixed_foreground, pair.moving_foreground = (subject.outline for subject in pair.subjects)
        pair.length_scale = extent_mm(pair.fixed_foreground) / HEAD_EXTENT_MM
        return pair


@dataclass(frozen=True)
class WorkingPair:
    """The pair on the working grid, each (1, 1, D, H, W); the moving volume is resampled through the affine.

    fixed, moving: normalized intensities, about 0 to 1. weight: 0 to 1, where voxels are compared. The others are bool,
    a quarter of the memory. inside, moving_inside: the fixed and the moving foreground. fixed_scanned, moving_scanned:
    where the volume was scanned, see `Subject.scanned`; None where it was everywhere.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    weight: torch.Tensor
    inside: torch.Tensor
    moving_inside: torch.Tensor
    fixed_scanned: torch.Tensor | None = None
    moving_scanned: torch.Tensor | None = None

    @property
    def scanned_by_both(self) -> torch.Tensor | None:
        """(1, 1, D, H, W) bool: where both volumes were scanned; None where that is everywhere."""
        if self.fixed_scanned is None or self.moving_scanned is None:
            return self.moving_scanned if self.fixed_scanned is None else self.fixed_scanned
        return self.fixed_scanned & self.moving_scanned


def prepare(pair: Pair, grid: WorkingGrid, affine: sitk.Transform, device: torch.device) -> WorkingPair:
    """Resample both images and their masks to the working grid and normalize them.

    affine: fixed points -> moving points, LPS mm. Raises InputError where fewer than 64 voxels can be compared.
    """

    def binary(mask: sitk.Image, transform: sitk.Transform | None) -> torch.Tensor:
        return _binary(mask, grid, transform, device)

    inside_fixed, inside_moving = binary(pair.fixed_foreground, None), binary(pair.moving_foreground, affine)
    # where only one volume has tissue nearby (a stripped skull, a neck outside the field of view) nothing can match
    radius = max(1, round(_WEIGHT_MARGIN_MM * pair.length_scale / max(grid.spacing)))
    weight = dilate(inside_fixed.float(), radius).mul_(dilate(inside_moving.float(), radius))
    if pair.fixed_mask is not None:
        weight = weight * binary(pair.fixed_mask, None)
    if pair.moving_mask is not None:
        weight = weight * binary(pair.moving_mask, affine)
    fixed_scanned = moving_scanned = None
    if pair.subjects is not None:
        fixed_scanned = pair.subjects[0].scanned(grid, None, device)
        moving_scanned = pair.subjects[1].scanned(grid, affine, device)
        if fixed_scanned is not None:
            weight = weight * fixed_scanned
    if float(weight.sum()) < 64:
        raise InputError(
            f"Only {int(weight.sum())} voxels of the fixed image can be compared with the moving image after the "
            "initial alignment; check that images and masks show the same region."
        )
    return WorkingPair(
        fixed=normalize(_intensities(pair.fixed, grid, None, device, fixed_scanned is not None), inside_fixed),
        moving=normalize(_intensities(pair.moving, grid, affine, device, moving_scanned is not None), inside_moving),
        weight=weight,
        inside=inside_fixed,
        moving_inside=inside_moving,
        fixed_scanned=fixed_scanned,
        moving_scanned=moving_scanned,
    )


def moving_as_it_lies(pair: Pair, grid: WorkingGrid, device: torch.device) -> torch.Tensor:
    """(1, 1, D, H, W): the moving image on the working grid, normalized, before any alignment."""
    return normalize(_intensities(pair.moving, grid, None, device), _binary(pair.moving_foreground, grid, None, device))


def foreground(image: sitk.Image) -> sitk.Image:
    """A uint8 mask (0 or 1) of the subject on the lattice of the image.

    Where one value fills the corners and a fifth of the volume, as after skull stripping, it is the background, unless
    the volume shows air within it.
    Otherwise Otsu's threshold, over intensities between the 1st and 99th percentile so that metal does not decide.
    """
    array = sitk.GetArrayViewFromImage(image)
    corners = corners_of(array)
    background = np.median(corners)
    fraction = float(np.mean(array[::2, ::2, ::2] == background))
    if fraction > 0.2 and np.mean(corners == background) > 0.5 and not is_air_inside(array, background):
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
    """First and last index (i, j, k) of the mask, without 0.1 % of its voxels on each side (specks, table)."""
    array = sitk.GetArrayViewFromImage(mask) != 0
    first, last = [], []
    for axis in (2, 1, 0):
        counts = array.sum(axis=tuple(a for a in range(3) if a != axis))
        indices = np.flatnonzero(np.cumsum(counts) > 0.001 * counts.sum())
        from_end = np.flatnonzero(np.cumsum(counts[::-1]) > 0.001 * counts.sum())
        first.append(indices[0])
        last.append(array.shape[axis] - 1 - from_end[0])
    return np.array(first), np.array(last)


def extent_mm(mask: sitk.Image) -> float:
    """Geometric mean of the sides of the bounding box of a mask, in mm."""
    first, last = bounding_box(mask)
    return float(np.prod((last - first + 1) * np.array(mask.GetSpacing())) ** (1 / 3))


def normalize(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Map the 0.5th and 99.5th percentile of `image` inside `mask` to 0 and 1, and clamp to [0, 1.2].

    image, mask: (1, 1, D, H, W). Where the darkest value fills a fifth of the image, as after skull stripping, that
    value becomes 0 instead of the lower percentile.
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


def dilate(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Dilate a mask (1, 1, D, H, W) of 0 and 1 by a cube of (2 radius + 1)^3 voxels.

    By window means, which are many times faster than max pooling on a CPU.
    """
    return (box_mean(mask, radius) > 0.5 / (2 * radius + 1) ** 3).float()


def _intensities(
    image: sitk.Image,
    grid: WorkingGrid,
    transform: sitk.Transform | None,
    device: torch.device,
    continue_edges: bool = False,
) -> torch.Tensor:
    values = resample_to_grid(image, grid, transform, continue_edges=continue_edges)
    return tensor_from_array(values)[None, None].to(device)


def _binary(
    mask: sitk.Image, grid: WorkingGrid, transform: sitk.Transform | None, device: torch.device
) -> torch.Tensor:
    resampled = grid.resample(mask, transform, sitk.sitkNearestNeighbor)
    return tensor_from_image(resampled, device) > 0
