"""The inverse of a whole map as one displacement field, fitted between its nodes too (ours).

A field is interpolated linearly between its nodes, where the true inverse bends: values of the true inverse at the
nodes are about twice as far from it, on average, as values that are fitted to all of it. Lengths are in voxels of the
lattice of the field, and vectors along (k, j, i), unless named otherwise; so the map, after its affine, displaces the
lattice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from .displacement import lattice_size
from .folding import remove_folds
from .grid import array_from_tensor, tensor_from_array
from .nodes import dilated_mask, flat_indices, lengths, sample_at_points, unravel

_SLAB_PLANES = 16  # of nodes that are computed together, to bound the memory
_POINTS_AT_ONCE = 200_000
_SHARPENING = 1 / 12  # of the second differences: fits a parabola by least squares
_OFFSETS = (0.25, 0.75)  # where the samples of even and odd cells are along each axis
_BENT_VOXELS = 0.02  # second differences below which linear interpolation is exact enough
_LEAST_WEIGHT = 0.05  # nodes with hardly any samples around them keep their values
_CHECKED_POINTS = 100_000


class RoundTrip(NamedTuple):
    """Distances in mm, mean and 99th percentile, between points and where a map and its inverse take them."""

    mean: float
    p99: float


class InverseField(NamedTuple):
    """The deformation in an inverse: vectors (D, H, W, 3), float32, LPS mm, to be added after the inverse affine.

    error, two_part_error: of this field, and of the two-part inverse, at the same points where the map bends. beyond:
    the part of such points that the map takes beyond the lattice, of which the errors do not tell.
    """

    vectors: np.ndarray
    error: RoundTrip
    two_part_error: RoundTrip
    beyond: float


def fit_inverse_field(
    displacement: sitk.Image, parts: tuple[sitk.Image, sitk.Image], affine: sitk.AffineTransform, lattice: sitk.Image
) -> InverseField:
    """The inverse y -> A^-1 y + vectors(y) of the map x -> A(x + u(x)), for linear interpolation on a lattice.

    The two-part inverse at the nodes is sharpened, and then moved once towards samples of the map: a point and where
    the map takes it belong together exactly, so that nothing has to be inverted (one step of SIRT: Gilbert, J Theor
    Biol 1972, 36(1), 105). Folds are removed.

    Parameters:
        displacement: u, LPS mm, as `WorkingGrid.to_mm` makes it.
        parts: its two-part inverse (`TwoPartInverse`), of the same kind.
        affine: A, LPS mm.
        lattice: the image on whose voxels the inverse is wanted.
    """
    grid = _Grid.of(displacement, affine, lattice)
    with torch.inference_mode(False), torch.no_grad():
        u = grid.tensor(displacement)
        bent = flat_indices(dilated_mask(_is_bent(u), 1))
        two_parts = [grid.tensor(part) for part in parts]
        checked = _checked_points(grid, u, bent, lattice)
        two_part_error = grid.round_trip(
            checked.ends + _two_part_inverse(grid, two_parts, checked.ends) - checked.starts
        )
        field = _two_part_inverse_at_nodes(grid, two_parts, lattice.GetSize()[::-1])
        two_parts.clear()
        _sharpen(field)
        field = remove_folds(_moved_towards(field, *_samples(grid, u, bent)))
        error = grid.round_trip(checked.ends + sample_at_points(field, checked.ends) - checked.starts)
        return InverseField(grid.vectors_mm(field), error, two_part_error, checked.beyond)


class _Grid(NamedTuple):
    """Voxels of the working grid <-> voxels of the lattice, by the affine.

    to_lattice: 4x4, indices (k, j, i) to indices. vectors: 3x3, LPS mm before the affine to voxels of the lattice.
    """

    to_lattice: torch.Tensor
    to_grid: torch.Tensor
    vectors: np.ndarray

    @classmethod
    def of(cls, image: sitk.Image, affine: sitk.AffineTransform, lattice: sitk.Image) -> _Grid:
        linear = np.eye(4)
        linear[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
        linear[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
        from_mm = np.linalg.inv(_index_to_mm(lattice)) @ linear
        to_lattice = from_mm @ _index_to_mm(image)
        to_grid = torch.tensor(np.linalg.inv(to_lattice), dtype=torch.float32)
        return cls(torch.tensor(to_lattice, dtype=torch.float32), to_grid, from_mm[:3, :3])

    def on_lattice(self, points: torch.Tensor) -> torch.Tensor:
        """Points (3, N) of the working grid, mapped by the affine to the lattice."""
        return self.to_lattice[:3, :3] @ points + self.to_lattice[:3, 3:]

    def on_grid(self, points: torch.Tensor) -> torch.Tensor:
        """The reverse of `on_lattice`."""
        return self.to_grid[:3, :3] @ points + self.to_grid[:3, 3:]

    def tensor(self, image: sitk.Image) -> torch.Tensor:
        """(1, 3, D, H, W) in voxels of the lattice, of a displacement image of LPS mm before the affine."""
        vectors = sitk.GetArrayViewFromImage(image)
        tensor = torch.empty(1, 3, *vectors.shape[:3])
        for planes in _slabs(len(vectors)):
            converted = vectors[planes] @ self.vectors.T.astype(np.float32)
            tensor[0, :, planes] = tensor_from_array(np.moveaxis(converted, -1, 0))
        return tensor

    def vectors_mm(self, field: torch.Tensor) -> np.ndarray:
        """The reverse of `tensor`, as an array (D, H, W, 3)."""
        to_mm = np.linalg.inv(self.vectors).astype(np.float32)
        vectors = np.empty((*lattice_size(field), 3), np.float32)
        for planes in _slabs(len(vectors)):
            vectors[planes] = np.moveaxis(array_from_tensor(field[:, :, planes]), 0, -1) @ to_mm.T
        return vectors

    def round_trip(self, errors: torch.Tensor) -> RoundTrip:
        """Of errors (3, N) in voxels of the lattice."""
        if not errors.shape[1]:
            return RoundTrip(0.0, 0.0)
        to_mm = torch.tensor(np.linalg.inv(self.vectors), dtype=torch.float32)
        distances = lengths(to_mm @ errors)
        return RoundTrip(float(distances.mean()), float(distances.quantile(0.99)))


def _index_to_mm(image: sitk.Image) -> np.ndarray:
    """4x4, from an index (k, j, i) to LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.fliplr(np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing()))
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def _two_part_inverse(grid: _Grid, two_parts: list[torch.Tensor], points: torch.Tensor) -> torch.Tensor:
    """What both parts displace points (3, N) of the lattice by."""
    first, second = two_parts
    moved = sample_at_points(first, grid.on_grid(points))
    return moved.add_(sample_at_points(second, grid.on_grid(points + moved)))


