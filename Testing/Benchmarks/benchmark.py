"""The same pairs, the same affine start, the same scoring for every method, each in its own process.

    benchmark.py                                             the built-in pairs with a known deformation
    benchmark.py --fixed F --moving M [--fixed-labels FL --moving-labels ML] [--fixed-points FP --moving-points MP]
                                                             a pair of your own, both directions, and the built-in ones
    benchmark.py --methods balanced greedy --cases same --threads 1 --output table.md --json rows.json --plot plot.png

Scored are Dice and HD95 where there are labels; the distance in mm to the true points, where they are known;
folding and sd log J of the whole map in the fixed structures or foreground; time and memory of the whole process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import methods
import numpy as np
import SimpleITK as sitk
from wavemorph.cli import demo
from wavemorph.evaluation import metrics as evaluation
from wavemorph.evaluation.landmarks import pair_landmarks
from wavemorph.io.images import read_labels
from wavemorph.io.outputs import flattened_field, write_image, write_json
from wavemorph.io.points import read_points
from wavemorph.registration.linear.mutual_information import estimate_affine
from wavemorph.spatial.preprocessing import foreground
from wavemorph.training.known_deformation import Difference, SyntheticPair, make_pair

# digits after the point; all columns, in the order in which a table shows those that it has
COLUMNS = {
    "Dice": 3,
    "HD95 mm": 3,
    "error mm, mean": 3,
    "95 %": 3,
    "folded %": 3,
    "strict %": 3,
    "sd log J": 3,
    "wall s": 0,
    "CPU s": 0,
    "peak GB": 2,
}
# (name, seed, what differs beside deformation, affine, intensity curve, bias and lattice)
BUILT_IN = {
    "same": ("template, same contrast", 0, {}),
    "reversed": ("template, contrast reversed", 2, {"reversed_contrast": True}),
    "lesion": ("template, noise and lesion", 4, {"noise": 0.06, "lesion_mm": 12.0}),
}


@dataclass
class Case:
    """A pair to register; cases of one group are in one panel of the plot, which shows their means."""

    name: str
    group: str
    fixed: str
    moving: str
    labels: tuple[sitk.Image, sitk.Image] | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    truth: SyntheticPair | None = None


@dataclass
class Row:
    """What one method did on one case: numbers by the names of COLUMNS, and the problem if there was one."""

    case: str
    group: str
    method: str
    numbers: dict[str, float | None]
    problem: str | None = None


def built_in_cases(chosen: Sequence[str], folder: Path, spacing_mm: float | None = None) -> list[Case]:
    """The template against itself under known diffeomorphisms; spacing_mm: coarser than it is, for a quick try."""
    template = sitk.Cast(sitk.ReadImage(str(demo.template_path())), sitk.sitkFloat32)
    finest = spacing_mm or 1.0
    if spacing_mm:
        size = [round(n * own / spacing_mm) for n, own in zip(template.GetSize(), template.GetSpacing())]
        geometry = template.GetOrigin(), [spacing_mm] * 3, template.GetDirection()
        template = sitk.Resample(template, size, sitk.Transform(), sitk.sitkLinear, *geometry)
    cases = []
    for key in chosen:
        name, seed, difference = BUILT_IN[key]
        pair = make_pair(template, Difference(spacing_mm=(finest, finest, 1.5 * finest), **difference), seed)
        paths = [str(folder / f"{key}-{role}.nii.gz") for role in ("fixed", "moving")]
        write_image(pair.fixed, paths[0])
        write_image(pair.moving, paths[1])
        cases.append(Case(name, name, *paths, truth=pair))
    return cases


def own_cases(options: argparse.Namespace) -> list[Case]:
    """The pair that is named on the command line, in both directions."""
    roles = [
        (options.fixed, options.fixed_labels, options.fixed_points),
        (options.moving, options.moving_labels, options.moving_points),
    ]
    cases = []
    for (fixed, fixed_labels, fixed_points), (moving, moving_labels, moving_points) in (roles, roles[::-1]):
        labels = (read_labels(fixed_labels), read_labels(moving_labels)) if fixed_labels else None
        points = None
        if fixed_points:
            landmarks = pair_landmarks(read_points(fixed_points), read_points(moving_points))
            points = landmarks.fixed, landmarks.moving
        name = f"{Path(moving).name} to {Path(fixed).name}"
        cases.append(Case(name, "own pair, mean of both directions", fixed, moving, labels, points))
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


def run(method: str, case: Case, affine: str, folder: Path, threads: int) -> Row:
    """One method on one case in a process of its own; a failure is named in the row."""
    row = Row(case.name, case.group, method, {})
    need = methods.NEEDS.get(method)
    if need is not None and not need.present:
        row.problem = f"not installed ({need.source})"
        return row
    output, errors = folder / f"{method}.h5", folder / f"{method}.log"
    output.unlink(missing_ok=True)
    command = [sys.executable, methods.__file__, method, case.fixed, case.moving, affine, str(output), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    with errors.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    row.numbers = {"wall s": time.perf_counter() - began, "CPU s": usage.ru_utime + usage.ru_stime}
    try:
        if status:
            raise RuntimeError(_reason(os.waitstatus_to_exitcode(status), errors.read_text(errors="replace")))
        row.numbers["peak GB"] = int(Path(f"{output}.peak_kb").read_text()) / 1e6
        row.numbers = {**score(case, sitk.ReadTransform(str(output))), **row.numbers}
    except (RuntimeError, OSError, ValueError) as error:
        row.problem = "failed: " + " ".join(str(error).split())[:120]
    return row


def _reason(code: int, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if code < 0:
        return f"ended by signal {-code}"
    return lines[-1] if lines else f"exit status {code}"


def score(case: Case, transform: sitk.Transform) -> dict[str, float | None]:
    fixed = sitk.ReadImage(case.fixed)
    numbers = {}
    if case.labels:
        mean = evaluation.label_report(*case.labels, transform)["mean_common"]
        numbers["Dice"], numbers["HD95 mm"] = mean["dice_after"], mean["hd95_after_mm"]
    error = None
    if case.truth:
        error = case.truth.error_mm(transform)
    elif case.points:
        error = evaluation.target_registration_error_mm(transform, *case.points)
    if error is not None:
        numbers["error mm, mean"], numbers["95 %"] = float(error.mean()), float(np.percentile(error, 95))
    inside = case.labels[0] != 0 if case.labels else foreground(fixed)
    folding = evaluation.folding(flattened_field(transform, fixed), inside)
    numbers["folded %"], numbers["strict %"] = folding["central_percent"], folding["strict_percent"]
    numbers["sd log J"] = folding["sd_log"]
    return numbers


def table(rows: Sequence[Row]) -> str:
    """Markdown: a table a case; a method without a result has the reason in its first column."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        here = [row for row in rows if row.case == case]
        columns = [column for column in COLUMNS if any(column in row.numbers for row in here)]
        lines += [f"\n### {case}\n", "| " + " | ".join(["method", *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
        for row in here:
            name = methods.NAMES[row.method] + (f": {row.problem}" if row.problem else "")
            values = [(row.numbers.get(column), COLUMNS[column]) for column in columns]
            cells = [f"{value:.{digits}f}" if value is not None else "-" for value, digits in values]
            lines.append("| " + " | ".join([name.replace("|", "/"), *cells]) + " |")
    return "\n".join(lines)


def machine(threads: int) -> dict[str, str | int | None]:
    """What the numbers depend on beside the pairs."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {"python": platform.python_version()}
    for package in ("torch", "SimpleITK"):
        versions[package] = importlib.metadata.version(package)
    for name, peer in methods.PEERS.items():
        versions[name] = peer.version
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    where = f"{model or 'unknown processor'} ({platform.machine()}, {platform.system()}), {memory:.0f} GiB"
    return {"machine": where, "cores": os.cpu_count(), "threads": threads, **versions}


def first_line(facts: dict[str, str | int | None]) -> str:
    text = f"{facts['machine']}, {facts['cores']} cores, {facts['threads']} threads"
    versions = [(name, value) for name, value in facts.items() if name not in ("machine", "cores", "threads")]
    return ", ".join([text, *(f"{name} {value}" if value else f"no {name}" for name, value in versions)])


def plot(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Dice, or the error in mm, against CPU seconds: a panel a group, a marker a method, ours filled and larger."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys(row.group for row in rows if _measure(row)))
    if not groups:
        raise SystemExit("The plot would be empty: no method gave a result that could be scored.")
    columns = min(2, len(groups))
    shape = (math.ceil(len(groups) / columns), columns)
    figure, axes = plt.subplots(*shape, figsize=(7.5 * shape[1], 5.2 * shape[0]), squeeze=False, layout="constrained")
    for panel, group in zip(axes.flat, groups):
        _panel(panel, [row for row in rows if row.group == group and _measure(row)], group)
    for panel in axes.flat[len(groups) :]:
        panel.set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _measure(row: Row) -> str | None:
    """What the plot shows of a row."""
    return next((name for name in ("Dice", "error mm, mean") if row.numbers.get(name) is not None), None)


def _panel(panel, rows: Sequence[Row], title: str) -> None:
    measure = _measure(rows[0])
    from matplotlib.ticker import LogLocator, NullFormatter

    better = "higher" if measure == "Dice" else "lower"
    panel.set(title=title, xscale="log", xlabel="CPU seconds", ylabel=f"{measure} ({better} is better)")
    panel.grid(True, which="both", color="0.93")
    panel.set_axisbelow(True)
    labels = []
    for method in dict.fromkeys(row.method for row in rows):
        here = [row.numbers for row in rows if row.method == method]
        seconds, value = (np.mean([numbers[name] for numbers in here]) for name in ("CPU s", measure))
        if method == "affine":
            panel.axhline(value, color="0.5", linestyle="--", linewidth=1)
            panel.annotate("affine alone", (0.01, value), xycoords=("axes fraction", "data"), color="0.4", fontsize=9,
                           xytext=(0, 3), textcoords="offset points")  # fmt: skip
            continue
        ours = methods.NAMES[method].startswith("WaveMorph")
        style = {"color": "tab:red", "s": 110, "zorder": 4} if ours else {"color": "tab:blue", "s": 45, "zorder": 3}
        panel.scatter(seconds, value, marker="*" if ours else "o", **style)
        labels.append((seconds, value, methods.SHORT.get(method, methods.NAMES[method]), ours))
    panel.margins(x=0.3, y=0.15)
    values = [value for _, value, _, _ in labels]
    if measure != "Dice" and values and max(values) > 5 * min(values):
        panel.set_yscale("log")
    for axis in (panel.xaxis, panel.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    _label(panel, labels)


def _label(panel, labels: Sequence[tuple[float, float, str, bool]]) -> None:
    """Each name beside its marker, at the first position around it that is free of other names and markers."""
    panel.figure.canvas.draw()
    renderer = panel.figure.canvas.get_renderer()
    taken = []
    for seconds, value, _, _ in labels:
        x, y = panel.transData.transform((seconds, value))
        taken.append((x - 7, y - 7, x + 7, y + 7))
    positions = [(9, -4, "left"), (-9, -4, "right")]
    for far in (10, -10, 20, -20, 32, -32, 46, -46, 62, -62):
        positions += [(dx, far - 4, side) for dx, side in ((0, "center"), (9, "left"), (-9, "right"))]
    for seconds, value, text, ours in labels:
        for dx, dy, side in positions:
            note = panel.annotate(
                text,
                (seconds, value),
                (dx, dy),
                textcoords="offset points",
                ha=side,
                fontsize=10 if ours else 9,
                fontweight="bold" if ours else "normal",
                color="tab:red" if ours else "0.15",
            )
            box = note.get_window_extent(renderer).extents
            inside = panel.get_window_extent(renderer).extents
            fits = inside[0] < box[0] and box[2] < inside[2] and inside[1] < box[1] and box[3] < inside[3]
            free = all(box[2] < t[0] or t[2] < box[0] or box[3] < t[1] or t[3] < box[1] for t in taken)
            if (fits and free) or (dx, dy, side) == positions[-1]:
                taken.append(tuple(box))
                break
            note.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fixed", "moving", "fixed-labels", "moving-labels", "fixed-points", "moving-points"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--aligned", action="store_true", help="the own pair is affinely aligned: start from identity")
    parser.add_argument("--cases", nargs="*", choices=list(BUILT_IN), default=list(BUILT_IN), help="built-in pairs")
    parser.add_argument("--coarse", type=float, metavar="MM", help="built-in pairs of so large voxels: a quick try")
    everyday = [method for method in methods.METHODS if method not in methods.ON_REQUEST]
    parser.add_argument("--methods", nargs="+", choices=list(methods.METHODS), default=everyday,
                        help=f"default: all but {', '.join(methods.ON_REQUEST)}")  # fmt: skip
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="the tables as Markdown")
    parser.add_argument("--json", help="machine, versions and all rows")
    parser.add_argument("--plot", metavar="FILE.png", help="Dice or error against CPU seconds")
    options = parser.parse_args()
    for pair in ("", "_labels", "_points"):
        if bool(getattr(options, f"fixed{pair}")) != bool(getattr(options, f"moving{pair}")):
            parser.error(f"--fixed{pair} and --moving{pair} go together".replace("_", "-"))
    if not (options.fixed or options.cases):
        parser.error("no case is given: give --fixed and --moving, or --cases")
    facts, rows = machine(options.threads), []

    def text() -> str:
        return first_line(facts) + "\n" + table(rows)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [(case, options.aligned) for case in (own_cases(options) if options.fixed else [])]
        cases += [(case, False) for case in built_in_cases(options.cases, folder, options.coarse)]
        for case, aligned in cases:
            affine = start_of(case, folder, aligned)
            for method in options.methods:
                rows.append(run(method, case, affine, folder, options.threads))
                print(case.name, method, rows[-1].problem or rows[-1].numbers, file=sys.stderr, flush=True)
                # written after each row, so that a long run that is stopped leaves what it has
                if options.output:
                    Path(options.output).write_text(text() + "\n", encoding="utf-8")
                if options.json:
                    write_json({"machine": facts, "rows": [vars(row) for row in rows]}, options.json)
    print(text())
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
