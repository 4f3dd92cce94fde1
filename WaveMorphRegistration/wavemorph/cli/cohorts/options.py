"""The options that say where the work on many subjects is done, and the runner that they name."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import SettingsError
from ..progress import TerminalProgress

if TYPE_CHECKING:
    from ...cohort.runner import Runner


def add_sources(parser: argparse.ArgumentParser, files: str) -> None:
    """Add the options that say where the subjects come from; `files` is the one for a file of each: "--moving"."""
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument(files, nargs="+", metavar=files[2].upper(), help="a file for each subject")
    columns = 'a .csv or .tsv with the column "volume", and optionally "subject", "mask" and covariates'
    sources.add_argument("--table", metavar="TABLE", help=columns)
    sources.add_argument("--bids", metavar="DATASET", help="a BIDS data set; the outputs are a BIDS derivative")
    parser.add_argument("--suffix", default="T1w", help="which volumes of the BIDS data set (default: T1w)")


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """Add the options that `runner_of` reads."""
    group = parser.add_argument_group("where the work is done (default: processes on this machine)")
    workers = "processes; default: as many as the cores and the free memory allow, or one for each GPU"
    group.add_argument("--workers", type=int, metavar="N", help=workers)
    places = group.add_mutually_exclusive_group()
    running = "the address of a Dask scheduler that runs, such as tcp://10.0.0.1:8786; its workers do the work"
    places.add_argument("--scheduler", metavar="ADDRESS", help=running)
    slurm = "jobs of Slurm, N workers of them, such as: cores=4 memory=8GB walltime=02:00:00 queue=long"
    places.add_argument("--slurm", nargs="+", metavar="KEY=VALUE", help=slurm)


@contextlib.contextmanager
def runner_of(options: argparse.Namespace, progress: TerminalProgress | None = None) -> Iterator[Runner]:
    """The runner that the options name, closed with its processes after the context.

    options: also "device" and "quiet", where the command has them. progress: shows how many jobs are done.

    Raises:
        SettingsError: the options contradict each other.
        ClusterError: Dask is not installed, or its scheduler or workers cannot be reached.
    """
    from ...cohort.cluster.opening import local_runner, slurm_runner, tcp_runner  # imports torch

    if options.workers is not None and options.workers < 1:
        raise SettingsError(f"The number of workers must be at least 1, not {options.workers}.")
    if options.scheduler and options.workers:
        raise SettingsError("The workers of a running scheduler are started beside it; leave --workers out.")
    if options.scheduler:
        opened = tcp_runner(options.scheduler, progress)
    elif options.slurm:
        opened = slurm_runner(options.slurm, options.workers or 1, progress)
    else:
        opened = local_runner(options.workers, getattr(options, "device", "auto"), progress)
    with opened as runner:
        if runner.description and not getattr(options, "quiet", False):
            print(f"note: {runner.description}", file=sys.stderr)
        yield runner
