"""Measures of a registration: overlap, surface distance, landmark and expected error, folding and volume change.

Free of torch, so that Slicer's own process can use it. Arrays are (D, H, W) = (k, j, i), spacings mm along (i, j, k)
as in SimpleITK, points LPS mm. Transforms map fixed points to moving points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..io.files import without_names
from ..io.images import same_lattice
from ..io.labels import LabelMap, Structure, label_map_of
from ..io.points import transform_points
from .structures import StructurePair, StructurePairs, pair_structures, uncropped_layers

_SLAB_PLANES = 32


def dice(a: np.ndarray, b: np.ndarray, labels: Iterable[int]) -> dict[int, float]:
    """The Dice overlap 2 |A and B| / (|A| + |B|) of each label in two label maps.

    Parameters:
        a: (D, H, W), label numbers.
        b: the same, on the same lattice.
        labels: the labels to compare.

    Returns:
        Label -> Dice, 0 to 1; NaN where neither map has the label.

    Raises:
        InputError: the shapes differ.

    Reference:
        Dice, Ecology 1945, 26(3), 297.
    """
    a, b = np.asarray(a), np.asarray(b)
    _check_shapes(a, b)
    in_a, in_b, in_both = _counts(a), _counts(b), _counts(a[a == b])
    result = {}
    for label in labels:
        total = in_a.get(label, 0) + in_b.get(label, 0)
        result[int(label)] = 2 * in_both.get(label, 0) / total if total else math.nan
    return result


def hausdorff95_mm(a: np.ndarray, b: np.ndarray, label: int, spacing: Sequence[float]) -> float:
    """The robust Hausdorff distance (HD95) of one label in two label maps, in mm.

    It is the larger of the directed 95th percentiles of the distances between border voxels. A border voxel has at
    least one of its six neighbors outside the structure; the end of the volume is not a border.

    Parameters:
        a: (D, H, W), label numbers.
        b: the same, on the same lattice.
        label: the label to compare.
        spacing: mm along (i, j, k).

    Returns:
        The distance in mm; NaN where either map lacks the label.

    Raises:
        InputError: the shapes differ.
    """
    a, b = np.asarray(a), np.asarray(b)
    _check_shapes(a, b)
    a, b = a == label, b == label
    if not a.any() or not b.any():
        return math.nan
    box = _bounding_box(a | b)
    a, b = _border(a[box]), _border(b[box])
    if not a.any() or not b.any():  # a structure that fills the whole volume has no border
        return math.nan
    to_a, to_b = _distance_mm(a, spacing), _distance_mm(b, spacing)
    return float(max(np.percentile(to_a[b], 95), np.percentile(to_b[a], 95)))


def target_registration_error_mm(
    transform: sitk.Transform, fixed_points: np.ndarray, moving_points: np.ndarray
) -> np.ndarray:
    """The distance |transform(f) - m| of each pair of landmarks, in the moving space.

    Parameters:
        transform: fixed points -> moving points, LPS mm.
        fixed_points: (N, 3), LPS mm.
        moving_points: (N, 3), LPS mm, in the same order.

    Returns:
        (N,), mm.

    Raises:
        InputError: the lists differ in length.
    """
    fixed_points, moving_points = np.asarray(fixed_points, float), np.asarray(moving_points, float)
    if fixed_points.shape != moving_points.shape:
        raise InputError(
            f"There are {len(fixed_points)} fixed and {len(moving_points)} moving points; give lists that correspond "
            "point by point."
        )
    return np.linalg.norm(transform_points(fixed_points, transform) - moving_points, axis=1)


def warp_labels(moving_labels: sitk.Image, fixed: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """The moving label map on the lattice of `fixed`: out(x) = labels(transform(x)), nearest neighbor, 0 outside."""
    return sitk.Resample(moving_labels, fixed, transform, sitk.sitkNearestNeighbor, 0)


def folding(field: sitk.Image, mask: sitk.Image | None = None) -> dict:
    """The number of voxels where the map x -> x + field(x) is folded.

    Two tests are counted. Central: the Jacobian determinant from central differences (one-sided on the border) is
    <= 0. Strict: any of the eight determinants from one-sided differences is <= 0.

    Parameters:
        field: displacement, a 3D vector image, LPS mm.
        mask: voxels that are not 0 are counted, on the lattice of `field`; None counts all.

    Returns:
        The keys of a registration's report["folding"] (central_voxels, central_percent, strict_voxels,
        strict_percent, evaluated_voxels), the smallest determinant (min), and the standard deviation of log J with J
        clamped to [0.001, 1000] (sd_log).

    Raises:
        InputError: the field is not a 3D vector image, or the mask is empty or on another lattice.
    """
    vectors = sitk.GetArrayViewFromImage(field)
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3 or min(field.GetSize()) < 2:
        raise InputError(
            f"Folding is measured in a 3D field of three components, not an image of {field.GetSize()} voxels and "
            f"{field.GetNumberOfComponentsPerPixel()} component(s)."
        )
    if mask is not None and not same_lattice(mask, field):
        raise InputError(
            f"The mask ({mask.GetSize()} voxels) does not lie on the lattice of the field ({field.GetSize()} voxels)."
        )
    inside = sitk.GetArrayViewFromImage(mask) != 0 if mask is not None else np.ones(vectors.shape[:3], bool)
    if not inside.any():
        raise InputError("The mask is empty; folding cannot be measured.")
    axes_mm = np.reshape(field.GetDirection(), (3, 3)) * np.asarray(field.GetSpacing())
    to_voxels = np.linalg.inv(axes_mm)[::-1].T  # LPS mm -> voxels (k, j, i)

    depth = len(vectors)
    central, strict = [], 0
    for start in range(0, depth, _SLAB_PLANES):  # slabs with one slice more on both sides, to bound the memory
        stop = min(start + _SLAB_PLANES, depth)
        first, last = max(start - 1, 0), min(stop + 1, depth)
        own = slice(start - first, stop - first)
        counted = inside[start:stop]
        displacement = vectors[first:last] @ to_voxels
        central.append(_central_jacobian(displacement)[own][counted])
        strict += int(np.count_nonzero(_strictly_folded(displacement)[own] & counted))
    jacobian = np.concatenate(central)
    nodes, folded = jacobian.size, int(np.count_nonzero(jacobian <= 0))
    return {
        "central_voxels": folded,
        "central_percent": 100 * folded / nodes,
        "strict_voxels": strict,
        "strict_percent": 100 * strict / nodes,
        "evaluated_voxels": nodes,
        "min": float(jacobian.min()),
        "sd_log": float(np.log(np.clip(jacobian, 1e-3, 1e3)).std()),
    }


def volume_change(jacobian: sitk.Image, labels: sitk.Image) -> dict[int, float]:
    """The mean Jacobian determinant in each structure: its volume in the moving image over that in the fixed image.

    Parameters:
        jacobian: determinant of the map fixed -> moving; above 1 the moving tissue is larger.
        labels: label map of the fixed image, on the same lattice.

    Returns:
        Label -> volume ratio, without background.

    Raises:
        InputError: the lattices differ.
    """
    if not same_lattice(jacobian, labels):
        raise InputError(
            f"The Jacobian ({jacobian.GetSize()} voxels) and the label map ({labels.GetSize()} voxels) do not lie on "
            "the same lattice; give the label map of the fixed image."
        )
    values = sitk.GetArrayViewFromImage(jacobian)
    numbers, position = np.unique(sitk.GetArrayViewFromImage(labels), return_inverse=True)
    position = position.ravel()
    means = np.bincount(position, values.ravel()) / np.bincount(position)
    return {int(number): float(mean) for number, mean in zip(numbers, means) if number != 0}


def expected_error_by_structure(error: sitk.Image, labels: sitk.Image | LabelMap) -> dict[Structure, float | None]:
    """The median of the expected error in each structure of the fixed image.

    Parameters:
        error: mm, as `Registration.expected_error`: 0 where nothing is estimated, which is not counted.
        labels: label map of the fixed image, on any lattice; a voxel has the error of the nearest voxel of `error`.

    Returns:
        Structure -> mm, None where no error is estimated in any of its voxels.

    Raises:
        InputError: the label map cannot be used.
    """
    label_map = _as_label_map(labels, "label map")
    errors = error_on_lattice(error, label_map.layers[0])
    layers = [sitk.GetArrayViewFromImage(layer) for layer in label_map.layers]
    return {each: median_error_mm(errors, layers[each.layer] == each.label) for each in label_map.structures}


def error_on_lattice(error: sitk.Image, lattice: sitk.Image) -> np.ndarray:
    """(D, H, W) mm: an expected error on another lattice. Not interpolated: 0 means unknown, not a small error."""
    if not same_lattice(error, lattice):
        error = sitk.Resample(error, lattice, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    return sitk.GetArrayFromImage(error)


def median_error_mm(errors: np.ndarray, inside: np.ndarray) -> float | None:
    """The median of the expected errors (D, H, W) above 0 in a mask of this shape; None where there are none."""
    known = errors[inside]
    known = known[known > 0]
    return float(np.median(known)) if known.size else None


def label_report(
    fixed_labels: sitk.Image | LabelMap,
    moving_labels: sitk.Image | LabelMap,
    transform: sitk.Transform,
    distances: bool = True,
    expected_error: sitk.Image | None = None,
) -> dict:
    """Dice and HD95 of every structure that either label map holds, before the transform (identity) and after it.

    Structures are paired by name where both maps give names, otherwise by label (`structures.pair_structures`).

    Parameters:
        fixed_labels: label map of the fixed image; the measures are taken on its lattice, which is extended where it is
            a segmentation of Slicer, whose file may be cropped to its segments.
        moving_labels: label map of the moving image.
        transform: fixed points -> moving points, LPS mm.
        distances: also compute HD95, which takes longer.
        expected_error: mm, as `Registration.expected_error`; None where it was not estimated.

    Returns:
        "labels": a number -> name, fixed_label and moving_label (None where a map lacks them), and dice_before,
        dice_after, hd95_before_mm and hd95_after_mm. The number is the label in the fixed map where it is unique. A
        structure that one map lacks has a Dice of 0. HD95 is None where a structure has no voxel in the volume or in
        one of the maps, and where `distances` is False. With `expected_error` also expected_error_mm, its median in the
        structure of the fixed map, or None.
        "mean": the four means over all structures of either map, and "mean_common" over those of both; None is left
        out. "paired_by": "name" or "label". "remarks": sentences on the files of the
        maps, on how structures are paired and which are not.

    Raises:
        InputError: the maps have no structure in common.
    """
    fixed, moving = _as_label_map(fixed_labels, "fixed label map"), _as_label_map(moving_labels, "moving label map")
    pairs = pair_structures(fixed, moving)
    layers = uncropped_layers(fixed, moving, pairs, transform)
    measures = structure_entries(pairs)
    for when, through in (("before", sitk.Transform()), ("after", transform)):
        warped = [sitk.GetArrayFromImage(warp_labels(layer, layers[0], through)) for layer in moving.layers]
        for numbers, fixed_array, moving_array in pairs.arrays(layers, warped):
            for number, overlap in dice(fixed_array, moving_array, numbers).items():
                distance = math.nan
                if distances:
                    distance = hausdorff95_mm(fixed_array, moving_array, number, layers[0].GetSpacing())
                measures[number][f"dice_{when}"] = overlap
                measures[number][f"hd95_{when}_mm"] = None if math.isnan(distance) else distance
    if expected_error is not None:
        errors = expected_error_by_structure(expected_error, fixed)
        for number, pair in pairs.numbered.items():
            measures[number]["expected_error_mm"] = errors[pair.fixed] if pair.fixed is not None else None
    return finished_label_report(measures, pairs, map(without_names, (*fixed.remarks, *moving.remarks)))


def structure_entries(pairs: StructurePairs) -> dict[int, dict[str, Any]]:
    """The entries "labels" of a label report before the common structures are measured."""
    return {number: _described(pair) for number, pair in pairs.numbered.items()}


def finished_label_report(
    measures: dict[int, dict[str, Any]], pairs: StructurePairs, remarks: Iterable[str] = ()
) -> dict[str, Any]:
    """A label report, as of `label_report`, from its measured entries. remarks: on the files of the maps."""
    return {
        "labels": measures,
        "mean": _means(list(measures.values())),
        "mean_common": _means([measures[number] for number in pairs.common]),
        "paired_by": pairs.paired_by,
        "remarks": [*remarks, *pairs.remarks],
    }


def format_table(report: dict, names: dict[int, str] | None = None) -> str:
    """The result of `label_report` as an aligned text table.

    Parameters:
        report: as `label_report` returns it.
        names: label -> name, as `read_label_names` returns it; by default the names that the maps give.
    """
    columns = [("dice_before", ".3f"), ("dice_after", ".3f"), ("hd95_before_mm", ".2f"), ("hd95_after_mm", ".2f")]
    titles = ["label", "Dice before", "after", "HD95 mm before", "after"]
    if any("expected_error_mm" in measure for measure in report["labels"].values()):
        columns.append(("expected_error_mm", ".2f"))
        titles.append("expected error mm")
    rows: list[tuple[str, ...]] = [tuple(titles)]
    entries = [(_called(int(label), measure, names or {}), measure) for label, measure in report["labels"].items()]
    for title, measure in [*entries, *mean_rows(report)]:
        values = ((measure.get(key), form) for key, form in columns)
        rows.append((title, *(format(value, form) if value is not None else "-" for value, form in values)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )


def mean_rows(report: dict) -> list[tuple[str, dict[str, float | None]]]:
    """(title, means) of a label report: one row, or two where a map lacks structures."""
    if all(_only_in(measure) == "" for measure in report["labels"].values()):
        return [("mean", report["mean"])]
    return [("mean, 0 where missing", report["mean"]), ("mean over common", report["mean_common"])]


def _as_label_map(labels: sitk.Image | LabelMap, name: str) -> LabelMap:
    return labels if isinstance(labels, LabelMap) else label_map_of(labels, name)


def _described(pair: StructurePair) -> dict[str, Any]:
    """The entry of a structure before it is measured: what holds where a map lacks it."""
    given = next(each for each in (pair.fixed, pair.moving) if each is not None)
    return {
        "name": given.name or None,
        "fixed_label": pair.fixed.label if pair.fixed is not None else None,
        "moving_label": pair.moving.label if pair.moving is not None else None,
        "dice_before": 0.0,
        "dice_after": 0.0,
        "hd95_before_mm": None,
        "hd95_after_mm": None,
    }


def _means(measures: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    mean: dict[str, float | None] = {}
    for key in ("dice_before", "dice_after", "hd95_before_mm", "hd95_after_mm"):
        known = [value for measure in measures if (value := measure[key]) is not None]
        mean[key] = float(np.mean(known)) if known else None
    return mean


def _called(label: int, measure: dict[str, Any], names: dict[int, str]) -> str:
    name = names.get(label) or measure.get("name")
    title = f"{label} {name}" if name else str(label)
    only = _only_in(measure)
    return f"{title} ({only} only)" if only else title


def _only_in(measure: dict[str, Any]) -> str:
    """ "fixed" or "moving" where only that map holds the structure, otherwise ""."""
    if measure.get("fixed_label", 0) is None:
        return "moving"
    return "fixed" if measure.get("moving_label", 0) is None else ""


def _check_shapes(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise InputError(f"The label maps differ in shape, {a.shape} and {b.shape}; resample one onto the other.")


def _counts(array: np.ndarray) -> dict[int, int]:
    numbers, counts = np.unique(array, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist()))


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The box of the mask with one voxel around it, inside the volume."""
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(max(occupied[0] - 1, 0), occupied[-1] + 2))
    return tuple(box)


