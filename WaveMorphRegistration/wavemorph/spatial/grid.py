"""The working grid: from any volume to a canonical tensor and back. The one place that converts voxels and millimeters.

Physical points are LPS millimeters, as in SimpleITK. Tensors are (B, C, D, H, W) = (k, j, i) of the working grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch

# The LPS directions in which the axes i, j, k of a working grid point as nearly as the fixed image allows: R, A, S.
_CANONICAL = ((0, -1.0), (1, -1.0), (2, 1.0))
_CONVERSION_SLAB_PLANES = 32
_RING = 1  # voxels of zeros around a displacement image


@dataclass(frozen=True)
class WorkingGrid:
    """A right-handed lattice along the axes of the fixed image, ordered and flipped to be nearest to R, A, S.

    size: voxels along (i, j, k); spacing: mm along (i, j, k); origin: LPS mm of voxel (0, 0, 0);
    direction: 3x3 whose columns are the unit LPS vectors of the axes i, j, k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: np.ndarray

    @classmethod
    def inside_ring_of(cls, displacement: sitk.Image) -> WorkingGrid:
        """The grid of a displacement image as `to_mm` makes it: without the ring of zeros."""
        return cls(
            size=_three_ints(n - 2 * _RING for n in displacement.GetSize()),
            spacing=displacement.GetSpacing(),
            origin=displacement.TransformIndexToPhysicalPoint((_RING,) * 3),
            direction=np.reshape(displacement.GetDirection(), (3, 3)),
        )

    def to_dict(self) -> dict[str, list]:
        """The numbers by name, ready for JSON."""
        return {
            "size": list(self.size),
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": self.direction.tolist(),
        }

    @classmethod
    def from_dict(cls, numbers: Mapping[str, list]) -> WorkingGrid:
        """The grid of `to_dict`."""
        return cls(
            size=_three_ints(numbers["size"]),
            spacing=_three_floats(numbers["spacing"]),
            origin=_three_floats(numbers["origin"]),
            direction=np.array(numbers["direction"], float),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of tensors on this grid."""
        return self.size[::-1]

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    def point(self, index: Sequence[float]) -> tuple[float, float, float]:
        """LPS mm of a continuous index (i, j, k)."""
        point = np.asarray(self.origin) + self.direction @ (np.asarray(self.spacing) * np.asarray(index))
        return _three_floats(point)

    @property
    def matrix(self) -> np.ndarray:
        """4x4 matrix from the index (i, j, k, 1) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def resized(self, shape: Sequence[int]) -> WorkingGrid:
        """The lattice of `shape` (D, H, W) over the same box, outer edges aligned as in `displacement.resize`."""
        size = _three_ints(reversed(shape))
        ratio = np.asarray(self.size) / np.asarray(size)
        spacing = _three_floats(np.asarray(self.spacing) * ratio)
        return replace(self, size=size, spacing=spacing, origin=self.point((ratio - 1) / 2))

    def halved(self) -> WorkingGrid:
        """The lattice of half as many voxels over the same box."""
        return self.resized(tuple(n // 2 for n in self.shape))

    def averaged(self, factor: int) -> WorkingGrid:
        """The lattice of the means of `factor`^3 voxels; voxels beyond the last whole one of a side are left out."""
        return replace(
            self,
            size=_three_ints(n // factor for n in self.size),
            spacing=_three_floats(factor * step for step in self.spacing),
            origin=self.point(((factor - 1) / 2,) * 3),
        )

    def snapped_to(self, lattice: WorkingGrid) -> WorkingGrid:
        """This grid, shifted by at most its spacing along each axis so that nodes of `halved()` are nodes of `lattice`.

        Unchanged where the axes or the spacings of `halved()` and `lattice` differ.
        """
        half = self.halved()
        if not np.allclose(half.direction, lattice.direction) or not np.allclose(half.spacing, lattice.spacing):
            return self
        index = np.linalg.solve(lattice.matrix, [*half.origin, 1.0])[:3]
        step = (np.round(index) - index) * np.asarray(lattice.spacing)
        return replace(self, origin=_three_floats(np.asarray(self.origin) + self.direction @ step))

    def slab(self, first: int, planes: int) -> WorkingGrid:
        """The grid of `planes` planes along k, beginning with the plane `first`."""
        return replace(self, size=(*self.size[:2], planes), origin=self.point((0, 0, first)) if first else self.origin)

    def resample(
        self,
        image: sitk.Image,
        transform: sitk.Transform | None = None,
        interpolator: int = sitk.sitkLinear,
        outside: float = 0.0,
        continue_edges: bool = False,
    ) -> sitk.Image:
        """Resample `image` to this grid: out(x) = image(transform(x)), in the pixel type of the image.

        transform: grid points -> image points, LPS mm; None for the identity. outside: value beyond the image, unless
        continue_edges gives the value of its nearest voxel.
        """
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
            continue_edges,
        )

    def to_mm(self, displacement: torch.Tensor) -> sitk.Image:
        """(1, 3, D, H, W) in voxels (k, j, i) -> float32 vector image of LPS mm, with one ring of zeros around it.

        The ring makes readers that clamp outside (VTK) agree with readers that give zero there (ITK).
        """
        shape = tuple(n + 2 * _RING for n in self.shape)
        vectors = np.zeros((*shape, 3), np.float32)
        axes_mm = self.direction * np.asarray(self.spacing)  # columns: the step along i, j, k in LPS mm
        inside = vectors[_RING:-_RING, _RING:-_RING, _RING:-_RING]
        for first in range(0, self.shape[0], _CONVERSION_SLAB_PLANES):  # to bound the memory of float64 temporaries
            ijk = array_from_tensor(displacement[:, :, first : first + _CONVERSION_SLAB_PLANES])[::-1]
            for component in range(3):
                values = np.tensordot(axes_mm[component].astype(np.float32), ijk, axes=1)
                inside[first : first + _CONVERSION_SLAB_PLANES, ..., component] = values
        image = sitk.GetImageFromArray(vectors, isVector=True)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction.ravel().tolist())
        image.SetOrigin((np.asarray(self.origin) - axes_mm @ np.full(3, _RING)).tolist())
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
    """A grid over a voxel box of the fixed image with a margin around it.

    box: first and last index (i, j, k) in the fixed image, both inclusive. Where the fixed voxels are nearly isotropic
    at about `spacing_mm`, the nodes coincide with them and the fixed image needs no interpolation. Sides are padded to
    a multiple of `divisor`.
    """
    direction = np.array(fixed.GetDirection()).reshape(3, 3)
    native = np.array(fixed.GetSpacing())
    native_lattice = bool(np.all(native < 1.15 * spacing_mm) and np.all(native > 0.87 * spacing_mm))
    spacing = native if native_lattice else np.full(3, float(spacing_mm))

    first, last = (np.asarray(corner, float) for corner in box)
    margin = np.ceil(margin_mm / spacing)
    step = spacing / native  # fixed voxels in one step of the grid
    start = np.floor(first - margin * step) if native_lattice else first - margin * step
    size = np.ceil((last - first) / step).astype(int) + 1 + 2 * margin.astype(int)
    padded = -(-size // divisor) * divisor
    shift = (padded - size) // 2
    start = start - shift * step
    origin = np.array(fixed.TransformContinuousIndexToPhysicalPoint(start.tolist()))

    order, signs = _nearest_axes(direction)
    axes = direction[:, order] * signs
    for axis in range(3):
        if signs[axis] < 0:  # a flipped axis begins at the far end
            source = order[axis]
            origin = origin + direction[:, source] * spacing[source] * (padded[source] - 1)
    return WorkingGrid(
        size=_three_ints(padded[order]),
        spacing=_three_floats(spacing[order]),
        origin=_three_floats(origin),
        direction=axes,
    )


def make_grid_along_axes(
    direction: np.ndarray, mask: sitk.Image, spacing_mm: float, margin_mm: float, divisor: int = 8
) -> WorkingGrid:
    """A grid along any axes around the mask, without the outermost 0.1 % of its voxels on each side.

    direction: 3x3, whose columns are the unit LPS vectors of the axes i, j, k.
    """
    step = max(1, round((mask.GetNumberOfPixels() / 1e6) ** (1 / 3)))
    indices = step * np.argwhere(sitk.GetArrayViewFromImage(mask)[::step, ::step, ::step] > 0)[:, ::-1]
    to_mm = np.reshape(mask.GetDirection(), (3, 3)) * np.array(mask.GetSpacing())
    along = (indices @ to_mm.T + mask.GetOrigin()) @ direction
    first, last = np.percentile(along, (0.1, 99.9), axis=0) + np.array([[-margin_mm], [margin_mm]])
    size = (-(-(np.ceil((last - first) / spacing_mm) + 1) // divisor) * divisor).astype(int)
    start = (first + last - (size - 1) * spacing_mm) / 2
    return WorkingGrid(_three_ints(size), (spacing_mm,) * 3, _three_floats(direction @ start), direction)


def _nearest_axes(direction: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The fixed axis nearest to each canonical axis (a permutation), and its sign."""
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


def _three_ints(values: Iterable[float]) -> tuple[int, int, int]:
    first, second, third = (int(value) for value in values)
    return first, second, third


def _three_floats(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def tensor_from_array(array: np.ndarray) -> torch.Tensor:
    """A float32 copy of the array as a tensor, by the buffer protocol.

    torch.from_numpy fails where torch was built for another ABI of numpy.
    """
    array = np.ascontiguousarray(array, np.float32)
    return torch.frombuffer(bytearray(array.data), dtype=torch.float32).reshape(array.shape)


def tensor_from_image(image: sitk.Image, device: torch.device | str = "cpu") -> torch.Tensor:
    """A scalar image as (1, 1, D, H, W) float32."""
    return tensor_from_array(sitk.GetArrayViewFromImage(image))[None, None].to(device)


def array_from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """(1, C, D, H, W) or (D, H, W) -> (C, D, H, W) or (D, H, W), float32, by the buffer protocol."""
    tensor = tensor[0] if tensor.dim() == 5 else tensor
    array = np.empty(tuple(tensor.shape), np.float32)
    torch.frombuffer(array, dtype=torch.float32).reshape(tensor.shape).copy_(tensor.detach())
    return array


def image_from_tensor(tensor: torch.Tensor, grid: WorkingGrid) -> sitk.Image:
    """(D, H, W) on the grid -> a float32 image, LPS mm."""
    image = sitk.GetImageFromArray(array_from_tensor(tensor))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction.ravel().tolist())
    return image
