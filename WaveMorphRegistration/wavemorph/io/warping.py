"""Volumes resampled through a map, and work on planes in threads. Does not import torch. Points are LPS mm."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

_SLAB_VOXELS = 2**24  # 128 MiB of float64
_NODE_SLAB_VOXELS = 2**18  # vectors of float64 that stay in the cache
_MAX_OFF_NODE = 1e-5  # voxels
_MAX_THREADS = 8  # each holds a slab


def warp_image(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> sitk.Image:
    """Resample the moving image on the lattice of the fixed image: out(x) = moving(transform(x)), in its pixel type.

    Integers are interpolated in floating point, rounded, and limited to the range of their type; ITK would truncate
    them. Outside the moving image the value is 0, or its minimum where that is well below 0, as for air in a CT.
    """
    outside = _value_outside(moving)
    values = sitk.GetArrayViewFromImage(moving)
    if not np.issubdtype(values.dtype, np.integer) or interpolator == sitk.sitkNearestNeighbor:
        return sitk.Resample(moving, fixed, transform, interpolator, outside)
    return _warp_integers(moving, fixed, transform, interpolator, outside)


def warp_at_nodes(
    moving: sitk.Image, fixed: sitk.Image, affine: sitk.AffineTransform, displacement: sitk.Image
) -> sitk.Image | None:
    """`warp_image` through a displacement and then an affine, in two thirds of the time, where fixed voxels are nodes.

    None where they are not, or where integers would need a large copy. Slabs of planes bound the memory, and run at
    the same time.
    """
    at_voxels = None if _is_large_integer(moving) else _at_voxels(displacement, fixed)
    if at_voxels is None:
        return None
    vectors, first = at_voxels
    dtype, outside = sitk.GetArrayViewFromImage(moving).dtype, _value_outside(moving)
    source = sitk.Cast(moving, sitk.sitkFloat64) if np.issubdtype(dtype, np.integer) else moving
    width, height, depth = fixed.GetSize()
    planes = max(1, _NODE_SLAB_VOXELS // (width * height))
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    (j_to, i_to), (j_from, i_from) = _overlap(first[1:], (height, width), vectors.shape[1:3])
    whole = np.empty((depth, height, width), dtype)

    def warp_planes(start: int, end: int) -> None:
        corner = fixed.TransformIndexToPhysicalPoint((0, 0, start))
        lattice = sitk.Image([width, height, end - start], sitk.sitkUInt8)
        lattice.SetOrigin(corner)
        lattice.SetSpacing(fixed.GetSpacing())
        lattice.SetDirection(fixed.GetDirection())
        moved = affine_vectors(affine, lattice, np.float64)
        (k_to,), (k_from,) = _overlap(first[:1] + start, (end - start,), vectors.shape[:1])
        moved[k_to, j_to, i_to] += vectors[k_from, j_from, i_from].astype(np.float64) @ matrix.T
        field = sitk.GetImageFromArray(moved, isVector=True)
        field.CopyInformation(lattice)
        geometry = lattice.GetSize(), corner, fixed.GetSpacing(), fixed.GetDirection()
        slab = sitk.Warp(source, field, sitk.sitkLinear, *geometry, outside)
        whole[start:end] = _as_type(sitk.GetArrayViewFromImage(slab), dtype)

    in_parts(warp_planes, depth, planes)
    warped = sitk.GetImageFromArray(whole)
    warped.CopyInformation(fixed)
    return warped


def affine_vectors(affine: sitk.AffineTransform, lattice: sitk.Image, dtype: type) -> np.ndarray:
    """affine(x) - x in LPS mm at each voxel of `lattice`: (D, H, W, 3)."""
    size = lattice.GetSize()
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    steps = (matrix - np.eye(3)) @ (np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing()))
    start = np.subtract(affine.TransformPoint(lattice.GetOrigin()), lattice.GetOrigin())
    along_i, along_j, along_k = (np.arange(n)[:, None] * steps[:, axis] for axis, n in enumerate(size))
    plane = (start + along_j[:, None] + along_i[None, :]).astype(dtype).reshape(size[1], -1)
    vectors = np.empty((*size[::-1], 3), dtype)
    rows = vectors.reshape(size[2], size[1], -1)  # long rows, in which NumPy is fast
    for k, step in enumerate(along_k.astype(dtype)):
        np.add(plane, np.tile(step, size[0]), out=rows[k])
    return vectors


def thread_count() -> int:
    """As many threads as SimpleITK uses, but no more than memory allows."""
    return min(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), _MAX_THREADS)


def in_parts(work: Callable[[int, int], None], count: int, size: int | None = None) -> None:
    """Call work(first, last) for parts of range(count) at the same time, in `thread_count` threads.

    size: of a part; by default there is one part a thread.
    """
    threads = thread_count()
    size = size or max(1, -(-count // threads))
    starts = range(0, count, size)
    with ThreadPoolExecutor(min(threads, max(1, len(starts)))) as pool:
        for done in [pool.submit(work, start, min(start + size, count)) for start in starts]:
            done.result()


def _warp_integers(
    moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, interpolator: int, outside: float
) -> sitk.Image:
    """Resampled in float64, in slabs of the lattice that bound its memory; rounded and limited to the integer type."""
    dtype = sitk.GetArrayViewFromImage(moving).dtype
    width, height, depth = fixed.GetSize()
    planes = max(1, _SLAB_VOXELS // (width * height))
    whole = np.empty((depth, height, width), dtype)
    for first in range(0, depth, planes):
        size = (width, height, min(planes, depth - first))
        geometry = fixed.TransformIndexToPhysicalPoint((0, 0, first)), fixed.GetSpacing(), fixed.GetDirection()
        slab = sitk.Resample(moving, size, transform, interpolator, *geometry, outside, sitk.sitkFloat64)
        for plane, values in zip(whole[first:], sitk.GetArrayViewFromImage(slab)):
            plane[...] = _as_type(values, dtype)
    warped = sitk.GetImageFromArray(whole)
    warped.CopyInformation(fixed)
    return warped


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Interpolated values for a volume of `dtype`: of an integer type, rounded and limited to its range."""
    if not np.issubdtype(dtype, np.integer):
        return values
    limits = np.iinfo(dtype)
    # the largest 64-bit integers have no equal among floating-point numbers, and those beyond them would wrap around
    highest = limits.max if limits.bits < 64 else np.nextafter(float(limits.max), 0)
    return np.clip(np.rint(values), limits.min, highest)


