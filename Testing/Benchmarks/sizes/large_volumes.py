"""Does a large pair fit into a small machine? Makes the pair, runs the command line on it, and measures the process.

    large_volumes.py                                     a chest CT and a whole body, in an address space of 8 GB
    large_volumes.py --cases ct --memory-gb 6            one of them, and less memory
    large_volumes.py --cases ct --scale 0.25             a quarter of the voxels along each axis: a trial of this script

The job runs under RLIMIT_AS, so that an allocation beyond the limit fails instead of going unnoticed; the engine knows
the same limit. Linux only: the peak is VmHWM, read from /proc while the process lives.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

_SLAB = 16
_AIR, _NOISE = -1000.0, 12.0
_BENDS = (  # amplitude mm, wavelength mm along x, y, z, phase; one group for each component of the deformation
    ((4.0, 310.0, 270.0, 240.0, 0.3), (2.0, 160.0, 190.0, 130.0, 1.1)),
    ((4.0, 290.0, 330.0, 210.0, 2.0), (2.0, 180.0, 150.0, 140.0, 0.4)),
    ((5.0, 350.0, 260.0, 280.0, 4.0), (2.5, 170.0, 160.0, 150.0, 2.7)),
)
_COLUMNS = ("pair", "size", "working grid", "s by stage", "GB by stage", "wall s", "peak GB", "folded", "error mm")
_COLUMNS += ("warnings and notes",)


@dataclass(frozen=True)
class Case:
    name: str
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    center: tuple[float, float, float]  # LPS mm; the center of the chest is the origin


CASES = {
    "ct": Case("CT of the chest", (512, 512, 600), (0.7, 0.7, 0.7), (0.0, 0.0, -60.0)),
    "body": Case("whole body", (300, 200, 900), (2.0, 2.0, 2.0), (0.0, 0.0, -430.0)),
}


def _ellipsoids() -> list[tuple[tuple, tuple, float, float]]:
    """(center, semi-axes in LPS mm, value in HU, width of the edge in mm): later ones cover earlier ones."""
    fat, muscle, bone = -90.0, 45.0, 420.0
    parts = [((0, 0, 400), (78, 98, 115), 35.0, 2.0), ((0, 8, 270), (58, 58, 70), 35.0, 2.0)]
    parts += [((0, 0, -80), (168, 112, 340), fat, 2.5), ((0, 0, -80), (150, 95, 325), muscle, 2.5)]
    for side in (-1, 1):
        parts += [
            ((side * 225, 10, -60), (38, 42, 330), fat, 2.0),
            ((side * 225, 10, -60), (29, 33, 318), muscle, 2.0),
            ((side * 225, 10, -60), (11, 11, 300), bone, 1.5),
            ((side * 82, 5, -780), (72, 78, 480), fat, 2.5),
            ((side * 82, 5, -780), (58, 64, 470), muscle, 2.5),
            ((side * 82, 5, -780), (17, 17, 450), bone, 1.5),
            ((side * 72, -8, 40), (56, 70, 128), -820.0, 2.0),  # lungs
            ((side * 68, 52, -190), (27, 30, 58), 150.0, 1.5),  # kidneys
            ((side * 70, 25, -385), (58, 45, 62), 300.0, 2.0),  # pelvis
        ]
        parts += [((side * 106, -10, 150 - 26 * rib), (9, 68, 7), bone, 1.5) for rib in range(10)]
    parts += [
        ((12, -28, 20), (52, 44, 58), 130.0, 2.0),  # heart
        ((-72, -10, -120), (68, 62, 62), 110.0, 2.0),  # liver
        ((78, 20, -110), (32, 36, 48), 125.0, 2.0),  # spleen
        ((8, -40, -230), (82, 38, 72), 20.0, 4.0),  # bowel
        ((0, -10, -390), (34, 36, 36), 8.0, 1.5),  # bladder
        ((0, 0, 400), (66, 86, 102), bone, 2.0),
        ((0, 0, 400), (60, 80, 96), 38.0, 1.5),
    ]
    parts += [((0, 58, 235 - 30 * n), (21, 19, 12.5), bone, 1.5) for n in range(22)]  # spine
    parts += [((0, 84, 235 - 30 * n), (6, 15, 7), bone, 1.5) for n in range(22)]
    return parts


def moved(points: list[np.ndarray]) -> list[np.ndarray]:
    """Moving points -> fixed points, LPS mm (x, y, z): the known map, the inverse of what `register` estimates."""
    angle, scale = math.radians(3.0), (1.02, 0.985, 1.01)
    x, y, z = points
    x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    x, y, z = x * scale[0] + 6.0, y * scale[1] - 4.0, z * scale[2] + 9.0
    shifts = []
    for waves in _BENDS:
        shift = 0.0
        for amplitude, along_x, along_y, along_z, phase in waves:
            circle = 2 * math.pi
            shift = shift + amplitude * np.sin(circle * x / along_x + phase) * np.cos(circle * y / along_y) * np.sin(
                circle * z / along_z + 2 * phase
            )
        shifts.append(shift)
    return [x + shifts[0], y + shifts[1], z + shifts[2]]


def phantom(case: Case, moving: bool, scale: float) -> sitk.Image:
    """int16 HU, -1024 to 3000, made in slabs: anatomy mapped by `moved`, on a table that does not move with it."""
    size = [max(32, round(n * scale)) for n in case.size]
    spacing = np.array(case.spacing) * np.array(case.size) / np.array(size)
    origin = np.array(case.center) - spacing * (np.array(size) - 1) / 2
    x, y, z = (np.float32(origin[a]) + np.float32(spacing[a]) * np.arange(size[a], dtype=np.float32) for a in range(3))
    values = np.empty(size[::-1], np.int16)
    for first in range(0, size[2], _SLAB):
        here = z[first : first + _SLAB]
        points = [x[None, None, :], y[None, :, None], here[:, None, None]]
        shape = (len(here), size[1], size[0])
        mapped = [np.broadcast_to(p, shape) for p in (moved(points) if moving else points)]
        slab = _anatomy(mapped)
        table = np.exp(-(((points[1] - 128.0 - 0.0004 * points[0] ** 2) / 4.0) ** 2)) * (np.abs(points[0]) < 200)
        slab = np.maximum(slab, _AIR + 850.0 * np.broadcast_to(table, shape))
        slab += np.random.default_rng(2 * first + moving).standard_normal(shape, np.float32) * _NOISE
        values[first : first + _SLAB] = np.clip(np.rint(slab), -1024, 3000)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    return image


def _anatomy(points: list[np.ndarray]) -> np.ndarray:
    x, y, z = points
    values = np.full(x.shape, _AIR, np.float32)
    low, high = float(z.min()), float(z.max())
    for (cx, cy, cz), (a, b, c), value, edge in _ellipsoids():
        if high < cz - 1.2 * c or low > cz + 1.2 * c:
            continue
        steep = min(a, b, c) / edge
        radius = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2
        radius = np.sqrt(radius, dtype=np.float32)
        fraction = 1 / (1 + np.exp(np.clip((radius - 1) * (2 * steep), -30, 30)))
        values += fraction * (value - values)
    texture = np.sin(x / 5.1 + 1.0) * np.sin(y / 4.3 + z / 9.7) + np.sin(z / 3.9 - x / 11.0) * np.sin(y / 7.3 + 0.5)
    return values + (15.0 * texture * (values > -950)).astype(np.float32)


@dataclass
class Watch:
    """Resident memory of a process while it lives, by the stage that its progress reported last."""

    pid: int
    stage: str = "Reading"
    peak_kb: int = 0
    by_stage: dict[str, int] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)

    def sample(self) -> bool:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        except OSError:
            return False
        if "VmHWM:" not in status:
            return False
        now, peak = (int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM"))
        self.by_stage[self.stage] = max(self.by_stage.get(self.stage, 0), now)
        self.peak_kb = max(self.peak_kb, peak)
        return True

    def until_it_ends(self) -> None:
        while self.sample():
            time.sleep(0.02)

    def listen(self, lines) -> None:
        """A progress line has the form " 25 %  Refinement: refining the deformation, 3 s left"."""
        self.began["Reading"] = time.perf_counter()
        for line in lines:
            stage = line.partition("%  ")[2].partition(":")[0].partition(",")[0].strip()
            stage = "Writing" if stage == "Done" else stage
            if stage and stage != self.stage:
                self.stage = stage
                self.began[stage] = time.perf_counter()
            elif not stage:
                print(line, end="", file=sys.stderr)


def run(fixed: str, moving: str, folder: Path, limit: int, extra: list[str]) -> tuple[Watch, float, dict]:
    """(memory and stages, wall s, report) of one command line. Raises SystemExit where it fails."""
    outputs = {"transform": "t.h5", "warped": "w.nii.gz", "jacobian": "j.nii.gz", "report": "r.json"}
    command = [sys.executable, "-m", "wavemorph.cli", "register", "--fixed", fixed, "--moving", moving, *extra]
    for option, name in outputs.items():
        command += [f"--{option}", str(folder / name)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "WAVEMORPH_DEBUG": "1"},
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))) if limit else None,
    )
    watch = Watch(process.pid)
    listener = threading.Thread(target=watch.listen, args=(process.stderr,))
    listener.start()
    watch.until_it_ends()
    summary = process.stdout.read()
    listener.join()
    if process.wait():
        raise SystemExit(f"the command failed: {' '.join(command)}")
    wall = time.perf_counter() - began
    print(summary, file=sys.stderr, flush=True)
    for name in outputs.values():
        if not (folder / name).stat().st_size:
            raise SystemExit(f"{name} is empty")
    return watch, wall, json.loads((folder / "r.json").read_text(encoding="utf-8"))


def check(case: Case, fixed: str, folder: Path) -> dict[str, float]:
    """Errors of the transform in mm against the known map, inside the body, and whether the outputs are whole."""
    lattice = sitk.ReadImage(fixed)
    for name in ("w.nii.gz", "j.nii.gz"):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(folder / name))
        reader.ReadImageInformation()
        if reader.GetSize() != lattice.GetSize():
            raise SystemExit(f"{name} is not on the fixed lattice")
    transform = sitk.ReadTransform(str(folder / "t.h5"))
    generator = np.random.default_rng(0)
    values = sitk.GetArrayViewFromImage(lattice)
    errors, before = [], []
    while len(errors) < 5000:
        index = [int(generator.integers(round(0.05 * n), round(0.95 * n))) for n in lattice.GetSize()]
        if values[tuple(index[::-1])] < -200:
            continue
        point = lattice.TransformIndexToPhysicalPoint(index)
        for distances, target in ((errors, transform.TransformPoint(point)), (before, point)):
            mapped = moved([np.array(coordinate) for coordinate in target])
            distances.append(float(np.linalg.norm(np.subtract(mapped, point))))
    return {"before": float(np.mean(before)), "mean": float(np.mean(errors)), "p95": float(np.percentile(errors, 95))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--memory-gb", type=float, default=8.0, help="address space in 10^9 bytes; 0: no limit")
    parser.add_argument("--scale", type=float, default=1.0, help="of the voxels along each axis")
    parser.add_argument("--keep", metavar="FOLDER", help="where pairs are kept, and taken from in the next run")
    parser.add_argument("--output", help="the table as Markdown")
    options, extra = parser.parse_known_args()
    rows = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    with tempfile.TemporaryDirectory() as temporary:
        for key in options.cases:
            case, folder = CASES[key], Path(options.keep or temporary)
            paths = [str(folder / f"{key}-{options.scale:g}-{role}.nii.gz") for role in ("fixed", "moving")]
            for path, moving in zip(paths, (False, True)):
                if not Path(path).exists():
                    print(f"making {path}", file=sys.stderr, flush=True)
                    sitk.WriteImage(phantom(case, moving, options.scale), path, True)
            watch, wall, report = run(*paths, Path(temporary), int(options.memory_gb * 1e9), extra)
            rows.append(_row(case, watch, wall, report, check(case, paths[0], Path(temporary)), Path(temporary)))
            print(rows[-1], file=sys.stderr, flush=True)
    print("\n".join(rows))
    if options.output:
        Path(options.output).write_text("\n".join(rows) + "\n", encoding="utf-8")


def _row(case: Case, watch: Watch, wall: float, report: dict, error: dict, folder: Path) -> str:
    grid = _grid(folder / "t.h5")
    folding = report["folding"]
    ends = [*list(watch.began.values())[1:], watch.began["Reading"] + wall]
    seconds = {stage: end - start for (stage, start), end in zip(watch.began.items(), ends)}
    cells = (
        case.name,
        "x".join(str(n) for n in report["inputs"]["fixed"]["size"]),
        f"{'x'.join(str(n) for n in grid.GetSize())} at {max(grid.GetSpacing()):.2f} mm "
        f"({grid.GetNumberOfPixels() / 1e6:.1f} million)",
        ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()),
        ", ".join(f"{stage} {kb * 1024 / 1e9:.1f}" for stage, kb in watch.by_stage.items()),
        f"{wall:.0f}",
        f"{watch.peak_kb * 1024 / 1e9:.2f}",
        f"{folding['central_voxels']} ({folding['strict_voxels']} strict)",
        f"{error['before']:.1f} -> {error['mean']:.2f} (95 %: {error['p95']:.2f})",
        " ".join(report["warnings"] + report["notes"]) or "none",
    )
    return "| " + " | ".join(cells) + " |"


def _grid(path: Path) -> sitk.Image:
    """The lattice of the displacement in a transform file, without its ring of zeros; its voxels are empty."""
    parts = sitk.CompositeTransform(sitk.ReadTransform(str(path)))
    displacement = sitk.DisplacementFieldTransform(parts.GetNthTransform(parts.GetNumberOfTransforms() - 1))
    whole = sitk.GetArrayViewFromImage(displacement.GetDisplacementField()).shape[2::-1]
    grid = sitk.Image([n - 2 for n in whole], sitk.sitkUInt8)
    grid.SetSpacing(displacement.GetDisplacementField().GetSpacing())
    return grid


if __name__ == "__main__":
    main()
