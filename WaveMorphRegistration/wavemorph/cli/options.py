"""Options that several commands have in common, and the settings and output files that they name."""

from __future__ import annotations

import argparse

from ..io import outputs
from ..io.result import check_store_spacing
from ..settings import CONTRASTS, DEVICES, PRESETS, SIMILARITIES, SMOOTHNESS, TRANSFORM_TYPES, Settings

EPILOG = """\
Transforms map fixed points to moving points (the resampling direction of ITK, ANTs and Slicer), in LPS mm.
Exit codes: 0 done, 1 unexpected, 2 an input or a setting, 3 an output, 4 the device, 5 the weights, 6 memory,
7 and 8 the verdict with --strict, 9 the cluster of processes, 10 some subjects of a cohort failed, 129 the terminal was
closed, 130 canceled, 141 the reader of the output was closed, 143 ended by the system."""
SEVERAL_IMAGES = "where a DICOM folder or file holds several images: number, name or UID of the series to take"
_INPUTS = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "fixed_labels",
    "moving_labels",
    "initial_transform",
    "label_names",
)


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Add the options for the volumes, masks, initial transform and settings of a registration."""
    parser.add_argument("--fixed", required=True, metavar="F", help="the volume that stays: a file or a DICOM folder")
    parser.add_argument("--moving", required=True, metavar="M", help="the volume that is aligned to it")
    parser.add_argument("--series", metavar="S", help=SEVERAL_IMAGES)
    parser.add_argument("--fixed-series", metavar="S", help="the same for the fixed volume alone")
    parser.add_argument("--moving-series", metavar="S", help="the same for the moving volume alone")
    parser.add_argument("--fixed-mask", metavar="FM", help="compare only where this is not 0")
    parser.add_argument("--moving-mask", metavar="MM", help="compare only where this is not 0")
    parser.add_argument("--initial-transform", metavar="T", help="initial transform: fixed points -> moving points")
    parser.add_argument("--aligned", action="store_true", help="skip the affine stage: the pair is already aligned")
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `settings_of` reads."""
    parser.add_argument("--preset", default="Balanced", help=f"{', '.join(PRESETS)} (default: Balanced)")
    types = f"{', '.join(TRANSFORM_TYPES)} (default: deformable)"
    parser.add_argument("--transform-type", default="deformable", metavar="TYPE", help=types)
    parser.add_argument("--contrast", default="auto", help=f"{', '.join(CONTRASTS)} (default: auto, which measures it)")
    parser.add_argument("--similarity", default="auto", help=f"{', '.join(SIMILARITIES)} (default: auto, by contrast)")
    parser.add_argument("--smoothness", default="medium", help=f"{', '.join(SMOOTHNESS)} (default: medium)")
    parser.add_argument("--device", default="auto", help=f"{', '.join(DEVICES)}, cuda:1 (default: auto)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="spacing of the working grid (default: 1, or more)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--weights", default="auto", metavar="W", help="a model's name, a file, none, auto (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_outputs(parser: argparse.ArgumentParser, transform_required: bool) -> None:
    """Add the options for the output files of a registration."""
    forms = ".h5, .tfm, or a field .nii.gz, .nrrd, .mha"
    parser.add_argument("--transform", required=transform_required, metavar="T", help=forms)
    inverse = "the inverse: moving points -> fixed points; takes about as long as all other stages"
    parser.add_argument("--inverse", metavar="I", help=inverse)
    coarser = "store the transforms at this spacing: 2 takes an eighth of the space, and the error is printed"
    parser.add_argument("--store-spacing", type=float, metavar="MM", help=coarser)
    parser.add_argument("--warped", metavar="W", help="the moving volume on the fixed lattice")
    parser.add_argument("--jacobian", metavar="J", help="the Jacobian determinant on the fixed lattice")
    error = "the expected error in mm on the fixed lattice: 90 %% of errors are below it"
    parser.add_argument("--error-map", metavar="E", help=error)
    parser.add_argument("--report", metavar="R", help="all numbers, settings and versions, .json")


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings from the options. Raises SettingsError."""
    return Settings(
        preset=options.preset,
        transform_type=options.transform_type,
        contrast=options.contrast,
        similarity=options.similarity,
        smoothness=options.smoothness,
        device=options.device,
        threads=options.threads,
        weights=options.weights,
        spacing_mm=options.spacing,
        affine=not getattr(options, "aligned", False),
        inverse=bool(getattr(options, "inverse", None) or getattr(options, "with_inverse", False)),
        error_map=bool(getattr(options, "error_map", None)),
    )


def output_files(options: argparse.Namespace) -> outputs.Outputs:
    """The requested files that `register` and `scene` write from a Registration.

    Raises OutputError, or SettingsError where the store spacing is not positive.
    """
    if options.store_spacing is not None:
        check_store_spacing(options.store_spacing)
    files = outputs.Outputs(inputs=given(options, *_INPUTS))
    for output, (writer, extensions, name) in outputs.REGISTRATION_OUTPUTS.items():
        if path := getattr(options, output):
            files.add(path, writer, extensions, name)
    return files


def given(options: argparse.Namespace, *names: str) -> list[str]:
    """The values of those options that are set."""
    return [value for name in names if (value := getattr(options, name, None))]
