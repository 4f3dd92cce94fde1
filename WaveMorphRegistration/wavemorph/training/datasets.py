"""The paper's two data sets, in the layouts of TransMorph and Learn2Reg (paper section 4.1).

IXI, preprocessed for TransMorph: `Train/`, `Val/`, `Test/` with pickled (volume, labels), and `atlas.pkl`.
OASIS of Learn2Reg: `imagesTr/OASIS_0001_0000.nii.gz`, `labelsTr/` with the same names, and `pairs_val.csv`.
"""

from __future__ import annotations

import csv
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from .splits import OASIS_VALIDATION_PAIRS
from .synthetic_pairs import TrainingPair

# The 30 structures of IXI's label maps that are scored, and all 35 of OASIS's.
IXI_LABELS = (1, 2, 3, *range(5, 17), 18, *range(20, 24), *range(25, 33), 34, 36)
OASIS_LABELS = tuple(range(1, 36))
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in (
        ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One subject. volume: (D, H, W), about [0, 1]. labels: (D, H, W), or None where the data set has none."""

    name: str
    volume: np.ndarray
    labels: np.ndarray | None


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain containers; a pickle that names anything else is refused before it runs."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")
        return super().find_class(module, name)


def read_pickled(path: Path) -> Subject:
    """Read one subject of TransMorph's IXI. Raises InputError unless the file holds two arrays of the same shape."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except FileNotFoundError as error:
        raise InputError(f'There is no file "{path}"; check the folder of the data set.') from error
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError, TypeError) as error:
        raise InputError(f'"{path}" is not a pickled volume with labels ({error}).') from error
    if not (isinstance(content, (tuple, list)) and len(content) == 2 and all(_is_volume(part) for part in content)):
        raise InputError(f'"{path}" does not hold a volume and its labels.')
    volume, labels = content
    if volume.shape != labels.shape:
        raise InputError(f'The volume {volume.shape} and the labels {labels.shape} of "{path}" differ in shape.')
    return Subject(path.stem, np.asarray(volume, np.float32), np.asarray(labels).astype(np.int32))


def _is_volume(part) -> bool:
    return isinstance(part, np.ndarray) and part.ndim == 3 and part.dtype.kind in "fiu"


class IxiData:
    """IXI, atlas to patient: the atlas is moving, each patient fixed. Raises InputError where files are missing."""

    labels = IXI_LABELS

    def __init__(self, folder: Path):
        self._folder = Path(folder)
        self.atlas = read_pickled(self._folder / "atlas.pkl")

    def training(self) -> list[Path]:
        return self._files("Train")

    def pairs(self, part: str = "Test") -> list[tuple[Path | None, Path]]:
        """(moving, fixed) files of a part; None stands for the atlas."""
        return [(None, path) for path in self._files(part)]

    def read(self, path: Path | None) -> Subject:
        return self.atlas if path is None else read_pickled(path)

    def draw(self, generator: np.random.Generator, fixed: Path) -> tuple[Path | None, Path]:
        return None, fixed

    def _files(self, part: str) -> list[Path]:
        files = sorted((self._folder / part).glob("*.pkl"))
        if not files:
            raise InputError(f'There are no .pkl files in "{self._folder / part}"; it should hold the part {part}.')
        return files


class OasisData:
    """OASIS, inter-patient: each training subject is fixed once an epoch, against another one drawn at random.

    Subjects of the validation pairs are left out: those of `pairs_val.csv` in the folder, or else of `splits.py`.
    Raises InputError where files are missing.
    """

    labels = OASIS_LABELS

    def __init__(self, folder: Path):
        self._folder = Path(folder)
        self._images = sorted((self._folder / "imagesTr").glob("*.nii.gz"))
        if not self._images:
            raise InputError(f'There are no .nii.gz files in "{self._folder / "imagesTr"}".')
        self._validation = self._read_pairs()

    def training(self) -> list[Path]:
        held_out = {name for pair in self._validation for name in pair}
        files = [path for path in self._images if _number(path) not in held_out]
        if len(files) < 2:
            raise InputError(f'Training needs two subjects outside the validation pairs; "{self._folder}" has fewer.')
        return files

    def pairs(self, part: str = "Test") -> list[tuple[Path | None, Path]]:
        """(moving, fixed) files of the validation pairs, the only ones with public labels."""
        by_number = {_number(path): path for path in self._images}
        missing = sorted({n for pair in self._validation for n in pair} - by_number.keys())
        if missing:
            raise InputError(f'The validation subject {missing[0]} is missing in "{self._folder / "imagesTr"}".')
        return [(by_number[moving], by_number[fixed]) for fixed, moving in self._validation]

    def read(self, path: Path | None) -> Subject:
        import SimpleITK as sitk

        assert path is not None  # only IXI has an atlas
        volume = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))
        beside = self._folder / "labelsTr" / path.name
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(beside))).astype(np.int32) if beside.exists() else None
        return Subject(path.name.split(".")[0], volume / max(float(volume.max()), 1e-6), labels)

    def draw(self, generator: np.random.Generator, fixed: Path) -> tuple[Path | None, Path]:
        others = [path for path in self.training() if path != fixed]
        return others[generator.integers(len(others))], fixed

    def _read_pairs(self) -> list[tuple[int, int]]:
        table = self._folder / "pairs_val.csv"
        if not table.exists():
            return list(OASIS_VALIDATION_PAIRS)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        try:
            return [(int(row["fixed"]), int(row["moving"])) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'"{table}" needs the columns fixed and moving with numbers of subjects.') from error


def _number(path: Path) -> int:
    """OASIS_0438_0000.nii.gz -> 438."""
    parts = path.name.split("_")
    if len(parts) < 2 or not parts[1].split(".")[0].isdigit():
        raise InputError(f'"{path.name}" is not named like OASIS_0001_0000.nii.gz.')
    return int(parts[1].split(".")[0])


DATA_SETS = {"ixi": IxiData, "oasis": OasisData}


class DataPairs:
    """Training pairs of a data set; pair n depends on the seed and n alone. Each epoch has its own order."""

    spacing_mm = 1.0

    def __init__(self, data: IxiData | OasisData, seed: int = 0, device: torch.device | str = "cpu"):
        self._data, self._seed, self._device, self._files = data, seed, torch.device(device), data.training()

    def __getitem__(self, index: int) -> TrainingPair:
        epoch, position = divmod(index, len(self._files))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._files))
        chosen = self._data.draw(np.random.default_rng((self._seed, epoch, position)), self._files[order[position]])
        moving, fixed = (as_tensor(self._data.read(path).volume, self._device) for path in chosen)
        if moving.shape != fixed.shape:
            raise InputError(f"The volumes {chosen[0]} and {chosen[1]} differ in shape.")
        return TrainingPair(fixed, moving, fixed, moving, torch.ones_like(fixed))


def as_tensor(volume: np.ndarray, device: torch.device) -> torch.Tensor:
    """(D, H, W) -> (1, 1, D, H, W), float32."""
    content = bytearray(np.ascontiguousarray(volume, np.float32).tobytes())
    return torch.frombuffer(content, dtype=torch.float32).reshape(1, 1, *volume.shape).to(device)
