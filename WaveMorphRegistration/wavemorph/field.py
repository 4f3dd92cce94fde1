"""Displacement and velocity fields on a voxel lattice (paper section 3.7, and the diffeomorphic part that is ours).

Everything here is in voxels of the field's own lattice: tensors (B, C, D, H, W) = (k, j, i), and a displacement u has
channels (k, j, i), meaning x -> x + u(x). Millimetres exist in `geometry.py` only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
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


def warp_image(image: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """`warp` to within 1/200 voxel, in half the time for one image on a CPU: grid_sample is vectorised in 2D alone.

    All rows of all planes form one tall picture, twice: with each plane, and with the one after it. Bilinear samples of
    both are mixed along the first axis. The number of a row in the picture leaves 8 bits to its fraction where there
    are 256 planes of 256 rows.
    """
    if image.device.type != "cpu" or image.shape[:2] != (1, 1) or image.shape[2] < 2:
        return warp(image, displacement)
    (planes, rows, columns), size = image.shape[2:], tuple(displacement.shape[2:])
    slabs = math.gcd(size[0], torch.get_num_threads())
    k, j, i = (
        component + torch.arange(n, dtype=torch.float32).view([n if axis == a else 1 for a in range(3)])
        for axis, (component, n) in enumerate(zip(displacement[0], size))
    )
    k.clamp_(0, planes - 1)
    plane = k.floor().clamp_(max=planes - 2)
    row = j.clamp_(0, rows - 1).add_(plane, alpha=rows)
    picture = torch.stack([image[0, 0], F.pad(image[0, 0, 1:], (0, 0, 0, 0, 0, 1))]).view(1, 2, -1, columns)
    places = torch.stack([i.mul_(2 / max(columns - 1, 1)).sub_(1), row.mul_(2 / (planes * rows - 1)).sub_(1)], -1)
    seen = F.grid_sample(
        picture.expand(slabs, -1, -1, -1),
        places.view(slabs, -1, size[2], 2),
        padding_mode="border",
        align_corners=True,
    )
    before, after = seen.split(1, 1)
    return torch.lerp(before, after, k.sub_(plane).view(slabs, 1, -1, size[2])).view(1, 1, *size)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """The displacement of x -> outer(inner(x)), both (B, 3, D, H, W) in voxels."""
    return warp(outer, inner).add_(inner)


def advance(displacement: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """`compose(displacement, step)` for steps of at most one voxel, but for products of two of a step's components.

    Along each axis the neighbour on the side of the step is interpolated with, as there: a third of the time of
    sampling, which alone looks up eight neighbours of each voxel.
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


def smooth(
    field: torch.Tensor, sigma_voxels: float | Sequence[float], out: torch.Tensor | None = None
) -> torch.Tensor:
    """Separable Gaussian of (B, C, D, H, W) with edges continued. Slices and sums: faster than conv3d on a CPU.

    sigma_voxels: for all axes, or along (k, j, i). out: where the result goes; it may be `field` itself.
    """
    sigmas = [sigma_voxels] * 3 if isinstance(sigma_voxels, int | float) else list(sigma_voxels)
    if max(sigmas) <= 0:
        return field if out is None else out.copy_(field)
    weights = [_half_gaussian(sigma) for sigma in sigmas]

    def along(part: torch.Tensor, axis: int) -> torch.Tensor:
        n, (middle, *others) = part.shape[axis], weights[axis - 2]
        if not others:
            return part
        result = part * middle
        first, last = part.narrow(axis, 0, 1), part.narrow(axis, n - 1, 1)
        for r, weight in enumerate(others, 1):
            inner, edge = max(n - r, 0), min(r, n)
            result.narrow(axis, edge, inner).add_(part.narrow(axis, 0, inner), alpha=weight)
            result.narrow(axis, 0, edge).add_(first, alpha=weight)
            result.narrow(axis, 0, inner).add_(part.narrow(axis, n - inner, inner), alpha=weight)
            result.narrow(axis, inner, edge).add_(last, alpha=weight)
        return result

    return separable(field, along, out)


def _half_gaussian(sigma: float) -> list[float]:
    """The weights of a Gaussian from its middle outwards; those on both sides add up to 1."""
    if sigma <= 0:
        return [1.0]
    weights = [math.exp(-0.5 * (r / sigma) ** 2) for r in range(max(1, math.ceil(2.5 * sigma)) + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


def separable(
    image: torch.Tensor, along: Callable[[torch.Tensor, int], torch.Tensor], out: torch.Tensor | None = None
) -> torch.Tensor:
    """`along(part, axis)`, which keeps shapes and looks along one axis only, for the axes 4, 3, 2 of (B, C, D, H, W).

    On a CPU block by block, so that what lies between the steps stays in the cache: half the time on large volumes.
    out: where the result goes; it may be `image` itself.
    """
    depth, height, width = image.shape[2:]
    if image.device.type != "cpu" or image.requires_grad or depth * height * width <= _BLOCK:
        for axis in (4, 3, 2):
            image = along(image, axis)
        return image if out is None else out.copy_(image)
    result = torch.empty_like(image) if out is None else out
    planes, rows = max(1, _BLOCK // (height * width)), max(1, _BLOCK // (depth * width))
    for whole, done in zip(image.split(1, 1), result.split(1, 1)):
        for first in range(0, depth, planes):
            part = slice(first, first + planes)
            done[:, :, part] = along(along(whole[:, :, part], 4), 3)
        for first in range(0, height, rows):
            part = slice(first, first + rows)
            done[:, :, :, part] = along(done[:, :, :, part], 2)
    return result


def by_slabs(
    measure: Callable[..., torch.Tensor], *fields: torch.Tensor, out: torch.Tensor, planes: int | None = None
) -> torch.Tensor:
    """`measure(*fields)`, which looks at neighbouring voxels only, slab by slab into `out` (..., D, H, W).

    What it holds in between is several times the fields, and lives for one slab at a time. fields: (1, C, D, H, W).
    """
    depth, height, width = out.shape[-3:]
    if planes is None:
        planes = max(1, _BLOCK // (height * width)) if out.device.type == "cpu" else depth
    for first in range(0, depth, planes):
        last = min(first + planes, depth)
        # a plane more on either side, where there is one; a difference needs two
        start, end = max(min(first - 1, depth - 2), 0), min(max(last + 1, 2), depth)
        part = measure(*(each[:, :, start:end] for each in fields))
        out[..., first:last, :, :] = part[..., first - start : last - start, :, :]
    return out


def length(vectors: torch.Tensor) -> torch.Tensor:
    """(1, 3, ...) -> (1, 1, ...). On a CPU many times faster than torch's norm along a first axis."""
    a, b, c = vectors.split(1, 1)
    return a.square().addcmul_(b, b).addcmul_(c, c).sqrt_()


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
