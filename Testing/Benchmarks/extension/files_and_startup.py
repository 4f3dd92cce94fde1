"""What the module costs in Slicer: at each start, beside the engine's time, and as files.

start: seconds, megabytes and modules that each start of Slicer loads. Slicer's Python layer is replaced by the names
that the module needs before a user opens it.
clicks: seconds from the click to the nodes in the scene beyond those of the engine, with the real worker process.
sizes: megabytes of the transform files and of the scene, the errors that rounding and storing at 2 mm make, and the
time that the field and the grid of Slicer take.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

MODULE = Path(__file__).resolve().parents[3] / "WaveMorphRegistration"
_BASE_CLASSES = ("", "Widget", "Logic", "Test")
_POLL_SECONDS = 0.05  # of the panel
_PREPARATION_SECONDS = 20.0  # a user takes so long to click after choosing the second volume


def main() -> None:
    """Measure what the command names, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("start")
    start.add_argument("--json", action="store_true", help="with the names of the modules")
    start.set_defaults(run=measureStart)
    for name, run in (("clicks", measureClicks), ("sizes", measureSizes)):
        command = commands.add_parser(name)
        command.add_argument("--fixed", required=True)
        command.add_argument("--moving", required=True)
        command.add_argument("--preset", default="Balanced")
        command.set_defaults(run=run)
    options = parser.parse_args()
    sys.path.insert(0, str(MODULE))
    options.run(options)


def measureStart(options: argparse.Namespace) -> None:
    """Import the module as Slicer does, and let it register its sample data."""
    sources = _replaceSlicer()
    before, megabytes, began = set(sys.modules), _residentMegabytes(), time.perf_counter()
    module = importlib.import_module("WaveMorphRegistration")
    module.WaveMorphRegistration(types.SimpleNamespace())
    module.removeOldFolders()
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


def measureClicks(options: argparse.Namespace) -> None:
    """Three registrations of one pair: the first with a worker that was prepared, the others with the same one."""
    from WaveMorphRegistrationLib.engine.registrationChoice import RegistrationChoice
    from WaveMorphRegistrationLib.engine.registrationLogic import RegistrationLogic
    from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene

    scene, logic = HeadlessScene(), RegistrationLogic()
    nodes = scene.loadVolume(options.fixed), scene.loadVolume(options.moving)
    logic.prepare()
    time.sleep(_PREPARATION_SECONDS)
    for click in (1, 2, 3):
        began = time.perf_counter()
        logic.start(RegistrationChoice(*nodes, {"preset": options.preset}))
        logic.poll()
        while logic.job.active:
            time.sleep(_POLL_SECONDS)
            logic.poll()
        seconds = time.perf_counter() - began
        if logic.outcome is None:
            raise SystemExit(logic.job.error)
        engine = logic.outcome.report["seconds"]["total"]
        print(f"click {click}: {seconds:.1f} s, the engine {engine:.1f} s, beside it {seconds - engine:.1f} s")
    logic.close()
    scene.close()


def measureSizes(options: argparse.Namespace) -> None:
    """One registration with its inverse: megabytes of its files, as they are and stored at 2 mm."""
    import SimpleITK as sitk
    from wavemorph import Settings, register
    from wavemorph.io.fields import (
        field_lattice,
        make_inverse_field,
        registration_field,
        rounded_inverse_field,
        rounded_whole_field,
        whole_field,
    )
    from wavemorph.io.outputs import write_transform
    from WaveMorphRegistrationLib.scene.transforms import wholeTransform

    fixed, moving = sitk.ReadImage(options.fixed), sitk.ReadImage(options.moving)
    result = register(fixed, moving, Settings(preset=options.preset, inverse=True))
    inFile = dataclasses.replace(result, field=rounded_whole_field(result))
    for name, function, argument in (("field", rounded_whole_field, result), ("grid", wholeTransform, inFile)):
        seconds = min(_cpuSeconds(function, argument) for _ in range(5))
        print(f"making the {name} takes {seconds:.2f} s of CPU time")
    print(f"making the inverse field takes {_cpuSeconds(rounded_inverse_field, result):.2f} s of CPU time")
    exact = whole_field(result, field_lattice(result))
    moved = sitk.GetArrayFromImage(registration_field(result)) - exact
    print(f"rounding moves points by {float((moved**2).sum(-1).max()) ** 0.5:.4f} mm at most")
    for name, each in (("as it is", result), ("stored at 2 mm", result.stored_at(2.0))):
        print(name, each.report.get("stored", {}).get("error_mm", ""))
        make_inverse_field(each)
        with tempfile.TemporaryDirectory() as folder:
            for extension in (".nii.gz", ".nrrd", ".h5"):
                path = Path(folder) / f"transform{extension}"
                write_transform(each, path)
                print(f"  {extension}: {path.stat().st_size / 1e6:.1f} MB")
            for outputs in (("transform", "warped", "jacobian"), ("transform", "warped", "jacobian", "inverse")):
                path = Path(folder) / "case.mrb"
                _writeScene(each, options, outputs, path)
                print(f"  .mrb with {', '.join(outputs)}: {path.stat().st_size / 1e6:.1f} MB")


def _cpuSeconds(function: Callable, *arguments: object) -> float:
    """Of this process, in all its threads."""
    began = time.process_time()
    function(*arguments)
    return time.process_time() - began


def _writeScene(registration: object, options: argparse.Namespace, outputs: tuple[str, ...], path: Path) -> None:
    from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
    from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene

    scene = HeadlessScene()
    nodes = scene.loadVolume(options.fixed), scene.loadVolume(options.moving)
    addRegistrationToScene(registration, *nodes, outputs)
    scene.saveBundle(path)
    scene.close()


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
