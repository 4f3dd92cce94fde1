"""`wavemorph register`: register two volumes, and write the transform and its other outputs."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import SettingsError
from ..evaluation import metrics
from ..evaluation.structures import pair_structures
from ..io import images, labels, transforms
from ..io.reading import ReadVolume, read_foreground
from ..io.result import Registration
from ..io.text_files.label_names import read_label_names
from ..settings import Settings
from .inputs import read_pair
from .options import EPILOG, add_outputs, add_pair, output_files, settings_of
from .progress import TerminalProgress
from .summary import summary

_EXIT_CODES = {"good": 0, "check": 7, "do not trust": 8}  # with --strict


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("register", help="register a moving volume to a fixed one", epilog=EPILOG)
    add_pair(parser)
    add_outputs(parser, transform_required=True)
    parser.add_argument("--fixed-labels", metavar="FL", help="label map of the fixed volume, for Dice and HD95")
    parser.add_argument("--moving-labels", metavar="ML", help="label map of the moving volume")
    parser.add_argument("--label-names", metavar="FILE", help="lines of a number and a name, such as Slicer's .ctbl")
    strict = "exit with 7 where the verdict is check, and with 8 where it is do not trust; all files are written"
    parser.add_argument("--strict", action="store_true", help=strict)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> int:
    """Register, write the files, and print the numbers; returns the exit code."""
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
        registration.report["labels"] = metrics.label_report(
            *label_maps, registration.transform, expected_error=registration.expected_error
        )
    written = files.write(registration)
    print(summary(registration.report))
    if label_maps:
        print(metrics.format_table(registration.report["labels"], names))
        for remark in registration.report["labels"]["remarks"]:
            print(f"note: {remark}")
    print("\n".join(f"written: {path}" for path in written))
    return _EXIT_CODES[registration.report["verdict"]["level"]] if options.strict else 0


def register_files(options: argparse.Namespace, settings: Settings, progress: TerminalProgress | None) -> Registration:
    """`register` on the files that `options` names."""
    return register_volumes(*read_pair(options), options, settings, progress)


def register_volumes(
    fixed: ReadVolume,
    moving: ReadVolume,
    options: argparse.Namespace,
    settings: Settings,
    progress: TerminalProgress | None,
) -> Registration:
    """`register` on two volumes, with the masks, the initial transform and the store spacing that `options` names."""
    from ..registration.pipeline import register  # imports torch

    notes, masks = [*fixed.remarks, *moving.remarks], dict[str, Any]()
    for which, path, volume in (("fixed", options.fixed_mask, fixed), ("moving", options.moving_mask, moving)):
        if path:
            mask = read_foreground(path, f"{which} mask")
            masks[f"{which}_mask"] = images.validate_mask(mask.image, volume.image, mask.name)
            notes += mask.remarks
    initial = options.initial_transform
    registration = register(
        fixed.image,
        moving.image,
        settings,
        progress,
        **masks,
        notes=notes,
        initial_transform=transforms.read_transform(initial, "initial transform") if initial else None,
    )
    return registration.stored_at(options.store_spacing) if options.store_spacing is not None else registration
