"""The working grid: from any volume to a canonical tensor and back. The one place where voxels and millimetres meet.

Physical points are LPS millimetres, as in SimpleITK. Tensors are (B, C, D, H, W) = (k, j, i) of the working grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch

# The LPS directions in which the axes i, j, k of a working grid point as nearly as the fixed image allows: R, A, S.
_CANONICAL = ((0, -1.0), (1, -1.0), (2, 1.0))
_SLAB = 32


@dataclass(frozen=True)
class WorkingGrid:
    """A right-handed lattice whose axes i, j, k lie nearest to R, A, S and are parallel to the fixed image's axes.

    size: voxels along (i, j, k); spacing: mm along (i, j, k); origin: LPS mm of voxel (0, 0, 0);
    direction: 3x3 whose columns are the unit LPS vectors of the axes i, j, k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of tensors on this grid."""
        return self.size[::-1]

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    def point(self, index: Sequence[float]) -> tuple[float, float, float]:
        """LPS mm of the (continuous) index (i, j, k)."""
        place = np.asarray(self.origin) + self.direction @ (np.asarray(self.spacing) * np.asarray(index))
        return tuple(float(x) for x in place)

    @property
    def matrix(self) -> np.ndarray:
        """4x4, from the index (i, j, k, 1) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def resized(self, shape: Sequence[int]) -> WorkingGrid:
        """The lattice of `shape` (D, H, W) over the same box, outer edges aligned as in `field.resize`."""
        size = tuple(int(n) for n in reversed(shape))
        ratio = np.asarray(self.size) / np.asarray(size)
        spacing = tuple(float(own * times) for own, times in zip(self.spacing, ratio))
        return replace(self, size=size, spacing=spacing, origin=self.point((ratio - 1) / 2))

    def halved(self) -> WorkingGrid:
        """The lattice of half as many voxels over the same box."""
        return self.resized(tuple(n // 2 for n in self.shape))

    def meeting(self, lattice: WorkingGrid) -> WorkingGrid:
        """This grid, moved by at most its own spacing along each axis so that nodes of its half are nodes of `lattice`.

        As it is where the axes or the spacing of the two differ.
        """
        half = self.halved()
        if not np.allclose(half.direction, lattice.direction) or not np.allclose(half.spacing, lattice.spacing):
            return self
        index = np.linalg.solve(lattice.matrix, [*half.origin, 1.0])[:3]
        step = (np.round(index) - index) * np.asarray(lattice.spacing)
        return replace(self, origin=tuple(float(x) for x in np.asarray(self.origin) + self.direction @ step))

    def slab(self, first: int, planes: int) -> WorkingGrid:
        """The planes first, first + 1, ... along k as a grid of their own."""
        return replace(self, size=(*self.size[:2], planes), origin=self.point((0, 0, first)) if first else self.origin)

    def resample(
        self, image: sitk.Image, transform: sitk.Transform | None = None, interpolator=sitk.sitkLinear, outside=0.0
    ) -> sitk.Image:
        """`image` seen on this grid: out(x) = image(transform(x))."""
        return sitk.Resample(
            image,
            self.size,
            transform if transform is not None else sitk.Transform(),
            interpolator,
            self.origin,
            self.spacing,
            self.direction.ravel().tolist(),
            outside,
            image.GetPixelID(),
        )

    def to_mm(self, displacement: torch.Tensor) -> sitk.Image:
        """(1, 3, D, H, W) in voxels (k, j, i) -> float32 vector image of LPS mm, with one ring of zeros around it."""
        ring = 1
        shape = tuple(n + 2 * ring for n in self.shape)
        vectors = np.zeros((*shape, 3), np.float32)
        axes_mm = self.direction * np.asarray(self.spacing)  # columns: the step along i, j, k in LPS mm
        inside = vectors[ring:-ring, ring:-ring, ring:-ring]
        for first in range(0, self.shape[0], _SLAB):  # in slabs: what lies in between is larger than the result
            ijk = array_from_tensor(displacement[:, :, first : first + _SLAB])[::-1]
            for component in range(3):
                values = np.tensordot(axes_mm[component].astype(np.float32), ijk, axes=1)
                inside[first : first + _SLAB, ..., component] = values
        image = sitk.GetImageFromArray(vectors, isVector=True)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction.ravel().tolist())
        image.SetOrigin((np.asarray(self.origin) - axes_mm @ np.full(3, ring)).tolist())
        return image

    def from_mm(self, transform: sitk.Transform) -> torch.Tensor:
        """The displacement transform(x) - x at every node, as (1, 3, D, H, W) in voxels (k, j, i)."""
        vectors = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat32, self.size, self.origin, self.spacing, self.direction.ravel().tolist()
        )
        lps = sitk.GetArrayViewFromImage(vectors)
        to_voxels = np.linalg.inv(self.direction * np.asarray(self.spacing)).astype(np.float32)
        kji = np.stack([lps @ to_voxels[axis] for axis in (2, 1, 0)])
        return tensor_from_array(kji)[None]


