"""Memory that is limited from the start, or runs out at a stage."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from bench import Bench, WorkerBench
from diskFaults import STAGES
from outcome import Outcome, ending, ending_of_job

_AT_START_MB = (60, 100, 200, 300, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 3000)
_LEFT_MB = (0, 16)


def memory_limit(folder: Path) -> Iterator[Outcome]:
    """The address space of the process is limited, as by `ulimit -v`."""
    bench = Bench(folder)
    for megabytes in _AT_START_MB:
        limit = megabytes * 2**20
        finished = bench.run(preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
        yield Outcome("memory limit", "60 MB to 3 GB from the start", ending(finished), f"{megabytes} MB", wrong)
        bench.clear()
    moments = ("read", *(f"stage {stage}" for stage in STAGES), "tempfile.mkdtemp")
    for moment in moments:
        for megabytes in _LEFT_MB:
            finished = bench.run(faults=[[moment, 1, "memory", megabytes]])
            wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
            detail = f"{moment}, {megabytes} MB"
            yield Outcome("memory limit", "0 or 16 MB more, from each stage on", ending(finished), detail, wrong)
            bench.clear()
    jobs = WorkerBench(folder / "worker")
    for moment in (*moments[1:-1], "os.mkdir"):
        for megabytes in _LEFT_MB:
            job = jobs.job([[moment, 1, "memory", megabytes]])
            finished = jobs.run_job(job)
            wrong = jobs.wrong_after_job(finished)
            job.close()
            wrong += jobs.wrong_in_next_job(jobs.job())
            fault = "worker: 0 or 16 MB more, from each stage on"
            yield Outcome("memory limit", fault, ending_of_job(finished), f"{moment}, {megabytes} MB", wrong)


KINDS = {"memory-limit": memory_limit}
