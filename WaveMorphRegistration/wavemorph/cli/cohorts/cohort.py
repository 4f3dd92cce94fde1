"""`wavemorph cohort`: register every subject of a study to one volume."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..options import EPILOG, add_settings, settings_of
from ..progress import TerminalProgress
from .options import add_scheduler, add_sources, runner_of

if TYPE_CHECKING:
    import pandas as pd

SOME_FAILED = 10  # exit code


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("cohort", help="register every subject of a study to one volume", epilog=EPILOG)
    parser.add_argument("--fixed", required=True, metavar="T", help="the volume that stays, such as a template")
    add_sources(parser, "--moving")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new folder, or with --resume the study's")
    done = "leave subjects alone that are complete and made from the same volumes, settings and weights"
    parser.add_argument("--resume", action="store_true", help=done)
    parser.add_argument("--fixed-mask", metavar="FM", help="compare only where this is not 0")
    inverse = "also write the inverses; takes about as long as all other stages"
    parser.add_argument("--inverse", action="store_true", help=inverse)
    parser.add_argument("--error-map", action="store_true", help="also write the expected errors in mm")
    coarser = "store the transforms at this spacing: 2 takes an eighth of the space"
    parser.add_argument("--store-spacing", type=float, metavar="MM", help=coarser)
    add_settings(parser)
    add_scheduler(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> int:
    """Register the subjects, print how many verdicts there are of each level, and return the exit code."""
    from ...cohort.study.run import DEFAULT_OUTPUTS
    from ...cohort.study.run import run as run_study

    on_request = [name for name in ("inverse", "error_map") if getattr(options, name)]
    settings = settings_of(options)
    with runner_of(options, progress) as runner:
        table = run_study(
            options.fixed,
            options.moving,
            output=options.output,
            table=options.table,
            bids=options.bids,
            suffix=options.suffix,
            fixed_mask=options.fixed_mask,
            settings=settings,
            outputs=(*DEFAULT_OUTPUTS, *on_request),
            store_spacing=options.store_spacing,
            resume=options.resume,
            runner=runner,
        )
    print(_summary(table))
    print(f"written: {options.output}")
    return SOME_FAILED if (table["status"] == "failed").any() else 0


def _summary(table: pd.DataFrame) -> str:
    """How many subjects are done, with which verdicts, and one line for each that failed."""
    done, failed = (table[table["status"] == status] for status in ("done", "failed"))
    levels = ", ".join(f"{count} {level}" for level, count in done["verdict"].value_counts().items())
    lines = [f"done                 {len(done)} of {len(table)}" + (f" ({levels})" if levels else "")]
    lines += [f"failed: {name}: {error}" for name, error in zip(failed["subject"], failed["error"])]
    return "\n".join(lines)
