"""Find, check, load and save models. No code in a model file is executed.

A model is two files in one folder: NAME.safetensors, and NAME.json, its card. The shipped models are in the folder of
this file, those of a user in `user_folder()`. Torch is imported only to load or save one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingsError, WeightsError

SHIPPED_FOLDER = Path(__file__).resolve().parent
DEFAULT_MODEL = "wavemorph"
SEGMENTATION_MODEL = "brain-segmentation"
_MOST_PARTS, _LARGEST_NUMBER = 64, 4096  # of lists in a configuration, and of numbers
_LARGEST_COUNT, _LARGEST_KERNEL, _MOST_CHANNELS = 64, 15, 1024
# Names in files of earlier versions
_LEGACY_CARD_KEYS = {"licence": "license"}
_LEGACY_OUTPUTS = {"anatomy": "segmentation"}
_LEGACY_TENSOR_NAMES = {"reach": "depthwise", "carry": "shortcut"}


@dataclass(frozen=True)
class ModelCard:
    """The description of a model.

    Attributes:
        name: the name of both files, without extension.
        description: one line, for lists.
        config: a `NetworkConfig` as a dictionary.
        sha256: checksum of the safetensors file.
        training: data, command, hardware and time.
        evaluation: results.
        intended_use: what the model is for.
        limits: what it is not for.
        license: of the weights.
        extra: further entries.
        checksum: of what is used of the card: name, config, sha256 and extra. "" in cards of earlier versions.
    """

    name: str
    description: str
    config: dict
    sha256: str = ""
    training: str = ""
    evaluation: str = ""
    intended_use: str = ""
    limits: str = ""
    license: str = ""
    extra: dict = field(default_factory=dict)
    checksum: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """An installed model, not yet loaded. path: its safetensors file."""

    name: str
    description: str
    path: Path


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode (a `torch.nn.Module`), its card, and the checksum of its file."""

    network: Any
    card: ModelCard
    sha256: str


def user_folder() -> Path:
    """The folder with a user's own models; the environment variable WAVEMORPH_MODELS names another one."""
    chosen = os.environ.get("WAVEMORPH_MODELS")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "wavemorph" / "models"


def list_models() -> list[ModelInfo]:
    """The installed registration models, sorted by name; a shipped model precedes one of the same name.

    Files without a card and segmentation models are left out.
    """
    found: dict[str, ModelInfo] = {}
    for folder in (SHIPPED_FOLDER, user_folder()):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            try:
                card = _read_card(path)
            except WeightsError:
                continue
            if card.config.get("output") == "segmentation":
                continue
            found.setdefault(card.name, ModelInfo(card.name, card.description, path))
    return sorted(found.values(), key=lambda model: model.name)


def resolve(weights: str | os.PathLike, device: Any) -> LoadedModel | None:
    """Load the registration model that `weights` names. A model is loaded once per process and device.

    Parameters:
        weights: "none", "auto" (the default model), the name of an installed model, or a file.
        device: a torch.device or its name.

    Returns:
        The model on `device`; None for "none".

    Raises:
        WeightsError: the model is missing, damaged, or one for segmentation.
    """
    if str(weights) == "none":
        return None
    installed = {model.name: model.path for model in list_models()}
    name = DEFAULT_MODEL if str(weights) == "auto" else str(weights)
    if name in installed:
        return _load_once(installed[name], device)
    if str(weights) == "auto":
        raise WeightsError(
            f'The default model is missing in "{SHIPPED_FOLDER}"; install WaveMorph again, or choose the weights '
            "none to register without a network."
        )
    path = Path(weights)
    if path.suffix == ".safetensors" or path.exists():
        model = _load_once(path, device)
        if model.network.config.output == "segmentation":
            raise WeightsError(f'The model "{path.name}" is for segmentation, not for registration; choose another.')
        return model
    names = ", ".join(installed) or "none"
    raise WeightsError(f'There is no model "{weights}"; installed: {names}. Give one of them, a file, or none.')


def resolve_segmentation_model(device: Any) -> LoadedModel:
    """Load the shipped brain segmentation model. Raises WeightsError where it is missing or damaged."""
    return _load_once(SHIPPED_FOLDER / f"{SEGMENTATION_MODEL}.safetensors", device)


def _load_once(path: Path, device: Any) -> LoadedModel:
    """`load`, kept for the next call unless the files have changed."""
    try:
        stamp = tuple(file.stat().st_mtime_ns for file in (path, path.with_suffix(".json")))
    except OSError:
        stamp = ()
    return _load_cached(path, str(device), stamp)


@functools.lru_cache(maxsize=4)
def _load_cached(path: Path, device: str, stamp: tuple[int, ...]) -> LoadedModel:
    return load(path, device)


def unload() -> None:
    """Forget the models that are kept for the next call, so that the memory of their device can be freed."""
    _load_cached.cache_clear()


