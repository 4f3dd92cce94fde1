"""A study whose registrations take about a second: heads of 4 mm voxels, aligned already, without a network."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import phantoms
import SimpleITK as sitk
from wavemorph import Settings
from wavemorph.cohort.study.registering import SubjectJob, register_subject

SETTINGS = Settings(affine=False, weights="none", threads=1, spacing_mm=8.0)
KILLED = "killed"  # a file in the folder of a study


def write_heads(folder: Path, count: int) -> tuple[Path, list[Path]]:
    """Files: a template, and `count` heads that are some millimeters away."""
    lattice = phantoms.regular(size=(24, 26, 22), spacing=(4.0, 4.0, 4.0))
    template = folder / "template.nii.gz"
    sitk.WriteImage(phantoms.head(lattice), str(template))
    files = [folder / f"head-{number}.nii.gz" for number in range(count)]
    for number, file in enumerate(files):
        center = (3.0 - number, number, 1.0)
        sitk.WriteImage(phantoms.head(lattice, center=center, noise=5.0, seed=number), str(file))
    return template, files


def write_torsos(folder: Path) -> list[Path]:
    """Files: two torsos, one that has breathed in and one that has breathed out. A template of them takes seconds."""
    paths = [folder / f"torso-{number}.nii.gz" for number in range(2)]
    for number, (path, factor) in enumerate(zip(paths, (-0.6, 0.6))):

        def deformation(points: np.ndarray, factor: float = factor) -> np.ndarray:
            return factor * phantoms.breathing(points)

        lattice = phantoms.regular((30, 26, 30), (6.2, 5.8, 6.4))
        sitk.WriteImage(phantoms.torso(lattice, deformation, noise=15, seed=number), str(path))
    return paths


def damage(file: Path) -> None:
    """Change a byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def register_or_be_killed(job: SubjectJob) -> dict:
    """`register_subject`, by a process that the system ends the first time that head-0 is registered."""
    killed = job.study / KILLED
    if job.subject.name == "head-0" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return register_subject(job)


def always_killed(job: str) -> str:
    """Returns the job, unless that is "end"."""
    if job == "end":
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def what_a_worker_may_use(_job: object) -> tuple[int, int, int]:
    """Its process, the threads of torch, and the bytes of free memory."""
    import torch
    from wavemorph.system.machine import free_memory

    return os.getpid(), torch.get_num_threads(), free_memory(torch.device("cpu"))


def fail(job: str) -> None:
    """Raises ValueError with the job."""
    raise ValueError(f"no {job}")
