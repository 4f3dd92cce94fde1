"""Volumes resampled through a map, and work on planes in threads. Does not import torch. Points are LPS mm."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

_SLAB_VOXELS = 2**24  # 128 MiB of float64
_NODE_SLAB_VOXELS = 2**18  # vectors that stay in the cache
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
    """`warp_image` through a displacement and then an affine, in half the time, where fixed voxels are nodes.

    None where they are not, or where integers would need a large copy. The affine becomes part of the geometry of a
    copy of the moving image: moving(A(x + u(x))) is that copy at x + u(x), so that no vector is computed. Slabs of
    planes bound the memory, and run at the same time.
    """
    at_voxels = None if _is_large_integer(moving) else _at_voxels(displacement, fixed)
    if at_voxels is None:
        return None
    dtype, outside = sitk.GetArrayViewFromImage(moving).dtype, _value_outside(moving)
    warped = sitk.GetImageFromArray(_displaced(_before_affine(moving, affine), fixed, at_voxels, outside, dtype))
    warped.CopyInformation(fixed)
    return warped


def values_at_nodes(image: sitk.Image, fixed: sitk.Image, outside: float) -> np.ndarray | None:
    """The values of an image at the fixed voxels, (D, H, W), where these are voxels of it or beyond it; else None."""
    at_voxels = _at_voxels(image, fixed)
    return None if at_voxels is None else _part(*at_voxels, fixed.GetSize()[::-1], outside)


def affine_planes(affine: sitk.AffineTransform, lattice: sitk.Image) -> Callable[[int, np.ndarray], None]:
    """A function that writes affine(x) - x in LPS mm at the voxels of plane k into a float32 array (H, W, 3)."""
    size = lattice.GetSize()
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    steps = (matrix - np.eye(3)) @ (np.reshape(lattice.GetDirection(), (3, 3)) * np.array(lattice.GetSpacing()))
    start = np.subtract(affine.TransformPoint(lattice.GetOrigin()), lattice.GetOrigin())
    along_i, along_j, along_k = (np.arange(n)[:, None] * steps[:, axis] for axis, n in enumerate(size))
    first = (start + along_j[:, None] + along_i[None, :]).astype(np.float32).reshape(size[1], -1)
    along_k = along_k.astype(np.float32)

    def write(k: int, plane: np.ndarray) -> None:  # long rows, in which NumPy is fast
        np.add(first, np.tile(along_k[k], size[0]), out=plane.reshape(size[1], -1))

    return write


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


def _displaced(
    source: sitk.Image,
    fixed: sitk.Image,
    at_voxels: tuple[np.ndarray, np.ndarray],
    outside: float,
    dtype: np.dtype,
) -> np.ndarray:
    """source(x + u(x)) at the fixed voxels, (D, H, W), interpolated linearly. at_voxels: u, as `_at_voxels` has it."""
    vectors, first = at_voxels
    width, height, depth = fixed.GetSize()
    axes = fixed.GetSpacing(), fixed.GetDirection()
    whole = np.empty((depth, height, width), dtype)

    def displace_planes(start: int, end: int) -> None:
        corner, size = fixed.TransformIndexToPhysicalPoint((0, 0, start)), (width, height, end - start)
        field = sitk.GetImageFromArray(_part(vectors, np.add(first, (start, 0, 0)), size[::-1]), isVector=True)
        field.SetOrigin(corner)
        field.SetSpacing(axes[0])
        field.SetDirection(axes[1])
        slab = sitk.Warp(source, field, sitk.sitkLinear, size, corner, *axes, outside)
        whole[start:end] = _as_type(sitk.GetArrayViewFromImage(slab), dtype)

    in_parts(displace_planes, depth, max(1, _NODE_SLAB_VOXELS // (width * height)))
    return whole


def _before_affine(moving: sitk.Image, affine: sitk.AffineTransform) -> sitk.Image:
    """A copy of the moving image that has at x what the image has at affine(x); of integers in float64."""
    is_integer = np.issubdtype(sitk.GetArrayViewFromImage(moving).dtype, np.integer)
    source = sitk.Cast(moving, sitk.sitkFloat64) if is_integer else sitk.Image(moving)
    back = affine.GetInverse()
    axes = np.reshape(back.GetMatrix(), (3, 3)) @ np.reshape(moving.GetDirection(), (3, 3))
    source.SetOrigin(back.TransformPoint(moving.GetOrigin()))
    source.SetDirection(axes.ravel().tolist())  # sheared where the affine shears
    return source


def _at_voxels(image: sitk.Image, fixed: sitk.Image) -> tuple[np.ndarray, np.ndarray] | None:
    """The voxels of an image in the order of the fixed ones, where these lie on its lattice; else None.

    Returns (voxels (D', H', W') or (D', H', W', C) as a view along the fixed array axes, the place (k, j, i) in them of
    the first fixed voxel, which may be outside).
    """
    axes, fixed_axes = (
        np.reshape(each.GetDirection(), (3, 3)) * np.array(each.GetSpacing()) for each in (image, fixed)
    )
    steps = np.linalg.solve(axes, fixed_axes)  # one voxel along each fixed axis, in nodes
    nearest = np.rint(steps)
    size = np.array(image.GetSize())
    first = np.array(image.TransformPhysicalPointToContinuousIndex(fixed.GetOrigin()))
    off = np.abs(steps - nearest) @ (np.array(fixed.GetSize()) - 1) + np.abs(first - np.rint(first))
    is_permutation = np.array_equal(np.abs(nearest).sum(0), (1, 1, 1)) and np.array_equal(
        np.abs(nearest).sum(1), (1, 1, 1)
    )
    if not is_permutation or off.max() > _MAX_OFF_NODE:
        return None
    along = np.abs(nearest).argmax(0)  # fixed axis -> axis of the image
    forward = nearest[along, (0, 1, 2)] > 0
    first = np.rint(first).astype(int)[along]
    first = np.where(forward, first, size[along] - 1 - first)
    values = sitk.GetArrayViewFromImage(image)
    values = values.transpose(*(2 - along[::-1]), *range(3, values.ndim))
    return values[tuple(slice(None, None, 1 if f else -1) for f in forward[::-1])], first[::-1]


def _part(values: np.ndarray, first: np.ndarray, sizes: tuple[int, ...], outside: float = 0.0) -> np.ndarray:
    """A copy of `sizes` voxels from the place `first` on, `outside` where there are none."""
    to, available = _overlap(first, sizes, values.shape[:3])
    part = np.full((*sizes, *values.shape[3:]), outside, values.dtype)
    part[to] = values[available]
    return part


def _overlap(
    first: np.ndarray, sizes: tuple[int, ...], available: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(where in arrays of `sizes`, where in those of `available`) both are, if the former begin at `first`."""
    starts = [min(max(0, -int(f)), n) for f, n in zip(first, sizes)]
    ends = [max(s, min(n, a - int(f))) for s, f, n, a in zip(starts, first, sizes, available)]
    to = tuple(slice(s, e) for s, e in zip(starts, ends))
    return to, tuple(slice(s + int(f), e + int(f)) if e > s else slice(0, 0) for s, e, f in zip(starts, ends, first))
