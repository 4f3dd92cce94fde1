"""The volumes that the options name: read, checked, and what a user should know of them said before the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from ..io.checks import size_warnings
from ..io.images import validate_image
from ..io.reading import ReadVolume, read_volume


def read_pair(options: argparse.Namespace) -> tuple[ReadVolume, ReadVolume]:
    """The fixed and the moving volume, checked; remarks and doubtful sizes go to standard error. Raises InputError."""
    series = getattr(options, "series", None)
    fixed = _read(options.fixed, "fixed image", getattr(options, "fixed_series", None) or series)
    moving = _read(options.moving, "moving image", getattr(options, "moving_series", None) or series)
    warnings = size_warnings(fixed.image, moving.image)
    if not getattr(options, "quiet", False):
        say((*fixed.remarks, *moving.remarks))
        say(warnings, "warning")
    return fixed, moving


def say(sentences: Iterable[str], kind: str = "note") -> None:
    """Write sentences to standard error, one a line."""
    for sentence in sentences:
        print(f"{kind}: {sentence}", file=sys.stderr)


def _read(path: str, name: str, series: str | None) -> ReadVolume:
    volume = read_volume(path, name, series)
    validate_image(volume.image, volume.name)
    return volume
