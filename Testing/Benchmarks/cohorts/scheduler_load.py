"""What do 10,000 subjects ask of the scheduler? A study whose tasks sleep instead of registering.

    scheduler_load.py [--subjects 10000] [--workers 100] [--seconds 0.5] [--output load.json]

The scheduler is a process of its own. All workers are in a second one: each has its own connection, and sleeps. The
client is this process: it runs `DaskRunner` on real jobs, gets rows of real size, and writes the table. The CPU time
of each process is divided by the number of subjects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from wavemorph import Settings
from wavemorph.cohort.layout import PlainLayout
from wavemorph.cohort.study.registering import SubjectJob
from wavemorph.cohort.study.table import NUMBERS, StudyTable
from wavemorph.cohort.subjects import Subject
from wavemorph.io.outputs import REGISTRATION_OUTPUTS

_ADDRESS = "tcp://127.0.0.1:{}"
# as `cluster.opening` sets it: 100 workers that look at themselves 50 times a second would only do that
_INTERVALS = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
}


def sleep(job: tuple[SubjectJob, float]) -> dict:
    """A row of the size of a real one, after some seconds."""
    subject, seconds = job
    time.sleep(seconds)
    numbers = {name: 1234.56789 for name in NUMBERS}
    return {"subject": subject.subject.name, "status": "done", "verdict": "good", **numbers, **subject.files}


def start_workers(address: str, count: int) -> None:
    """Run workers in this process until it is ended."""
    from distributed import Worker
    from wavemorph.cohort.cluster import task

    task._one_job = contextlib.nullcontext()  # these workers are in one process, and only sleep

    async def run() -> None:
        # one after another: a connection takes a while, and the scheduler waits for some seconds only
        workers = [await Worker(address, nthreads=1, name=str(number), dashboard=False) for number in range(count)]
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(run())


def simulate(subjects: int, workers: int, seconds: float, folder: Path) -> dict:
    """The cost of a study of so many subjects, on workers of which each is busy for so many seconds a subject."""
    from distributed import Client
    from wavemorph.cohort.cluster.dask_runner import DaskRunner

    port, layout = 18786, PlainLayout(folder)
    names = [f"sub-{number:05}" for number in range(subjects)]
    jobs = {
        name: (
            SubjectJob(
                Subject(name, folder / "data" / name / "anat" / f"{name}_T1w.nii.gz"),
                folder / "template.nii.gz",
                None,
                Settings(),
                folder,
                {output: layout.path(Subject(name, folder), output) for output in REGISTRATION_OUTPUTS},
            ),
            seconds,
        )
        for name in names
    }
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--host", "127.0.0.1"]
    quiet = {"stderr": subprocess.DEVNULL, "env": {**os.environ, **_INTERVALS}}
    started = [subprocess.Popen([*dask, "--port", str(port)], **quiet)]
    try:
        with Client(_ADDRESS.format(port), timeout=60) as client:
            command = [sys.executable, __file__, "--start-workers", str(workers), _ADDRESS.format(port)]
            started.append(subprocess.Popen(command, **quiet))
            client.wait_for_workers(workers, timeout=300)
            processes = [psutil.Process(each.pid) for each in started] + [psutil.Process()]
            before, began = [_cpu(each) for each in processes], time.monotonic()
            table = StudyTable(folder, names, {name: {} for name in names})
            for _, row in DaskRunner(client).run(sleep, jobs, "sleeping"):
                table.add(row)
            table.write()
            wall = time.monotonic() - began
            cpu = [_cpu(each) - earlier for each, earlier in zip(processes, before)]
            memory = processes[0].memory_info().rss
    finally:
        for each in reversed(started):
            each.kill()
            each.wait()
    return {
        "subjects": subjects,
        "workers": workers,
        "seconds a subject": seconds,
        "wall s": wall,
        "wall s of the sleep alone": subjects * seconds / workers,
        "CPU ms a subject": dict(zip(("scheduler", "workers", "client"), (1000 * each / subjects for each in cpu))),
        "scheduler MB": memory / 1e6,
        "bytes of a job": len(pickle.dumps(jobs[names[0]])),
        "bytes of a row": len(pickle.dumps(sleep((jobs[names[0]][0], 0.0)))),
        "bytes of the table": table.path.stat().st_size,
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--output", type=Path, default=Path("load.json"))
    parser.add_argument("--start-workers", nargs=2, metavar=("N", "ADDRESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start_workers:
        start_workers(options.start_workers[1], int(options.start_workers[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(options.subjects, options.workers, options.seconds, Path(folder))
    options.output.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
