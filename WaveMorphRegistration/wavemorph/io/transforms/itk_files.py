"""Transform files of ITK: HDF5, text and MATLAB. What they state is checked before a library trusts it. No torch."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from ...system.private_folders import private_folder
from ..files import quiet_itk
from .hdf5 import Hdf5Error, Hdf5File

_HDF5_START = b"\x89HDF\r\n\x1a\n"
_HDF5, _TEXT, _MATLAB = (".h5", ".hdf5", ".hdf", ".hd5", ".he5"), (".tfm", ".txt"), (".mat",)
_KIND = re.compile(r"(\w{1,100})_(?:double|float)_(\d)_(\d)")
# kind -> (parameters, fixed parameters) that it may have; ITK's text and MATLAB readers do not count them
_COUNTS = {
    **dict.fromkeys(
        ("AffineTransform", "MatrixOffsetTransformBase", "ComposeScaleSkewVersor3DTransform"), ((12,), (3,))
    ),
    "Euler3DTransform": ((6,), (3, 4)),
    "VersorRigid3DTransform": ((6,), (3,)),
    "VersorTransform": ((3,), (3,)),
    "Similarity3DTransform": ((7,), (3,)),
    "QuaternionRigidTransform": ((7,), (3,)),
    "ScaleVersor3DTransform": ((9,), (3,)),
    "ScaleSkewVersor3DTransform": ((12, 15), (3,)),
    **dict.fromkeys(("ScaleTransform", "ScaleLogarithmicTransform"), ((3,), (3,))),
    "TranslationTransform": ((3,), (0,)),
    "IdentityTransform": ((0,), (0,)),
}
_ON_LATTICE = (
    *("BSplineTransform", "DisplacementFieldTransform", "GaussianSmoothingOnUpdateDisplacementFieldTransform"),
    "BSplineSmoothingOnUpdateDisplacementFieldTransform",
)
_LARGEST = 1e9  # of a parameter: mm, or a component of a matrix
_LONGEST_NAME, _MATLAB_HEADER, _MOST_MATRICES = 255, 20, 1000
_OF_FIELD = 18  # fixed parameters: size, origin, spacing, direction
_LEAST_VOLUME = 1e-6  # of the axes of a lattice
_LEAST_SPACING_MM = 1e-6  # of a lattice
_NAMES = ("TransformParameters", "TranformParameters"), ("TransformFixedParameters", "TranformFixedParameters")


class UnreadableError(ValueError):
    """A transform file cannot be used; the message says why."""


class DimensionError(UnreadableError):
    """A transform is not 3D. dimension: of its points."""

    def __init__(self, dimension: str):
        super().__init__(f"it is {dimension}D")
        self.dimension = dimension


class SeveralError(UnreadableError):
    """A file holds several transforms without a composite. count: how many."""

    def __init__(self, count: int):
        super().__init__(f"{count} transforms")
        self.count = count


class _Stored(NamedTuple):
    """kind: name and dimensions, "AffineTransform_double_3_3". parameters, fixed: (N,) float64."""

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray

    @property
    def is_composite(self) -> bool:
        return self.kind.startswith("CompositeTransform")


def read_itk_transform(path: Path) -> sitk.Transform:
    """The transform in a file of ITK, by its beginning or extension.

    Raises:
        UnreadableError: its format is not known, or it is damaged.
        RuntimeError: of ITK, for a kind of transform that it does not know.
    """
    with path.open("rb") as stream:
        is_hdf5 = stream.read(len(_HDF5_START)) == _HDF5_START
    extension = path.suffix.lower()
    if is_hdf5 or extension in _HDF5:
        return _read_hdf5(path)
    if extension in _TEXT:
        stored = _in_text(path.read_bytes())
    elif extension in _MATLAB:
        stored = _in_matlab(path.read_bytes())
    else:
        raise UnreadableError("its format is not known")
    _check(stored)
    return _composed(stored)


def _read_hdf5(path: Path) -> sitk.Transform:
    """Read without the HDF5 library, whose errors end the process."""
    try:
        file = Hdf5File(path.read_bytes())
        groups = file.links("TransformGroup")
        if sorted(groups) != sorted(str(number) for number in range(len(groups))):
            raise UnreadableError("its transforms are not numbered from 0")
        stored = [_in_group(file, str(number)) for number in range(len(groups))]
    except Hdf5Error as error:
        raise UnreadableError(str(error)) from error
    _check(stored)
    return _composed(stored)


def _composed(stored: Sequence[_Stored]) -> sitk.Transform:
    """The transform of checked parts."""
    parts = [_built(each) for each in stored if not each.is_composite]
    return sitk.CompositeTransform(parts) if stored[0].is_composite else parts[0]


def _in_group(file: Hdf5File, number: str) -> _Stored:
    links = file.links("TransformGroup", number)
    if "TransformType" not in links:
        raise UnreadableError("a transform has no type")
    kind = file.text(links["TransformType"])
    if kind.startswith("CompositeTransform"):
        return _Stored(kind, np.empty(0), np.empty(0))
    addresses = [next((links[name] for name in names if name in links), None) for names in _NAMES]
    if addresses[0] is None or addresses[1] is None:
        raise UnreadableError("a transform has no parameters")
    return _Stored(kind, file.values(addresses[0]), file.values(addresses[1]))


def _built(stored: _Stored) -> sitk.Transform:
    """The transform of checked parameters."""
    if "DisplacementField" in stored.kind:
        size, origin, spacing, direction = np.split(stored.fixed, (3, 6, 9))
        vectors = stored.parameters.reshape(*size[::-1].astype(int), 3)
        field = sitk.GetImageFromArray(vectors, isVector=True)
        field.SetOrigin(origin.tolist())
        field.SetSpacing(spacing.tolist())
        field.SetDirection(direction.tolist())
        return sitk.Transform(sitk.DisplacementFieldTransform(field))
    lines = [
        "#Insight Transform File V1.0",
        "#Transform 0",
        f"Transform: {stored.kind.replace('_float_', '_double_')}",
        f"Parameters: {' '.join(map(repr, stored.parameters.tolist()))}",
        f"FixedParameters: {' '.join(map(repr, stored.fixed.tolist()))}",
    ]
    with private_folder() as folder, quiet_itk():
        path = folder / "transform.tfm"
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        return sitk.ReadTransform(str(path))


def _in_text(content: bytes) -> list[_Stored]:
    """The transforms of a text file of ITK."""
    kinds: list[str] = []
    numbers: dict[str, list[np.ndarray]] = {"Parameters": [], "FixedParameters": []}
    for line in content.decode("utf-8", "replace").splitlines():
        name, colon, value = line.strip().partition(":")
        if not name or name.startswith("#"):
            continue
        if not colon or name not in ("Transform", *numbers):
            raise UnreadableError(f"a line is {line[:40]!r}")
        if name == "Transform":
            kinds.append(value.strip())
            continue
        numbers[name].append(_numbers(value))
        if len(numbers[name]) != len([kind for kind in kinds if not kind.startswith("CompositeTransform")]):
            raise UnreadableError(f"{name} belong to no transform")
    if any(not kind.startswith("CompositeTransform") for kind in kinds) and not content.endswith((b"\n", b"\r")):
        raise UnreadableError("its last line has no end, as where a file is cut short")
    single = [kind for kind in kinds if not kind.startswith("CompositeTransform")]
    if not kinds or any(len(found) != len(single) for found in numbers.values()):
        raise UnreadableError("a transform has no kind or no parameters")
    values = iter(zip(*numbers.values()))
    return [
        _Stored(kind, *((np.empty(0), np.empty(0)) if kind.startswith("CompositeTransform") else next(values)))
        for kind in kinds
    ]


def _numbers(text: str) -> np.ndarray:
    parts = text.split()
    try:
        return np.array([float(part) for part in parts if "_" not in part or part.isalpha()], float)
    except ValueError as error:
        raise UnreadableError(f"{str(error)[:60]}") from error


def _in_matlab(content: bytes) -> list[_Stored]:
    """The transforms of a MATLAB file of version 4: a matrix with their kind as its name, and one named fixed."""
    matrices: list[tuple[str, np.ndarray]] = []
    place = 0
    while place < len(content):
        if place + _MATLAB_HEADER > len(content) or len(matrices) > _MOST_MATRICES:
            raise UnreadableError("it is cut short")
        order = "<" if 0 <= struct.unpack_from("<i", content, place)[0] < 10000 else ">"
        code, rows, columns, is_complex, length = struct.unpack_from(order + "5i", content, place)
        place += _MATLAB_HEADER
        width = {0: 8, 10: 4}.get(code % 100)
        if width is None or is_complex or min(rows, columns) < 0 or not 0 < length <= _LONGEST_NAME:
            raise UnreadableError("it is no MATLAB file as ITK writes it")
        end = place + length + rows * columns * width
        if end > len(content):
            raise UnreadableError("it is cut short")
        name = content[place : place + length].split(b"\0")[0].decode("latin-1")
        values = np.frombuffer(content, f"{order}f{width}", rows * columns, place + length)
        matrices.append((name, values.astype(np.float64)))
        place = end
    if not matrices or len(matrices) % 2 or any(name != "fixed" for name, _ in matrices[1::2]):
        raise UnreadableError("it is no MATLAB file as ITK writes it, or cut short")
    return [_Stored(kind, values, fixed) for (kind, values), (_, fixed) in zip(matrices[::2], matrices[1::2])]


def _check(stored: Sequence[_Stored]) -> None:
    """Raise UnreadableError where kinds, numbers or sizes cannot be those of transforms."""
    if not stored:
        raise UnreadableError("it holds no transform")
    if len(stored) > 1 and (not stored[0].is_composite or any(each.is_composite for each in stored[1:])):
        raise SeveralError(len(stored))
    if len(stored) == 1 and stored[0].is_composite:
        raise UnreadableError("its composite transform is empty")
    for each in stored:
        match = _KIND.fullmatch(each.kind)
        if match is None:
            raise UnreadableError(f"the kind {each.kind[:60]!r} is none of ITK's")
        if match.groups()[1:] != ("3", "3"):
            raise DimensionError(match[2])
        if not each.is_composite:
            _check_numbers(match[1], each)


def _check_numbers(name: str, stored: _Stored) -> None:
    """Finite numbers, as many as the kind of transform has."""
    values = np.concatenate([stored.parameters, stored.fixed])
    if not np.all(np.isfinite(values)):
        raise UnreadableError("it holds parameters that are NaN or infinite")
    if np.any(np.abs(values) > _LARGEST):
        raise UnreadableError(f"it holds the parameter {values[np.abs(values).argmax()]:.3g}")
    if name in _ON_LATTICE:
        _check_lattice(stored)
        return
    if name not in _COUNTS:
        raise UnreadableError(f"the kind {name[:60]!r} is not known")
    counts = len(stored.parameters), len(stored.fixed)
    if any(count not in possible for count, possible in zip(counts, _COUNTS[name])):
        raise UnreadableError(f"its {name} has {counts[0]} parameters and {counts[1]} fixed ones")


def _check_lattice(stored: _Stored) -> None:
    """The vectors on a lattice must be as many as it has nodes."""
    if len(stored.fixed) != _OF_FIELD:
        raise UnreadableError(f"its lattice has {len(stored.fixed)} numbers")
    size, spacing, direction = stored.fixed[:3], stored.fixed[6:9], stored.fixed[9:].reshape(3, 3)
    no_lattice = np.any(size < 1) or np.any(size % 1) or np.any(spacing < _LEAST_SPACING_MM)
    no_lattice |= np.any((direction != 0) & (abs(direction) < np.finfo(float).tiny))  # ITK inverts it to anything
    if no_lattice or abs(np.linalg.det(direction)) < _LEAST_VOLUME:
        raise UnreadableError("its lattice has no usable size, spacing or direction")
    nodes = math.prod(int(side) for side in size)
    if len(stored.parameters) != 3 * nodes:
        raise UnreadableError(f"its lattice has {nodes} nodes, and it holds {len(stored.parameters)} numbers")
