"""All that is to be measured on a GPU, in one command; small, the same on a CPU.

    gpu.py --pairs FOLDER --output gpu.md --plot gpu.png     NAME.nii.gz or NAME_t1.nii.gz with NAME_labels.nii.gz
    gpu.py                                                   the built-in pair, whose true deformation is known
    gpu.py --small --device cpu                              seconds instead of minutes, to see that it works

Tables: forward passes of the paper's network and the shipped ones; `register` at each preset with its peak memory and
its quality beside that of the CPU, and FireANTs, where it is installed, from the same affine; the refinement with plain
steps and with recorded ones; several pairs at once; training steps, and what they make of the paper's 500 epochs. The
last table compares with the targets.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import benchmark
import methods
import numpy as np
import SimpleITK as sitk
import torch
import unet
import wavemorph
from benchmark import Case
from wavemorph.io.images import read_labels
from wavemorph.models.weights import resolve, resolve_segmentation_model
from wavemorph.network import NetworkConfig, WaveMorphNetwork
from wavemorph.registration.deformable.inference import predict
from wavemorph.settings import PRESETS
from wavemorph.system import recording, strategy
from wavemorph.system.machine import choose_device, freed_memory_kept
from wavemorph.training.loop import Trainer
from wavemorph.training.recipe import RECIPES
from wavemorph.training.synthetic_pairs import TrainingPair

PAPER_SIZE = (160, 192, 224)
PAPER_EPOCHS = 500
PAPER_MINUTES_AN_EPOCH = 3.88
SMALL_SIZE = (32, 32, 32)
SMALL_SPACING_MM = 5.0
# (what, in which table and column, the most that it may be)
TARGETS = (
    ("forward pass of the paper's network, bfloat16", "forward", "paper's, one pass", "bfloat16 ms", 10.0),
    ("Instant", "register", "WaveMorph Instant", "s", 0.5),
    ("Balanced", "register", "WaveMorph Balanced", "s", 1.0),
    ("Precise", "register", "WaveMorph Precise", "s", 2.0),
    ("peak memory of Precise", "register", "WaveMorph Precise", "peak GB", 4.0),
    ("folded voxels of Balanced, strict %", "register", "WaveMorph Balanced", "strict %", 0.0),
    ("minutes of an epoch (the paper's time)", "training", "ixi", "min an epoch", PAPER_MINUTES_AN_EPOCH),
)
Row = dict[str, "str | float | None"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured. size: of the volumes of forward passes and training. spacing_mm: of the working grid."""

    device: torch.device
    size: tuple[int, int, int] = PAPER_SIZE
    spacing_mm: float | None = None
    warm_up: int = 3
    runs: int = 10
    pairs: int = 3
    at_once: int = 4
    presets: tuple[str, ...] = PRESETS
    peer_iterations: tuple[int, ...] = methods.FIREANTS_ITERATIONS

    @classmethod
    def small(cls, device: torch.device) -> Plan:
        return cls(device, SMALL_SIZE, SMALL_SPACING_MM, 0, 1, 1, 2, ("Balanced",), (30, 20, 5))


def forward_passes(plan: Plan) -> Iterator[Row]:
    """Milliseconds and peak memory of one application, in float32 and in bfloat16 autocast."""
    device, pair = plan.device, [torch.rand(1, 1, *plan.size, device=plan.device) for _ in range(2)]
    registration, segmentation = resolve("auto", device).network, resolve_segmentation_model(device).network
    calls: list[tuple[str, torch.nn.Module, Callable]] = [
        ("paper's, one pass", WaveMorphNetwork(NetworkConfig()), lambda network: network(*pair)),
        ("registration model, one pass", registration, lambda network: network(*pair)),
        # at 1 mm, integration and composition included
        ("registration model, all its passes", registration, lambda network: predict(network, *pair, 1.0)),
        ("brain segmentation model", segmentation, lambda network: network(pair[0])),
        ("U-Net, one pass", unet.UNet(), lambda network: network(*pair)),
    ]
    for name, network, call in calls:
        network = network.to(device).eval()
        row: Row = {"network": name, "parameters": float(sum(p.numel() for p in network.parameters()))}
        for precision, enabled in (("float32", False), ("bfloat16", True)):
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                seconds, peak = timed(lambda call=call, n=network: call(n), plan)
            row[f"{precision} ms"], row[f"{precision} GB"] = 1000 * seconds, peak
        if network is calls[0][1] and device.type == "cuda":
            row["bfloat16 compiled ms"] = compiled_ms(network, call, plan)
        yield row


