"""`wavemorph population`: a synthetic population with known maps, to try the commands for cohorts on."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import SimpleITK as sitk

from ...errors import OutputError, SettingsError
from ...io.outputs import Outputs, write_image, write_json, write_transform
from ...io.reading import read_volume
from ..demo import template_path
from ..progress import TerminalProgress

_BIDS_VERSION = "1.10.0"


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("population", help="a synthetic population with known maps, to try the others on")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="a BIDS data set, with the maps in derivatives"
    )
    parser.add_argument("--subjects", type=int, default=24, metavar="N", help="default: 24")
    parser.add_argument("--template", metavar="T", help="a skull-stripped brain; default: the MNI template of nilearn")
    parser.add_argument("--spacing", type=float, default=1.0, metavar="MM", help="of the subjects' voxels; default: 1")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Write the data set into a new folder, and print how to use it."""
    from ...cohort.population import SUBJECT, make_population  # imports torch

    if options.subjects < 1 or not 0.5 <= options.spacing <= 8:
        raise SettingsError(
            f"A population needs at least 1 subject and voxels of 0.5 to 8 mm, not {options.subjects} subjects and "
            f"{options.spacing:g} mm."
        )
    folder = Path(options.output)
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f'The folder "{folder}" is not empty; name a new one.')
    template = sitk.Cast(read_volume(options.template or template_path(), "template").image, sitk.sitkFloat32)
    difference = dataclasses.replace(SUBJECT, spacing_mm=(options.spacing,) * 3)
    width = max(2, len(str(options.subjects)))
    names = [f"sub-{number:0{width}}" for number in range(1, options.subjects + 1)]
    pairs = make_population(template, options.subjects, options.seed, difference)
    for number, (name, pair) in enumerate(zip(names, pairs)):
        if progress is not None:
            progress("population", number / len(names), name)
        anat = folder / name / "anat"
        truth = folder / "derivatives" / "truth" / name / "anat" / f"{name}_from-template_to-T1w_mode-image_xfm.h5"
        files = Outputs()
        files.add(
            anat / f"{name}_T1w.nii.gz", lambda made, path: write_image(made.moving, path), (".nii.gz",), "volume"
        )
        files.add(truth, lambda made, path: write_transform(made.truth, path), (".h5",), "true map")
        files.write(pair)
    _describe(folder, names)
    write_image(template, folder / "derivatives" / "truth" / "template.nii.gz")
    print(f"written: {len(names)} subjects with their true maps in {folder}")


def _describe(folder: Path, names: list[str]) -> None:
    """The files that make a folder a BIDS data set."""
    description = {"Name": "Synthetic population", "BIDSVersion": _BIDS_VERSION, "DatasetType": "raw"}
    write_json(description, folder / "dataset_description.json")
    (folder / "README").write_text(
        "One template, deformed at random; derivatives/truth has the maps.\n", encoding="utf-8"
    )
    rows = ["participant_id", *names]
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    truth = {
        **description,
        "Name": "True maps",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "wavemorph population"}],
    }
    write_json(truth, folder / "derivatives" / "truth" / "dataset_description.json")
