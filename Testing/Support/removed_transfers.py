"""Takes one choice of the device out of the engine at a time, and sees whether a registration on a device notices.

    python removed_transfers.py       one line for each place: its file, what was taken away, and what was raised

Each time the engine is imported anew with one line changed, and a small pair is registered on `stand_in_device.DEVICE`.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import phantoms
import torch
from stand_in_device import DEVICE, stand_in_device


@dataclass(frozen=True)
class Removal:
    """In `module` of the engine `text`, which occurs once, becomes `replacement`. settings: of the registration."""

    module: str
    text: str
    replacement: str
    settings: tuple[tuple[str, object], ...] = ()


REMOVALS = (
    Removal("models.weights", "network.to(device).eval()", "network.eval()", (("preset", "Instant"),)),
    Removal("spatial.grid", "[None, None].to(device)", "[None, None]"),
    Removal("spatial.preprocessing", "[None, None].to(device)", "[None, None]"),
    Removal("spatial.preprocessing", "[0.005, 0.995], device=sample.device", "[0.005, 0.995]"),
    Removal("spatial.displacement", "values, dtype=dtype, device=device", "values, dtype=dtype"),
    Removal("spatial.displacement", "torch.arange(n, dtype=dtype, device=device)", "torch.arange(n, dtype=dtype)"),
    Removal("spatial.displacement", "torch.arange(n, device=device), torch.arange(n - 1, -1, -1, device=device)",
            "torch.arange(n), torch.arange(n - 1, -1, -1)"),
    Removal("spatial.subject", "torch.ones(grid.shape, device=device, ", "torch.ones(grid.shape, "),
    Removal("spatial.inversion", "size[2], device=field.device)", "size[2])", (("inverse", True),)),
    Removal("network.dysample", "torch.arange(n, dtype=dtype, device=x.device)", "torch.arange(n, dtype=dtype)",
            (("preset", "Instant"),)),
    Removal("registration.similarity.mutual_information", "bins * bins, device=warped.device", "bins * bins"),
    Removal("registration.deformable.optimizer", "factor), device=problem.fixed.device", "factor)"),
    Removal("registration.evidence", "torch.tensor(chosen, device=nodes.device)", "torch.tensor(chosen)"),
    Removal("registration.report", "tensor_from_array(kji.T).to(displacement.device)", "tensor_from_array(kji.T)"),
)  # fmt: skip


def outcomes() -> Iterator[tuple[Removal | None, str]]:
    """(None, result of the engine as it is), then (removal, result) for each; a result is an error, or ""."""
    for removal in (None, *REMOVALS):
        yield removal, _register_without(removal)


def _register_without(removal: Removal | None) -> str:
    """What a registration on the device raises; "" where it runs to its end."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "wavemorph"}
    for name in kept:
        del sys.modules[name]
    finder = _Changed(removal)
    sys.meta_path.insert(0, finder)
    try:
        return _error_of_registration(dict(removal.settings) if removal is not None else {})
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "wavemorph"]:
            del sys.modules[name]
        sys.modules.update(kept)


def _error_of_registration(settings: dict) -> str:
    from wavemorph import Settings, register
    from wavemorph.registration import pipeline

    pipeline.choose_device = lambda name: DEVICE
    whole, cut = phantoms.regular((40, 44, 40), (2.2, 2.2, 2.2)), phantoms.regular((40, 44, 26), (2.2, 2.2, 2.2))
    settings = Settings(**{"spacing_mm": 2.2, "affine": False, "smoothness": "high", **settings})
    try:
        with stand_in_device():
            register(phantoms.head(whole), phantoms.head(cut, (2.0, 0.0, 1.0)), settings)
    except RuntimeError as error:  # DeviceMixError, or torch's own
        return str(error)
    return ""


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module of the engine with a removal in its source."""

    def __init__(self, removal: Removal | None):
        self._removal = removal

    def find_spec(self, fullname, path, target=None):
        if self._removal is None or fullname != f"wavemorph.{self._removal.module}":
            return None
        file = Path(path[0], f"{fullname.split('.')[-1]}.py")
        return importlib.util.spec_from_file_location(fullname, file, loader=self)

    def create_module(self, spec):
        return None

    def exec_module(self, module) -> None:
        assert self._removal is not None
        source = Path(module.__spec__.origin).read_text(encoding="utf-8")
        if source.count(self._removal.text) != 1:
            raise ValueError(f"{self._removal.module} does not hold {self._removal.text!r} once")
        changed = source.replace(self._removal.text, self._removal.replacement)
        exec(compile(changed, module.__spec__.origin, "exec"), vars(module))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for removed, error in outcomes():
        place = f"{removed.module}: {removed.text}" if removed is not None else "nothing"
        print(f"| {place} | {error or 'runs to its end'} |", flush=True)
