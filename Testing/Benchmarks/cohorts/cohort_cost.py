"""What does a cohort cost beyond its registrations? CPU time and memory of `wavemorph cohort` against single commands.

    wavemorph population --output population --subjects 24
    cohort_cost.py population [--singles 6] [--preset Balanced] [--workers N] [--output cost.json]

CPU time is that of commands and of all processes that they started, from the system's accounting. The memory of the
workers is read from /proc while they live (Linux only). Each command, and each worker, computes with one thread. Single
commands run as many at once as the cohort has workers, because cores that share a cache slow each other down.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

_SECONDS_BETWEEN_SAMPLES = 1.0


def cpu_seconds(command: list[str]) -> tuple[float, float, list[dict[int, int]]]:
    """(CPU seconds, wall seconds, resident bytes by process at each sample) of a command with its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "wavemorph.cli", *command])
    samples: list[dict[int, int]] = []
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, samples, ended))
    sampler.start()
    code = process.wait()
    ended.set()
    sampler.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        sys.exit(f"{command[0]} ended with {code}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, time.monotonic() - began, samples


def cpu_seconds_at_once(commands: list[list[str]], count: int) -> float:
    """CPU seconds of all commands together, `count` at a time."""

    def run(command: list[str]) -> None:
        subprocess.run([sys.executable, "-m", "wavemorph.cli", *command], check=True)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, commands))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def single_files(name: str) -> list[str]:
    """Options for the files that a cohort writes of a subject."""
    return [
        f"--transform={name}.h5",
        f"--warped={name}_registered.nii.gz",
        f"--jacobian={name}_jacobian.nii.gz",
        f"--report={name}.json",
    ]


def _sample(pid: int, samples: list[dict[int, int]], ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
        try:
            processes = psutil.Process(pid).children(recursive=True)
            samples.append({each.pid: each.memory_info().rss for each in processes})
        except psutil.Error:
            continue


def peaks(samples: list[dict[int, int]]) -> dict[str, list[int]]:
    """The largest memory in MB of each worker in each sixth of the time."""
    workers = {pid for sample in samples for pid, rss in sample.items() if rss > 300e6}
    parts = [samples[len(samples) * part // 6 : len(samples) * (part + 1) // 6] for part in range(6)]
    return {
        f"worker {number}": [round(max((sample.get(pid, 0) for sample in part), default=0) / 1e6) for part in parts]
        for number, pid in enumerate(sorted(workers), 1)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("population", type=Path)
    parser.add_argument("--singles", type=int, default=6)
    parser.add_argument("--preset", default="Balanced")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--output", type=Path, default=Path("cost.json"))
    options = parser.parse_args()
    volumes = [str(path) for path in sorted(options.population.glob("sub-*/anat/*_T1w.nii.gz"))]
    shared = ["--fixed", str(options.population / "derivatives/truth/template.nii.gz"), "--preset", options.preset]
    shared += ["--threads", "1", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        place = ["--output", f"{folder}/study", "--workers", options.workers]
        cpu, wall, samples = cpu_seconds(["cohort", *shared, "--moving", *volumes, *place])
        result = {"subjects": len(volumes), "cohort CPU s": cpu, "cohort wall s": wall, "memory MB": peaks(samples)}
        options.output.write_text(json.dumps(result, indent=1))
        singles = [
            ["register", *shared, "--moving", volume, *single_files(f"{folder}/{number}")]
            for number, volume in enumerate(volumes[: options.singles])
        ]
        result["single CPU s"] = cpu_seconds_at_once(singles, int(options.workers)) / len(singles)
    result["ratio"] = cpu / len(volumes) / result["single CPU s"]
    options.output.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
