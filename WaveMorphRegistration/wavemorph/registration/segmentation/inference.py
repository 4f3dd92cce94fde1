"""Segmentation of the brain in one volume, in any orientation and contrast (ours).

Two scans of different contrast, or a whole head and a skull-stripped brain, share no intensities to compare, but they
show the same structures. Where a volume shows no plausible brain, `segment` returns None.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ...network.segmentation import SegmentationNetwork
from ...spatial.grid import (
    WorkingGrid,
    image_from_tensor,
    make_grid_along_axes,
    make_working_grid,
    tensor_from_array,
    tensor_from_image,
)
from ...spatial.preprocessing import bounding_box, normalize
from ...spatial.resampling import resample_to_grid
from ...system.machine import computes_in_bfloat16
from .brain import BrainSegmentation, downsampled_maps
from .plausibility import (
    RIGHT_ANTERIOR_SUPERIOR,
    ROTATION_TOLERANCE_DEG,
    StructureAtlas,
    angle_between_deg,
    head_axes,
    is_converged,
    is_plausible_brain,
    mean_max_probability,
    passes_confidence,
    rotation_in_lattice_deg,
)

_SPACING_MM = 1.0  # of the training data
_MARGIN_MM = 2.0
_MAX_VOXELS = 20_000_000  # no head is this large
_MIN_SIDE_MM = 48.0
_MAX_REORIENTATIONS = 4  # from one start
_FLIP_TTA_SHIFT_VOXELS = 6  # by which the second pass of the test-time augmentation shifts the coarse lattices
_OPENING_RADIUS_MM = 4.0  # removes bridges from the brain to tissue that was taken for brain outside it
_SULCUS_RADIUS_MM = 6.0  # half the width of the fluid between gyri
_SKULL_MM = 6.0  # may surround a skull-stripped brain
_SKULL_STRIP_SPACING_MM = 3.0
# The fraction of the foreground that is farther than that from the brain: more in a whole head.
_MAX_FRACTION_BEYOND_BRAIN = 0.05
_ROTATED_STARTS = tuple(  # quarter turns about the right and anterior axes, and upside down
    np.array(rows, float)
    for rows in (
        ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
        ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
        ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
        ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
        ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    )
)


@dataclass(frozen=True)
class SegmentationInput:
    """A volume to be segmented and the network for it.

    image, foreground: SimpleITK images on one lattice. atlas: see `plausibility.StructureAtlas`. on_forward() is called
    before each pass of the network; it may raise `errors.Cancelled`.
    """

    network: SegmentationNetwork
    image: sitk.Image
    foreground: sitk.Image
    atlas: StructureAtlas
    on_forward: Callable[[], None] = lambda: None

    def grid_along(self, direction: np.ndarray) -> WorkingGrid:
        """A lattice for the network along any axes (3x3, columns are LPS vectors) around the foreground."""
        return make_grid_along_axes(direction, self.foreground, _SPACING_MM, _MARGIN_MM, self.network.config.divisor)


def segment(source: SegmentationInput, flip_tta: bool = False) -> BrainSegmentation | None:
    """Segment the brain, or return None where the volume shows no plausible one.

    The network is trained on heads that are rotated by little. A rotated brain is therefore segmented again along its
    own axes, as far as the last segmentation shows them; where that does not converge, other starts are tried. The
    segmentation with the highest mean probability counts.
    flip_tta: test-time augmentation by one more pass: the mean with a segmentation of the mirrored volume on shifted
    coarse lattices.
    """
    box = bounding_box(source.foreground)
    first = make_working_grid(source.image, box, _SPACING_MM, _MARGIN_MM, source.network.config.divisor)
    others = (source.grid_along(first.direction @ turn) for turn in _ROTATED_STARTS)
    best = None
    for start in itertools.chain([first], others):
        last = None
        for last in _reorient_and_segment(source, start):
            if is_plausible_brain(last, source.atlas) and (
                best is None or mean_max_probability(last) > mean_max_probability(best)
            ):
                best = last
        if last is None and start is first:
            break
        if last is not None and is_converged(last, source.atlas):
            break
    if best is None:
        return None
    if flip_tta:
        source.on_forward()
        fine = best.grid.resized(tuple(n * 2**source.network.config.flow_level for n in best.grid.shape))
        flipped = _segment_on_grid(source, fine, flip=True, pad_shift=_FLIP_TTA_SHIFT_VOXELS)
        assert flipped is not None
        best = replace(best, probabilities=(best.probabilities + flipped.probabilities).mul_(0.5))
    return replace(best, rotation_deg=angle_between_deg(RIGHT_ANTERIOR_SUPERIOR, head_axes(best, source.atlas)))


def _reorient_and_segment(source: SegmentationInput, grid: WorkingGrid) -> Iterator[BrainSegmentation]:
    """Segmentations along the axes of `grid`, then along those of the brain that each one shows, until both agree.

    Ends where a segmentation cannot be that of a brain.
    """
    for _ in range(_MAX_REORIENTATIONS):
        source.on_forward()
        found = _segment_on_grid(source, grid)
        if found is None or not passes_confidence(found, source.atlas):
            return
        yield found
        if rotation_in_lattice_deg(found, source.atlas) < ROTATION_TOLERANCE_DEG:
            return
        grid = source.grid_along(head_axes(found, source.atlas))


def _segment_on_grid(
    source: SegmentationInput, grid: WorkingGrid, flip: bool = False, pad_shift: int = 0
) -> BrainSegmentation | None:
    """One pass of the network on `grid`; None where the grid is too large or too small for a head.

    flip: whether left and right are exchanged for the network. pad_shift: voxels of padding before the grid along each
    axis, a multiple of the voxels in one voxel of the output.
    """
    if grid.voxels > _MAX_VOXELS or min(grid.size) * _SPACING_MM < _MIN_SIDE_MM:
        return None
    network = source.network
    device = next(network.parameters()).device
    inside = tensor_from_image(grid.resample(source.foreground, None, sitk.sitkNearestNeighbor), device)
    values = tensor_from_array(resample_to_grid(source.image, grid, None))[None, None].to(device)
    image = normalize(values, inside)
    with torch.inference_mode():
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            padding = [pad_shift, -pad_shift % network.config.divisor] * 3
            logits = network(F.pad(image.flip(-1) if flip else image, padding))
        coarser = 2**network.config.flow_level
        within = [slice(pad_shift // coarser, (pad_shift + n) // coarser) for n in grid.shape]
        probabilities = logits[(..., *within)].float().softmax(1)
        probabilities = probabilities.flip(-1) if flip else probabilities
    segmentation = _largest_component(probabilities, grid.resized(tuple(probabilities.shape[2:])))
    beyond = _fraction_beyond_brain(segmentation, inside)
    return replace(segmentation, skull_stripped=beyond < _MAX_FRACTION_BEYOND_BRAIN)


def _fraction_beyond_brain(segmentation: BrainSegmentation, inside: torch.Tensor) -> float:
    """The fraction of the foreground, `inside` (1, 1, D, H, W), beyond the brain, its fluid and the skull."""
    outside, grid = downsampled_maps(segmentation.probabilities[:, :1], segmentation.grid, _SKULL_STRIP_SPACING_MM)
    brain = image_from_tensor(1 - outside[0, 0], grid) > 0.5
    radius = [round(mm / max(grid.spacing)) for mm in (_SULCUS_RADIUS_MM, _SKULL_MM)]
    wide = sitk.BinaryDilate(sitk.BinaryMorphologicalClosing(brain, [radius[0]] * 3), [radius[1]] * 3)
    shown = F.interpolate(inside, size=grid.shape, mode="area")
    beyond = shown * (1 - tensor_from_image(wide, inside.device))
    return float(beyond.sum() / shown.sum().clamp(min=1))


def _largest_component(probabilities: torch.Tensor, grid: WorkingGrid) -> BrainSegmentation:
    """The largest connected component after an opening: without scalp and face that were taken for brain."""
    brain = image_from_tensor(1 - probabilities[0, 0], grid) > 0.5
    radius = round(_OPENING_RADIUS_MM / max(grid.spacing))
    components = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.BinaryErode(brain, [radius] * 3)))
    largest = tensor_from_image(sitk.BinaryDilate(components == 1, [radius + 1] * 3), probabilities.device)
    structures = probabilities[:, 1:] * largest
    outside = 1 - structures.sum(1, keepdim=True)
    return BrainSegmentation(torch.cat([outside, structures], 1), grid, skull_stripped=True)
