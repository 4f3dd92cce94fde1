"""Does the cost grow linearly with the voxels? `register` on cubes of one synthetic head in finer and finer voxels.

    scaling.py [--sides 64 96 128 160 192 256 320] [--presets Instant Balanced] [--threads N]
               [--output table.md] [--json rows.json] [--plot plot.png]

Each registration runs in a process of its own. The working grid is made to have exactly the voxels of the cube. The
pair differs by a deformation alone, and the affine stage, which costs the same at any size, is left out. The passes of
the network are on lattices of fixed millimeters, so that its part stops growing once voxels are finer than its last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # of `methods` and `benchmark`
import methods
import numpy as np
import SimpleITK as sitk
import wavemorph
from benchmark import first_line, machine
from wavemorph.cli import demo
from wavemorph.io.outputs import write_image, write_json
from wavemorph.registration.schedules import MARGIN_MM
from wavemorph.spatial.preprocessing import bounding_box, foreground
from wavemorph.training.known_deformation import Difference, make_pair

SIDES = (64, 96, 128, 160, 192, 256, 320)  # multiples of 8, as the working grid's
CUBE_MM = 208.0  # contains the brain of the template and the margin of the working grid
COLUMNS = ("wall s", "CPU s", "peak GB")


def make_cube(side: int, folder: Path) -> list[str]:
    """Files: fixed and moving volume of side^3 voxels, and a mask whose box with the margin around it is the cube."""
    template = sitk.Cast(sitk.ReadImage(str(demo.template_path())), sitk.sitkFloat32)
    first, last = bounding_box(foreground(template))
    center = np.array(template.TransformContinuousIndexToPhysicalPoint(((first + last) / 2).tolist()))
    spacing, direction = CUBE_MM / side, np.reshape(template.GetDirection(), (3, 3))
    cube = sitk.Image([side] * 3, sitk.sitkUInt8)
    cube.SetSpacing([spacing] * 3)
    cube.SetDirection(template.GetDirection())
    cube.SetOrigin((center - direction @ np.full(3, spacing * (side - 1) / 2)).tolist())
    fixed = sitk.Resample(template, cube, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    difference = Difference(
        rotation=0.0, translation_mm=0.0, scale=0.0, obliqueness=0.0, spacing_mm=(spacing, spacing, spacing)
    )
    margin = math.ceil(MARGIN_MM / spacing)
    inside = [slice(margin, side - margin)] * 3
    cube[tuple(inside)] = 1
    paths = [str(folder / f"{side}-{role}.nii.gz") for role in ("fixed", "moving", "mask")]
    for image, path in zip((fixed, make_pair(fixed, difference).moving, cube), paths):
        write_image(image, path)
    return paths


def register_once(fixed: str, moving: str, mask: str, preset: str, threads: str, output: str) -> None:
    """In a process of its own: one registration, measured, into a JSON file."""
    images = [sitk.ReadImage(path, sitk.sitkFloat32) for path in (fixed, moving)]
    settings = wavemorph.Settings(
        preset=preset,
        threads=int(threads),
        affine=False,
        device="cpu",
        spacing_mm=images[0].GetSpacing()[0],
        max_voxels=math.prod(images[0].GetSize()),
    )
    wall, cpu = time.perf_counter(), time.process_time()
    result = wavemorph.register(*images, settings, fixed_mask=sitk.ReadImage(mask))
    numbers = {
        "wall s": time.perf_counter() - wall,
        "CPU s": time.process_time() - cpu,
        "peak GB": methods.peak_kb() / 1e6,
        "voxels": math.prod(n - 2 for n in result.displacement.GetSize()),  # without its ring of zeros
        "seconds": result.report["seconds"],
    }
    write_json(numbers, output)


def measure(side: int, preset: str, paths: Sequence[str], threads: int, folder: Path) -> dict | None:
    """None where the process failed, out of memory for example."""
    output = folder / "numbers.json"
    output.unlink(missing_ok=True)
    command = [sys.executable, __file__, "once", *paths, preset, str(threads), str(output)]
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode or not output.exists():
        return None
    return {"preset": preset, "side": side, **json.loads(output.read_text(encoding="utf-8"))}


def exponent(rows: Sequence[dict], column: str) -> float:
    """The slope of log cost against log voxels, by least squares; NaN from fewer than two sizes."""
    if len(rows) < 2:
        return math.nan
    return float(np.polyfit(np.log([row["voxels"] for row in rows]), np.log([row[column] for row in rows]), 1)[0])


def table(rows: Sequence[dict]) -> str:
    lines = []
    for preset in dict.fromkeys(row["preset"] for row in rows):
        here = [row for row in rows if row["preset"] == preset]
        header = f"| side | voxels | {' | '.join(COLUMNS)} | CPU s a million voxels |"
        lines += [f"\n### {preset}\n", header, "|---" * 6 + "|"]
        for row in here:
            numbers = [*(row[column] for column in COLUMNS), 1e6 * row["CPU s"] / row["voxels"]]
            cells = " | ".join(f"{number:.2f}" for number in numbers)
            lines.append(f"| {row['side']} | {row['voxels']:,} | {cells} |")
        slopes = ", ".join(f"{column} {exponent(here, column):.2f}" for column in COLUMNS)
        lines.append(f"\nFitted exponents (1 is linear): {slopes}.")
    return "\n".join(lines)


def plot(rows: Sequence[dict], path: str | os.PathLike) -> None:
    """A panel a cost, a line a preset, both axes logarithmic; dashed: what linear growth would be."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(COLUMNS), figsize=(5 * len(COLUMNS), 4.4), layout="constrained")
    for panel, column in zip(axes, COLUMNS):
        for preset in dict.fromkeys(row["preset"] for row in rows):
            here = [row for row in rows if row["preset"] == preset]
            voxels, cost = (np.array([row[name] for row in here], float) for name in ("voxels", column))
            label = f"{preset}, exponent {exponent(here, column):.2f}"
            (line,) = panel.plot(voxels, cost, "o-", label=label)
            panel.plot(voxels, cost[-1] * voxels / voxels[-1], "--", color=line.get_color(), alpha=0.5, linewidth=1)
        panel.set(xscale="log", yscale="log", xlabel="voxels of the working grid", ylabel=column)
        panel.grid(True, which="both", color="0.93")
        panel.legend(title="dashed: linear")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="multiples of 8")
    parser.add_argument("--presets", nargs="+", default=["Instant", "Balanced"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="the tables as Markdown")
    parser.add_argument("--json", help="machine, versions and all rows")
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()
    if any(side % 8 or side < 32 for side in options.sides):
        parser.error("the sides must be multiples of 8, 32 or more")
    facts, rows = machine(options.threads), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in sorted(options.sides):
            paths = make_cube(side, folder)
            for preset in options.presets:
                row = measure(side, preset, paths, options.threads, folder)
                print(side, preset, row or "failed", file=sys.stderr, flush=True)
                rows += [row] if row else []
            for path in paths:
                os.remove(path)
    text = first_line(facts) + "\n" + table(rows)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    if options.json:
        write_json({"machine": facts, "rows": rows}, options.json)
    if options.plot and rows:
        plot(rows, options.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        register_once(*sys.argv[2:])
    else:
        main()