def compiled_ms(network: torch.nn.Module, call: Callable, plan: Plan) -> float | str:
    """Milliseconds of the network after `torch.compile`, in bfloat16; the reason where torch cannot compile here."""
    try:
        with torch.inference_mode(), torch.autocast(plan.device.type, torch.bfloat16):
            compiled = torch.compile(network)
            call(compiled)
            return 1000 * timed(lambda: call(compiled), plan)[0]
    except Exception as error:  # of many kinds: without Triton, without a compiler, an operation that it does not know
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def registrations(plan: Plan, cases: Sequence[Case]) -> Iterator[Row]:
    """Each preset on each pair, its quality on the CPU, and FireANTs from the same affine; the means of each method."""
    measured: dict[str, list[Row]] = {}
    for case in cases:
        fixed, moving = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (case.fixed, case.moving))
        affine = sitk.AffineTransform(3)
        for preset in plan.presets:
            settings = wavemorph.Settings(preset=preset, device=str(plan.device), spacing_mm=plan.spacing_mm)
            results: list[wavemorph.Registration] = []
            seconds, peak = timed(lambda s=settings, r=results, f=fixed, m=moving: r.append(register(f, m, s)), plan)
            result, own_runs = results[-1], [each.report["seconds"] for each in results[-plan.runs :]]
            linear = float(np.mean([each.get("Segmentation", 0.0) + each.get("Affine", 0.0) for each in own_runs]))
            on_cpu = register(fixed, moving, dataclasses.replace(settings, device="cpu"))
            quality = _quality(case, result.transform)
            cpu = {f"{name}, CPU": value for name, value in _quality(case, on_cpu.transform).items() if name in _SCORES}
            row: Row = {"s": seconds, "s after affine": seconds - linear, "peak GB": peak, **quality, **cpu}
            measured.setdefault(f"WaveMorph {preset}", []).append(row)
            affine = result.affine
        if methods.fireants_version():
            found: list[sitk.Transform] = []
            seconds, peak = timed(lambda p=(fixed, moving, affine), r=found: r.append(_fireants(plan, *p)), plan)
            measured.setdefault(f"FireANTs {methods.fireants_version()}", []).append(
                {"s": None, "s after affine": seconds, "peak GB": peak, **_quality(case, found[-1])}
            )
    for method, rows in measured.items():
        yield {"method": method, **{name: _mean([row.get(name) for row in rows]) for name in rows[0]}}


_SCORES = ("Dice", "error mm, mean")


def recorded_steps(plan: Plan, case: Case) -> Iterator[Row]:
    """Seconds of the refinement with plain and with recorded steps, and the largest differences of their displacements.

    Two runs with plain steps differ by what the device adds up in another order.
    """
    fixed, moving = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (case.fixed, case.moving))
    for preset in (each for each in plan.presets if each != "Instant"):
        settings = wavemorph.Settings(preset=preset, device=str(plan.device), spacing_mm=plan.spacing_mm)
        row: Row = {"steps": f"refinement of {preset}"}
        results: dict[str, list[wavemorph.Registration]] = {"plain": [], "recorded": []}
        for kind, found in results.items():
            chosen = dataclasses.replace(strategy.CUDA, records_steps=kind == "recorded")
            with mock.patch.object(strategy, "CUDA", chosen):
                _, peak = timed(lambda s=settings, r=found: r.append(register(fixed, moving, s)), plan)
            row[f"{kind} s"] = _mean([each.report["seconds"]["Refinement"] for each in found[-plan.runs :]])
            row[f"{kind} peak GB"] = peak
        plain, recorded = results["plain"], results["recorded"]
        row["difference, voxels"] = _largest_difference(plain[-1], recorded[-1])
        row["two plain runs, voxels"] = _largest_difference(plain[-1], plain[-2]) if len(plain) > 1 else None
        row["recorded"] = _recorded(plan.device)
        yield row


