"""`wavemorph template`: an unbiased template of a population, and the maps of its subjects."""

from __future__ import annotations

import argparse

from ...settings import Settings
from ..options import EPILOG
from ..progress import TerminalProgress
from .options import add_scheduler, add_sources, runner_of

SOME_LEFT_OUT = 10  # exit code, as of `wavemorph cohort`
_SETTINGS = ("preset", "contrast", "similarity", "smoothness", "device", "threads", "weights")


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("template", help="an unbiased template of a population", epilog=EPILOG)
    add_sources(parser, "--volumes")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="a new folder, or with --resume that of the template"
    )
    done = "leave rounds and subjects alone that are complete and made from the same volumes, settings and weights"
    parser.add_argument("--resume", action="store_true", help=done)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="deformable rounds (default: 3)")
    voxels = "of the template's voxels (default: the median of the subjects' finest)"
    parser.add_argument("--spacing", type=float, metavar="MM", help=voxels)
    parser.add_argument("--symmetric", action="store_true", help="left-right symmetric")
    parser.add_argument(
        "--begin-with", metavar="T", help="an existing template, in whose pose and box the new one lies"
    )
    add_template_settings(parser)
    add_scheduler(parser)
    parser.set_defaults(run=run)


def add_template_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options for the settings of the registrations that are not chosen by the command."""
    defaults = Settings()
    for name in _SETTINGS:
        kind = int if name == "threads" else str
        text = f"as of wavemorph register (default: {getattr(defaults, name)})" if name != "threads" else "CPU threads"
        parser.add_argument(f"--{name}", type=kind, default=getattr(defaults, name), help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def template_settings(options: argparse.Namespace) -> Settings:
    """The settings that `add_template_settings` names. Raises SettingsError."""
    return Settings(**{name: getattr(options, name) for name in _SETTINGS})


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> int:
    """Make the template, print what each round changed, and return the exit code."""
    from ...cohort.sources import subjects_from
    from ...cohort.template.study import TemplateOptions, make_template

    settings = template_settings(options)
    choices = TemplateOptions(options.rounds, options.spacing, options.symmetric, options.begin_with)
    subjects = subjects_from(options.volumes, options.table, options.bids, options.suffix)
    with runner_of(options, progress) as runner:
        made = make_template(
            subjects, options.output, choices, settings, runner, print, bids=options.bids, resume=options.resume
        )
    lines = [f"left out: {name}: {reason}" for name, reason in made.left_out.items()]
    lines.append(f"written: the template of {len(made.subjects)} subjects and their maps in {options.output}")
    print("\n".join(lines))
    return SOME_LEFT_OUT if made.left_out else 0
