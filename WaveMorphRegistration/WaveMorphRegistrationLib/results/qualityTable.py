"""Agreement of structures and landmarks after a registration, and differences of volume, as table nodes.

Each function is a generator that yields between pieces of at most some tenths of a second, so that the panel stays
responsive, and returns the table node; `finish` runs one to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.evaluation import landmarks, metrics, structures
from wavemorph.io.images import same_lattice
from wavemorph.io.labels import LabelMap, Structure

from ..scene.landmarks import landmarksFromNode
from ..scene.segmentations import LabelLayer, labelLayers
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .reportTable import fillTable, millimeters
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
    """A table of Dice and HD95 (mm), before and after, of each structure of either segmentation.

    Where the result has it, with the median of the expected error (mm) in the structure of the fixed volume.

    Structures are paired as in `wavemorph evaluate`: by name, or by label (of a segmentation: by order) with a row that
    says so. Each is compared alone, so that structures may overlap.
    Raises InputError where a segmentation cannot be read, or where the segmentations have nothing in common.
    """
    _checkPlaces(result, fixedSegmentation, movingSegmentation)
    fixedLayers = yield from labelLayers(fixedSegmentation, _volume(result, FIXED_ROLE), _("fixed segmentation"))
    movingLayers = yield from labelLayers(movingSegmentation, _volume(result, MOVING_ROLE), _("moving segmentation"))
    yield
    fixed, moving = _labelMap(fixedLayers, fixedSegmentation), _labelMap(movingLayers, movingSegmentation)
    pairs, lattice = structures.pair_structures(fixed, moving), fixed.layers[0]
    measures = metrics.structure_entries(pairs)
    for when, through in (("before", sitk.Transform()), ("after", transformFromNode(result.transform, lattice))):
        warped: list[np.ndarray] = []
        for image in moving.layers:
            warped.append((yield from _resampled(image, lattice, through)))
        for number in pairs.common:
            pair = pairs.numbered[number]
            inFixed = sitk.GetArrayViewFromImage(fixed.layers[pair.fixed.layer]) == pair.fixed.label
            inMoving = warped[pair.moving.layer] == pair.moving.label
            measures[number].update(_overlap(inFixed, inMoving, lattice.GetSpacing(), when))
            yield
    errors = _expectedErrors(result, lattice)
    for number, pair in pairs.numbered.items():
        if errors is not None and pair.fixed is not None:
            inFixed = sitk.GetArrayViewFromImage(fixed.layers[pair.fixed.layer]) == pair.fixed.label
            measures[number]["expected_error_mm"] = metrics.median_error_mm(errors, inFixed)
            yield
    report = metrics.finished_label_report(measures, pairs)
    columns = _overlapColumns(errors is not None)
    rows = [(measure["name"] or str(label), *_cells(measure, columns)) for label, measure in report["labels"].items()]
    rows += [(remark, *[""] * len(columns)) for remark in report["remarks"]]
    rows += [(_(title), *_cells(mean, columns)) for title, mean in metrics.mean_rows(report)]
    header = (_("Structure"), *(column[0] for column in columns))
    return _filled(result, "overlap", _("overlap"), header, rows)


def landmarkTable(result: SceneResult, fixedPoints, movingPoints) -> Pieces:
    """A table of the distance (mm) between corresponding control points, before and after.

    Control points are paired as in `wavemorph evaluate`: by label, or by order with a row that says so. Those that have
    no position in one of the lists, or no partner, have a row without distances.
    Raises InputError where the control points cannot be paired.
    """
    _checkPlaces(result, fixedPoints, movingPoints)
    pairs = landmarks.pair_landmarks(landmarksFromNode(fixedPoints), landmarksFromNode(movingPoints))
    transform = transformFromNode(result.transform, imageFromVolumeNode(_volume(result, FIXED_ROLE)))
    yield
    before, after = (landmarks.landmark_report(pairs, through) for through in (sitk.Transform(), transform))
    rows = [
        (first["name"], f"{first['error_mm']:.2f}", f"{second['error_mm']:.2f}")
        for first, second in zip(before["landmarks"], after["landmarks"])
    ]
    rows += [(name, "-", "-") for name in pairs.left_out]
    rows += [(remark, "", "") for remark in pairs.remarks]
    rows.append((_("mean"), f"{before['mean']:.2f}", f"{after['mean']:.2f}"))
    return _filled(result, "landmarks", _("landmarks"), (_("Landmark"), _("Before, mm"), _("After, mm")), rows)


def volumeTable(result: SceneResult, fixedSegmentation) -> Pieces:
    """A table of the volume (ml) of each structure of the fixed volume, and of what the result has of it.

    With the Jacobian that is the volume (ml) of the same tissue in the moving volume; with the expected error, its
    median (mm).
    Raises InputError where the segmentation has no voxels.
    """
    _checkPlaces(result, fixedSegmentation)
    layers = yield from labelLayers(fixedSegmentation, _volume(result, FIXED_ROLE), _("fixed segmentation"))
    lattice = layers[0].image
    jacobian, errors = _jacobian(result, lattice), _expectedErrors(result, lattice)
    voxelMl = float(np.prod(lattice.GetSpacing())) / 1000
    header = [_("Structure"), _("Fixed, ml")]
    if jacobian is not None:
        header += [_("Moving, ml"), _("Moving larger by, %")]
    if errors is not None:
        header.append(_("Expected error, mm"))
    rows = []
    for name, layer, label in _structures(layers):
        inside = sitk.GetArrayViewFromImage(layers[layer].image) == label
        fixed = np.count_nonzero(inside) * voxelMl
        if fixed:
            row = [name, f"{fixed:.2f}"]
            if jacobian is not None:
                moving = float(jacobian[inside].sum()) * voxelMl
                row += [f"{moving:.2f}", f"{100 * (moving / fixed - 1):+.1f}"]
            if errors is not None:
                row.append(_written(metrics.median_error_mm(errors, inside), millimeters))
            rows.append(tuple(row))
        yield
    if not rows:
        raise InputError(_("The segmentation {name} has no voxels.").format(name=fixedSegmentation.GetName()))
    return _filled(result, "volumes", _("volumes"), tuple(header), rows)


def _jacobian(result: SceneResult, lattice: sitk.Image) -> np.ndarray | None:
    """The Jacobian of a result (k, j, i) on a lattice; None where the result has none."""
    if result.jacobian is None:
        return None
    image = imageFromVolumeNode(result.jacobian)
    return sitk.GetArrayFromImage(image if same_lattice(image, lattice) else sitk.Resample(image, lattice))


def _expectedErrors(result: SceneResult, lattice: sitk.Image) -> np.ndarray | None:
    """The expected errors of a result (k, j, i), mm, on a lattice; None where the result has none."""
    if result.expectedError is None:
        return None
    return metrics.error_on_lattice(imageFromVolumeNode(result.expectedError), lattice)


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


def _labelMap(layers: list[LabelLayer], node) -> LabelMap:
    """The structures of a node that have voxels. A number in place of a name is no name. Raises InputError."""
    found = tuple(
        Structure("" if name == str(label) else name, label, layer) for name, layer, label in _structures(layers)
    )
    if not found:
        raise InputError(_("The segmentation {name} has no voxels.").format(name=node.GetName()))
    return LabelMap(tuple(layer.image for layer in layers), found)


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


def _overlapColumns(withError: bool) -> list[tuple[str, str, Callable[[float], str]]]:
    """(title, key of a measure, how its value is written) of the columns after the name of the structure."""
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        (_("Dice before"), "dice_before", "{:.3f}".format),
        (_("Dice after"), "dice_after", "{:.3f}".format),
        (_("HD95 before, mm"), "hd95_before_mm", "{:.2f}".format),
        (_("HD95 after, mm"), "hd95_after_mm", "{:.2f}".format),
    ]
    if withError:
        columns.append((_("Expected error, mm"), "expected_error_mm", millimeters))
    return columns


def _cells(measure: dict, columns) -> list[str]:
    return [_written(measure.get(key), write) for _title, key, write in columns]


def _written(value: float | None, write: Callable[[float], str]) -> str:
    return write(value) if value is not None else "-"


def _filled(result: SceneResult, table: str, title: str, header, rows):
    node = result.addTable(table, title)
    fillTable(node, header, rows)
    return node
