"""Displacement vectors rounded so that files of them compress about threefold, and no fold arises. No torch.

Vectors are off by 0.87 of `quantum_mm` at most. Where the deformation is steep the quantum is four times finer:
elsewhere no component changes by more than 0.32 voxels from node to node, and the matrix of these changes has a norm
below 1. Planes are handled as rows (H, 3 W), over which NumPy is several times faster than over vectors of three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..warping import in_parts, thread_count

# A vector is off by 0.87 of this at most, which is 0.007 mm, or 0.9 % of a voxel where voxels are smaller than 0.8 mm
_MAX_QUANTUM_MM = 2.0**-7
_QUANTA_A_VOXEL = 100
_FINER_WHERE_STEEP = 4  # so that rounding makes no fold
_STEEP = 0.32  # change of a component of the displacement from node to node, in voxels


def quantum_mm(spacing: Sequence[float]) -> float:
    """What displacements are rounded to multiples of: a power of two, for voxels of `spacing` mm."""
    return min(_MAX_QUANTUM_MM, 2.0 ** math.floor(math.log2(min(spacing) / _QUANTA_A_VOXEL)))


def round_vectors(vectors: np.ndarray, lattice: sitk.Image, affine: np.ndarray | None = None) -> None:
    """Round vectors (D, H, W, 3), float32, in place.

    Parameters:
        vectors: the map minus the identity, LPS mm.
        lattice: the image on whose voxels they are.
        affine: 3x3, the linear part of the map, which is no deformation; by default it is fitted.
    """
    if affine is None:
        affine = _fitted_linear_part(vectors, lattice)
    # what a part needs of its neighbors, as it was before these were rounded
    size = max(1, -(-len(vectors) // thread_count()))
    kept = {k: vectors[k].copy() for first in range(size, len(vectors), size) for k in (first - 1, first)}
    steepness = Steepness.of_map(lattice, affine, vectors.shape[2])
    quantum = quantum_mm(lattice.GetSpacing())

    def round_planes(first: int, last: int) -> None:
        masks = steepness.masks(lambda k: kept.get(k, vectors[k]), (first, last), len(vectors))
        memory = np.empty(vectors[0].size, np.float32)
        for plane, steep in zip(vectors[first:last], masks):
            rows = plane.reshape(steep.shape)
            round_plane(rows, quantum, rows, steep, memory.reshape(steep.shape))

    in_parts(round_planes, len(vectors), size)


def round_plane(plane: np.ndarray, quantum: float, part: np.ndarray, steep: np.ndarray, memory: np.ndarray) -> None:
    """Round a plane (H, 3 W) in place, a part of it (h, 3 w), a view, more finely where it is steep, a mask.

    memory: an array like `part`, which is overwritten.
    """
    factor, finer = np.float32(1 / quantum), np.float32(_FINER_WHERE_STEEP)
    np.multiply(part, finer * factor, out=memory)
    np.rint(memory, out=memory)
    memory *= 1 / finer
    plane *= factor
    np.rint(plane, out=plane)
    np.copyto(part, memory, where=steep)
    plane *= 1 / factor


@dataclass(frozen=True)
class Steepness:
    """Tells where a deformation changes by more than `_STEEP` voxels from a node to one of its neighbors.

    to_voxels: 3x3, from vectors to what the limits are for; None for the identity. limits: (3 W,), of changes. of_map:
    along i, j and k, what (3 W,) is added to the changes of a map to get those of its deformation; None where vectors
    are the deformation itself.
    """

    to_voxels: np.ndarray | None
    limits: np.ndarray
    along: tuple[np.ndarray, ...] | None

    @classmethod
    def of_map(cls, lattice: sitk.Image, affine: np.ndarray, width: int) -> Steepness:
        """For vectors of a map, minus the identity, whose linear part (3x3) is no deformation. width: W."""
        axes = _axes(lattice)
        # in voxels before the affine: (A axes)^-1 (change of the map) - unit vector
        to_voxels = np.linalg.inv(affine @ axes).astype(np.float32)
        of_identity = to_voxels @ axes.astype(np.float32) - np.eye(3, dtype=np.float32)
        along = tuple(np.tile(of_identity[:, axis], width) for axis in range(3))
        return cls(to_voxels, np.full(3 * width, _STEEP, np.float32), along)

    @classmethod
    def of_deformation(cls, lattice: sitk.Image, width: int) -> Steepness:
        """For vectors of a deformation that comes before any affine. width: W.

        Along the axes of the lattice its components are those of the vectors, up to their order and their signs.
        """
        to_voxels = np.linalg.inv(_axes(lattice))
        if np.array_equal(np.count_nonzero(to_voxels, axis=0), (1, 1, 1)):
            return cls(None, np.tile(_STEEP / np.abs(to_voxels).sum(0), width).astype(np.float32), None)
        return cls(to_voxels.astype(np.float32), np.full(3 * width, _STEEP, np.float32), None)

    def masks(self, plane_of: Callable[[int], np.ndarray], planes: tuple[int, int], count: int) -> Iterator[np.ndarray]:
        """The steep nodes of each plane k from planes[0] to planes[1] - 1: (H, 3 W), all components of a node alike.

        A mask is overwritten by the next one: NumPy takes longer to get memory for a plane than to compute with it.
        plane_of: vectors (H, W, 3) of a plane, of `count`; those of plane k are not asked for after the mask of k.
        """
        first, last = planes
        plane, ahead = self._rows(plane_of(first), None), None
        steep_ahead, marked, steep = (np.zeros(plane.shape, bool) for _ in range(3))
        change = np.empty_like(plane)
        if first > 0:
            self._mark(plane, self._rows(plane_of(first - 1), None), 2, change, steep_ahead)
        for k in range(first, last):
            steep, steep_ahead = steep_ahead, steep
            self._mark(plane[:, 3:], plane[:, :-3], 0, change[:, 3:], marked[:, 3:])
            steep[:, 3:] |= marked[:, 3:]
            steep[:, :-3] |= marked[:, 3:]
            self._mark(plane[1:], plane[:-1], 1, change[1:], marked[1:])
            steep[1:] |= marked[1:]
            steep[:-1] |= marked[1:]
            if k + 1 < count:
                ahead = self._rows(plane_of(k + 1), ahead)
                self._mark(ahead, plane, 2, change, steep_ahead)
                steep |= steep_ahead
                plane, ahead = ahead, plane
            _mark_nodes(steep.reshape(-1), marked.reshape(-1))
            yield marked

    def _rows(self, plane: np.ndarray, into: np.ndarray | None) -> np.ndarray:
        """A plane (H, W, 3) as (H, 3 W), in what the limits are for. into: memory for it, where it is converted."""
        rows = plane.reshape(-1, len(self.limits))
        if self.to_voxels is None:
            return rows
        into = np.empty_like(rows) if into is None else into
        np.matmul(plane.reshape(-1, 3), self.to_voxels.T, out=into.reshape(-1, 3))
        return into

    def _mark(self, after: np.ndarray, before: np.ndarray, axis: int, change: np.ndarray, into: np.ndarray) -> None:
        """Write into a mask which components change too much; all (rows, columns) of `_rows`, `change` as memory."""
        columns = change.shape[1]
        np.subtract(after, before, out=change)
        if self.along is not None:
            change += self.along[axis][:columns]
        np.abs(change, out=change)
        np.greater(change, self.limits[:columns], out=into)


def _mark_nodes(components: np.ndarray, nodes: np.ndarray) -> None:
    """Write into `nodes` (3 N,) which nodes have a marked component, three times each; `components` is overwritten."""
    nodes[:] = components
    nodes[1:] |= components[:-1]
    nodes[2:] |= components[:-2]
    nodes[0::3] = nodes[1::3] = False  # at the last component of each node is whether any is marked
    components[:] = nodes
    nodes[:-1] |= components[1:]
    nodes[:-2] |= components[2:]


def _axes(lattice: sitk.Image) -> np.ndarray:
    """3x3, columns: the steps from voxel to voxel along i, j, k in mm."""
    return np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing())


def _fitted_linear_part(vectors: np.ndarray, lattice: sitk.Image) -> np.ndarray:
    """The 3x3 linear part of the affine map nearest to identity + vectors, by least squares at every eighth node."""
    steps = tuple(max(1, n // 8) for n in vectors.shape[:3])
    index = np.stack(np.meshgrid(*[np.arange(0, n, s) for n, s in zip(vectors.shape, steps)], indexing="ij"), -1)
    points = index[..., ::-1].reshape(-1, 3) @ _axes(lattice).T
    ends = points + vectors[tuple(slice(None, None, s) for s in steps)].reshape(-1, 3)
    fitted = np.linalg.lstsq(np.column_stack([points, np.ones(len(points))]), ends, rcond=None)[0]
    matrix = fitted[:3].T
    return matrix if abs(np.linalg.det(matrix)) > 1e-3 else np.eye(3)
