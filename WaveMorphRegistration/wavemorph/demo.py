"""The demo: a real brain against itself, deformed and rescanned in a known way, by the road that every pair goes."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import cli
from .errors import InputError, SettingsError
from .outputs import Outputs, write_image
from .progress import TerminalProgress
from .settings import Settings
from .synthetic import Difference, SyntheticPair, make_pair

_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_MOVING_SPACING_MM = (1.0, 1.0, 1.5)
_FILES = {
    "transform": "fixed_to_moving.h5",
    "inverse": "moving_to_fixed.h5",
    "warped": "registered.nii.gz",
    "jacobian": "jacobian.nii.gz",
    "report": "report.json",
    "picture": "picture.png",
}


def run(options: argparse.Namespace, settings: Settings, progress: TerminalProgress | None) -> None:
    """Register the built-in pair, or the user's own, into `options.output`, and print what came of it."""
    if bool(options.fixed) != bool(options.moving):
        raise SettingsError("A pair of your own needs both; give FIXED and MOVING, or neither.")
    folder = Path(options.output)
    pair = None if options.fixed else _built_in_pair(folder)
    job = argparse.Namespace(
        fixed=options.fixed or str(folder / "fixed.nii.gz"),
        moving=options.moving or str(folder / "moving.nii.gz"),
        output=str(folder / "scene.mrb"),
        with_inverse=False,
        **{name: str(folder / file) for name, file in _FILES.items()},
        **dict.fromkeys(("fixed_mask", "moving_mask", "initial_transform")),
    )
    settings = dataclasses.replace(settings, inverse=True)
    registration, written = cli.register_to_scene(job, settings, progress)
    print(cli.summary(registration.report))
    if pair is not None:
        print(_table(pair, registration))
    print("\n".join(f"written: {path}" for path in written))
    print(f"\nLook at {folder / _FILES['picture']}, and open {job.output} in 3D Slicer.")


def template_path() -> Path:
    """The MNI ICBM152 T1 template (2009a, nonlinear, symmetric, brain only, 1 mm) that comes with nilearn."""
    found = importlib.util.find_spec("nilearn")
    path = Path(found.origin).parent / _TEMPLATE if found is not None else None
    if path is None or not path.is_file():
        raise InputError(
            "The built-in pair needs the template in the package nilearn; install it with: pip install nilearn, or "
            "give a pair of your own."
        )
    return path


def built_in_pair() -> SyntheticPair:
    """The template, and the same head deformed, rotated, with another contrast, bias, noise and an oblique lattice."""
    template = sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)
    return make_pair(template, Difference(spacing_mm=_MOVING_SPACING_MM))


def _built_in_pair(folder: Path) -> SyntheticPair:
    pair = built_in_pair()
    files = Outputs()
    for name in ("fixed", "moving"):
        files.add(
            folder / f"{name}.nii.gz",
            lambda made, path, name=name: write_image(getattr(made, name), path),
            (".nii.gz",),
            f"{name} volume",
        )
    files.write(pair)
    return pair


def _table(pair: SyntheticPair, registration) -> str:
    """Distance from where each point of the brain truly lies, over 5000 of its voxels."""
    lines = ["true error in the brain, mm      mean    95 %     max"]
    for name, transform in (
        ("as the files lie", sitk.Transform()),
        ("after the affine", registration.affine),
        ("after the deformation", registration.transform),
    ):
        error = pair.error_mm(transform)
        lines.append(f"  {name:26} {error.mean():8.3f}{np.percentile(error, 95):8.3f}{error.max():8.3f}")
    return "\n".join(lines)