def _recorded(device: torch.device) -> str:
    """Whether steps are recorded on the device, and why not."""
    if device.type != "cuda":
        return "no, not on this device"
    return recording.failure() or ("yes" if recording.can_record(device) else f"no, torch {torch.__version__}")


def _largest_difference(one: wavemorph.Registration, other: wavemorph.Registration) -> float:
    """The largest distance between two displacements on one lattice, in voxels."""
    mm = np.subtract(*(sitk.GetArrayViewFromImage(each.displacement) for each in (one, other)))
    return float(np.linalg.norm(mm, axis=-1).max() / min(one.displacement.GetSpacing()))


def register(fixed: sitk.Image, moving: sitk.Image, settings: wavemorph.Settings) -> wavemorph.Registration:
    return wavemorph.register(fixed, moving, settings)


def several_at_once(plan: Plan, case: Case) -> Iterator[Row]:
    """Seconds a pair by `register_many`, one after another and at once."""
    pair = tuple(sitk.ReadImage(path, sitk.sitkFloat32) for path in (case.fixed, case.moving))
    settings = wavemorph.Settings(device=str(plan.device), spacing_mm=plan.spacing_mm)
    for at_once in (1, plan.at_once):
        single = dataclasses.replace(plan, warm_up=min(plan.warm_up, 1), runs=1)
        seconds, peak = timed(
            lambda n=at_once: wavemorph.register_many([pair] * plan.at_once, settings, at_once=n), single
        )
        yield {"pairs at once": float(at_once), "s a pair": seconds / plan.at_once, "peak GB": peak}


def training(plan: Plan) -> Iterator[Row]:
    """Pairs a second of our recipe and of the paper's, on volumes of the plan's size, and the time of all of it."""
    for name in ("wavemorph", "ixi"):
        recipe = RECIPES[name]
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(recipe, _Noise(plan), Path(folder), plan.device)
            trainer.run(until_pair=1)  # warms up
            _reset_peak(plan.device)
            since = time.perf_counter()
            trainer.run(until_pair=1 + plan.pairs)
            seconds = (time.perf_counter() - since) / plan.pairs
        row: Row = {"recipe": name, "s a pair": seconds, "pairs/s": 1 / seconds, "peak GB": _peak_gb(plan.device)}
        row["days, all of it"] = seconds * recipe.pairs / 86400
        row["min an epoch"] = seconds * recipe.pairs / PAPER_EPOCHS / 60 if name == "ixi" else None
        yield row


class _Noise:
    """A pair of random volumes: the time of a step does not depend on what they show."""

    spacing_mm = 1.0

    def __init__(self, plan: Plan):
        volume = torch.rand(1, 1, *plan.size, device=plan.device)
        self._pair = TrainingPair(volume, volume.flip(2), volume, volume.flip(2), torch.ones_like(volume))

    def __getitem__(self, index: int) -> TrainingPair:
        return self._pair


def _fireants(plan: Plan, fixed: sitk.Image, moving: sitk.Image, affine: sitk.AffineTransform) -> sitk.Transform:
    return methods.fireants(fixed, moving, affine, plan.peer_iterations, str(plan.device))


