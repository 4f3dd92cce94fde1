"""Agreement of structures and landmarks after a registration, and differences of volume, as table nodes.

Each function is a generator that yields between pieces of at most some tenths of a second, so that the panel stays
responsive, and returns the table node; `finish` runs one to its end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.evaluation import metrics
from wavemorph.io.images import same_lattice

from ..scene.landmarks import landmarksFromNode
from ..scene.segmentations import LabelLayer, labelLayers
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .reportTable import fillTable
from .sceneResult import FIXED_ROLE, MOVING_ROLE, SceneResult

_SLAB_VOXELS = 500_000

Pieces = Generator[None, None, Any]


def finish(pieces: Pieces):
    """Run a measurement to its end, and return its table node."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def overlapTable(result: SceneResult, fixedSegmentation, movingSegmentation) -> Pieces:
    """A table of Dice and HD95 (mm), before and after, of each structure that both segmentations name.

    Each structure is compared alone, so that structures may overlap. Where no name is shared, label maps are compared
    by number and segmentations by order.
    Raises InputError where a segmentation cannot be read, or where the segmentations have nothing in common.
    """
    _checkPlaces(result, fixedSegmentation, movingSegmentation)
    fixedLayers = yield from labelLayers(fixedSegmentation, _volume(result, FIXED_ROLE), _("fixed segmentation"))
    movingLayers = yield from labelLayers(movingSegmentation, _volume(result, MOVING_ROLE), _("moving segmentation"))
    yield
    lattice = fixedLayers[0].image
    transform = transformFromNode(result.transform, lattice)
    measures: list[dict] = [{} for _pair in _pairs(fixedLayers, movingLayers)]
    names: list[str] = []
    for when, through in (("before", sitk.Transform()), ("after", transform)):
        warped: list[np.ndarray] = []
        for layer in movingLayers:
            warped.append((yield from _resampled(layer.image, lattice, through)))
        names = []
        for measure, (name, fixedIndex, fixedLabel, movingIndex, movingLabel) in zip(
            measures, _pairs(fixedLayers, movingLayers)
        ):
            fixed = sitk.GetArrayViewFromImage(fixedLayers[fixedIndex].image) == fixedLabel
            measure.update(_overlap(fixed, warped[movingIndex] == movingLabel, lattice.GetSpacing(), when))
            names.append(name)
            yield
    if not measures:
        raise InputError(
            _(
                "{fixed} and {moving} have no structure of the same name; rename the segments so that names agree."
            ).format(fixed=fixedSegmentation.GetName(), moving=movingSegmentation.GetName())
        )
    rows = [(name, *_cells(measure)) for name, measure in zip(names, measures)]
    rows.append((_("mean"), *_cells(_means(measures))))
    header = (_("Structure"), _("Dice before"), _("Dice after"), _("HD95 before, mm"), _("HD95 after, mm"))
    return _filled(result, "overlap", _("overlap"), header, rows)


def landmarkTable(result: SceneResult, fixedPoints, movingPoints) -> Pieces:
    """A table of the distance (mm) between corresponding control points, before and after.

    Raises InputError where the lists differ in length.
    """
    _checkPlaces(result, fixedPoints, movingPoints)
    fixed, moving = landmarksFromNode(fixedPoints), landmarksFromNode(movingPoints)
    transform = transformFromNode(result.transform, imageFromVolumeNode(_volume(result, FIXED_ROLE)))
    yield
    before = metrics.target_registration_error_mm(sitk.Transform(), fixed, moving)
    after = metrics.target_registration_error_mm(transform, fixed, moving)
    rows = [
        (fixedPoints.GetNthControlPointLabel(index), f"{pair[0]:.2f}", f"{pair[1]:.2f}")
        for index, pair in enumerate(zip(before, after))
    ]
    rows.append((_("mean"), f"{before.mean():.2f}", f"{after.mean():.2f}"))
    return _filled(result, "landmarks", _("landmarks"), (_("Landmark"), _("Before, mm"), _("After, mm")), rows)


