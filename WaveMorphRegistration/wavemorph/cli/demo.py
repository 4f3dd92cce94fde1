"""`wavemorph demo`: register a real brain and a copy of it with a known deformation."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, SettingsError
from ..io.outputs import USUAL_NAMES, Outputs, write_image
from ..io.result import Registration
from .options import add_settings, settings_of
from .progress import TerminalProgress
from .scene import register_to_scene
from .summary import summary

if TYPE_CHECKING:
    from ..training.known_deformation import SyntheticPair

_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_MOVING_SPACING_MM = (1.0, 1.0, 1.5)
_FILES = {**USUAL_NAMES, "picture": "picture.png"}


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help="register a real brain and a copy with a known deformation")
    parser.add_argument("--output", default="demo-output", metavar="FOLDER", help="default: demo-output")
    parser.add_argument("--fixed", metavar="F", help="with --moving: your own pair instead")
    parser.add_argument("--moving", metavar="M")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Register the built-in pair, or the user's own, into the folder `options.output`, and print the numbers."""
    if bool(options.fixed) != bool(options.moving):
        raise SettingsError("A pair of your own needs both; give FIXED and MOVING, or neither.")
    folder = Path(options.output)
    pair = None if options.fixed else _write_built_in_pair(folder)
    settings = settings_of(options)
    settings = dataclasses.replace(settings, inverse=True, error_map=settings.deformable)
    files = {name: str(folder / file) for name, file in _FILES.items()}
    job = argparse.Namespace(
        fixed=options.fixed or str(folder / "fixed.nii.gz"),
        moving=options.moving or str(folder / "moving.nii.gz"),
        output=str(folder / "scene.mrb"),
        with_inverse=False,
        **{**files, "error_map": files["error_map"] if settings.deformable else None},
        **dict.fromkeys(("fixed_mask", "moving_mask", "initial_transform", "store_spacing")),
    )
    registration, written = register_to_scene(job, settings, progress)
    print(summary(registration.report))
    if pair is not None:
        print(_table(pair, registration))
    print("\n".join(f"written: {path}" for path in written))
    print(f"\nOpen {folder / _FILES['picture']}, or {job.output} in 3D Slicer.")


def template_path() -> Path:
    """The MNI ICBM152 T1 template (2009a, nonlinear, symmetric, brain only, 1 mm) that comes with nilearn."""
    found = importlib.util.find_spec("nilearn")
    path = Path(found.origin).parent / _TEMPLATE if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise InputError(
            "The built-in pair needs the template in the package nilearn; install it with: pip install nilearn, or "
            "give a pair of your own."
        )
    return path


def built_in_pair() -> SyntheticPair:
    """The template, and the same head deformed and rotated, with another contrast, bias, noise and oblique lattice."""
    from ..training.known_deformation import Difference, make_pair  # imports torch

    template = sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)
    return make_pair(template, Difference(spacing_mm=_MOVING_SPACING_MM))


def _write_built_in_pair(folder: Path) -> SyntheticPair:
    pair = built_in_pair()
    files = Outputs()
    files.add(folder / "fixed.nii.gz", lambda made, path: write_image(made.fixed, path), (".nii.gz",), "fixed volume")
    files.add(
        folder / "moving.nii.gz", lambda made, path: write_image(made.moving, path), (".nii.gz",), "moving volume"
    )
    files.write(pair)
    return pair


def _table(pair: SyntheticPair, registration: Registration) -> str:
    """The true error at 5000 voxels of the brain, as text."""
    lines = ["true error in the brain, mm      mean    95 %     max"]
    rows = [("before registration", sitk.Transform())]
    if registration.is_linear:
        rows.append((f"after the {registration.report['transform_type']} transform", registration.transform))
    else:
        rows += [("after the affine", registration.affine), ("after the deformation", registration.transform)]
    for name, transform in rows:
        error = pair.error_mm(transform)
        lines.append(f"  {name:26} {error.mean():8.3f}{np.percentile(error, 95):8.3f}{error.max():8.3f}")
    return "\n".join(lines)
