"""What a subject's outputs were made from, so that a study can be resumed: checksums of inputs, settings, weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.files import short_reason
from ...io.outputs import write_json
from ...models.weights import resolve, resolve_segmentation_model
from ...settings import Settings
from ...system.machine import choose_device
from ...system.version import __version__

# hidden, so that readers of a BIDS data set pass it over; each subject has a folder of its own in it
STATE_FOLDER = ".wavemorph"
_NOT_COMPARED = ("threads",)  # they change no more than the last digits
_HEADERS = (".hdr", ".mhd", ".nhdr")  # of volumes whose voxels are in other files beside them
_BLOCK = 1 << 20


def record_path(study: Path, subject: str) -> Path:
    """The file of a subject's record."""
    return study / STATE_FOLDER / subject / "record.json"


def provenance(inputs: Mapping[str, Path], settings: Settings | None, **choices: Any) -> dict[str, Any]:
    """What decides a result: the version, the settings, other choices, and checksums of the weights and the inputs.

    settings: of the registration; None where nothing is registered. Raises WeightsError, DeviceError, and InputError
    where an input cannot be read.
    """
    try:
        checksums = {name: checksum(path) for name, path in inputs.items()}
    except FileNotFoundError as error:
        raise InputError(f'The file "{error.filename}" does not exist; check the path.') from error
    except OSError as error:
        raise InputError(
            f'The file "{error.filename}" cannot be read ({short_reason(error)}); copy it again.'
        ) from error
    return {
        "version": __version__,
        "settings": None if settings is None else compared(settings),
        "choices": choices,
        "weights": {} if settings is None else _weights(settings),
        "inputs": checksums,
    }


def compared(settings: Settings) -> dict[str, Any]:
    """The settings that decide a result."""
    return {name: value for name, value in settings.to_dict().items() if name not in _NOT_COMPARED}


def checksum(path: Path) -> str:
    """SHA-256 of a volume: of a file with the files that belong to it, or of all files in a folder."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    elif path.suffix.lower() in _HEADERS:
        files = sorted(file for file in path.parent.iterdir() if file.is_file() and file.stem == path.stem)
    digest = hashlib.sha256()
    for file in files:
        if len(files) > 1:
            digest.update(os.fsencode(file.relative_to(path if path.is_dir() else path.parent)) + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """The record of a subject that is done.

    Attributes:
        made_from: its `provenance`.
        outputs: checksums of its files or folders, by their names below the study's folder.
        row: its row in the table, without covariates.
    """

    made_from: Mapping[str, Any]
    outputs: Mapping[str, str]
    row: Mapping[str, Any]

    def write(self, path: str | os.PathLike) -> None:
        """Write it as JSON. Raises OSError."""
        write_json({"made_from": self.made_from, "outputs": self.outputs, "row": self.row}, path)

    def put(self, path: Path) -> None:
        """Write it under another name, and put it in place of an earlier one, whole or not at all. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        self.write(temporary)
        os.replace(temporary, path)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record in a file; None where there is none that can be read."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(dict(values["made_from"]), dict(values["outputs"]), dict(values["row"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def holds(self, made_from: Mapping[str, Any], files: list[str], study: Path) -> bool:
        """Whether the outputs were made from the same, are at least `files`, and are as they were written."""
        same = self.made_from == json.loads(json.dumps(made_from))
        return (
            same
            and set(files) <= set(self.outputs)
            and all(_is_intact(study / name, found) for name, found in self.outputs.items())
        )


def _is_intact(path: Path, expected: str) -> bool:
    try:
        return checksum(path) == expected
    except OSError:
        return False


def _weights(settings: Settings) -> dict[str, str]:
    """The checksums of the models that a registration uses."""
    if settings.weights == "none":
        return {}
    device = choose_device(settings.device)
    found = {"segmentation": resolve_segmentation_model(device).sha256}
    model = resolve(settings.weights, device) if settings.deformable else None
    return found if model is None else {**found, "registration": model.sha256}