def volumeTable(result: SceneResult, fixedSegmentation) -> Pieces:
    """A table of the volume (ml) of each structure of the fixed volume, and of the same tissue in the moving volume.

    Raises InputError where the segmentation has no voxels.
    """
    _checkPlaces(result, fixedSegmentation)
    layers = yield from labelLayers(fixedSegmentation, _volume(result, FIXED_ROLE), _("fixed segmentation"))
    lattice = layers[0].image
    image = imageFromVolumeNode(result.jacobian)
    jacobian = sitk.GetArrayFromImage(image if same_lattice(image, lattice) else sitk.Resample(image, lattice))
    voxelMl = float(np.prod(lattice.GetSpacing())) / 1000
    rows = []
    for name, layer, label in _structures(layers):
        inside = sitk.GetArrayViewFromImage(layers[layer].image) == label
        fixed = np.count_nonzero(inside) * voxelMl
        if fixed:
            moving = float(jacobian[inside].sum()) * voxelMl
            rows.append((name, f"{fixed:.2f}", f"{moving:.2f}", f"{100 * (moving / fixed - 1):+.1f}"))
        yield
    if not rows:
        raise InputError(_("The segmentation {name} has no voxels.").format(name=fixedSegmentation.GetName()))
    header = (_("Structure"), _("Fixed, ml"), _("Moving, ml"), _("Moving larger by, %"))
    return _filled(result, "volumes", _("volumes"), header, rows)


def _volume(result: SceneResult, role: str):
    """The volume of the pair where it was at the registration. Raises InputError."""
    node = result.volumeAsRegistered(role)
    if node is None:
        name = _("fixed") if role == FIXED_ROLE else _("moving")
        raise InputError(
            _("The {name} volume of {result} was deleted or changed, so that nothing can be measured on it.").format(
                name=name, result=result.name
            )
        )
    return node


def _checkPlaces(result: SceneResult, *nodes) -> None:
    """Raises InputError where a node is under a transform of the result, and so not where it was drawn."""
    for node in nodes:
        for transform in result.transformsOfThis():
            parent = node.GetParentTransformNode()
            if parent is not None and (parent is transform or parent.IsTransformNodeMyParent(transform)):
                raise InputError(
                    _(
                        "{node} is under the transform {transform}, which has already moved it; remove it from there "
                        "and measure again."
                    ).format(node=node.GetName(), transform=transform.GetName())
                )


def _structures(layers: list[LabelLayer]) -> list[tuple[str, int, int]]:
    """(name, index of the layer, label) of every structure, in the order of the labels."""
    found = [(label, index, name) for index, layer in enumerate(layers) for label, name in layer.names.items()]
    return [(name, index, label) for label, index, name in sorted(found)]


def _pairs(fixedLayers: list[LabelLayer], movingLayers: list[LabelLayer]) -> Iterator[tuple[str, int, int, int, int]]:
    """(name, layer and label in fixed, layer and label in moving) of each structure that both have."""
    fixed, moving = _structures(fixedLayers), _structures(movingLayers)
    byName = {name for name, *_rest in fixed} & {name for name, *_rest in moving}
    for name, layer, label in fixed:
        for other in moving:
            if (other[0] == name) if byName else (other[2] == label):
                moving.remove(other)  # of two structures of one name, the second is compared with the second
                yield name, layer, label, other[1], other[2]
                break


def _resampled(labels: sitk.Image, lattice: sitk.Image, transform: sitk.Transform) -> Pieces:
    """The array (k, j, i) of labels on another lattice, slab by slab: out(x) = labels(transform(x)), 0 outside."""
    columns, rows, planes = lattice.GetSize()
    thickness, slabs = max(1, _SLAB_VOXELS // (columns * rows)), []
    for first in range(0, planes, thickness):
        slab = sitk.Image([columns, rows, min(thickness, planes - first)], sitk.sitkUInt8)
        slab.SetSpacing(lattice.GetSpacing())
        slab.SetDirection(lattice.GetDirection())
        slab.SetOrigin(lattice.TransformIndexToPhysicalPoint((0, 0, first)))
        slabs.append(sitk.GetArrayFromImage(metrics.warp_labels(labels, slab, transform)))
        yield
    return np.concatenate(slabs)


def _overlap(fixed: np.ndarray, moved: np.ndarray, spacing, when: str) -> dict:
    """Dice and HD95 of two masks; the distance is None where one is empty."""
    distance = metrics.hausdorff95_mm(fixed, moved, True, spacing)
    voxels = np.count_nonzero(fixed) + np.count_nonzero(moved)
    overlap = 2 * np.count_nonzero(fixed & moved) / voxels if voxels else None
    return {f"dice_{when}": overlap, f"hd95_{when}_mm": None if np.isnan(distance) else distance}


def _means(measures: list[dict]) -> dict:
    known = {key: [measure[key] for measure in measures if measure[key] is not None] for key in measures[0]}
    return {key: float(np.mean(values)) if values else None for key, values in known.items()}


def _cells(measure: dict) -> list[str]:
    keys = (("dice_before", ".3f"), ("dice_after", ".3f"), ("hd95_before_mm", ".2f"), ("hd95_after_mm", ".2f"))
    return [format(measure[key], form) if measure[key] is not None else "-" for key, form in keys]


def _filled(result: SceneResult, table: str, title: str, header, rows):
    node = result.addTable(table, title)
    fillTable(node, header, rows)
    return node
