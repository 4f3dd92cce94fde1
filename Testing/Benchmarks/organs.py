"""Any part of the body: each pair by the whole road of each method, scored by its labels and landmarks.

    python Testing/Benchmarks/organs.py [--pairs FOLDER] [--methods balanced greedy ants ...] [--output table.md]

FOLDER holds one folder a pair: fixed.nii.gz, moving.nii.gz, and what is there of fixed_labels.nii.gz with
moving_labels.nii.gz, and points*.csv (LPS mm: fixed x, y, z, moving x, y, z, with a header line). Without it, generated
bodies are registered. Every method starts from where the files lie and runs in a process of its own on one thread. It
finds its own linear transform; ConvexAdam has none. Peers that are not installed (pip install picsl_greedy antspyx
itk-elastix convexAdam) are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from benchmark import first_line, machine
from bodies import write_bodies
from wavemorph.evaluation.metrics import folding, label_report, target_registration_error_mm
from wavemorph.io.outputs import flattened_field

ONE_THREAD = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
METHODS = ("none", "instant", "balanced", "precise", "greedy", "ants", "elastix", "convex-adam")


@dataclass(frozen=True)
class Row:
    """One method on one pair. dice: mean over the labels. errors_mm: (mean, 95th percentile) by file of landmarks."""

    pair: str
    method: str
    dice: float | None
    errors_mm: dict[str, tuple[float, float]]
    folded_percent: float
    strict_percent: float
    cpu_seconds: float
    peak_mb: float

    def cells(self) -> list[str]:
        errors = ", ".join(f"{name} {mean:.2f}/{high:.2f}" for name, (mean, high) in self.errors_mm.items())
        dice = "" if self.dice is None else f"{self.dice:.3f}"
        folds = f"{self.folded_percent:.3f}, {self.strict_percent:.3f}"
        return [self.pair, self.method, dice, errors, folds, f"{self.cpu_seconds:.0f}", f"{self.peak_mb:.0f}"]


def run_wavemorph(preset: str, pair: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "wavemorph.cli", "register", "--preset", preset, "--threads", "1", "--quiet"]
    return [
        *command,
        "--fixed",
        f"{pair}/fixed.nii.gz",
        "--moving",
        f"{pair}/moving.nii.gz",
        "--transform",
        str(output),
    ]


def run_greedy(pair: Path, output: Path) -> list[str]:
    """A rigid transform by NCC from the identity, then the deformation by NCC 2x2x2 with 100x50x10 iterations."""
    code = f"""
import numpy as np, SimpleITK as sitk, tempfile
from picsl_greedy import Greedy3D
with tempfile.TemporaryDirectory() as folder:
    images = "-i {pair}/fixed.nii.gz {pair}/moving.nii.gz -m NCC 2x2x2 -n 100x50x10 -threads 1 -V 0"
    Greedy3D().execute(f"{{images}} -a -dof 6 -ia-identity -o {{folder}}/rigid.mat")
    Greedy3D().execute(f"{{images}} -it {{folder}}/rigid.mat -o {{folder}}/warp.nii.gz")
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = flip @ np.loadtxt(f"{{folder}}/rigid.mat") @ flip
    rigid = sitk.AffineTransform(3)
    rigid.SetMatrix(matrix[:3, :3].ravel().tolist())
    rigid.SetTranslation(matrix[:3, 3].tolist())
    warp = sitk.ReadImage(f"{{folder}}/warp.nii.gz", sitk.sitkVectorFloat64)
    sitk.WriteTransform(sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(warp)]), "{output}")
"""
    return [sys.executable, "-c", code]


def run_ants(pair: Path, output: Path) -> list[str]:
    """antspyx's default SyN: rigid, affine and deformation by mutual information, 40x20x0."""
    code = f"""
import ants, SimpleITK as sitk, tempfile
with tempfile.TemporaryDirectory() as folder:
    images = [ants.image_read(f"{pair}/{{name}}.nii.gz") for name in ("fixed", "moving")]
    made = ants.registration(*images, "SyN", outprefix=f"{{folder}}/out", random_seed=1)["fwdtransforms"]
    warp, affine = sitk.ReadImage(made[0], sitk.sitkVectorFloat64), sitk.ReadTransform(made[1])
    sitk.WriteTransform(sitk.CompositeTransform([sitk.DisplacementFieldTransform(warp), affine]), "{output}")
"""
    return [sys.executable, "-c", code]


def run_elastix(pair: Path, output: Path) -> list[str]:
    """itk-elastix's defaults: rigid, affine, B-splines by mutual information."""
    code = f"""
import contextlib, itk, SimpleITK as sitk, tempfile
parameters = itk.ParameterObject.New()
for kind in ("rigid", "affine", "bspline"):
    parameters.AddParameterMap(itk.ParameterObject.GetDefaultParameterMap(kind))
fixed, moving = (itk.imread(f"{pair}/{{name}}.nii.gz", itk.F) for name in ("fixed", "moving"))
found = itk.elastix_registration_method(fixed, moving, parameter_object=parameters)[1]
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a copy of the field is left behind
    itk.imwrite(itk.transformix_deformation_field(moving, found), f"{{folder}}/field.nii.gz")
    field = sitk.ReadImage(f"{{folder}}/field.nii.gz", sitk.sitkVectorFloat64)
sitk.WriteTransform(sitk.DisplacementFieldTransform(field), "{output}")
"""
    return [sys.executable, "-c", code]


