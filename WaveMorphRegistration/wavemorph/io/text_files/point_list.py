"""A list of landmarks in memory, LPS mm, and the positions in files that it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ...errors import InputError

_FLIP = np.array([-1.0, -1.0, 1.0])  # LPS <-> RAS
_NO_VALUE = {"", "nan", "na", "n/a", "none", "null", "-"}
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class PointList:
    """Landmarks, and the file that they were read from.

    Attributes:
        positions: (N, 3) float64, LPS mm, of the landmarks that have a position.
        names: N texts; "" where the file gives no name.
        source: the other content of the file, which `write_points` keeps if the format stays the same.
        unset: place in the list, from 0 -> name of each landmark without a position: one that is undefined, missing or
            a preview in Slicer, or whose cells are empty or NaN. The others have the remaining places, in order.
    """

    positions: np.ndarray
    names: list[str]
    source: Any = field(default=None, repr=False)
    unset: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    def moved_to(self, positions: np.ndarray) -> PointList:
        """The same list with new positions, (N, 3) LPS mm. Raises InputError where their number differs."""
        positions = np.asarray(positions, float)
        if positions.shape != self.positions.shape:
            raise InputError(f"{len(self.positions)} points cannot be moved to {len(positions)} positions.")
        return replace(self, positions=positions)

    def entries(self) -> list[tuple[str, np.ndarray | None]]:
        """(name, position in LPS mm or None) of every landmark of the list, in its order."""
        having = zip(self.names, self.positions)
        count = len(self.names) + len(self.unset)
        return [(self.unset[place], None) if place in self.unset else next(having) for place in range(count)]


def point_list(entries: Sequence[tuple[str, np.ndarray | None]], source: Any = None) -> PointList:
    """The list of (name, position in LPS mm or None): the reverse of `PointList.entries`."""
    having = [(name, position) for name, position in entries if position is not None]
    unset = {place: name for place, (name, position) in enumerate(entries) if position is None}
    positions = np.array([position for _, position in having], float).reshape(-1, 3)
    return PointList(positions, [name for name, _ in having], source, unset)


def position_in_file(values: Any, where: str, ras: bool) -> np.ndarray | None:
    """Three values of a file, numbers or texts, as LPS mm; None where all are empty or NaN. Raises InputError."""
    if not isinstance(values, (list, tuple)):
        values = [values]
    if all(value is None or str(value).strip().lower() in _NO_VALUE for value in values):
        return None
    try:
        position = np.array([_number(value) for value in values])
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} has the position {_shown(values)}; three numbers in mm are needed.") from error
    if position.shape != (3,) or not np.all(np.isfinite(position)):
        raise InputError(f"{where} has the position {_shown(values)}; three finite numbers in mm are needed.")
    return position * _FLIP if ras else position


def in_file_system(position: np.ndarray, ras: bool) -> np.ndarray:
    """LPS mm in the coordinate system of the file, without negative zeros."""
    return (position * _FLIP if ras else position) + 0.0


def is_ras(system: Any, called: str) -> bool:
    """Slicer writes the coordinate system as a name, and wrote it as a number before. Raises InputError."""
    known = {"LPS": False, "1": False, "RAS": True, "0": True}
    if str(system).strip().upper() not in known:
        raise InputError(f"The {called} is in the coordinate system {system!r}; save it in LPS or RAS.")
    return known[str(system).strip().upper()]


def has_decimal_comma(text: str) -> bool:
    """Whether a number is written with a decimal comma, as in 1,5."""
    return _DECIMAL_COMMA.fullmatch(text.strip()) is not None


def moved_entries(points: PointList) -> Iterator[np.ndarray | None]:
    """The position of every landmark of the list, in its order; None for one without a position."""
    return iter([position for _, position in points.entries()])


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a truth value is no coordinate")
    if isinstance(value, str) and has_decimal_comma(value):
        value = value.replace(",", ".")
    return float(value)


def _shown(values: Sequence[Any]) -> str:
    return f"({', '.join(str(value) or 'empty' for value in values)})"
