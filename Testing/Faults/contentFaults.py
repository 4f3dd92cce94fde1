"""Models that are damaged, inputs that change while they are read, and a clock that goes back."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench import Bench, WorkerBench, contents
from outcome import Outcome, ending, ending_of_job
from wavemorph.errors import WeightsError
from wavemorph.models import weights

_FLIPS = 1000


def damaged_weights(folder: Path) -> Iterator[Outcome]:
    """A file cut short, or with one bit flipped, of a model and of its card."""
    shipped = weights.SHIPPED_FOLDER
    model, card = folder / "own.safetensors", folder / "own.json"
    whole = {model: (shipped / "wavemorph.safetensors").read_bytes(), card: (shipped / "wavemorph.json").read_bytes()}
    for path, content in whole.items():
        path.write_bytes(content)
    intact = weights.load(model, "cpu")
    choose = random.Random(0)
    for path, content in whole.items():
        name = "weights" if path is model else "card"
        for length in [0, 1, 7, 8, 100, *(len(content) * part // 8 for part in range(1, 8)), len(content) - 1]:
            path.write_bytes(content[:length])
            yield _loaded(intact, model, f"{name} cut short", f"{length} bytes")
        flips = choose.sample(range(8 * len(content)), _FLIPS)
        for bit in flips:
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            yield _loaded(intact, model, f"{name} with one bit flipped", f"bit {bit}")
        path.write_bytes(content)
    bench = Bench(folder / "bench")
    for fault, damaged in (("cut short", whole[model][:-100]), ("with one bit flipped", _flipped(whole[model]))):
        model.write_bytes(damaged)
        finished = bench.run(bench.arguments("--weights", str(model)))
        wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
        yield Outcome("weights", "a command with either", ending(finished), fault, wrong)
        bench.clear()


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


def _loaded(intact: weights.LoadedModel, path: Path, fault: str, detail: str) -> Outcome:
    """A model that is not refused must be the same network, whatever the words of its card."""
    try:
        loaded = weights.load(path, "cpu")
    except WeightsError as error:
        wrong = [] if str(error).endswith(".") else [f"not a sentence: {error}"]
        return Outcome("weights", fault, "refused", detail, wrong)
    except Exception as error:
        return Outcome("weights", fault, "crashed", detail, [f"{type(error).__name__}: {error}"])
    same = loaded.network.config == intact.network.config and loaded.card.extra == intact.card.extra
    wrong = [] if same else ["another network was loaded"]
    return Outcome("weights", fault, "loaded, as only words for readers differ" if same else "loaded", detail, wrong)


def input_replaced(folder: Path) -> Iterator[Outcome]:
    """An input that is written, replaced or cut between the reading of its header and of its voxels."""
    bench = Bench(folder)
    other = folder / "other.nii.gz"
    shutil.copyfile(bench.inputs / "fixed.nii.gz", other)
    original = {path: path.read_bytes() for path in bench.inputs.iterdir()}
    for which, count in (("fixed", 1), ("moving", 2)):
        path = bench.inputs / f"{which}.nii.gz"
        for action, value in (
            ("truncate", str(path)),
            ("replace", [str(path), str(other)]),
            ("shell", f"printf x >> '{path}'"),
            ("shell", f"rm '{path}'"),
            ("shell", f"cat '{other}' '{other}' > '{path}'"),
        ):
            finished = bench.run(faults=[["read", count, action, value]])
            for target, content in original.items():
                target.write_bytes(content)
            wrong = bench.wrong_after(finished)
            wrong += ["it was not noticed"] if finished.code == 0 else []
            fault = "replaced, cut, appended to, removed or rewritten while it is read"
            yield Outcome(
                "input replaced", fault, ending(finished), f"{which} {action}", wrong + bench.wrong_in_next_run()
            )
            bench.clear()
    yield from _series_replaced(folder / "series")


def _series_replaced(folder: Path) -> Iterator[Outcome]:
    """A DICOM series of which a slice arrives, changes or goes while it is read."""
    import numpy as np
    from dicom_files import write_stack

    bench = Bench(folder)
    series = bench.inputs / "series"
    planes = [np.random.default_rng(n).integers(0, 900, (20, 20)).astype(np.uint16) for n in range(12)]
    files = write_stack(series, planes, [(0.0, 0.0, 3.0 * n) for n in range(12)], spacing=(3.0, 3.0))
    bench._inputs = contents(bench.inputs)
    kept = {path: path.read_bytes() for path in files}
    arguments = bench.arguments()
    arguments[arguments.index("--fixed") + 1] = str(series)
    for action, value in (
        ("truncate", str(files[8])),
        ("replace", [str(files[8]), str(files[3])]),
        ("shell", f"cp '{files[3]}' '{series}/new.dcm'"),
        ("shell", f"rm '{files[8]}'"),
    ):
        finished = bench.run(arguments, [["read", 2, action, value]])
        (series / "new.dcm").unlink(missing_ok=True)
        for target, content in kept.items():
            target.write_bytes(content)
        wrong = bench.wrong_after(finished) + (["it was not noticed"] if finished.code == 0 else [])
        fault = "DICOM: a slice cut, replaced, added or removed meanwhile"
        yield Outcome("input replaced", fault, ending(finished), action, wrong + bench.wrong_in_next_run())
        bench.clear()


def clock_set_back(folder: Path) -> Iterator[Outcome]:
    """Each reading of the clock is earlier than the one before, or later; inputs are from the future."""
    bench = Bench(folder)
    for hours in (1.0, 24 * 365.0, -1.0, -24 * 365.0):
        finished = bench.run(faults=[["start", 1, "clock", hours]])
        wrong = bench.wrong_after(finished)
        seconds = json.loads((bench.out / "report.json").read_text())["seconds"]
        wrong += [f"seconds: {seconds}"] if not all(0 <= value < 60 for value in seconds.values()) else []
        fault = "an hour or a year back or on at each reading"
        yield Outcome("clock", fault, ending(finished), f"{-hours:.0f} h", wrong + bench.wrong_in_next_run())
        bench.clear()
    jobs = WorkerBench(folder / "worker")
    for hours in (1.0, 24 * 365.0, -1.0, -24 * 365.0):
        job = jobs.job([["start", 1, "clock", hours]])
        finished = jobs.run_job(job)
        wrong = jobs.wrong_after_job(finished) + jobs.wrong_in_next_job(job)
        yield Outcome("clock", "worker: the same", ending_of_job(finished), f"{-hours:.0f} h", wrong)


KINDS = {"weights": damaged_weights, "input-replaced": input_replaced, "clock": clock_set_back}
