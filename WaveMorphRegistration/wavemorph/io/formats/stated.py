"""What headers of NRRD and MetaImage state in the same form: whole numbers, and the names of files with voxels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from ...errors import InputError

MOST_FILES = 1 << 16
_LONGEST_NAME = 255

Refuse = Callable[[str], InputError]  # from what is wrong to the error to raise


def whole_number(text: str, refuse: Refuse) -> int:
    """The number in a text. Raises InputError where it is none, or has more than 18 digits."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise refuse(f"{text[:80]!r} stands where a whole number is needed")
    return int(text)


def whole_field(fields: Mapping[str, str], key: str, refuse: Refuse, default: int | None = None) -> int:
    """The number in a field, or the default where the header does not have it. Raises InputError."""
    if key not in fields and default is not None:
        return default
    return whole_number(fields.get(key, ""), refuse)


def data_file_names(named: str, listed: Sequence[str], pattern: re.Pattern[str], wrong: InputError) -> list[str]:
    """The names of the files with the voxels: one, a list, or numbered ones.

    named: what the field says. listed: the lines after it. pattern: of numbered names, with the groups name, first,
    last and step. wrong: raised where they are none that ITK can read.
    """
    if re.fullmatch(r"LIST(\s+\d)?", named):
        names = [line.strip() for line in listed if line.strip()]
    elif "%" in named:
        match = pattern.fullmatch(named)
        first, last, step = (int(match[group]) for group in (2, 3, 4)) if match else (0, 0, 0)
        if match is None or step < 1 or not first <= last <= first + step * MOST_FILES:
            raise wrong
        names = [match[1] % number for number in range(first, last + 1, step)]
    else:
        names = [named]
    if not 1 <= len(names) <= MOST_FILES or max(map(len, names)) > _LONGEST_NAME:
        raise wrong
    return names
