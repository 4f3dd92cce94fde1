"""`wavemorph register`: register two volumes, and write the transform and its other outputs."""

from __future__ import annotations

import argparse

import SimpleITK as sitk

from ..errors import SettingsError
from ..evaluation import metrics
from ..io import images
from ..io.result import Registration
from ..settings import Settings
from .options import EPILOG, add_outputs, add_pair, output_files, settings_of
from .progress import TerminalProgress
from .summary import summary


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("register", help="register a moving volume to a fixed one", epilog=EPILOG)
    add_pair(parser)
    add_outputs(parser, transform_required=True)
    parser.add_argument("--fixed-labels", metavar="FL", help="label map of the fixed volume, for Dice and HD95")
    parser.add_argument("--moving-labels", metavar="ML", help="label map of the moving volume")
    parser.add_argument("--label-names", metavar="FILE", help="lines of a number and a name, such as Slicer's .ctbl")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Register, write the files, and print the numbers."""
    settings = settings_of(options)
    if bool(options.fixed_labels) != bool(options.moving_labels):
        raise SettingsError("Dice needs both label maps; give --fixed-labels and --moving-labels, or neither.")
    files = output_files(options)
    labels = None
    if options.fixed_labels:
        labels = (
            images.read_labels(options.fixed_labels, "fixed label map"),
            images.read_labels(options.moving_labels, "moving label map"),
        )
        images.shared_labels(*labels)
    names = metrics.read_label_names(options.label_names) if options.label_names else {}
    registration = register_files(options, settings, progress)
    if labels:
        registration.report["labels"] = metrics.label_report(*labels, registration.transform)
    written = files.write(registration)
    print(summary(registration.report))
    if labels:
        print(metrics.format_table(registration.report["labels"], names))
    print("\n".join(f"written: {path}" for path in written))


def register_files(options: argparse.Namespace, settings: Settings, progress: TerminalProgress | None) -> Registration:
    """`register` on the files that `options` names."""
    fixed = images.read_image(options.fixed, "fixed image")
    moving = images.read_image(options.moving, "moving image")
    return register_images(fixed, moving, options, settings, progress)


def register_images(
    fixed: sitk.Image,
    moving: sitk.Image,
    options: argparse.Namespace,
    settings: Settings,
    progress: TerminalProgress | None,
) -> Registration:
    """`register` on two images, with the masks, the initial transform and the store spacing that `options` names."""
    from ..registration.pipeline import register  # imports torch

    fixed_mask = images.read_mask(options.fixed_mask, fixed, "fixed mask") if options.fixed_mask else None
    moving_mask = images.read_mask(options.moving_mask, moving, "moving mask") if options.moving_mask else None
    initial = options.initial_transform
    registration = register(
        fixed,
        moving,
        settings,
        progress,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        initial_transform=images.read_transform(initial, "initial transform") if initial else None,
    )
    return registration.stored_at(options.store_spacing) if options.store_spacing is not None else registration
