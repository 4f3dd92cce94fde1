"""A disk that is full, a folder that is read-only, a folder for temporary files that is gone."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import OUTPUTS, Bench, WorkerBench, contents
from outcome import Outcome, ending, ending_of_job

_STEPS = 8
_OTHER_FORMATS = {
    "transform": "transform.tfm",
    "inverse": "inverse.nrrd",
    "warped": "warped.mha",
    "jacobian": "jacobian.nii",
    "report": "report.json",
}
STAGES = ("Preparing", "Affine", "Refinement", "Finishing")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory, with these options, at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder bound to itself, read-only, which root cannot write to either."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_full(folder: Path) -> Iterator[Outcome]:
    """Each output in turn does not fit: with too little space from the start, and with previous files in place."""
    bench = Bench(folder)
    for name, outputs in (("outputs", OUTPUTS), ("other formats", _OTHER_FORMATS)):
        arguments = bench.arguments(outputs=outputs)
        bench.run(arguments)
        sizes = [(bench.out / file).stat().st_size for file in outputs.values()]
        bench.clear()
        for kilobytes in _sizes(sizes):
            with mounted(bench.out, f"size={kilobytes}k"):
                finished = bench.run(arguments, stdin=subprocess.DEVNULL)  # no fork: also the end of the process
                wrong = [] if finished.code == 0 and bench.is_complete(outputs) else bench.wrong_after(finished)
            wrong += bench.wrong_in_next_run()
            bench.clear()
            yield Outcome(
                "disk full", f"{name}: free space from 4 kB to enough", ending(finished), f"{kilobytes} kB", wrong
            )
    bench.run()
    size = sum(path.stat().st_size for path in bench.out.iterdir()) // 1024
    bench.clear()
    for free in range(0, size + size // 5, size // 5):
        with mounted(bench.out, f"size={size + 64 + free}k"):
            bench.run()
            before = contents(bench.out)
            finished = bench.run(bench.arguments(spacing=5.0))
            wrong = bench.wrong_after(finished, before)
        wrong += bench.wrong_in_next_run()
        bench.clear()
        yield Outcome("disk full", "previous outputs are to be replaced", ending(finished), f"{free} kB free", wrong)
    for stage in STAGES:
        with mounted(bench.out, f"size={2 * size}k"):
            filler = bench.out / "filler"
            finished = bench.run(faults=[[f"stage {stage}", 1, "fill", str(filler)]])
            filler.unlink()
            wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
        bench.clear()
        yield Outcome("disk full", "filled by another program at each stage", ending(finished), stage, wrong)
    for stream in ("stdout", "stderr"):
        with open("/dev/full", "w") as full:
            finished = bench.run(**{stream: full})
        wrong = bench.changed_inputs() + ([] if bench.is_complete() else ["outputs are missing"])
        if finished.code not in (0, 3) or "Traceback" in finished.err or len(finished.err.splitlines()) > 1:
            wrong.append(f"{finished}")
        yield Outcome("disk full", "/dev/full as output and as error output", ending(finished), stream, wrong)
        bench.clear()
    yield from _job_on_full_disk(WorkerBench(folder / "worker"))


def _sizes(sizes: list[int]) -> list[int]:
    """kB of free space, so that each output is the first that does not fit, and steps up to more than enough."""
    whole = sum(sizes) // 1024
    ends = [sum(sizes[:count]) // 1024 for count in range(1, len(sizes))]
    steps = [4 + step * (whole + 256) // _STEPS for step in range(_STEPS + 1)]
    return sorted({*steps, *(end + 8 for end in ends)})


def _job_on_full_disk(bench: WorkerBench) -> Iterator[Outcome]:
    for megabytes in (1, 4, 16, 64):
        with mounted(bench.tmp, f"size={megabytes}m"):
            job = bench.job()
            finished = bench.run_job(job)
            wrong = bench.wrong_after_job(finished)
        wrong += bench.wrong_in_next_job(job)
        yield Outcome(
            "disk full", "worker: temporary folder of 1 to 64 MB", ending_of_job(finished), f"{megabytes} MB", wrong
        )
    for stage in STAGES:
        with mounted(bench.tmp, "size=16m"):
            filler = bench.tmp / "filler"
            job = bench.job([[f"stage {stage}", 1, "fill", str(filler)]])
            finished = bench.run_job(job)
            filler.unlink()
            wrong = bench.wrong_after_job(finished) + bench.wrong_in_next_job(job)
        yield Outcome(
            "disk full", "worker: filled by another program at each stage", ending_of_job(finished), stage, wrong
        )


def folder_read_only(folder: Path) -> Iterator[Outcome]:
    """From the start, and from each stage on; also the folder for temporary files."""
    bench = Bench(folder)
    for which, within in (("output folder", ""), ("its parent, where it is missing", "new/")):
        with read_only(bench.out):
            finished = bench.run(bench.arguments(outputs={name: within + file for name, file in OUTPUTS.items()}))
            wrong = bench.wrong_after(finished)
        yield Outcome(
            "read-only", "output folder, or that above it", ending(finished), which, wrong + bench.wrong_in_next_run()
        )
        bench.clear()
    for stage in STAGES:
        with mounted(bench.out, "size=64m"):
            finished = bench.run(faults=[[f"stage {stage}", 1, "shell", f"mount -o remount,ro '{bench.out}'"]])
            wrong = bench.wrong_after(finished)
        yield Outcome(
            "read-only", "output folder, from each stage on", ending(finished), stage, wrong + bench.wrong_in_next_run()
        )
        bench.clear()
    with read_only(bench.tmp):
        finished = bench.run()
        wrong = bench.wrong_after(finished)
    yield Outcome("read-only", "temporary folder", ending(finished), "", wrong + bench.wrong_in_next_run())
    jobs = WorkerBench(folder / "worker")
    with read_only(jobs.tmp):
        job = jobs.job()
        finished = jobs.run_job(job)
        wrong = jobs.wrong_after_job(finished)
    yield Outcome(
        "read-only", "worker: temporary folder", ending_of_job(finished), "", wrong + jobs.wrong_in_next_job(job)
    )


def temporary_folder_gone(folder: Path) -> Iterator[Outcome]:
    """Missing from the start, and removed at each stage; also with an input that is read by way of a copy in it."""
    bench = Bench(folder)
    (bench.inputs / "fixed.nii").write_bytes(b"a neighbor, for which ITK would mistake the file itself")
    bench = _with_current_inputs(bench)
    for name in ("missing", "a file"):
        gone = folder / "gone"
        if name == "a file":
            gone.write_text("")
        finished = bench.run(env=bench.environment(TMPDIR=str(gone)))
        wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
        yield Outcome("temporary folder gone", "missing, or a file", ending(finished), name, wrong)
        bench.clear()
    for moment in ("start", "read", *(f"stage {stage}" for stage in STAGES)):
        finished = bench.run(faults=[[moment, 1, "remove", str(bench.tmp)]])
        bench.tmp.mkdir(exist_ok=True)
        wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
        yield Outcome("temporary folder gone", "removed at each stage", ending(finished), moment, wrong)
        bench.clear()
    jobs = WorkerBench(folder / "worker")
    for moment in (*(f"stage {stage}" for stage in STAGES), "os.mkdir"):
        job = jobs.job([[moment, 1, "shell", f"rm -r '{jobs.tmp}'/*"]])
        finished = jobs.run_job(job)
        wrong = jobs.wrong_after_job(finished) + jobs.wrong_in_next_job(job)
        yield Outcome("temporary folder gone", "worker: removed at each stage", ending_of_job(finished), moment, wrong)


def _with_current_inputs(bench: Bench) -> Bench:
    bench._inputs = contents(bench.inputs)
    return bench


KINDS = {"disk-full": disk_full, "read-only": folder_read_only, "temporary-folder": temporary_folder_gone}
