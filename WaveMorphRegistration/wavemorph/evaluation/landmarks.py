"""Which landmarks of two lists belong together, and how far apart a transform leaves them.

Free of torch, so that Slicer's own process can use it. Points are LPS mm; transforms map fixed points to moving points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..io.points import PointList, transform_points

_MAX_LISTED = 8
_Entry = tuple[str, Optional[np.ndarray]]


@dataclass(frozen=True)
class LandmarkPairs:
    """The landmarks that have a position in both lists.

    Attributes:
        names: N texts: of the fixed list, or of the moving one, or the number in the list.
        fixed: (N, 3), LPS mm.
        moving: (N, 3), LPS mm.
        paired_by: "name" or "order".
        left_out: the names of landmarks without a position in either list, or without a partner.
        remarks: sentences on what was left out and on why names were not used.
    """

    names: list[str]
    fixed: np.ndarray
    moving: np.ndarray
    paired_by: str
    left_out: list[str]
    remarks: list[str]


def pair_landmarks(fixed: PointList, moving: PointList) -> LandmarkPairs:
    """The pairs of two lists: by name where each name occurs once in both, otherwise by order.

    In lists of different length, only the names that both hold are paired. Pairs of which either landmark has no
    position are left out.

    Raises:
        InputError: the lists differ in length and have no names in common, or no pair has both positions.
    """
    fixed_entries, moving_entries = fixed.entries(), moving.entries()
    paired_by, reason = _pairing(_names(fixed_entries), _names(moving_entries))
    if paired_by == "name":
        pairs, alone = _by_name(fixed_entries, moving_entries)
    else:
        pairs, alone = list(zip(fixed_entries, moving_entries)), []
    complete, unset = [], []
    for number, ((fixed_name, fixed_position), (moving_name, moving_position)) in enumerate(pairs, 1):
        name = fixed_name.strip() or moving_name.strip() or str(number)
        if fixed_position is not None and moving_position is not None:
            complete.append((name, fixed_position, moving_position))
        else:
            unset.append(name)
    if not complete:
        raise InputError(
            f"No landmark has a position in both lists (of {len(pairs)} pairs); place them, or save the lists again."
        )
    return LandmarkPairs(
        names=[name for name, _, _ in complete],
        fixed=np.array([position for _, position, _ in complete]),
        moving=np.array([position for _, _, position in complete]),
        paired_by=paired_by,
        left_out=[*unset, *alone],
        remarks=_remarks(reason, unset, alone),
    )


def landmark_report(pairs: LandmarkPairs, transform: sitk.Transform) -> dict[str, Any]:
    """The distance |transform(fixed) - moving| of every pair, in the moving space.

    Returns:
        "mean" and "max" in mm, "landmarks" (a list of name and error_mm), and "paired_by", "left_out" and "remarks" of
        the pairs.
    """
    errors = np.linalg.norm(transform_points(pairs.fixed, transform) - pairs.moving, axis=1)
    return {
        "mean": float(errors.mean()),
        "max": float(errors.max()),
        "landmarks": [{"name": name, "error_mm": float(error)} for name, error in zip(pairs.names, errors)],
        "paired_by": pairs.paired_by,
        "left_out": pairs.left_out,
        "remarks": pairs.remarks,
    }


def _pairing(fixed: list[str], moving: list[str]) -> tuple[str, str]:
    """("name" or "order", why names were not used, or "" where there are none). Raises InputError."""
    reason = _why_not_by_name(fixed, moving)
    if not reason:
        return "name", ""
    if len(fixed) == len(moving):
        return "order", reason if any(fixed) or any(moving) else ""
    if set(fixed) & set(moving) - {""} and not _repeated(fixed) and not _repeated(moving):
        return "name", ""
    raise InputError(
        f"There are {len(fixed)} fixed and {len(moving)} moving landmarks, which cannot be paired by name, because "
        f"{reason}; give lists that correspond point by point, or the same names."
    )


def _why_not_by_name(fixed: list[str], moving: list[str]) -> str:
    """The reason why two lists cannot be paired by name, or ""."""
    for which, names in (("fixed", fixed), ("moving", moving)):
        if not any(names):
            return f"the {which} list has no names"
        if not all(names):
            return f"{names.count('')} landmarks of the {which} list have no name"
        if repeated := _repeated(names):
            return f'the {which} list holds the name "{repeated}" {names.count(repeated)} times'
    if set(fixed) == set(moving):
        return ""
    different = [
        f"only the {which} list holds {_listed([name for name in names if name not in others])}"
        for which, names, others in (("fixed", fixed, moving), ("moving", moving, fixed))
        if set(names) - set(others)
    ]
    return " and ".join(different) + _moved_name(fixed, moving)


def _moved_name(fixed: list[str], moving: list[str]) -> str:
    """What contradicts the order: a name that both lists hold at different places, or ""."""
    for place, name in enumerate(fixed, 1):
        if name in moving and (other := moving.index(name) + 1) != place:
            return f', although "{name}" is number {place} of the fixed and {other} of the moving list: check the names'
    return ""


def _by_name(fixed: Sequence[_Entry], moving: Sequence[_Entry]) -> tuple[list[tuple[_Entry, _Entry]], list[str]]:
    """(pairs in the order of the fixed list, names that one list holds alone)."""
    partners = {name.strip(): (name, position) for name, position in moving if name.strip()}
    pairs, alone = [], []
    for number, (name, position) in enumerate(fixed, 1):
        partner = partners.pop(name.strip(), None)
        if partner is None:
            alone.append(name.strip() or str(number))
        else:
            pairs.append(((name, position), partner))
    unnamed = [str(number) for number, (name, _) in enumerate(moving, 1) if not name.strip()]
    return pairs, [*alone, *partners, *unnamed]


def _remarks(reason: str, unset: list[str], alone: list[str]) -> list[str]:
    remarks = []
    if reason:
        remarks.append(f"The landmarks are paired by their order in the lists, because {reason}.")
    if unset:
        remarks.append(f"Left out, because one of the lists holds no position: {_listed(unset)}.")
    if alone:
        remarks.append(f"Left out, because one of the lists does not hold them: {_listed(alone)}.")
    return remarks


def _names(entries: Sequence[_Entry]) -> list[str]:
    return [name.strip() for name, _ in entries]


def _repeated(names: list[str]) -> str:
    """A name that occurs more than once, or ""."""
    return next((name for name, count in Counter(names).items() if name and count > 1), "")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:_MAX_LISTED])
    return shown if len(names) <= _MAX_LISTED else f"{shown}, ... ({len(names)} in all)"
