"""One table: the same pairs, the same affine start, the same scoring for every method, each in its own process.

    benchmark.py                                             the built-in pairs with a known answer
    benchmark.py --fixed F --moving M [--fixed-labels FL --moving-labels ML]      a pair of your own
    benchmark.py --methods balanced demons --threads 1 --output table.md
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import methods
import numpy as np
import SimpleITK as sitk
from wavemorph import demo, evaluation
from wavemorph.affine import estimate_affine
from wavemorph.images import read_labels
from wavemorph.outputs import flattened_field, write_image
from wavemorph.preprocessing import foreground
from wavemorph.synthetic import Difference, SyntheticPair, make_pair


@dataclass
class Case:
    name: str
    fixed: str
    moving: str
    labels: tuple[sitk.Image, sitk.Image] | None = None
    truth: SyntheticPair | None = None


def built_in_cases(folder: Path) -> list[Case]:
    """The template against itself under two known diffeomorphisms, the second with reversed contrast."""
    template = sitk.Cast(sitk.ReadImage(str(demo.template_path())), sitk.sitkFloat32)
    cases = []
    for seed, reversed_contrast in ((0, False), (2, True)):
        pair = make_pair(template, Difference(spacing_mm=(1.0, 1.0, 1.5), reversed_contrast=reversed_contrast), seed)
        paths = [str(folder / f"{seed}-{role}.nii.gz") for role in ("fixed", "moving")]
        write_image(pair.fixed, paths[0])
        write_image(pair.moving, paths[1])
        name = f"template, seed {seed}" + (", contrast reversed" if reversed_contrast else "")
        cases.append(Case(name, *paths, truth=pair))
    return cases


def own_cases(options: argparse.Namespace) -> list[Case]:
    """The pair that is named on the command line, in both directions."""
    roles = (options.fixed, options.fixed_labels), (options.moving, options.moving_labels)
    cases = []
    for (fixed, fixed_labels), (moving, moving_labels) in (roles, roles[::-1]):
        labels = (read_labels(fixed_labels), read_labels(moving_labels)) if fixed_labels else None
        cases.append(Case(f"{Path(moving).name} to {Path(fixed).name}", fixed, moving, labels))
    return cases


def start_of(case: Case, folder: Path, aligned: bool) -> str:
    """The affine that every method starts from."""
    path = str(folder / "affine.tfm")
    affine = sitk.AffineTransform(3)
    if not aligned:
        fixed, moving = (sitk.ReadImage(p, sitk.sitkFloat32) for p in (case.fixed, case.moving))
        affine = estimate_affine(fixed, moving, foreground(fixed), foreground(moving))
    sitk.WriteTransform(affine, path)
    return path


def measure(method: str, case: Case, affine: str, folder: Path, threads: int) -> tuple[str, float, float, float]:
    """(transform file, wall s, CPU s, peak GB) of one process."""
    output = str(folder / f"{method}.h5")
    command = [sys.executable, methods.__file__, method, case.fixed, case.moving, affine, output, str(threads)]
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{method} failed on {case.name}")
    wall = time.perf_counter() - began
    return output, wall, usage.ru_utime + usage.ru_stime, int(Path(f"{output}.peak_kb").read_text()) / 1e6


def score(case: Case, path: str) -> dict[str, float]:
    transform = sitk.ReadTransform(path)
    fixed = sitk.ReadImage(case.fixed)
    numbers = {}
    if case.labels:
        mean = evaluation.label_report(*case.labels, transform)["mean"]
        numbers["Dice"], numbers["HD95 mm"] = mean["dice_after"], mean["hd95_after_mm"]
    if case.truth:
        error = case.truth.error_mm(transform)
        numbers["error mm, mean"], numbers["95 %"] = error.mean(), np.percentile(error, 95)
    inside = case.labels[0] != 0 if case.labels else foreground(fixed)
    folding = evaluation.folding(flattened_field(transform, fixed), inside)
    numbers["folded %"], numbers["strict %"] = folding["central_percent"], folding["strict_percent"]
    numbers["sd log J"] = folding["sd_log"]
    return numbers


def table(case: Case, rows: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"\n### {case.name}\n", "| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, numbers in rows.items():
        cells = [f"{value:.0f}" if column.endswith(" s") else f"{value:.3f}" for column, value in numbers.items()]
        lines.append(f"| {methods.NAMES[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fixed", "moving", "fixed-labels", "moving-labels"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--aligned", action="store_true", help="the pair is affinely aligned: start from identity")
    parser.add_argument("--methods", nargs="+", choices=list(methods.METHODS), help="default: all that are installed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="the tables as Markdown")
    options = parser.parse_args()
    present = [m for m in methods.METHODS if m not in methods.NEEDS or importlib.util.find_spec(methods.NEEDS[m])]
    chosen = options.methods or present
    text = [f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, Python {sys.version.split()[0]}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in own_cases(options) if options.fixed else built_in_cases(folder):
            affine, rows = start_of(case, folder, options.aligned), {}
            for method in chosen:
                output, wall, cpu, peak = measure(method, case, affine, folder, options.threads)
                rows[method] = {**score(case, output), "wall s": wall, "CPU s": cpu, "peak GB": peak}
                print(case.name, method, rows[method], file=sys.stderr, flush=True)
            text.append(table(case, rows))
    print("\n".join(text))
    if options.output:
        Path(options.output).write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
