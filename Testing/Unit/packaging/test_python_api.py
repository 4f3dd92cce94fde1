"""The Python API: complete signatures, all names, and an import without torch and SimpleITK."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import wavemorph

MODULE = Path(__file__).resolve().parents[3] / "WaveMorphRegistration"


def test_the_signature_of_register_shows_its_parameters():
    parameters = inspect.signature(wavemorph.register).parameters
    assert list(parameters) == [
        *("fixed", "moving", "settings", "progress"),
        *("fixed_mask", "moving_mask", "initial_transform"),
    ]
    keywords = [name for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    assert keywords == ["fixed_mask", "moving_mask", "initial_transform"]
    required = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]
    assert required == ["fixed", "moving"]
    assert all(name in wavemorph.register.__doc__ for name in parameters)


def test_the_module_lists_all_that_it_offers():
    assert set(wavemorph.__all__) <= set(dir(wavemorph))
    assert {"Registration", "Volume", "Settings", "WaveMorphError", "register"} <= set(dir(wavemorph))
    for name in wavemorph.__all__:
        assert getattr(wavemorph, name) is not None
    assert inspect.isclass(wavemorph.Registration) and inspect.isclass(wavemorph.Volume)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'wavemorph' has no attribute 'registrate'"):
        _ = wavemorph.registrate


@pytest.mark.parametrize(
    "use", ["", "dir(wavemorph);", "wavemorph.Settings();", "import inspect; inspect.signature(wavemorph.register);"]
)
def test_importing_the_package_imports_neither_torch_nor_simpleitk(use):
    code = f"import sys, wavemorph; {use} sys.exit(bool({{'torch', 'SimpleITK'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=MODULE, check=False).returncode == 0


def test_a_registration_can_be_loaded_without_torch():
    code = "import sys, wavemorph; wavemorph.Registration, wavemorph.Volume; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=MODULE, check=False).returncode == 0
