"""Runs one function for each of many jobs: here in this process, in `cluster.dask_runner` on a Dask cluster.

Cohorts, templates and longitudinal registration are written against `Runner` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

Outcome = tuple[str, Any]  # the key of a job, and its result or the Exception that ended it


class Runner(Protocol):
    """Something that runs jobs, in any order and place."""

    def run(self, function: Callable[[Any], Any], jobs: Mapping[str, Any], stage: str) -> Iterator[Outcome]:
        """Call function(job) for each job; yield (key, result, or the exception) as they are done.

        A job that fails does not stop the others. A job whose process is killed is run again, three times at most.

        Parameters:
            function: at the top of a module, so that it can be pickled. It gets paths rather than images, and writes
                what is large into files that all workers see.
            jobs: by their keys, which name them in messages.
            stage: what is being done, for the progress: "registering", "template, round 2 of 4".
        """
        ...


class SerialRunner:
    """One job after another in this process."""

    def run(self, function: Callable[[Any], Any], jobs: Mapping[str, Any], stage: str) -> Iterator[Outcome]:
        """See `Runner.run`."""
        for key, job in jobs.items():
            try:
                yield key, function(job)
            except Exception as error:
                yield key, error
