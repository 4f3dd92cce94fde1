"""A displacement field in a folder: vectors as .npy, read without conversion, and the lattice as .json. No torch."""

from __future__ import annotations

import json
import tokenize
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk


class Field(NamedTuple):
    """A displacement field: vectors (D, H, W, 3), float32, LPS mm, on the voxels of the image `lattice`."""

    vectors: np.ndarray
    lattice: sitk.Image


def write_field_array(field: Field, folder: Path, name: str) -> None:
    """Write NAME.npy and NAME_lattice.json into a folder. Raises OSError."""
    lattice = field.lattice
    geometry = {key: list(getattr(lattice, f"Get{key}")()) for key in ("Size", "Origin", "Spacing", "Direction")}
    (folder / f"{name}_lattice.json").write_text(json.dumps(geometry), encoding="utf-8")
    np.save(folder / f"{name}.npy", field.vectors)


def read_field_array(folder: Path, name: str) -> Field | None:
    """What `write_field_array` wrote; None where there is none.

    Raises OSError, ValueError or RuntimeError where it is damaged.
    """
    path = folder / f"{name}.npy"
    if not path.exists():
        return None
    try:
        stored = np.load(path, mmap_mode="r")  # no memory for what the file does not have
    except (tokenize.TokenError, SyntaxError, EOFError) as error:  # of numpy, where the header is damaged
        raise ValueError(f"{path.name} has no usable header") from error
    geometry = json.loads((folder / f"{name}_lattice.json").read_text(encoding="utf-8"))
    if stored.dtype != np.float32 or list(stored.shape) != [*geometry["Size"][::-1], 3]:
        raise ValueError(f"{path.name} has the shape {stored.shape}, and its lattice {geometry['Size']}")
    lattice = sitk.Image(geometry["Size"], sitk.sitkUInt8)
    for key in ("Origin", "Spacing", "Direction"):
        getattr(lattice, f"Set{key}")(geometry[key])
    return Field(np.array(stored), lattice)
