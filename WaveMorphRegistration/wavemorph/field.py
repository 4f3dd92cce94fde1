"""Displacement and velocity fields on a voxel lattice (paper section 3.7, and the diffeomorphic part that is ours).

Everything here is in voxels of the field's own lattice: tensors (B, C, D, H, W) = (k, j, i), and a displacement u has
channels (k, j, i), meaning x -> x + u(x). Millimetres exist in `geometry.py` only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F

_BLOCK = 400_000  # voxels of a block: some of them fit into the cache


@lru_cache(maxsize=8)
def _identity(size: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Voxel coordinates (1, D, H, W, 3) in grid_sample's order (i, j, k)."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]


def warp(
    image: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear", padding: str = "border"
) -> torch.Tensor:
    """Sample `image` (B, C, D', H', W') at x + u(x), giving (B, C, D, H, W) on the lattice of `displacement`.

    On the CPU grid_sample runs one thread per batch item, so the output is cut into slabs that share the image.
    """
    size = tuple(displacement.shape[2:])
    points = displacement.flip(1).movedim(1, -1) + _identity(size, displacement.device)
    scale = torch.tensor([2 / max(n - 1, 1) for n in reversed(image.shape[2:])], device=image.device)
    points = points.mul_(scale).sub_(1)
    slabs = math.gcd(size[0], torch.get_num_threads()) if image.device.type == "cpu" and len(image) == 1 else 1
    if slabs == 1:
        return F.grid_sample(image, points, mode=mode, padding_mode=padding, align_corners=True)
    points = points.reshape(slabs, size[0] // slabs, *size[1:], 3)
    parts = F.grid_sample(
        image.expand(slabs, -1, -1, -1, -1), points, mode=mode, padding_mode=padding, align_corners=True
    )
    return parts.transpose(0, 1).reshape(1, image.shape[1], *size)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """The displacement of x -> outer(inner(x)), both (B, 3, D, H, W) in voxels."""
    return warp(outer, inner).add_(inner)


def exponentiate(velocity: torch.Tensor, steps: int | None = None) -> torch.Tensor:
    """exp(v) by scaling and squaring; `steps` squarings, or as many as bring the first step below 1/8 voxel."""
    if steps is None:
        longest = float(velocity.detach().abs().amax())
        steps = max(0, math.ceil(math.log2(max(longest, 1e-12) * 8)))
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def invert(displacement: torch.Tensor, iterations: int = 12, tolerance: float = 1e-3) -> torch.Tensor:
    """The inverse w of u, with w(y) = -u(y + w(y)) at every node, by Newton's method with steps of at most one voxel.

    A plain fixed-point iteration would diverge wherever the map stretches by more than two.
    """
    slopes = _inverse_jacobian(displacement)
    inverse = torch.zeros_like(displacement)
    for _ in range(iterations):
        residual = compose(displacement, inverse)
        if float(residual.abs().amax()) < tolerance:
            break
        slope = warp(slopes, inverse).view(3, 3, *inverse.shape[2:])
        step = (slope * residual[0]).sum(1)[None]
        length = step.pow(2).sum(1, keepdim=True).sqrt_().clamp_(min=1)
        inverse = inverse - step / length
    return inverse


def _inverse_jacobian(displacement: torch.Tensor) -> torch.Tensor:
    """(1, 3, D, H, W) -> (1, 9, D, H, W), the matrices (I + du/dx)^-1 row by row, kept finite where nearly singular."""
    columns = [torch.gradient(displacement[0], dim=axis + 1)[0] for axis in range(3)]
    for axis in range(3):
        columns[axis][axis] += 1
    a, b, c = columns
    scale = 1 / determinant(columns).clamp(min=0.05)
    rows = [torch.linalg.cross(p, q, dim=0) * scale for p, q in ((b, c), (c, a), (a, b))]
    return torch.cat(rows)[None]


def resize(displacement: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Resample to a lattice of `size` voxels over the same box (outer edges aligned); lengths in the new voxels."""
    if tuple(displacement.shape[2:]) == tuple(size):
        return displacement
    ratio = [new / old for new, old in zip(size, displacement.shape[2:])]
    resized = F.interpolate(displacement, size=tuple(size), mode="trilinear", align_corners=False)
    return resized * torch.tensor(ratio, device=displacement.device).view(1, 3, 1, 1, 1)


def border_taper(size: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """0 on the outermost voxels, 1 from three voxels inside: the displacement ends where the lattice ends."""
    taper = torch.ones(1, 1, *size, device=device)
    for axis, n in enumerate(size):
        ramp = torch.minimum(torch.arange(n, device=device), torch.arange(n - 1, -1, -1, device=device)) / 3
        shape = [1] * 5
        shape[axis + 2] = n
        taper = taper * ramp.clamp(max=1).view(shape)
    return taper


def gradient(image: torch.Tensor) -> torch.Tensor:
    """Central differences of (1, 1, D, H, W) along (k, j, i), zero on the border: (1, 3, D, H, W), per voxel."""
    result = image.new_zeros(1, 3, *image.shape[2:])
    for axis in range(3):
        n = image.shape[axis + 2]
        inside = result[:, axis].narrow(axis + 1, 1, n - 2)
        torch.sub(image[:, 0].narrow(axis + 1, 2, n - 2), image[:, 0].narrow(axis + 1, 0, n - 2), out=inside)
        inside.mul_(0.5)
    return result


def by_displacement(warped: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The slope of a value by the displacement, (1, 3, D, H, W), from its `slope` by the warped (1, C, D, H, W)."""
    result = gradient(warped[:, :1]).mul_(slope[:, :1])
    for channel in range(1, warped.shape[1]):
        result.addcmul_(gradient(warped[:, channel : channel + 1]), slope[:, channel : channel + 1])
    return result


def smooth(field: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    """Separable Gaussian of (B, C, D, H, W) with edges continued. Slices and sums: faster than conv3d on a CPU."""
    if sigma_voxels <= 0:
        return field
    radius = max(1, math.ceil(2.5 * sigma_voxels))
    weights = [math.exp(-0.5 * (r / sigma_voxels) ** 2) for r in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])

    def along(part: torch.Tensor, axis: int) -> torch.Tensor:
        n = part.shape[axis]
        before_after = [0] * 6
        before_after[2 * (4 - axis)] = before_after[2 * (4 - axis) + 1] = radius
        padded = F.pad(part, before_after, mode="replicate")
        result = padded.narrow(axis, radius, n) * (weights[0] / total)
        for r in range(1, radius + 1):
            result.add_(padded.narrow(axis, radius - r, n), alpha=weights[r] / total)
            result.add_(padded.narrow(axis, radius + r, n), alpha=weights[r] / total)
        return result

    return separable(field, along)


def separable(image: torch.Tensor, along: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
    """`along(part, axis)`, which keeps shapes and looks along one axis only, for the axes 4, 3, 2 of (B, C, D, H, W).

    On a CPU block by block, so that what lies between the steps stays in the cache: half the time on large volumes.
    """
    depth, height, width = image.shape[2:]
    if image.device.type != "cpu" or image.requires_grad or depth * height * width <= _BLOCK:
        for axis in (4, 3, 2):
            image = along(image, axis)
        return image
    result = torch.empty_like(image)
    planes, rows = max(1, _BLOCK // (height * width)), max(1, _BLOCK // (depth * width))
    for whole, done in zip(image.split(1, 1), result.split(1, 1)):
        for first in range(0, depth, planes):
            part = slice(first, first + planes)
            done[:, :, part] = along(along(whole[:, :, part], 4), 3)
        for first in range(0, height, rows):
            part = slice(first, first + rows)
            done[:, :, :, part] = along(done[:, :, :, part], 2)
    return result


def determinant(columns: list[torch.Tensor]) -> torch.Tensor:
    """det of the 3x3 matrix whose columns are three (3, ...) tensors."""
    a, b, c = columns
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """det d(x + u)/dx by central differences (one-sided on the border): (1, 3, D, H, W) -> (D, H, W)."""
    columns = []
    for axis in range(3):
        column = torch.gradient(displacement[0], dim=axis + 1)[0]
        column[axis] += 1
        columns.append(column)
    return determinant(columns)


def least_corner_jacobian(displacement: torch.Tensor) -> torch.Tensor:
    """The least of the eight determinants from one-sided differences at each voxel: (1, 3, D, H, W) -> (D, H, W).

    Where it is positive everywhere, no tetrahedron between neighbouring voxels is turned inside out.
    """
    forward, backward = [], []
    for axis in range(3):
        difference = displacement[0].diff(dim=axis + 1)
        difference[axis] += 1
        n = difference.shape[axis + 1]
        forward.append(torch.cat([difference, difference.narrow(axis + 1, n - 1, 1)], axis + 1))
        backward.append(torch.cat([difference.narrow(axis + 1, 0, 1), difference], axis + 1))
    least = None
    for sides in itertools.product((forward, backward), repeat=3):
        value = determinant([side[axis] for axis, side in enumerate(sides)])
        least = value if least is None else torch.minimum(least, value)
    return least
