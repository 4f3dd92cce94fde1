"""Label maps with the names, colors and terminology of their structures. Does not import torch.

A label map has one layer, or several where structures overlap, as in a segmentation of Slicer (.seg.nrrd). Slicer's
keys of segments (Segment0_Name, Segment0_Color, Segment0_Tags, ...) are kept.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .images import validate_labels
from .reading import read_segmentation
from .text_files.label_names import label_names_beside

_SEGMENT_KEY = re.compile(r"Segment([0-9]{1,9})_(\w+)")
_SEGMENTATION_KEYS = "Segmentation_"
_REFERENCE_GEOMETRY = "Reference image geometry|"


@dataclass(frozen=True)
class Structure:
    """A structure that has voxels.

    Attributes:
        name: "" where the label map gives none.
        label: the value of its voxels.
        layer: the layer that holds them.
    """

    name: str
    label: int
    layer: int = 0


@dataclass(frozen=True)
class LabelMap:
    """A label map.

    Attributes:
        layers: 3D images of one integer type on one lattice; 0 is background.
        structures: what has voxels: the segments in their order, then labels that no segment has.
        keys: Slicer's keys of the segmentation and its segments; empty for a plain label map.
        remarks: sentences on its file that a user should see.
    """

    layers: tuple[sitk.Image, ...]
    structures: tuple[Structure, ...]
    keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    remarks: tuple[str, ...] = ()

    @property
    def names(self) -> dict[tuple[int, int], str]:
        """(layer, label) -> name of the structures that have one."""
        return {(each.layer, each.label): each.name for each in self.structures if each.name}

    @property
    def foreground(self) -> sitk.Image:
        """1 where any structure is, on the lattice of the layers."""
        mask = self.layers[0] != 0
        for layer in self.layers[1:]:
            mask = mask | (layer != 0)
        return mask

    def image(self) -> sitk.Image:
        """One image of one component a layer, with Slicer's keys where there are names."""
        image = sitk.Image(self.layers[0]) if len(self.layers) == 1 else sitk.Compose(list(self.layers))
        for key in image.GetMetaDataKeys():
            if key.isascii():
                image.EraseMetaData(key)
        for key, value in (self.keys or _new_keys(self)).items():
            image.SetMetaData(key, value)
        return image


def read_label_map(path: str | os.PathLike, name: str = "label map") -> LabelMap:
    """Read a label map of any format, or a segmentation of Slicer (.seg.nrrd), also of overlapping segments.

    Names are those of its segments, or of a file beside it (`text_files.label_names.label_names_beside`).

    Parameters:
        path: a file, or a folder with exactly one DICOM series.
        name: what messages call it.

    Raises:
        InputError: it cannot be read, holds other numbers than whole ones, or its segments contradict its voxels.
    """
    volume = read_segmentation(path, name)
    labels = label_map_of(volume.image, volume.name, label_names_beside(Path(path)))
    return replace(labels, remarks=volume.remarks)


def _readable_keys(image: sitk.Image) -> dict[str, str]:
    """The entries of the header; SimpleITK cannot look up a key that is not text. Those of Slicer are ASCII."""
    return {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.isascii()}


def label_map_of(image: sitk.Image, name: str = "label map", names: Mapping[int, str] | None = None) -> LabelMap:
    """A label map from an image in memory.

    Parameters:
        image: whole numbers; one component, or one a layer where it has the keys of Slicer's segmentations.
        name: what messages call it.
        names: label -> name, where the image has no keys that give names.

    Raises:
        InputError: as for `read_label_map`.
    """
    keys = _readable_keys(image) if isinstance(image, sitk.Image) else {}
    segments = _segments_in(keys)
    if "fractional" in keys.get("Segmentation_MasterRepresentation", "").lower():
        raise InputError(
            f"The {name} holds fractions of voxels rather than labels; convert it to a binary label map in Slicer."
        )
    layers = _layers_of(image, name) if segments else (validate_labels(image, name),)
    known = _names_by_place(segments, len(layers), name)
    if not segments:
        known = {(0, label): called for label, called in (names or {}).items()}
    present = [(layer, label) for layer, labels in enumerate(layers) for label in _label_numbers(labels)]
    places = [place for place in known if place in set(present)]
    places += [place for place in present if place not in known]
    structures = tuple(Structure(known.get((layer, label), ""), label, layer) for layer, label in places)
    kept = {key: value for key, value in keys.items() if _SEGMENT_KEY.match(key) or key.startswith(_SEGMENTATION_KEYS)}
    return LabelMap(layers, structures, kept if segments else {})


def warp_label_map(labels: LabelMap, lattice: sitk.Image, transform: sitk.Transform) -> LabelMap:
    """The label map on another lattice: out(x) = labels(transform(x)), nearest neighbor, 0 outside.

    Slicer's keys are kept, with the extents of the segments on the new lattice.
    """
    layers = tuple(sitk.Resample(layer, lattice, transform, sitk.sitkNearestNeighbor, 0) for layer in labels.layers)
    present = {(layer, label) for layer, image in enumerate(layers) for label in _label_numbers(image)}
    structures = tuple(each for each in labels.structures if (each.layer, each.label) in present)
    return LabelMap(layers, structures, _keys_on_lattice(labels.keys, layers))


