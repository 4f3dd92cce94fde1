"""The inverse of a displacement that is stored as an image, made when it is asked for."""

from __future__ import annotations

import SimpleITK as sitk
import torch

from ...io.result import displacement_transform
from ...spatial.grid import WorkingGrid
from ...spatial.inversion import TwoPartInverse


def invert_displacement_image(displacement: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """(inverse displacement, its correction) of a displacement image in LPS mm with one ring of zeros around it.

    The images are of the same kind; see `Registration`. The map itself is not changed, so that the inverse is less
    exact where it compresses strongly than after `Settings(inverse=True)`.
    """
    grid = WorkingGrid.inside_ring_of(displacement)
    with torch.inference_mode():
        inverse = TwoPartInverse(grid.from_mm(displacement_transform(displacement)))
        return grid.to_mm(inverse.first), grid.to_mm(inverse.second)