def _quality(case: Case, transform: sitk.Transform) -> Row:
    numbers = benchmark.score(case, transform)
    return {name: numbers[name] for name in (*_SCORES, "folded %", "strict %", "sd log J") if name in numbers}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def timed(call: Callable[[], object], plan: Plan) -> tuple[float, float]:
    """(mean seconds of a run after those that warm up, peak GB of the device's memory, or of the process on a CPU)."""
    for _ in range(plan.warm_up):
        call()
    _reset_peak(plan.device)
    seconds = []
    for _ in range(plan.runs):
        _synchronize(plan.device)
        since = time.perf_counter()
        call()
        _synchronize(plan.device)
        seconds.append(time.perf_counter() - since)
    return float(np.mean(seconds)), _peak_gb(plan.device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def labeled_cases(folder: str) -> list[Case]:
    """All ordered pairs of the labeled volumes in a folder."""
    volumes = []
    for labels in sorted(Path(folder).glob("*_labels.nii.gz")):
        name = labels.name.removesuffix("_labels.nii.gz")
        found = [path for end in ("", "_t1") if (path := labels.with_name(f"{name}{end}.nii.gz")).exists()]
        volumes += [(str(found[0]), read_labels(str(labels)))] if found else []
    return [
        Case(f"{Path(moving).name} to {Path(fixed).name}", "pairs", fixed, moving, (fixed_labels, moving_labels))
        for (fixed, fixed_labels), (moving, moving_labels) in itertools.permutations(volumes, 2)
    ]


def targets(tables: dict[str, list[Row]]) -> list[Row]:
    """Each target with what was measured; whether FireANTs is slower at no higher a quality than Balanced."""

    def value(table: str, name: str, column: str) -> float | None:
        row = next((each for each in tables.get(table, ()) if name in each.values()), {})
        found = row.get(column)
        return found if isinstance(found, float) else None

    rows: list[Row] = []
    for what, table, name, column, most in TARGETS:
        found = value(table, name, column)
        met = "-" if found is None else "yes" if found <= most else "no"
        rows.append({"target": what, "at most": most, "measured": found, "met": met})
    peer = f"FireANTs {methods.fireants_version()}"
    ours, theirs = (value("register", name, "s after affine") for name in ("WaveMorph Balanced", peer))
    if ours is not None and theirs is not None:
        rows.append({"target": "Balanced, s after affine, against FireANTs", "at most": theirs, "measured": ours,
                     "met": "yes" if ours <= theirs else "no"})  # fmt: skip
    for preset in PRESETS:
        dice, on_cpu = (value("register", f"WaveMorph {preset}", name) for name in ("Dice", "Dice, CPU"))
        if dice is not None and on_cpu is not None:
            off = abs(dice - on_cpu)
            rows.append({"target": f"Dice of {preset} off the CPU's", "at most": 0.002, "measured": off,
                         "met": "yes" if off <= 0.002 else "no"})  # fmt: skip
    return rows


def markdown(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def plot(rows: Sequence[Row], path: str) -> None:
    """Quality against seconds after the affine, a marker for each method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measure = next(name for name in _SCORES if any(row.get(name) is not None for row in rows))
    figure, panel = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for row in rows:
        place, name = (row["s after affine"], row[measure]), str(row["method"])
        panel.scatter(*place, marker="*" if name.startswith("WaveMorph") else "o", s=90)
        panel.annotate(name, place, xytext=(8, 4), textcoords="offset points")
    better = "higher" if measure == "Dice" else "lower"
    panel.set(xscale="log", xlabel="seconds after the affine", ylabel=f"{measure} ({better} is better)")
    panel.margins(x=0.35, y=0.2)
    panel.grid(True, which="both", color="0.93")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="FOLDER", help="labeled volumes; without it the built-in pair")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small volumes, few runs")
    parser.add_argument("--output", help="the tables as Markdown")
    parser.add_argument("--plot", metavar="FILE.png", help="quality against time")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except wavemorph.WaveMorphError as error:
        parser.error(f"{error} With --small --device cpu it runs without a GPU.")
    plan = Plan.small(device) if options.small else Plan(device)
    kind = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, " if device.type == "cuda" else ""
    lines, tables = [kind + benchmark.first_line(benchmark.machine(torch.get_num_threads()))], {}
    with tempfile.TemporaryDirectory() as name, freed_memory_kept():
        cases = labeled_cases(options.pairs) if options.pairs else []
        if options.pairs and not cases:
            parser.error(f"{options.pairs} holds no two volumes NAME.nii.gz with NAME_labels.nii.gz")
        cases = cases or benchmark.built_in_cases(["same"], Path(name), plan.spacing_mm)
        for title, measure in {
            "forward": lambda: forward_passes(plan),
            "register": lambda: registrations(plan, cases),
            "steps": lambda: recorded_steps(plan, cases[0]) if device.type == "cuda" else iter(()),
            "several pairs": lambda: several_at_once(plan, cases[0]),
            "training": lambda: training(plan),
            "targets": lambda: iter(targets(tables)),
        }.items():
            tables[title] = list(measure())
            lines.append(f"\n### {title}\n\n{markdown(tables[title]) or 'Not on this device.'}")
            print(lines[-1], flush=True)
            if options.output:  # after each table, so that a run that is stopped leaves what it has
                Path(options.output).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.plot:
        plot(tables["register"], options.plot)


if __name__ == "__main__":
    main()
