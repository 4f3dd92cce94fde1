"""Runs jobs on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import functools
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed

from ...errors import ClusterError
from ..runner import Outcome
from .task import Share, work

Progress = Callable[[str, float, str], None]
_KILLED = (
    "The process that worked on it was killed each time it was tried, perhaps because memory ran out; give fewer "
    "--workers, or more memory to each."
)


class DaskRunner:
    """A `Runner` on the workers of a client; each works on one job at a time.

    Parameters:
        client: of the cluster. It stays open.
        progress: called as progress(stage, fraction, message) after each job.
        threads: of each worker, for torch and SimpleITK; None for an equal part of its machine's cores.
        gpus: the one GPU that the worker of the name n sees is gpus[n]; empty where workers choose their device.
        description: one sentence on the cluster for the user.
    """

    def __init__(
        self,
        client: Client,
        progress: Progress | None = None,
        *,
        threads: int | None = None,
        gpus: tuple[str, ...] = (),
        description: str = "",
    ):
        self.description = description
        self._client = client
        self._progress = progress or (lambda stage, fraction, message: None)
        self._threads = threads
        self._gpus = gpus

    def run(self, function: Callable[[Any], Any], jobs: Mapping[str, Any], stage: str) -> Iterator[Outcome]:
        """See `Runner.run`. Raises ClusterError where the scheduler is lost.

        Jobs whose process was killed are run again after all others, one at a time: of several jobs that a worker had,
        Dask does not know which one ended it, and memory that did not suffice may suffice for one alone.
        """
        self._report(stage, 0, 0, len(jobs))
        done = failed = 0
        killed: dict[str, Any] = {}
        for key, outcome in itertools.chain(self._together(function, jobs), self._alone(function, killed)):
            if isinstance(outcome, KilledWorker):
                killed[key] = jobs[key]
                continue
            failed += isinstance(outcome, Exception)
            done += 1
            yield key, outcome
            self._report(stage, done, failed, len(jobs))

    def _alone(self, function: Callable[[Any], Any], jobs: Mapping[str, Any]) -> Iterator[Outcome]:
        """One job after another; a job whose process is killed has one sentence."""
        for key, job in jobs.items():
            for _, outcome in self._together(function, {key: job}):
                yield key, ClusterError(_KILLED) if isinstance(outcome, KilledWorker) else outcome

    def _together(self, function: Callable[[Any], Any], jobs: Mapping[str, Any]) -> Iterator[Outcome]:
        """All jobs at once; what ended a job whose process was killed too often is a KilledWorker."""
        futures = self._submit(function, jobs)
        try:
            for future in as_completed(futures):
                outcome = _outcome(future)
                key = futures.pop(future)
                future.release()
                yield key, outcome
        finally:
            if futures:
                with contextlib.suppress(Exception):  # the scheduler may be what failed
                    self._client.cancel(list(futures), force=True)

    def _submit(self, function: Callable[[Any], Any], jobs: Mapping[str, Any]) -> dict[Future, str]:
        """The futures of the jobs. Their keys are new: those of other sessions may be on the same scheduler."""
        session = f"wavemorph-{uuid.uuid4().hex}"
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        share = Share(self._threads, Counter(worker["host"] for worker in workers), self._gpus)
        futures = self._client.map(
            functools.partial(work, function, share),
            list(jobs.values()),
            key=[(session, key) for key in jobs],
            pure=False,
        )
        return dict(zip(futures, jobs))

    def _report(self, stage: str, done: int, failed: int, count: int) -> None:
        words = f"{done} of {count} done" + (f", {failed} failed" if failed else "")
        self._progress(stage, done / max(count, 1), words)


def _outcome(future: Future) -> Any:
    """The result of a future that has ended, or what ended it. Raises ClusterError where its scheduler is lost."""
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise ClusterError(
            "The Dask scheduler was lost or has dropped the work; start it again, and continue with --resume."
        )
    error = future.exception()
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