def _two_part_inverse_at_nodes(grid: _Grid, two_parts: list[torch.Tensor], size: tuple[int, int, int]) -> torch.Tensor:
    """(1, 3, D, H, W) on the lattice of `size`."""
    field = torch.empty(1, 3, *size)
    for planes in _slabs(size[0]):
        nodes = torch.arange(planes.start * size[1] * size[2], planes.stop * size[1] * size[2])
        moved = _two_part_inverse(grid, two_parts, unravel(nodes, size).float())
        field[0, :, planes] = moved.view(3, -1, *size[1:])
    return field


def _slabs(depth: int) -> Iterator[slice]:
    return (slice(first, min(first + _SLAB_PLANES, depth)) for first in range(0, depth, _SLAB_PLANES))


def _second_differences(component: torch.Tensor) -> torch.Tensor:
    """Their sum along the three axes, (D, H, W), zero along an axis on its faces."""
    bend = torch.zeros_like(component)
    for axis in range(3):
        n = component.shape[axis]
        if n > 2:
            bend.narrow(axis, 1, n - 2).add_(component.diff(n=2, dim=axis))
    return bend


def _is_bent(field: torch.Tensor) -> torch.Tensor:
    """Mask (D, H, W)."""
    bent = torch.zeros(field.shape[2:], dtype=torch.bool)
    for component in field[0]:
        bent |= _second_differences(component).abs_() > _BENT_VOXELS
    return bent


