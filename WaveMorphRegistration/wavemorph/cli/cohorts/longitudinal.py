"""`wavemorph longitudinal`: several scans of one patient, and how the volumes of structures changed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import SettingsError
from ..options import EPILOG
from ..progress import TerminalProgress
from .options import add_scheduler, runner_of
from .template import add_template_settings, template_settings

if TYPE_CHECKING:
    from ...cohort.longitudinal.study import Longitudinal


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    text = "several scans of one patient, and how volumes changed"
    parser = commands.add_parser("longitudinal", help=text, epilog=EPILOG)
    times = "a file for each time, of one patient and one protocol; changes are stated against the first"
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument("--volumes", nargs="+", metavar="V", help=times)
    sources.add_argument("--bids", metavar="DATASET", help="a BIDS data set; with --subject, whose sessions are taken")
    parser.add_argument("--subject", metavar="LABEL", help="of the BIDS data set, such as 01")
    parser.add_argument("--suffix", default="T1w", help="which volumes of the BIDS data set (default: T1w)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for the mean, the table and all maps")
    labels = "a label map whose structures are measured (default: those of the shipped brain segmentation)"
    parser.add_argument("--labels", metavar="L", help=labels)
    space = "the time that the labels belong to, by its name, or midway (default: the one whose voxels they have)"
    parser.add_argument("--labels-of", metavar="NAME", help=space)
    add_template_settings(parser)
    add_scheduler(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Compare the times, write the files, and print the volumes."""
    from ...cohort.bids import scans_of_person
    from ...cohort.longitudinal.study import compare_times

    if bool(options.bids) != bool(options.subject):
        raise SettingsError("The sessions of a person are named by --bids DATASET and --subject LABEL; give both.")
    times = scans_of_person(options.bids, options.subject, options.suffix) if options.bids else options.volumes
    settings = template_settings(options)
    with runner_of(options, progress) as runner:
        found = compare_times(times, options.output, options.labels, options.labels_of, settings, runner, report=print)
    print(_table(found))
    print(f"written: the midway volume, the table of volumes and all maps in {options.output}")


def _table(found: Longitudinal) -> str:
    """The volumes as text, and the verdicts."""
    times = list(found.maps)
    width = max(len(name) for name in (*times, "midway")) + 2
    lines = ["structure".ljust(26) + "".join(f"{name:>{max(width, 22)}}" for name in times)]
    rows: dict[str, str] = {}
    for each in found.volumes:
        cell = f"{each.volume_ml:.3f} ml ({each.percent:+.2f} %)"
        rows[each.structure] = rows.get(each.structure, each.structure.ljust(26)) + f"{cell:>{max(width, 22)}}"
    lines += rows.values()
    for time in found.report["times"]:
        verdict = time["verdict_against_first"]
        if verdict is not None:
            lines += [
                f"verdict on {time['name']}: {verdict['level']}",
                *(f"reason: {why}" for why in verdict["reasons"]),
            ]
    return "\n".join(lines)
