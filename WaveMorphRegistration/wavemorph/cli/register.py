"""`wavemorph register`: register two volumes, and write the transform and its other outputs."""

from __future__ import annotations

import argparse

import SimpleITK as sitk

from ..errors import SettingsError
from ..evaluation import metrics
from ..evaluation.structures import pair_structures
from ..io import images, labels, transforms
from ..io.result import Registration
from ..io.text_files.label_names import read_label_names
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
    label_maps = None
    if options.fixed_labels:
        label_maps = (
            labels.read_label_map(options.fixed_labels, "fixed label map"),
            labels.read_label_map(options.moving_labels, "moving label map"),
        )
        pair_structures(*label_maps)  # refuses maps without a common structure before the work
    names = read_label_names(options.label_names) if options.label_names else {}
    registration = register_files(options, settings, progress)
    if label_maps:
        registration.report["labels"] = metrics.label_report(*label_maps, registration.transform)
    written = files.write(registration)
    print(summary(registration.report))
    if label_maps:
        print(metrics.format_table(registration.report["labels"], names))
        for remark in registration.report["labels"]["remarks"]:
            print(f"note: {remark}")
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
    """`register` on two images, with the masks and the initial transform that `options` names."""
    from ..registration.pipeline import register  # imports torch

    fixed_mask = images.read_mask(options.fixed_mask, fixed, "fixed mask") if options.fixed_mask else None
    moving_mask = images.read_mask(options.moving_mask, moving, "moving mask") if options.moving_mask else None
    initial = options.initial_transform
    return register(
        fixed,
        moving,
        settings,
        progress,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        initial_transform=transforms.read_transform(initial, "initial transform") if initial else None,
    )