def load(path: Path, device: Any) -> LoadedModel:
    """Load the model in a safetensors file.

    The checksum, the names and shapes of the tensors and their values are checked. Names of earlier versions are
    translated.

    Raises:
        WeightsError: the file or its card is missing, damaged, or made for another network.
    """
    if not path.is_file():
        raise WeightsError(f'The weights "{path}" do not exist; check the path.')
    if path.suffix != ".safetensors":
        raise WeightsError(
            f'The weights "{path.name}" are not a .safetensors file, the only kind that is safe to load.'
        )
    card = _read_card(path)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != card.sha256:
        raise WeightsError(
            f'The weights "{path.name}" do not match their card (checksum {sha256[:12]}, not {card.sha256[:12]}); '
            "copy or download both files again."
        )
    import safetensors.torch
    import torch

    from ..network import NetworkConfig, SegmentationNetwork, WaveMorphNetwork

    try:
        tensors = _with_current_names(safetensors.torch.load(content))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f'The weights "{path.name}" are damaged ({error}); copy or download them again.') from error
    _check_config(card, path)
    try:
        config = NetworkConfig.from_dict(card.config)
        _check_room(config, len(content))
        kind = SegmentationNetwork if config.output == "segmentation" else WaveMorphNetwork
        network = kind(config)
    except (SettingsError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(
            f'The card of "{path.name}" does not describe a network that can be built ({error}).'
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise WeightsError(
                f'The weights "{path.name}" are for another network: {name} has the shape {found.get(name)}, not '
                f"{expected.get(name)}."
            )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise WeightsError(f'The weights "{path.name}" hold values that are NaN or infinite; use another model.')
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return LoadedModel(network.to(device).eval(), card, sha256)


def _check_config(card: ModelCard, path: Path) -> None:
    """Names, truth values and moderate numbers, or short lists of them. Raises WeightsError."""
    for name, value in card.config.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if len(parts) > _MOST_PARTS or not all(
            isinstance(part, str) or (isinstance(part, (int, float)) and abs(part) <= _LARGEST_NUMBER) for part in parts
        ):
            raise WeightsError(f'The card of "{path.name}" has the {name} {str(value)[:80]}, which no network has.')


def _check_room(config: Any, stored: int) -> None:
    """Raise ValueError where a network has more weights than a file of `stored` bytes, before it is built."""
    channels = config.channels
    merged = [27 * fine * (fine + coarse) for fine, coarse in zip(channels[1:], channels[2:])][config.flow_level :]
    needed = sum(merged) + 2 * config.expansion * config.bottleneck_blocks * channels[-1] ** 2
    if needed > stored:
        raise ValueError(f"it has at least {needed} weights, and the file has {stored} bytes")
    for name in ("dysample_groups", "expansion", "bottleneck_blocks", "bottleneck_kernel"):
        if not 1 <= getattr(config, name) <= _LARGEST_COUNT:
            raise ValueError(f"its {name} is {getattr(config, name)}")
    if (
        max(config.kernels) > _LARGEST_KERNEL
        or config.bottleneck_kernel > _LARGEST_KERNEL
        or max(channels) > _MOST_CHANNELS
    ):
        raise ValueError("its kernels or channels are larger than those of any network")


def save_model(network: Any, card: ModelCard, folder: str | os.PathLike) -> Path:
    """Write NAME.safetensors and NAME.json, with checksum and configuration in the card; returns the former's path."""
    import safetensors.torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(tensors)
    card = dataclasses.replace(card, config=network.config.to_dict(), sha256=hashlib.sha256(content).hexdigest())
    values = dataclasses.asdict(card)
    text = json.dumps({**values, "checksum": _checksum_of(values)}, indent=1, ensure_ascii=False) + "\n"
    path = folder / f"{card.name}.safetensors"
    _replace(path, content)
    _replace(path.with_suffix(".json"), text.encode())
    return path


def _read_card(path: Path) -> ModelCard:
    """The card beside a safetensors file. Raises WeightsError."""
    beside = path.with_suffix(".json")
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
        card = ModelCard(**{_LEGACY_CARD_KEYS.get(key, key): value for key, value in values.items()})
    except FileNotFoundError as error:
        raise WeightsError(f'The weights "{path.name}" come without their card "{beside.name}"; copy both.') from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f'The card "{beside.name}" cannot be read ({error}); copy or download it again.') from error
    if card.checksum and card.checksum != _checksum_of(values):
        raise WeightsError(
            f'The card "{beside.name}" does not match its own checksum; copy or download it again, or remove its '
            'entry "checksum" if you changed it.'
        )
    texts = (card.name, card.description, card.sha256)
    if not isinstance(card.config, dict) or not all(isinstance(text, str) for text in texts):
        raise WeightsError(f'The card "{beside.name}" lacks a name, a configuration or a checksum.')
    output = card.config.get("output", "velocity")
    return dataclasses.replace(card, config={**card.config, "output": _LEGACY_OUTPUTS.get(str(output), output)})


def _checksum_of(values: dict[str, Any]) -> str:
    """Of the entries of a card that are used. The others are words for readers, which may be edited."""
    used = [values.get(name) for name in ("name", "config", "sha256", "extra")]
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()


def _with_current_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a model by the names of this version."""
    return {
        ".".join(_LEGACY_TENSOR_NAMES.get(part, part) for part in name.split(".")): tensor
        for name, tensor in tensors.items()
    }


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
