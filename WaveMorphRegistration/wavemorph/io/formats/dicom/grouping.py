"""The images of a DICOM series: slices of one orientation, at distinct positions, of one echo, type or time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .slices import Slice

SAME_DEPTH_MM = 1e-3
UNEVEN = 1.25  # the largest ratio of the distances between the slices of one image
_SAME_AXES = 2e-3  # difference of unit vectors, as headers round them
_SAME_SPACING = 1e-3  # relative
_MAIN_SHARE = 0.8  # of the slices of a series: the others are localizers
_MIN_PART_SLICES = 2
_UNITS = {
    "echo time": " ms",
    "inversion time": " ms",
    "trigger time": " ms",
    "flip angle": " degrees",
    "tube voltage": " kV",
}
_LONG = 40  # characters: longer values name nothing


@dataclass(frozen=True)
class DicomImage:
    """Slices that make one image, in no order.

    series: number, description and UID. traits: what tells it from the other images of its series, as text.
    left_out: slices of the series that belong to none of its images, such as localizers.
    """

    slices: tuple[Slice, ...]
    series: dict[str, str]
    traits: tuple[str, ...] = ()
    left_out: tuple[Slice, ...] = ()

    @property
    def name(self) -> str:
        """What a user may choose it by: the description of the series, and the traits."""
        return ", ".join([self.series["description"] or "no description", *self.traits])

    @property
    def title(self) -> str:
        """Number, name and size, for a list."""
        count = len(self.slices)
        number = f"{self.series['number']} " if self.series["number"] else ""
        return f'{number}"{self.name}" ({count} slice{"s" if count > 1 else ""})'


def images_of_series(slices: Sequence[Slice]) -> list[DicomImage]:
    """The images of one series; those that nothing tells apart stay together."""
    groups = sorted(_by_plane(slices), key=len, reverse=True)
    series = slices[0].series
    rest = tuple(one for group in groups[1:] for one in group)
    if len(groups[0]) >= _MAIN_SHARE * len(slices):
        return [DicomImage(tuple(part), series, traits, rest) for part, traits in _parts(groups[0])]
    found = [(part, (_describe_plane(group[0]), *traits)) for group in groups for part, traits in _parts(group)]
    names = [traits for _, traits in found]
    for number, (part, traits) in enumerate(found, 1):  # such as one stack for each disc of a spine
        if names.count(traits) > 1:
            found[number - 1] = (part, (*traits, f"stack {number}"))
    return [DicomImage(tuple(part), series, traits) for part, traits in found]


def depths(slices: Sequence[Slice]) -> np.ndarray:
    """(N,), mm along the normal of the first slice. Every slice must have a plane."""
    normal = _plane(slices[0]).normal
    return np.array([normal @ _plane(one).position for one in slices])


def _by_plane(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one size, orientation and spacing together, and those without a plane."""
    groups: list[list[Slice]] = []
    for one in slices:
        for group in groups:
            if _same_plane(one, group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _same_plane(first: Slice, second: Slice) -> bool:
    if first.shape != second.shape or (first.plane is None) != (second.plane is None):
        return False
    if first.plane is None or second.plane is None:
        return True
    a, b = first.plane, second.plane
    turned = max(np.abs(a.row - b.row).max(), np.abs(a.column - b.column).max())
    return bool(turned < _SAME_AXES and np.allclose(a.spacing, b.spacing, rtol=_SAME_SPACING, atol=0))


def _parts(slices: Sequence[Slice]) -> list[tuple[list[Slice], tuple[str, ...]]]:
    """(slices, what tells them from the others) of each image; all slices together where nothing tells them apart."""
    whole = list(slices)
    if whole[0].plane is None or _is_even(whole):
        return [(whole, ())]
    for trait in dict.fromkeys(name for one in whole for name in one.traits):
        found = _split(whole, trait)
        if found is not None:
            return found
    return _by_order(whole) or [(whole, ())]


def _split(slices: Sequence[Slice], trait: str) -> list[tuple[list[Slice], tuple[str, ...]]] | None:
    """The slices by the values of a trait, where each value has an even image, or several; else None."""
    values: dict[str, list[Slice]] = {}
    for one in slices:
        values.setdefault(one.traits.get(trait, ""), []).append(one)
    if len(values) < 2 or min(map(len, values.values())) < _MIN_PART_SLICES:
        return None
    found = []
    for number, (value, group) in enumerate(values.items(), 1):
        text = f"{trait} {value.replace(chr(92), '/')}{_UNITS.get(trait, '')}" if value else f"no {trait}"
        if len(text) > _LONG or trait in ("study", "frame of reference"):
            text = f"{trait} {number} of {len(values)}"
        for part, traits in _parts(group):
            if not _is_even(part):
                return None
            found.append((part, (text, *traits)))
    return found


def _by_order(slices: Sequence[Slice]) -> list[tuple[list[Slice], tuple[str, ...]]] | None:
    """Slices that stand at the same positions again and again, by their frame or instance numbers; else None."""
    numbers = {one.order for one in slices}
    if None in numbers or len(numbers) < len(slices):
        return None
    slices = sorted(slices, key=lambda one: one.order or 0)
    seen: list[float] = []
    rounds: list[list[Slice]] = []
    visits: list[int] = []
    for one, depth in zip(slices, depths(slices)):
        place = next((n for n, known in enumerate(seen) if abs(known - depth) < SAME_DEPTH_MM), len(seen))
        if place == len(seen):
            seen.append(depth)
            visits.append(0)
        if visits[place] == len(rounds):
            rounds.append([])
        rounds[visits[place]].append(one)
        visits[place] += 1
    if len(rounds) < 2 or not all(len(part) == len(seen) and _is_even(part) for part in rounds):
        return None
    return [(part, (f"image {number} of {len(rounds)}",)) for number, part in enumerate(rounds, 1)]


def _is_even(slices: Sequence[Slice]) -> bool:
    """Whether the slices stand at distinct positions, about equally far apart."""
    steps = np.diff(np.sort(depths(slices)))
    return len(steps) == 0 or bool(steps.min() > SAME_DEPTH_MM and steps.max() <= UNEVEN * steps.min())


def _describe_plane(one: Slice) -> str:
    if one.plane is None:
        return "without positions"
    names = ("sagittal", "coronal", "axial")
    rows, columns = one.shape
    return f"{names[int(np.abs(one.plane.normal).argmax())]} {columns} x {rows}"


def _plane(one: Slice):
    assert one.plane is not None
    return one.plane