def make_working_grid(
    fixed: sitk.Image, box: tuple[np.ndarray, np.ndarray], spacing_mm: float, margin_mm: float, divisor: int = 8
) -> WorkingGrid:
    """A grid over the voxel box (first, last index, in fixed i, j, k; both inclusive) of the fixed image.

    Its nodes coincide with the fixed voxels where these are already nearly isotropic at about `spacing_mm`: the fixed
    image is then used as it is, without interpolation. Sides are padded to a multiple of `divisor`.
    """
    direction = np.array(fixed.GetDirection()).reshape(3, 3)
    native = np.array(fixed.GetSpacing())
    as_it_is = bool(np.all(native < 1.15 * spacing_mm) and np.all(native > 0.87 * spacing_mm))
    spacing = native if as_it_is else np.full(3, float(spacing_mm))

    first, last = (np.asarray(corner, float) for corner in box)
    margin = np.ceil(margin_mm / spacing)
    step = spacing / native  # fixed voxels in one step of the grid
    start = np.floor(first - margin * step) if as_it_is else first - margin * step
    size = np.ceil((last - first) / step).astype(int) + 1 + 2 * margin.astype(int)
    padded = -(-size // divisor) * divisor
    shift = (padded - size) // 2
    start = start - shift * step
    origin = np.array(fixed.TransformContinuousIndexToPhysicalPoint(start.tolist()))

    order, signs = _nearest_axes(direction)
    axes = direction[:, order] * signs
    for axis in range(3):
        if signs[axis] < 0:  # walk the other way: begin at the far end
            source = order[axis]
            origin = origin + direction[:, source] * spacing[source] * (padded[source] - 1)
    return WorkingGrid(
        size=tuple(int(padded[a]) for a in order),
        spacing=tuple(float(spacing[a]) for a in order),
        origin=tuple(float(x) for x in origin),
        direction=axes,
    )


def grid_along(
    direction: np.ndarray, mask: sitk.Image, spacing_mm: float, margin_mm: float, divisor: int = 8
) -> WorkingGrid:
    """A grid along any axes (3x3, columns are LPS vectors) around the mask but for the farthest 0.1 % on each side."""
    step = max(1, round((mask.GetNumberOfPixels() / 1e6) ** (1 / 3)))
    places = step * np.argwhere(sitk.GetArrayViewFromImage(mask)[::step, ::step, ::step] > 0)[:, ::-1]
    to_mm = np.reshape(mask.GetDirection(), (3, 3)) * np.array(mask.GetSpacing())
    along = (places @ to_mm.T + mask.GetOrigin()) @ direction
    first, last = np.percentile(along, (0.1, 99.9), axis=0) + np.array([[-margin_mm], [margin_mm]])
    size = (-(-(np.ceil((last - first) / spacing_mm) + 1) // divisor) * divisor).astype(int)
    start = (first + last - (size - 1) * spacing_mm) / 2
    return WorkingGrid(tuple(size.tolist()), (spacing_mm,) * 3, tuple((direction @ start).tolist()), direction)


def _nearest_axes(direction: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Which fixed axis lies nearest to each canonical axis (a permutation), and its sign."""
    rest, order, signs = {0, 1, 2}, [-1, -1, -1], np.ones(3)
    entries = [(abs(direction[row, column]), row, column) for row in range(3) for column in range(3)]
    taken = set()
    for _, row, column in sorted(entries, reverse=True):
        if row not in taken and column in rest:
            canonical_row, canonical_sign = _CANONICAL[row]
            order[row] = column
            signs[row] = canonical_sign * (1 if direction[canonical_row, column] >= 0 else -1)
            taken.add(row)
            rest.discard(column)
    return order, signs


def tensor_from_array(array: np.ndarray) -> torch.Tensor:
    """A float32 tensor with its own copy, by the buffer protocol: torch's numpy bridge breaks where the ABIs differ."""
    array = np.ascontiguousarray(array, np.float32)
    return torch.frombuffer(bytearray(array.data), dtype=torch.float32).reshape(array.shape)


def tensor_from_image(image: sitk.Image, device: torch.device | str = "cpu") -> torch.Tensor:
    """A scalar image as (1, 1, D, H, W) float32."""
    return tensor_from_array(sitk.GetArrayViewFromImage(image))[None, None].to(device)


def array_from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """(1, C, D, H, W) or (D, H, W) -> (C, D, H, W) or (D, H, W) float32, again without torch's numpy bridge."""
    tensor = tensor[0] if tensor.dim() == 5 else tensor
    array = np.empty(tuple(tensor.shape), np.float32)
    torch.frombuffer(array, dtype=torch.float32).reshape(tensor.shape).copy_(tensor.detach())
    return array


def image_from_tensor(tensor: torch.Tensor, grid: WorkingGrid) -> sitk.Image:
    """(D, H, W) on the working grid -> a float32 image."""
    image = sitk.GetImageFromArray(array_from_tensor(tensor))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction.ravel().tolist())
    return image