def _value_outside(moving: sitk.Image) -> float:
    """The value outside a volume: 0, or its minimum where that is well below 0, as for air in a CT."""
    values = sitk.GetArrayViewFromImage(moving)
    darkest, brightest = float(values.min()), float(values.max())
    return darkest if darkest < -0.1 * (brightest - darkest) else 0.0


def _is_large_integer(image: sitk.Image) -> bool:
    """Whether a copy in float64, which exact rounding needs, would take much memory."""
    is_integer = np.issubdtype(sitk.GetArrayViewFromImage(image).dtype, np.integer)
    return is_integer and image.GetNumberOfPixels() > 2 * _SLAB_VOXELS


def _at_voxels(displacement: sitk.Image, fixed: sitk.Image) -> tuple[np.ndarray, np.ndarray] | None:
    """The displacement in the order of the fixed voxels, where these are nodes of its lattice; else None.

    Returns (vectors (D', H', W', 3) as a view along the fixed array axes, the place (k, j, i) in them of the first
    fixed voxel, which may be outside).
    """
    axes, fixed_axes = (
        np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing()) for image in (displacement, fixed)
    )
    steps = np.linalg.solve(axes, fixed_axes)  # one voxel along each fixed axis, in nodes
    nearest = np.rint(steps)
    size = np.array(displacement.GetSize())
    first = np.array(displacement.TransformPhysicalPointToContinuousIndex(fixed.GetOrigin()))
    off = np.abs(steps - nearest) @ (np.array(fixed.GetSize()) - 1) + np.abs(first - np.rint(first))
    is_permutation = np.array_equal(np.abs(nearest).sum(0), (1, 1, 1)) and np.array_equal(
        np.abs(nearest).sum(1), (1, 1, 1)
    )
    if not is_permutation or off.max() > _MAX_OFF_NODE:
        return None
    along = np.abs(nearest).argmax(0)  # fixed axis -> axis of the displacement
    forward = nearest[along, (0, 1, 2)] > 0
    first = np.rint(first).astype(int)[along]
    first = np.where(forward, first, size[along] - 1 - first)
    vectors = sitk.GetArrayViewFromImage(displacement).transpose(*(2 - along[::-1]), 3)
    return vectors[tuple(slice(None, None, 1 if f else -1) for f in forward[::-1])], first[::-1]


def _overlap(
    first: np.ndarray, sizes: tuple[int, ...], available: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(where in arrays of `sizes`, where in those of `available`) both are, if the former begin at `first`."""
    starts = [min(max(0, -int(f)), n) for f, n in zip(first, sizes)]
    ends = [max(s, min(n, a - int(f))) for s, f, n, a in zip(starts, first, sizes, available)]
    to = tuple(slice(s, e) for s, e in zip(starts, ends))
    return to, tuple(slice(s + int(f), e + int(f)) if e > s else slice(0, 0) for s, e, f in zip(starts, ends, first))
