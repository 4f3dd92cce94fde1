"""A displacement on a coarser lattice, for small files (ours)."""

from __future__ import annotations

import SimpleITK as sitk
import torch
import torch.nn.functional as F

from .displacement import lattice_size
from .folding import remove_folds
from .grid import WorkingGrid


def coarsen_displacement_image(displacement: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The displacement image, LPS mm, on every n-th node, as near to `spacing_mm` as this gives; without folds.

    Linear interpolation between the nodes is close to a least-squares fit: a sample of every n-th node is corrected
    once by what it misses around each node. displacement: as `WorkingGrid.to_mm` makes it.
    """
    grid = WorkingGrid.inside_ring_of(displacement)
    steps = [max(1, round(spacing_mm / side)) for side in grid.spacing][::-1]  # along k, j, i
    with torch.inference_mode():
        fine = grid.from_mm(sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64)))
        # the ring of zeros around both lattices: they begin at the same node, and the coarse one ends no earlier
        sizes = [-(-(n + 1) // step) - 1 for n, step in zip(lattice_size(fine), steps)]
        beyond = [(size + 1) * step - 1 - n for size, step, n in zip(sizes, steps, lattice_size(fine))]
        fine = F.pad(fine, [width for above in reversed(beyond) for width in (1, 1 + above)])
        coarse = fine[:, :, :: steps[0], :: steps[1], :: steps[2]].clone()
        interpolated = F.interpolate(coarse, lattice_size(fine), mode="trilinear", align_corners=True)
        coarse += _weighted_around_nodes(fine - interpolated, steps)
        coarse = coarse[:, :, 1:-1, 1:-1, 1:-1] / torch.tensor(steps).view(1, 3, 1, 1, 1)
        depth, height, width = sizes
        along_k, along_j, along_i = steps
        coarse_grid = WorkingGrid(
            size=(width, height, depth),
            spacing=(grid.spacing[0] * along_i, grid.spacing[1] * along_j, grid.spacing[2] * along_k),
            origin=grid.point((along_i - 1, along_j - 1, along_k - 1)),
            direction=grid.direction,
        )
        return coarse_grid.to_mm(remove_folds(coarse.contiguous()))


def _weighted_around_nodes(image: torch.Tensor, steps: list[int]) -> torch.Tensor:
    """Means of (1, 3, D, H, W) around every n-th node, with weights that fall linearly to zero at the next ones."""
    for axis, step in enumerate(steps):
        ramp = torch.arange(1, step + 1, dtype=image.dtype) / step**2
        kernel = torch.cat([ramp, ramp[:-1].flip(0)]).view(1, 1, -1)
        moved = image.movedim(axis + 2, -1)
        lines = F.conv1d(moved.reshape(-1, 1, moved.shape[-1]), kernel, stride=step, padding=step - 1)
        image = lines.view(*moved.shape[:-1], -1).movedim(-1, axis + 2)
    return image
