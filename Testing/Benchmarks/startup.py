"""What the module adds to each start of Slicer: seconds, megabytes and imported modules.

Slicer's Python layer is replaced by the names that the module needs before a user opens it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import types
from pathlib import Path

MODULE = Path(__file__).resolve().parents[2] / "WaveMorphRegistration"
_BASE_CLASSES = ("", "Widget", "Logic", "Test")


def main() -> None:
    """Import the module as Slicer does, let it register its sample data, and print the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="all measures, with the names of the modules")
    options = parser.parse_args()
    sources = _replaceSlicer()
    sys.path.insert(0, str(MODULE))
    before, megabytes, began = set(sys.modules), _residentMegabytes(), time.perf_counter()
    module = importlib.import_module("WaveMorphRegistration")
    module.WaveMorphRegistration(types.SimpleNamespace())
    module.registerSampleData()
    measured = {
        "seconds": round(time.perf_counter() - began, 4),
        "megabytes": round(_residentMegabytes() - megabytes, 2),
        "registered": len(sources),
        "modules": sorted(set(sys.modules) - before),
    }
    if options.json:
        print(json.dumps(measured))
    else:
        print("{seconds} s, {megabytes} MB".format(**measured))


def _replaceSlicer() -> list[dict]:
    """Install the names; returns the list in which sample data sources are registered."""
    sources: list[dict] = []
    application = types.SimpleNamespace(connect=lambda signal, slot: None)
    logic = type("Logic", (), {"registerCustomSampleDataSource": staticmethod(lambda **source: sources.append(source))})
    bases = {
        f"ScriptedLoadableModule{kind}": type(kind, (), {"__init__": lambda self, parent=None: _keep(self, parent)})
        for kind in _BASE_CLASSES
    }
    for name, content in {
        "slicer": {"app": application},
        "slicer.i18n": {"tr": lambda text: text, "translate": lambda context, text: text},
        "slicer.util": {"VTKObservationMixin": type("VTKObservationMixin", (), {})},
        "slicer.ScriptedLoadableModule": bases,
        "SampleData": {"SampleDataLogic": logic},
    }.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    return sources


def _keep(module: object, parent: object) -> None:
    vars(module)["parent"] = parent


def _residentMegabytes() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("Resident memory is measured on Linux only.")


if __name__ == "__main__":
    main()