def _sharpen(field: torch.Tensor) -> None:
    """Move nodes, in place, from the values of a bent map to values between which it is nearest to lines."""
    for component in field[0]:
        component.sub_(_second_differences(component), alpha=_SHARPENING)


def _samples(grid: _Grid, u: torch.Tensor, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(places on the lattice, what the inverse displaces them by), both (3, N): one in each of the cells (N,)."""
    places, values = torch.empty(3, len(cells)), torch.empty(3, len(cells))
    for first in range(0, len(cells), _POINTS_AT_ONCE):
        part = slice(first, first + _POINTS_AT_ONCE)
        corners = unravel(cells[part], lattice_size(u))
        points = corners + torch.where(corners.sum(0) % 2 == 0, *_OFFSETS)
        moved = sample_at_points(u, points)
        places[:, part] = grid.on_lattice(points) + moved
        values[:, part] = -moved
    return places, values


def _moved_towards(field: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The field (1, 3, D, H, W), each node moved by the weighted mean of what it misses at the places around it.

    places, values: (3, N). A weight is that with which a node is interpolated at a place.
    """
    size = lattice_size(field)
    within = _is_inside(places, size)
    result = field.clone()
    for planes in _slabs(size[0]):
        around = slice(max(planes.start - 1, 0), min(planes.stop + 1, size[0]))
        chosen = flat_indices(within & (places[0] > planes.start - 1) & (places[0] < planes.stop))
        if not len(chosen):
            continue
        at = places[:, chosen]
        at[0] -= around.start
        sums = _weighted_misses(field[:, :, around], at, values[:, chosen])
        sums = sums[:, planes.start - around.start : planes.stop - around.start]
        result[0, :, planes] += sums[:3] / (sums[3] + _LEAST_WEIGHT)
    return result


def _is_inside(places: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Mask (N,) of the places (3, N) between the nodes of a lattice."""
    return ((places >= 0) & (places <= torch.tensor(size).view(3, 1) - 1)).all(0)


def _weighted_misses(field: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(4, D, H, W): at each node the weighted sum of what is missing at the places, and the sum of the weights.

    Both are the gradient of interpolation with respect to the nodes, which distributes values as it weighs nodes.
    """
    with torch.enable_grad():
        nodes = torch.cat([field, torch.zeros_like(field[:, :1])], 1).requires_grad_()
        sampled = sample_at_points(nodes, places, at_once=True)
    missing = torch.cat([values - sampled.detach()[:3], torch.ones_like(values[:1])])
    return torch.autograd.grad(sampled, nodes, missing)[0][0]


class _Checked(NamedTuple):
    """Points (3, N) on the lattice: where the affine takes them, and where the whole map does.

    beyond: the part of the drawn points that were left out, because the map takes them beyond the lattice.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    beyond: float


def _checked_points(grid: _Grid, u: torch.Tensor, cells: torch.Tensor, lattice: sitk.Image) -> _Checked:
    """At most `_CHECKED_POINTS` random points, the same each time, in cells (M,); those that stay on the lattice."""
    generator = torch.Generator().manual_seed(0)
    chosen = cells[torch.randperm(len(cells), generator=generator)[:_CHECKED_POINTS]]
    points = unravel(chosen, lattice_size(u)) + torch.rand(3, len(chosen), generator=generator)
    starts = grid.on_lattice(points)
    ends = starts + sample_at_points(u, points)
    inside = _is_inside(ends, lattice.GetSize()[::-1])
    beyond = 1 - float(inside.float().mean()) if len(inside) else 0.0
    return _Checked(starts[:, inside], ends[:, inside], beyond)