def _label_numbers(labels: sitk.Image) -> list[int]:
    """The labels of an image, in ascending order, without 0."""
    return [int(number) for number in np.unique(sitk.GetArrayViewFromImage(labels)) if number != 0]


def _segments_in(keys: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Number of each segment -> its keys without the prefix."""
    segments: dict[int, dict[str, str]] = {}
    for key, value in keys.items():
        if match := _SEGMENT_KEY.fullmatch(key):
            segments.setdefault(int(match[1]), {})[match[2]] = value
    return {number: keys for number, keys in sorted(segments.items()) if keys.keys() & {"ID", "Name", "LabelValue"}}


def _layers_of(image: sitk.Image, name: str) -> tuple[sitk.Image, ...]:
    """The components of an image as checked label maps of one pixel type; layers without voxels may be among them."""
    count = image.GetNumberOfComponentsPerPixel()
    if count == 1:
        return (validate_labels(image, name),)
    components = [sitk.VectorIndexSelectionCast(image, layer) for layer in range(count)]
    marked = [bool(np.any(sitk.GetArrayViewFromImage(each))) for each in components]
    checked = [validate_labels(each, name) for each, any_voxels in zip(components, marked) if any_voxels]
    if not checked:
        raise InputError(f"The {name} is empty: all voxels of its {count} layers are 0.")
    filled = iter(checked)
    pixel = checked[0].GetPixelID()
    return tuple(next(filled) if any_voxels else sitk.Cast(each, pixel) for each, any_voxels in zip(components, marked))


def _places(segments: Mapping[int, Mapping[str, str]], layers: int, name: str) -> dict[int, tuple[int, int]]:
    """Number of each segment -> (layer, label). Files of Slicer before 4.11 have one layer of value 1 for each segment.

    Raises InputError where a segment has no place of its own.
    """
    places: dict[int, tuple[int, int]] = {}
    for order, (number, keys) in enumerate(segments.items()):
        layer, label = keys.get("Layer", str(order if layers > 1 else 0)), keys.get("LabelValue", "1")
        try:
            places[number] = int(layer), int(label)
        except ValueError as error:
            raise InputError(
                f'Segment {number} of the {name} has the layer "{layer}" and the label value "{label}"; whole numbers '
                "are needed."
            ) from error
        if not 0 <= places[number][0] < layers:
            raise InputError(
                f"Segment {number} of the {name} is in layer {layer}, and the file has {layers} layer(s); save the "
                "segmentation again."
            )
    place, count = Counter(places.values()).most_common(1)[0] if places else ((0, 0), 1)
    if count > 1:
        raise InputError(
            f"{count} segments of the {name} have the label value {place[1]} in layer {place[0]}; save the "
            "segmentation again."
        )
    return places


def _names_by_place(segments: Mapping[int, Mapping[str, str]], layers: int, name: str) -> dict[tuple[int, int], str]:
    """(layer, label) -> name of each segment."""
    places = _places(segments, layers, name)
    return {places[number]: (keys.get("Name") or keys.get("ID") or "").strip() for number, keys in segments.items()}


def _new_keys(labels: LabelMap) -> dict[str, str]:
    """Slicer's keys of the structures of a plain label map; empty where none has a name."""
    if not labels.names:
        return {}
    keys: dict[str, str] = {}
    for number, each in enumerate(labels.structures):
        name = each.name or str(each.label)
        values = {"ID": f"Segment_{each.label}", "Name": name, "LabelValue": str(each.label), "Layer": str(each.layer)}
        keys |= {f"Segment{number}_{key}": value for key, value in values.items()}
    return _keys_on_lattice(keys, labels.layers)


def _keys_on_lattice(keys: Mapping[str, str], layers: tuple[sitk.Image, ...]) -> dict[str, str]:
    """Slicer's keys with what they say of the lattice set to that of the layers."""
    segments, kept = _segments_in(keys), dict(keys)
    for number, (layer, label) in _places(segments, len(layers), "label map").items():
        kept[f"Segment{number}_Layer"], kept[f"Segment{number}_LabelValue"] = str(layer), str(label)
        kept[f"Segment{number}_Extent"] = _extent(layers[layer], label)
    if segments:
        kept["Segmentation_ReferenceImageExtentOffset"] = "0 0 0"
    if parameters := kept.get("Segmentation_ConversionParameters"):
        others = [each for each in parameters.split("&") if not each.startswith(_REFERENCE_GEOMETRY)]
        kept["Segmentation_ConversionParameters"] = "&".join(others)
    return kept


def _extent(labels: sitk.Image, label: int) -> str:
    """First and last index of a label along (i, j, k), as Slicer writes them; 0 -1 where it has no voxel."""
    inside = sitk.GetArrayViewFromImage(labels) == label
    if not inside.any():
        return "0 -1 0 -1 0 -1"
    ends = []
    for axis in (2, 1, 0):
        occupied = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        ends += [str(occupied[0]), str(occupied[-1])]
    return " ".join(ends)
