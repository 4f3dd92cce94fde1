"""Displacement and velocity fields on a voxel lattice (paper section 3.7; the diffeomorphic part is ours).

All lengths are in voxels of the field's own lattice. Tensors are (B, C, D, H, W) = (k, j, i); a displacement u has
channels (k, j, i) and stands for the map x -> x + u(x). `grid.py` converts to and from millimeters.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import torch
import torch.nn.functional as F

from ..system.strategy import strategy_for

_MAX_SQUARINGS = 10  # where their number is not known to the host: for velocities of up to 128 voxels


@cache
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor (N,) of these values, copied to the device once: each copy makes the host wait for a GPU.

    Kept as long as the process: work that still waits in another stream, or in a recorded step, may read it.
    """
    with torch.inference_mode(False):  # may be used in training later
        return torch.tensor(values, dtype=dtype, device=device)


def lattice_size(image: torch.Tensor) -> tuple[int, int, int]:
    """(D, H, W) of a tensor (B, C, D, H, W)."""
    depth, height, width = image.shape[2:]
    return depth, height, width


def warp(
    image: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear", padding: str = "border"
) -> torch.Tensor:
    """Sample `image` (B, C, D', H', W') at x + u(x): (B, C, D, H, W) on the lattice of `displacement`.

    mode, padding: as in `torch.nn.functional.grid_sample`. On a CPU grid_sample runs one thread per batch item, so the
    output is cut into slabs that share the image.
    """
    size = lattice_size(displacement)
    scale = constant(tuple(2 / max(n - 1, 1) for n in reversed(image.shape[2:])), image.device)
    points = _moved_nodes(displacement).mul_(scale).sub_(1)
    splits = strategy_for(image.device).splits_samples and len(image) == 1
    slabs = math.gcd(size[0], torch.get_num_threads()) if splits else 1
    if slabs == 1:
        return F.grid_sample(image, points, mode=mode, padding_mode=padding, align_corners=True)
    points = points.reshape(slabs, size[0] // slabs, *size[1:], 3)
    parts = F.grid_sample(
        image.expand(slabs, -1, -1, -1, -1), points, mode=mode, padding_mode=padding, align_corners=True
    )
    return parts.transpose(0, 1).reshape(1, image.shape[1], *size)


def _moved_nodes(displacement: torch.Tensor) -> torch.Tensor:
    """(B, D, H, W, 3): where each node is moved to, in voxels (i, j, k), the order of grid_sample."""
    size, dtype = lattice_size(displacement), torch.promote_types(displacement.dtype, torch.float32)
    nodes = _nodes_along(size, dtype, displacement.device)
    if displacement.requires_grad:
        return torch.stack([displacement[:, axis] + nodes[axis] for axis in (2, 1, 0)], -1)
    points = displacement.new_empty(len(displacement), *size, 3, dtype=dtype)
    for axis in range(3):
        torch.add(displacement[:, axis], nodes[axis], out=points[..., 2 - axis])
    return points


def _nodes_along(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """The coordinates of the nodes along (k, j, i), each to be broadcast over the lattice."""
    return [
        torch.arange(n, dtype=dtype, device=device).view([n if a == b else 1 for b in range(3)])
        for a, n in enumerate(size)
    ]


def warp_image(image: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """`warp` of one scalar image, exact to within 1/200 voxel, in half the time on a CPU.

    torch vectorizes grid_sample in 2D only. All rows of all planes are stacked into one tall 2D image with two channels
    (each plane and the one after it); bilinear samples of both are then interpolated along the first axis. The row
    number leaves 8 bits to its fraction for 256 planes of 256 rows, hence the 1/200 voxel.
    """
    strategy = strategy_for(image.device)
    if not strategy.tall_picture or image.shape[:2] != (1, 1) or image.shape[2] < 2:
        return warp(image, displacement)
    planes, rows, columns = image.shape[2:]
    plane = rows * columns  # by which the second channel is ahead of the first in the same memory
    longer = F.pad(image, (0, 0, 0, 0, 0, 1))
    picture = longer.view(-1).as_strided((1, 2, planes * rows, columns), (planes * plane, plane, columns, 1))
    size = lattice_size(displacement)
    nodes = _nodes_along(size, torch.float32, image.device)
    result = torch.empty(1, 1, *size, device=image.device)
    block = strategy.block_voxels or math.prod(size)
    at_once = max(1, block // (size[1] * size[2])) * torch.get_num_threads()
    for first in range(0, size[0], at_once):
        slab = slice(first, first + at_once)
        k, j, i = displacement[0, :, slab]
        points = k + nodes[0][slab], j + nodes[1], i + nodes[2]
        result[0, 0, slab] = _sample_picture(picture, planes, points)
    return result


def _sample_picture(
    picture: torch.Tensor, planes: int, points: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """(D, H, W): samples of an image of so many planes at points (k, j, i), each (D, H, W), which are overwritten.

    picture: (1, 2, planes * rows, columns), of `warp_image`.
    """
    (k, j, i), (height, columns) = points, picture.shape[2:]
    threads = math.gcd(len(k), torch.get_num_threads())
    k.clamp_(0, planes - 1)
    plane = k.floor().clamp_(max=planes - 2)
    row = j.clamp_(0, height // planes - 1).add_(plane, alpha=height // planes)
    places = torch.stack([i.mul_(2 / max(columns - 1, 1)).sub_(1), row.mul_(2 / (height - 1)).sub_(1)], -1)
    samples = F.grid_sample(
        picture.expand(threads, -1, -1, -1),
        places.view(threads, -1, k.shape[2], 2),
        padding_mode="border",
        align_corners=True,
    )
    before, after = samples.split(1, 1)
    return torch.lerp(before, after, k.sub_(plane).view(threads, 1, -1, k.shape[2])).view(k.shape)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """The displacement of x -> outer(inner(x)), both (B, 3, D, H, W) in voxels."""
    return warp(outer, inner).add_(inner)


def compose_small_step(displacement: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """`compose(displacement, step)` for steps of at most one voxel, without products of two components of the step.

    Interpolates along each axis with the neighbor on the side of the step. Takes a third of the time of `compose`,
    which reads eight neighbors of each voxel.
    """
    result = displacement + step
    for axis in range(3):
        n = displacement.shape[axis + 2]
        difference, along = displacement.diff(dim=axis + 2), step[:, axis : axis + 1]
        ahead, behind = along.narrow(axis + 2, 0, n - 1).clamp(min=0), along.narrow(axis + 2, 1, n - 1).clamp(max=0)
        result.narrow(axis + 2, 0, n - 1).addcmul_(ahead, difference)
        result.narrow(axis + 2, 1, n - 1).addcmul_(behind, difference)
    return result


def exponentiate(velocity: torch.Tensor, steps: int | None = None) -> torch.Tensor:
    """Exponential of a stationary velocity field (B, 3, D, H, W) in voxels, by scaling and squaring.

    steps: number of squarings; by default as many as bring the first step below 1/8 voxel (Arsigny et al., MICCAI
        2006).
    """
    if steps is None:
        if not strategy_for(velocity.device).waits and not velocity.requires_grad:
            return _exponentiate_without_waiting(velocity)
        max_step = float(velocity.detach().abs().amax())
        steps = max(0, math.ceil(math.log2(max(max_step, 1e-12) * 8)))
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def _exponentiate_without_waiting(velocity: torch.Tensor) -> torch.Tensor:
    """`exponentiate` with a number of squarings that only the device knows: the others are computed, and not taken."""
    steps = (velocity.abs().amax().clamp(min=1e-12) * 8).log2().ceil().clamp(0, _MAX_SQUARINGS)
    displacement = velocity * torch.exp2(-steps)
    for step in range(_MAX_SQUARINGS):
        displacement = torch.where(steps > step, compose(displacement, displacement), displacement)
    return displacement


def invert(displacement: torch.Tensor, iterations: int = 12, tolerance: float = 1e-3) -> torch.Tensor:
    """Inverse displacement w of u (1, 3, D, H, W), with w(y) = -u(y + w(y)) at every node.

    Newton's method with steps of at most one voxel, until no residual exceeds `tolerance` voxels. A fixed-point
    iteration would diverge where the map stretches by more than two.
    """
    slopes, interval = _inverse_jacobian(displacement), strategy_for(displacement.device).look_interval
    inverse = torch.zeros_like(displacement)
    for iteration in range(1, iterations + 1):
        residual = compose(displacement, inverse)
        unsolved = residual.abs().amax() >= tolerance
        if iteration % interval == 0 and not bool(unsolved):
            break
        slope = warp(slopes, inverse).view(3, 3, *inverse.shape[2:])
        step = (slope * residual[0]).sum(1)[None]
        longest = step.pow(2).sum(1, keepdim=True).sqrt_().clamp_(min=1)
        inverse = inverse - step / longest * unsolved  # once solved it stays as it is, also where nobody looks
    return inverse


def _inverse_jacobian(displacement: torch.Tensor) -> torch.Tensor:
    """(1, 3, D, H, W) -> (1, 9, D, H, W): the matrices (I + du/dx)^-1 row by row, finite where nearly singular."""
    columns = [torch.gradient(displacement[0], dim=axis + 1)[0] for axis in range(3)]
    for axis in range(3):
        columns[axis][axis] += 1
    a, b, c = columns
    scale = 1 / determinant(columns).clamp(min=0.05)
    rows = [torch.linalg.cross(p, q, dim=0) * scale for p, q in ((b, c), (c, a), (a, b))]
    return torch.cat(rows)[None]


def resize(displacement: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Resample (B, 3, D, H, W) to a lattice of `size` over the same box (outer edges aligned), in its voxels."""
    if tuple(displacement.shape[2:]) == tuple(size):
        return displacement
    ratio = [new / old for new, old in zip(size, displacement.shape[2:])]
    resized = F.interpolate(displacement, size=tuple(size), mode="trilinear", align_corners=False)
    return resized * constant(tuple(ratio), displacement.device).view(1, 3, 1, 1, 1)


def border_taper(size: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """(1, 1, D, H, W): 0 on the outermost voxels, rising to 1 three voxels inside. Fields then end with the lattice."""
    k, j, i = border_ramps(size, device)
    return k * j * i


def border_ramps(size: tuple[int, int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factors of `border_taper` along (k, j, i): (1, 1, D, 1, 1), (1, 1, 1, H, 1) and (1, 1, 1, 1, W)."""

    def along(axis: int) -> torch.Tensor:
        n = size[axis]
        ramp = torch.minimum(torch.arange(n, device=device), torch.arange(n - 1, -1, -1, device=device)) / 3
        return ramp.clamp(max=1).view([n if other == axis + 2 else 1 for other in range(5)])

    return along(0), along(1), along(2)


def gradient(image: torch.Tensor) -> torch.Tensor:
    """Central differences of (1, 1, D, H, W) along (k, j, i), zero on the border: (1, 3, D, H, W), per voxel."""
    result = image.new_zeros(1, 3, *image.shape[2:])
    for axis in range(3):
        n = image.shape[axis + 2]
        inside = result[:, axis].narrow(axis + 1, 1, n - 2)
        torch.sub(image[:, 0].narrow(axis + 1, 2, n - 2), image[:, 0].narrow(axis + 1, 0, n - 2), out=inside)
        inside.mul_(0.5)
    return result


def gradient_wrt_displacement(warped: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Gradient of a similarity with respect to the displacement, (1, 3, D, H, W), by the chain rule.

    warped: (1, C, D, H, W). slope: its derivative with respect to each value of `warped`, of the same shape.
    """
    result = gradient(warped[:, :1]).mul_(slope[:, :1])
    for channel in range(1, warped.shape[1]):
        result.addcmul_(gradient(warped[:, channel : channel + 1]), slope[:, channel : channel + 1])
    return result


def length(vectors: torch.Tensor) -> torch.Tensor:
    """Euclidean length: (1, 3, ...) -> (1, 1, ...). On a CPU many times faster than torch.norm along a first axis."""
    a, b, c = vectors.split(1, 1)
    return a.square().addcmul_(b, b).addcmul_(c, c).sqrt_()


def determinant(columns: list[torch.Tensor]) -> torch.Tensor:
    """Determinant of the 3x3 matrix whose columns are three (3, ...) tensors: (...)."""
    a, b, c = columns
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """Jacobian determinant of x + u by central differences, one-sided on the border: (1, 3, D, H, W) -> (D, H, W)."""
    columns = []
    for axis in range(3):
        column = torch.gradient(displacement[0], dim=axis + 1)[0]
        column[axis] += 1
        columns.append(column)
    return determinant(columns)


def least_corner_jacobian(displacement: torch.Tensor) -> torch.Tensor:
    """Least of the eight determinants by one-sided differences at each voxel: (1, 3, D, H, W) -> (D, H, W).

    Where it is positive everywhere, no tetrahedron between neighboring voxels is inverted.
    """
    forward, backward = [], []
    for axis in range(3):
        difference = displacement[0].diff(dim=axis + 1)
        difference[axis] += 1
        n = difference.shape[axis + 1]
        forward.append(torch.cat([difference, difference.narrow(axis + 1, n - 1, 1)], axis + 1))
        backward.append(torch.cat([difference.narrow(axis + 1, 0, 1), difference], axis + 1))
    corners = itertools.product((forward, backward), repeat=3)
    least = determinant([side[axis] for axis, side in enumerate(next(corners))])
    for sides in corners:
        least = torch.minimum(least, determinant([side[axis] for axis, side in enumerate(sides)]))
    return least
