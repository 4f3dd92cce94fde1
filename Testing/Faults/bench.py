"""The folder in which faults are tried: inputs, outputs and temporary files, and what must hold of them afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "WaveMorphRegistration"
CHILD = Path(__file__).with_name("child.py")
OUTPUTS = {
    "transform": "transform.h5",
    "inverse": "inverse.nii.gz",
    "warped": "warped.nii.gz",
    "jacobian": "jacobian.nrrd",
    "report": "report.json",
}
_VARYING = ("seconds", "peak_memory_mb")  # of a report


@dataclass(frozen=True)
class Finished:
    """How a program ended. code: negative where a signal ended it."""

    code: int
    out: str
    err: str


class Bench:
    """A folder with `inputs`, which never change, `out` and `tmp` (TMPDIR)."""

    def __init__(self, folder: Path, fixed: sitk.Image, moving: sitk.Image):
        self.folder = folder
        self.inputs, self.out, self.tmp = (folder / name for name in ("inputs", "out", "tmp"))
        for made in (self.inputs, self.out, self.tmp):
            made.mkdir(parents=True)
        for name, image in (("fixed", fixed), ("moving", moving)):
            sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(self.inputs / f"{name}.nii.gz"))
        self._inputs = contents(self.inputs)

    def arguments(self, *extra: str, outputs: dict[str, str] | None = None, spacing: float = 4.0) -> list[str]:
        """Those of `wavemorph register`."""
        named = [f"--{name}={self.out / file}" for name, file in (OUTPUTS if outputs is None else outputs).items()]
        pair = ["--fixed", str(self.inputs / "fixed.nii.gz"), "--moving", str(self.inputs / "moving.nii.gz")]
        quick = ["--spacing", str(spacing), "--weights", "none", "--threads", "1", "--quiet"]
        return ["register", *pair, *quick, *named, *extra]

    def environment(self, **changes: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WAVEMORPH_")}
        own = {"PYTHONPATH": str(ENGINE), "TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        return {**inherited, **own, **changes}

    def start(self, arguments: list[str], faults: list | None = None, **options) -> subprocess.Popen:
        """Start `wavemorph ARGUMENTS`, with faults as in child.py."""
        program = ["-m", "wavemorph.cli"] if faults is None else [str(CHILD), json.dumps(faults), "cli"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        options = {"env": self.environment(), **streams, **options}
        return subprocess.Popen([sys.executable, *program, *arguments], text=True, **options)

    def run(self, arguments: list[str], faults: list | None = None, **options) -> Finished:
        process = self.start(arguments, faults, **options)
        out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out or "", err or "")

    def clear(self) -> None:
        """Remove what is in `out` and `tmp`."""
        for folder in (self.out, self.tmp):
            for path in folder.iterdir() if folder.exists() else ():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def faults_after(self, finished: Finished, before: dict[str, str] | None = None) -> list[str]:
        """What is wrong after a run in which something went wrong; before: `contents(self.out)` before it."""
        found = [] if contents(self.inputs) == self._inputs else ["an input has changed"]
        before = before or {}
        killed = finished.code == -9
        if finished.code in (0, 7, 8):
            if not self.is_complete():
                found.append(f"not all outputs are there: {sorted(contents(self.out))}")
        else:
            after = {name: sum_ for name, sum_ in contents(self.out).items() if not (killed and _is_private(name))}
            if after != before:
                found.append(f"outputs have changed: {sorted(after)}")
            if not killed:
                found += wrong_words(finished)
        if not killed and contents(self.tmp):
            found.append(f"temporary files are left: {sorted(contents(self.tmp))}")
        return found + self.open_folders()

    def is_complete(self) -> bool:
        """Whether all outputs are there and can be read, and nothing else is."""
        if sorted(path.name for path in self.out.iterdir()) != sorted(OUTPUTS.values()):
            return False
        try:
            for name in ("inverse", "warped", "jacobian"):
                sitk.ReadImage(str(self.out / OUTPUTS[name]))
            sitk.ReadTransform(str(self.out / OUTPUTS["transform"]))
            json.loads((self.out / OUTPUTS["report"]).read_text())
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    def open_folders(self) -> list[str]:
        """The folders with temporary files that others may enter."""
        private = [path for folder in (self.out, self.tmp) if folder.exists() for path in folder.iterdir()]
        private = [path for path in private if path.is_dir() and "wavemorph" in path.name]
        return [f"others may enter {path.name}" for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077]

    def faults_of_next_run(self) -> list[str]:
        """What is wrong with the next usual run: it must replace all outputs, and leave nothing else."""
        for folder in (self.out, self.tmp):
            folder.mkdir(exist_ok=True)
        finished = self.run(self.arguments())
        if finished.code != 0:
            return [f"the next run failed ({finished.code}): {finished.err.strip()[-200:]}"]
        return [f"next run: {fault}" for fault in self.faults_after(finished)]

    def results(self) -> dict[str, str]:
        """Checksums of the outputs; of the report without what varies."""
        found = contents(self.out)
        report = json.loads((self.out / OUTPUTS["report"]).read_text())
        text = json.dumps({key: value for key, value in report.items() if key not in _VARYING})
        return {**found, OUTPUTS["report"]: hashlib.sha256(text.encode()).hexdigest()}


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> checksum (of a folder: "") of everything in a folder."""
    if not folder.exists():
        return {}
    return {
        path.relative_to(folder).as_posix(): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


def wrong_words(finished: Finished) -> list[str]:
    """What is wrong with what a program said that could not do its work: it must be one sentence."""
    lines = finished.err.splitlines()
    if len(lines) != 1 or not lines[0].startswith("wavemorph: ") or not lines[0].endswith((".", "?")):
        return [f"not one sentence: {finished.err.strip()[-300:]!r}"]
    if lines[0].startswith("wavemorph: Unexpected"):
        return [f"not a sentence for users: {lines[0]!r}"]
    return [] if 0 < finished.code < 9 or finished.code > 128 else [f"the exit code {finished.code} is not defined"]


def _is_private(name: str) -> bool:
    """Whether a file is in a folder that the next run removes."""
    return name.startswith(".wavemorph-")