def run_convex_adam(pair: Path, output: Path) -> list[str]:
    """ConvexAdam from the identity, with voxels as fine as those of the fixed volume."""
    code = f"""
import sys, SimpleITK as sitk
sys.path.insert(0, {str(Path(__file__).parent)!r})
import methods
sitk.WriteTransform(sitk.AffineTransform(3), "{output}.identity.tfm")
side = min(sitk.ReadImage("{pair}/fixed.nii.gz").GetSpacing())
paths = "{pair}/fixed.nii.gz", "{pair}/moving.nii.gz", "{output}.identity.tfm", "{output}"
methods.convex_adam(*paths, threads=1, spacing_mm=side, margin_mm=10 * side)
"""
    return [sys.executable, "-c", code]


PEERS = {
    "greedy": ("picsl_greedy", run_greedy),
    "ants": ("ants", run_ants),
    "elastix": ("itk", run_elastix),
    "convex-adam": ("convexAdam", run_convex_adam),
}


def register(pair: Path, method: str, folder: Path) -> Row:
    """Run one method on one pair, and score its transform. Raises CalledProcessError where it fails."""
    transform, cpu, peak = sitk.Transform(), 0.0, 0.0
    if method != "none":
        output = folder / f"{pair.name}-{method}.h5"
        command = PEERS[method][1](pair, output) if method in PEERS else run_wavemorph(method, pair, output)
        cpu, peak = measured(command)
        transform = sitk.ReadTransform(str(output))
    return score(pair, method, transform, cpu, peak)


def measured(command: list[str]) -> tuple[float, float]:
    """(CPU seconds, peak memory in MB) of a command. Memory is read while it runs, on Linux; NaN elsewhere.

    The operating system's own peak of a child counts the memory of the process that it was forked from.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, **ONE_THREAD})
        peak, ended = math.nan, (0, 0, None)
        while not ended[0]:
            peak = resident_peak_mb(process.pid, peak)
            time.sleep(0.02)
            ended = os.wait4(process.pid, os.WNOHANG)
        _, status, usage = ended
        process.returncode = status
        if status:
            errors.seek(0)
            raise subprocess.CalledProcessError(status, command, stderr=errors.read().decode(errors="replace")[-500:])
    return usage.ru_utime + usage.ru_stime, peak


def resident_peak_mb(process_id: int, before: float) -> float:
    """The peak resident memory of a running process in MB, or `before` where it cannot be read."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1000
    except (OSError, IndexError):
        return before


def score(pair: Path, method: str, transform: sitk.Transform, cpu: float, peak: float) -> Row:
    fixed, dice = sitk.ReadImage(str(pair / "fixed.nii.gz")), None
    if (pair / "fixed_labels.nii.gz").exists():
        labels = [sitk.ReadImage(str(pair / f"{name}_labels.nii.gz"), sitk.sitkInt32) for name in ("fixed", "moving")]
        dice = label_report(*labels, transform, distances=False)["mean_common"]["dice_after"]
    errors = {}
    for path in sorted(pair.glob("points*.csv")):
        rows = np.loadtxt(path, delimiter=",", skiprows=1)
        found = target_registration_error_mm(transform, rows[:, :3], rows[:, 3:6])
        name = path.stem.removeprefix("points").strip("_") or "points"
        errors[name] = (float(found.mean()), float(np.percentile(found, 95)))
    folded = folding(flattened_field(transform, fixed))
    return Row(pair.name, method, dice, errors, folded["central_percent"], folded["strict_percent"], cpu, peak)


def table(rows: list[Row]) -> str:
    titles = ["pair", "method", "Dice", "landmarks mm, mean/95 %", "folded %, strict %", "CPU s", "peak MB"]
    lines = [titles, ["---"] * len(titles), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, metavar="FOLDER", help="pairs of your own; generated bodies without it")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", type=Path, metavar="FILE", help="for the table, besides the terminal")
    parser.add_argument("--side", type=int, default=96, metavar="N", help="voxels along a side of a generated body")
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = options.pairs if options.pairs is not None else write_bodies(folder / "bodies", options.side)
        for pair in sorted(path for path in pairs.iterdir() if (path / "fixed.nii.gz").exists()):
            for method in options.methods:
                if method in PEERS and importlib.util.find_spec(PEERS[method][0]) is None:
                    continue
                try:
                    rows.append(register(pair, method, folder))
                    print(" | ".join(rows[-1].cells()), flush=True)
                except subprocess.CalledProcessError as error:
                    print(f"{pair.name} | {method} | failed: {error.stderr.strip()[-200:]}", flush=True)
    installed = "".join(f", itk-elastix {itk_elastix.version}" for itk_elastix in distributions(name="itk-elastix"))
    text = f"{first_line(machine(1))}{installed}\n\n{table(rows)}\n"
    print(f"\n{text}\n{time.monotonic() - began:.0f} s in all")
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
