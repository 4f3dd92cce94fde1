"""Segmentation of the brain in one volume, in any orientation and contrast (ours).

Two scans of different contrast, or a whole head and a skull-stripped brain, share no intensities to compare, but they
show the same structures. Where a volume shows no plausible brain, `segment` returns None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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
    is_nearly_converged,
    is_plausible_brain,
    mean_max_probability,
    passes_confidence,
    rotation_in_lattice_deg,
)

_SPACING_MM = 1.0  # of the training data
_MARGIN_MM = 2.0
_MAX_VOXELS = 13_000_000  # 256 x 256 x 192 mm; what is larger is a head only in its upper part
_MIN_SIDE_MM = 48.0
_MAX_REORIENTATIONS = 4  # from one start
_MIN_HEIGHT_WITH_NECK_MM = 210.0  # of what a volume shows, above which its upper part is looked at
_HEAD_HEIGHT_MM = 180.0
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


@dataclass(frozen=True)
class Search:
    """What the search for a brain has found so far in one volume.

    best: the most confident plausible segmentation, or None. converged: whether that is a brain along the axes of its
    lattice, so that the search ends. confident: whether anything was segmented that could be a brain.
    """

    best: BrainSegmentation | None = None
    converged: bool = False
    confident: bool = False


def first_look(source: SegmentationInput) -> Search:
    """The brain as the volume states its orientation; where the volume shows much neck, also within its upper part."""
    box = bounding_box(source.foreground)
    divisor = source.network.config.divisor
    grid = make_working_grid(source.image, box, _SPACING_MM, _MARGIN_MM, divisor)
    found = _search_from(source, Search(), grid)
    planes = math.ceil(_HEAD_HEIGHT_MM / grid.spacing[2] / divisor) * divisor
    if found.converged or grid.size[2] * grid.spacing[2] < _MIN_HEIGHT_WITH_NECK_MM or planes >= grid.size[2]:
        return found
    return _search_from(source, found, grid.slab(grid.size[2] - planes, planes))


def look_along(source: SegmentationInput, found: Search, axes: Iterable[np.ndarray]) -> Search:
    """The search continued on lattices along `axes` (3x3, columns are LPS vectors), until it has converged."""
    for each in axes:
        if found.converged:
            break
        found = _search_from(source, found, source.grid_along(each))
    return found


def look_everywhere(source: SegmentationInput, found: Search) -> Search:
    """The search continued along the axes of the volume turned, unless the best so far is nearly upright and close."""
    if not found.confident or (found.best is not None and is_nearly_converged(found.best, source.atlas)):
        return found
    stated = make_working_grid(source.image, bounding_box(source.foreground), _SPACING_MM, _MARGIN_MM).direction
    return look_along(source, found, (stated @ turn for turn in _ROTATED_STARTS))


def finish(source: SegmentationInput, found: BrainSegmentation, flip_tta: bool = False) -> BrainSegmentation:
    """The segmentation with its rotation.

    flip_tta: test-time augmentation by one more pass: the mean with a segmentation of the mirrored volume on shifted
    coarse lattices.
    """
    if flip_tta:
        source.on_forward()
        fine = found.grid.resized(tuple(n * 2**source.network.config.flow_level for n in found.grid.shape))
        flipped = _segment_on_grid(source, fine, flip=True, pad_shift=_FLIP_TTA_SHIFT_VOXELS)
        assert flipped is not None
        found = replace(found, probabilities=(found.probabilities + flipped.probabilities).mul_(0.5))
    return replace(found, rotation_deg=angle_between_deg(RIGHT_ANTERIOR_SUPERIOR, head_axes(found, source.atlas)))


def segment(source: SegmentationInput, flip_tta: bool = False) -> BrainSegmentation | None:
    """Segment the brain of a single volume, or return None where it shows no plausible one.

    The network is trained on heads that are rotated by little. A rotated brain is therefore segmented again along its
    own axes, as far as the last segmentation shows them; where that does not converge, other starts are tried. The
    segmentation with the highest mean probability counts. flip_tta: see `finish`.
    """
    found = look_everywhere(source, first_look(source))
    return finish(source, found.best, flip_tta) if found.best is not None else None


def _search_from(source: SegmentationInput, found: Search, grid: WorkingGrid) -> Search:
    """The search after the segmentations that begin on `grid`."""
    for last in _reorient_and_segment(source, grid):
        best = found.best
        if is_plausible_brain(last, source.atlas) and (best is None or _is_better(last, best, source.atlas)):
            best = last
        found = Search(best, is_converged(last, source.atlas), confident=True)
    return found


def _is_better(last: BrainSegmentation, best: BrainSegmentation, atlas: StructureAtlas) -> bool:
    """More confident, and not more rotated in its lattice, where the network is wrong with confidence."""
    rotation, least = (rotation_in_lattice_deg(each, atlas) for each in (last, best))
    return rotation < max(least, ROTATION_TOLERANCE_DEG) and mean_max_probability(last) > mean_max_probability(best)


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
