"""Models: safetensors with a card beside them, checked before they are used. Nothing in a file is ever executed.

A model is two files in one folder, NAME.safetensors and NAME.json. Shipped models lie in Resources/Models of the
module, a user's own in `user_folder()`. Torch is imported only to load one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import SettingsError, WeightsError

SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "Resources" / "Models"
DEFAULT_MODEL = "wavemorph"
ANATOMY_MODEL = "anatomy"


@dataclass(frozen=True)
class ModelCard:
    """What a model is. `config` is a NetworkConfig as a dictionary; `sha256` is that of the safetensors file."""

    name: str
    description: str
    config: dict
    sha256: str = ""
    training: str = ""
    evaluation: str = ""
    intended_use: str = ""
    limits: str = ""
    licence: str = ""
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """An installed model, not yet loaded. `path` is its safetensors file."""

    name: str
    description: str
    path: Path


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to run (`torch.nn.Module` in eval mode), its card, and the checksum of its file."""

    network: Any
    card: ModelCard
    sha256: str


def user_folder() -> Path:
    """Where a user's own models are looked for; WAVEMORPH_MODELS names another folder."""
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
    """The installed models by name; of two with one name the shipped one counts. Files without a card are left out,
    and so is the model that sees structures instead of displacements.
    """
    found: dict[str, ModelInfo] = {}
    for folder in (SHIPPED_FOLDER, user_folder()):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            try:
                card = _read_card(path)
            except WeightsError:
                continue
            if card.config.get("output") == "anatomy":
                continue
            found.setdefault(card.name, ModelInfo(card.name, card.description, path))
    return sorted(found.values(), key=lambda model: model.name)


def resolve(weights: str | os.PathLike, device: Any) -> LoadedModel | None:
    """The model that `weights` asks for on `device`: "none", "auto", the name of an installed model, or a file.

    None for "none", and for "auto" where the default model is not installed. Raises WeightsError.
    """
    if str(weights) == "none":
        return None
    installed = {model.name: model.path for model in list_models()}
    if str(weights) == "auto":
        return load(installed[DEFAULT_MODEL], device) if DEFAULT_MODEL in installed else None
    if str(weights) in installed:
        return load(installed[str(weights)], device)
    path = Path(weights)
    if path.suffix == ".safetensors" or path.exists():
        model = load(path, device)
        if model.network.config.output == "anatomy":
            raise WeightsError(f'The model "{path.name}" sees structures and registers nothing; choose another.')
        return model
    names = ", ".join(installed) or "none"
    raise WeightsError(f'There is no model "{weights}"; installed: {names}. Give one of them, a file, or none.')


def resolve_anatomy(device: Any) -> LoadedModel | None:
    """The shipped model that sees structures in one volume, or None where it is not installed. Raises WeightsError."""
    path = SHIPPED_FOLDER / f"{ANATOMY_MODEL}.safetensors"
    return load(path, device) if path.is_file() else None


def load(path: Path, device: Any) -> LoadedModel:
    """The model in a safetensors file, after its checksum, names, shapes and values hold. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f'The weights "{path}" do not exist; check the path.')
    if path.suffix != ".safetensors":
        raise WeightsError(f'The weights "{path.name}" are no .safetensors file, the only kind that is safe to load.')
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

    from .network import AnatomyNetwork, NetworkConfig, WaveMorphNetwork

    try:
        config = NetworkConfig.from_dict(card.config)
        network = AnatomyNetwork(config) if config.output == "anatomy" else WaveMorphNetwork(config)
    except (SettingsError, TypeError, ValueError) as error:
        raise WeightsError(f'The card of "{path.name}" describes no network that can be built ({error}).') from error
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f'The weights "{path.name}" are damaged ({error}); copy or download them again.') from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    seen = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | seen.keys()):
        if expected.get(name) != seen.get(name):
            raise WeightsError(
                f'The weights "{path.name}" are for another network: {name} has the shape {seen.get(name)}, not '
                f"{expected.get(name)}."
            )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise WeightsError(f'The weights "{path.name}" hold values that are NaN or infinite; use another model.')
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return LoadedModel(network.to(device).eval(), card, sha256)


def save_model(network: Any, card: ModelCard, folder: str | os.PathLike) -> Path:
    """Write NAME.safetensors and NAME.json; returns the former. The card's checksum and configuration are filled in."""
    import safetensors.torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(tensors)
    card = dataclasses.replace(card, config=network.config.to_dict(), sha256=hashlib.sha256(content).hexdigest())
    text = json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False) + "\n"
    path = folder / f"{card.name}.safetensors"
    _replace(path, content)
    _replace(path.with_suffix(".json"), text.encode())
    return path


def _read_card(path: Path) -> ModelCard:
    """The card beside a safetensors file. Raises WeightsError."""
    beside = path.with_suffix(".json")
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
        card = ModelCard(**values)
    except FileNotFoundError as error:
        raise WeightsError(f'The weights "{path.name}" come without their card "{beside.name}"; copy both.') from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f'The card "{beside.name}" cannot be read ({error}); copy or download it again.') from error
    if not isinstance(card.config, dict) or not isinstance(card.name, str) or not isinstance(card.sha256, str):
        raise WeightsError(f'The card "{beside.name}" lacks a name, a configuration or a checksum.')
    return card


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
