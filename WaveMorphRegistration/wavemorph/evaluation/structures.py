"""Which structures of two label maps belong together, and on which lattice they are compared.

Free of torch, so that Slicer's own process can use it. Transforms map fixed points to moving points.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..io.labels import LabelMap, Structure

_MAX_LISTED = 8
_FIRST_PAD_VOXELS = 8
_MAX_PADS = 6  # the last one adds 256 voxels
_MAX_VOXELS = 2**28


@dataclass(frozen=True)
class StructurePair:
    """A structure of the fixed map and that of the moving map; None where a map lacks it."""

    fixed: Structure | None
    moving: Structure | None


@dataclass(frozen=True)
class StructurePairs:
    """The structures of two label maps.

    Attributes:
        numbered: a number of its own -> each pair; the label in the fixed map where it is unique.
        paired_by: "name" or "label".
        remarks: sentences on how structures are paired, and on which have no partner.
    """

    numbered: Mapping[int, StructurePair]
    paired_by: str
    remarks: list[str]

    @property
    def common(self) -> list[int]:
        """The numbers of the structures that both maps hold."""
        return [number for number, pair in self.numbered.items() if pair.fixed is not None and pair.moving is not None]

    def arrays(
        self, fixed_layers: Sequence[sitk.Image], moving_layers: Sequence[np.ndarray]
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """(numbers, fixed array, moving array) for each combination of layers, with these numbers as labels.

        Parameters:
            fixed_layers: layers of the fixed map.
            moving_layers: (D, H, W) of each layer of the moving map, resampled on the lattice of the fixed layers.
        """
        combined: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        for number in self.common:
            fixed, moving = self.numbered[number].fixed, self.numbered[number].moving
            if fixed is not None and moving is not None:
                numbers = combined.setdefault((fixed.layer, moving.layer), {})
                numbers[number] = fixed.label, moving.label
        for (fixed_layer, moving_layer), labels in combined.items():
            fixed_array = sitk.GetArrayViewFromImage(fixed_layers[fixed_layer])
            yield (
                list(labels),
                _relabeled(fixed_array, {own: number for number, (own, _) in labels.items()}),
                _relabeled(moving_layers[moving_layer], {own: number for number, (_, own) in labels.items()}),
            )


def pair_structures(fixed: LabelMap, moving: LabelMap) -> StructurePairs:
    """Pair structures by name where both maps give names and share some, otherwise by label.

    Raises:
        InputError: the maps have no structure in common, or only labels that mean several structures.
    """
    by_name, reason = _uses_names(fixed, moving)
    if not by_name:
        _refuse_repeated_labels(fixed, moving)
    key_of = _name_or_label if by_name else _label
    partners = {key_of(each): each for each in moving.structures}
    pairs = [StructurePair(each, partners.pop(key_of(each), None)) for each in fixed.structures]
    pairs += [StructurePair(None, each) for each in partners.values()]
    if not any(pair.fixed is not None and pair.moving is not None for pair in pairs):
        raise InputError(
            f"The label maps have no label in common: the fixed one holds {_labels(fixed)}, the moving one "
            f"{_labels(moving)}; give maps that follow the same numbering."
        )
    remarks = [f"The structures are paired by label, because {reason}."] if reason else []
    for which, alone in (
        ("fixed", [pair.fixed for pair in pairs if pair.moving is None]),
        ("moving", [pair.moving for pair in pairs if pair.fixed is None]),
    ):
        if alone:
            count = f"{len(alone)} {'structure is' if len(alone) == 1 else 'structures are'}"
            remarks.append(
                f"{count} in the {which} label map only: {_listed([_title(each) for each in alone if each])}."
            )
    return StructurePairs(_numbered(pairs), "name" if by_name else "label", remarks)


def uncropped_layers(
    fixed: LabelMap, moving: LabelMap, pairs: StructurePairs, transform: sitk.Transform
) -> list[sitk.Image]:
    """The layers of the fixed map, extended by background until the common structures, warped, end within them.

    Only a segmentation of Slicer is extended: its file may be cropped to its segments, whereas a plain label map has
    the lattice of its image, beyond which nothing is known.
    """
    layers = list(fixed.layers)
    if not fixed.keys:
        return layers
    mask = _common_foreground(moving, pairs)
    for step in range(_MAX_PADS):
        faces = [_touched_faces(mask, layers[0], through) for through in (sitk.Transform(), transform)]
        pad = np.any(faces, axis=0) * _FIRST_PAD_VOXELS * 2**step
        size = np.array(layers[0].GetSize()) + pad.sum(axis=0)
        if not pad.any() or math.prod(size.tolist()) > _MAX_VOXELS:
            break
        layers = [sitk.ConstantPad(layer, pad[0].tolist(), pad[1].tolist(), 0) for layer in layers]
    return layers


def _common_foreground(moving: LabelMap, pairs: StructurePairs) -> sitk.Image:
    """1 in the moving map where a structure is that both maps hold."""
    partners = [each for number in pairs.common if (each := pairs.numbered[number].moving) is not None]
    inside = np.zeros(moving.layers[0].GetSize()[::-1], np.uint8)
    for number, layer in enumerate(moving.layers):
        labels = {each.label: 1 for each in partners if each.layer == number}
        if labels:
            inside |= _relabeled(sitk.GetArrayViewFromImage(layer), labels) == 1
    mask = sitk.GetImageFromArray(inside)
    mask.CopyInformation(moving.layers[0])
    return mask


def _touched_faces(mask: sitk.Image, lattice: sitk.Image, through: sitk.Transform) -> np.ndarray:
    """(2, 3): whether the warped mask touches the first and the last plane of the lattice along (i, j, k)."""
    warped = sitk.Resample(mask, lattice, through, sitk.sitkNearestNeighbor, 0)
    array = sitk.GetArrayViewFromImage(warped)
    return np.array([[array.take(end, 2 - axis).any() for axis in range(3)] for end in (0, -1)])


def _uses_names(fixed: LabelMap, moving: LabelMap) -> tuple[bool, str]:
    """(whether both maps name their structures uniquely and share a name, the reason where they name them but not)."""
    names = [[each.name for each in labels.structures if each.name] for labels in (fixed, moving)]
    if not names[0] or not names[1]:
        return False, ""
    for which, given in (("fixed", names[0]), ("moving", names[1])):
        name, count = Counter(given).most_common(1)[0]
        if count > 1:
            return False, f'the {which} label map has {count} structures of the name "{name}"'
    if not set(names[0]) & set(names[1]):
        return False, f"they have no name in common ({_listed(names[0])} in the fixed one, {_listed(names[1])})"
    return True, ""


def _refuse_repeated_labels(fixed: LabelMap, moving: LabelMap) -> None:
    for which, labels in (("fixed", fixed), ("moving", moving)):
        label, count = Counter(each.label for each in labels.structures).most_common(1)[0]
        if count > 1:
            raise InputError(
                f"The {which} label map has {count} overlapping structures of the label {label}, which cannot be "
                "paired by label; give both maps as segmentations with the same names."
            )


def _numbered(pairs: Sequence[StructurePair]) -> dict[int, StructurePair]:
    """A number of its own for each pair: the label in the fixed map, else in the moving map, else the next free one."""
    taken: dict[int, StructurePair] = {}
    late = []
    for pair in pairs:
        given = pair.fixed if pair.fixed is not None else pair.moving
        if given is not None and given.label not in taken:
            taken[given.label] = pair
        else:
            late.append(pair)
    for pair in late:
        taken[max(taken) + 1] = pair
    return dict(sorted(taken.items()))


def _relabeled(array: np.ndarray, numbers: Mapping[int, int]) -> np.ndarray:
    """The array with other labels; those that have no new one become 0. The same array where nothing changes."""
    if all(own == number for own, number in numbers.items()):
        return array
    own = np.array(sorted(numbers))
    new = np.array([numbers[label] for label in own.tolist()])
    place = np.minimum(np.searchsorted(own, array), own.size - 1)
    return np.where(own[place] == array, new[place], 0)


def _name_or_label(structure: Structure) -> object:
    return structure.name or structure.label


def _label(structure: Structure) -> object:
    return structure.label


def _title(structure: Structure) -> str:
    return structure.name or str(structure.label)


def _labels(labels: LabelMap) -> str:
    return _listed([str(each.label) for each in sorted(labels.structures, key=lambda each: each.label)])


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_LISTED])
    return shown if len(names) <= _MAX_LISTED else f"{shown}, ... ({len(names)} in all)"