def _border(mask: np.ndarray) -> np.ndarray:
    """The voxels of the mask with one of their six neighbors outside it."""
    border = np.zeros_like(mask)
    for axis in range(3):
        lower, upper = _ends(axis)
        border[lower] |= ~mask[upper]
        border[upper] |= ~mask[lower]
    return border & mask


def _distance_mm(voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The distance in mm from each voxel to the nearest of `voxels`."""
    image = sitk.GetImageFromArray(voxels.astype(np.uint8))
    image.SetSpacing([float(step) for step in spacing])
    return np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, False, False, True)))


def _central_jacobian(displacement: np.ndarray) -> np.ndarray:
    """(D, H, W, 3) in voxels (k, j, i) -> (D, H, W): the determinant of the map, by central differences."""
    columns = []
    for axis in range(3):
        column = np.gradient(displacement, axis=axis)
        column[..., axis] += 1
        columns.append(column)
    return _determinant(columns)


def _strictly_folded(displacement: np.ndarray) -> np.ndarray:
    """(D, H, W, 3) in voxels (k, j, i) -> (D, H, W): whether any determinant from one-sided differences is <= 0."""
    sides = []
    for axis in range(3):
        step = np.diff(displacement, axis=axis)
        step[..., axis] += 1
        first, last = (np.take(step, [end], axis=axis) for end in (0, -1))
        sides.append((np.concatenate([step, last], axis), np.concatenate([first, step], axis)))
    folded = np.zeros(displacement.shape[:3], bool)
    for columns in itertools.product(*sides):
        folded |= _determinant(columns) <= 0
    return folded


def _determinant(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Of 3x3 matrices given by three columns (..., 3)."""
    a, b, c = columns
    return (
        a[..., 0] * (b[..., 1] * c[..., 2] - b[..., 2] * c[..., 1])
        - a[..., 1] * (b[..., 0] * c[..., 2] - b[..., 2] * c[..., 0])
        + a[..., 2] * (b[..., 0] * c[..., 1] - b[..., 1] * c[..., 0])
    )


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices of all but the last, and all but the first, along an axis."""
    lower, upper = [slice(None)] * 3, [slice(None)] * 3
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return tuple(lower), tuple(upper)
