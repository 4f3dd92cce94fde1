"""Processes that are killed, end by a signal, lose their parent or their reader, or write into the same folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import KILLED, OUTPUTS, QUICK, Bench, Finished, WorkerBench, contents, pair
from diskFaults import STAGES
from outcome import Outcome, ending, ending_of_job
from WaveMorphRegistrationLib.engine.jobFolders import removeFoldersOfDeadProcesses
from WaveMorphRegistrationLib.engine.jobRequest import JobRequest

_MOMENTS = 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IMMEDIATELY = 3.0  # seconds after which no worker without a parent runs
_SOON = 10.0  # seconds in which a command must have ended: a step of ITK is not interrupted


def killed(folder: Path) -> Iterator[Outcome]:
    """By SIGKILL, at 20 moments of the life of a command, and between any two steps of putting outputs in place."""
    bench = Bench(folder)
    seconds = _duration(bench)
    bench.clear()
    for number in range(_MOMENTS):
        finished = _signaled(bench, signal.SIGKILL, seconds * (number + 0.5) / _MOMENTS)
        wrong = bench.wrong_after(finished) + bench.wrong_in_next_run()
        yield Outcome("killed", "command, at 20 moments of its life", ending(finished), str(number), wrong)
        bench.clear()
    yield from _killed_while_replacing(bench)


def _killed_while_replacing(bench: Bench) -> Iterator[Outcome]:
    bench.run()
    previous = bench.folder / "previous"
    bench.out.rename(previous)
    for some in (False, True):
        for event in ("tempfile.mkdtemp", "os.link", "os.remove", "os.rename"):
            first = 2 if event == "os.remove" else 1  # the first is Python's trial of the folder for temporary files
            for count in range(first, first + len(OUTPUTS)):
                bench.clear()
                if some:
                    shutil.copytree(previous, bench.out, dirs_exist_ok=True)
                old = contents(bench.out)
                finished = bench.run(
                    bench.arguments("--aligned", spacing=5.0), [[event, count, "signal", signal.SIGKILL]]
                )
                if finished.code != KILLED:
                    continue
                wrong = _mixture(bench, old) + bench.open_folders() + bench.changed_inputs() + bench.wrong_in_next_run()
                fault = f"command, while outputs are put in place, {'previous' if some else 'none'} before"
                yield Outcome("killed", fault, ending(finished), f"{event} {count}", wrong)


def _mixture(bench: Bench, old: dict[str, str]) -> list[str]:
    """What is wrong where outputs of two registrations lie side by side, or where one is not complete."""
    now = {name: digest for name, digest in contents(bench.out).items() if not name.startswith(".wavemorph-")}
    is_old = [old.get(name) == digest for name, digest in now.items()]
    return [f"outputs of two registrations: {now}"] if any(is_old) and not all(is_old) else []


def worker_killed(folder: Path) -> Iterator[Outcome]:
    """By SIGKILL, at 20 moments of the life of a job."""
    bench = WorkerBench(folder)
    job = bench.job()
    began = time.monotonic()
    bench.run_job(job)
    seconds = time.monotonic() - began
    job.close()
    for number in range(_MOMENTS):
        finished = _run_and_signal(bench, job, signal.SIGKILL, seconds * (number + 0.5) / _MOMENTS)
        wrong = bench.wrong_after_job(finished) + bench.wrong_in_next_job(job)
        yield Outcome("killed", "worker, at 20 moments of a job", ending_of_job(finished), str(number), wrong)


def _run_and_signal(bench: WorkerBench, job, number: int, after: float) -> Finished:
    moment = time.monotonic() + after
    sent = []

    def meanwhile(running) -> None:
        if not sent and time.monotonic() >= moment and running.workerProcessId:
            os.kill(running.workerProcessId, number)
            sent.append(number)

    return bench.run_job(job, meanwhile)


def _duration(bench: Bench) -> float:
    bench.start(bench.arguments()).communicate()  # so that files are in the cache of the system
    began = time.monotonic()
    bench.start(bench.arguments()).communicate()
    return time.monotonic() - began


def _signaled(bench: Bench, number: int, after: float) -> Finished:
    """A run to which a signal is sent after so many seconds."""
    process = bench.start(bench.arguments())
    time.sleep(after)
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    if time.monotonic() - began > _SOON:
        err += f"\nended {time.monotonic() - began:.1f} s after the signal"
    return Finished(process.returncode, out, err)


def signals(folder: Path) -> Iterator[Outcome]:
    """Ctrl-C, the end that a scheduler asks for, and a terminal that closes, at each stage and while writing."""
    bench = Bench(folder)
    moments = ("read", *(f"stage {stage}" for stage in STAGES), "tempfile.mkdtemp")
    for number in _SIGNALS:
        for moment in moments:
            count = 3 if moment == "tempfile.mkdtemp" else 1
            finished = bench.run(faults=[[moment, count, "signal", number]])
            wrong = bench.wrong_after(finished) + _wrong_code(finished, number) + bench.wrong_in_next_run()
            yield Outcome("signals", f"{number.name} at each stage", ending(finished), moment, wrong)
            bench.clear()
        finished = bench.run(faults=[["os.rename", 2, "signal", number]])
        wrong = (
            [] if bench.is_complete() and "5 files were written" in finished.err else [f"not all written: {finished}"]
        )
        yield Outcome("signals", f"{number.name} while outputs are put in place", ending(finished), "", wrong)
        bench.clear()
    finished = bench.run(
        faults=[["stage Affine", 1, "signal", signal.SIGHUP]],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    yield Outcome("signals", "SIGHUP under nohup", ending(finished), "", bench.wrong_after(finished))
    jobs = WorkerBench(folder / "worker")
    for number in _SIGNALS:
        for stage in STAGES[::2]:
            job = jobs.job([[f"stage {stage}", 1, "signal", number]])
            finished = jobs.run_job(job)
            wrong = jobs.wrong_after_job(finished)
            wrong += ["a traceback is in the log"] if "Traceback" in "\n".join(job.log) else []
            job.close()
            wrong += jobs.wrong_in_next_job(jobs.job())
            yield Outcome(
                "signals",
                "worker: each of them at two stages",
                ending_of_job(finished),
                f"{number.name} {stage}",
                wrong,
            )


def signals_at_any_time(folder: Path) -> Iterator[Outcome]:
    """The same signals from outside, at moments that fall anywhere."""
    bench = Bench(folder)
    seconds = _duration(bench)
    bench.clear()
    for number in _SIGNALS:
        for part in (0.2, 0.35, 0.5, 0.65, 0.8, 0.9):
            finished = _signaled(bench, number, part * seconds)
            wrong = bench.wrong_after(finished) + _wrong_code(finished, number) + bench.wrong_in_next_run()
            yield Outcome("signals", f"{number.name} at 6 moments of its life", ending(finished), f"{part:.0%}", wrong)
            bench.clear()


def _wrong_code(finished: Finished, number: int) -> list[str]:
    return [] if finished.code in (128 + number, 0) else [f"exit code {finished.code}"]


def parent_killed(folder: Path) -> Iterator[Outcome]:
    """The worker must end, and remove the folder of its job; what both leave is removed at the next start."""
    bench = WorkerBench(folder)
    request = JobRequest(*pair(), {**QUICK, "spacing_mm": 1.5})
    moments = (None, "Reading", "Preparing", "Affine", "Refinement", "Finishing", "Writing")
    for both in (False, True):
        for stage in moments:
            with subprocess.Popen(
                [sys.executable, "-c", _PARENT, str(bench.tmp), json.dumps(request.settings), stage or ""],
                stdout=subprocess.PIPE,
                text=True,
                env=bench.environment(),
            ) as parent:
                worker = int(parent.stdout.readline())
                if both:
                    os.kill(worker, signal.SIGKILL)
                parent.send_signal(signal.SIGKILL)
            deadline = time.monotonic() + _IMMEDIATELY
            while _is_running(worker) and time.monotonic() < deadline:
                time.sleep(0.02)
            wrong = ["the worker still runs"] if _is_running(worker) else []
            if both:
                wrong += bench.open_folders()
                removeFoldersOfDeadProcesses(str(bench.tmp))
            wrong += [f"files are left: {sorted(contents(bench.tmp))}"] if contents(bench.tmp) else []
            wrong += bench.wrong_in_next_job(bench.job())
            fault = "parent and worker killed, at each stage" if both else "parent killed, at each stage of a job"
            after = "gone at the next start" if both else "worker ended, its folder gone"
            yield Outcome("parent killed", fault, after, stage or "idle", wrong)


_PARENT = f"""
import json, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
sys.path.insert(0, {str(Path(__file__).parents[1] / "Support")!r})
from bench import pair
from WaveMorphRegistrationLib.engine.job import RegistrationJob
from WaveMorphRegistrationLib.engine.jobRequest import JobRequest

folder, settings, stage = sys.argv[1:]
job = RegistrationJob(temporaryPath=folder)
job.prepareWorker()
if stage:
    job.start(JobRequest(*pair(), json.loads(settings)))
while stage and job.stage != stage:
    job.poll()
    time.sleep(0.001)
print(job.workerProcessId, flush=True)
time.sleep(60)
"""


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def two_at_once(folder: Path) -> Iterator[Outcome]:
    """Two registrations into the same files: afterwards all are of one of them."""
    bench = Bench(folder)
    variants = []
    for spacing in (4.0, 5.0):
        bench.clear()
        bench.run(bench.arguments(spacing=spacing))
        variants.append(bench.results())
    for number in range(5):
        bench.clear()
        processes = [bench.start(bench.arguments(spacing=spacing)) for spacing in (4.0, 5.0)]
        ended = [Finished(process.wait(), *process.communicate()) for process in processes]
        wrong = [f"{one}" for one in ended if one.code != 0]
        wrong += [] if bench.results() in variants else ["outputs of two registrations"]
        wrong += bench.wrong_after(ended[0]) + bench.wrong_in_next_run()
        yield Outcome("two at once", "into the same five files", "all files of one of them", str(number), wrong)
    for count in range(1, len(OUTPUTS) + 1):
        bench.clear()
        first = bench.start(bench.arguments(spacing=4.0), [["os.rename", count, "signal", signal.SIGSTOP]])
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
        second = bench.start(bench.arguments(spacing=5.0))
        time.sleep(5.0)
        wrong = [] if second.poll() is None else ["the second did not wait for the first"]
        first.send_signal(signal.SIGCONT)
        ended = [Finished(process.wait(), *process.communicate()) for process in (first, second)]
        wrong += [f"{one}" for one in ended if one.code != 0]
        wrong += [] if bench.results() == variants[1] else ["outputs of two registrations"]
        wrong += bench.wrong_after(ended[0]) + bench.wrong_in_next_run()
        fault = "the second comes while the first puts its files in place"
        yield Outcome("two at once", fault, "all files of the second", str(count), wrong)
    bench.clear()
    first = bench.start(bench.arguments(spacing=4.0), [["os.rename", 2, "signal", signal.SIGSTOP]])
    os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
    second = bench.run(bench.arguments(spacing=5.0))
    wrong = [] if second.code == 3 and "Another process" in second.err else [f"{second}"]
    first.send_signal(signal.SIGCONT)
    first.communicate()
    wrong += [] if bench.results() == variants[0] else ["outputs of two registrations"]
    yield Outcome("two at once", "the first is halted for good", ending(second), "", wrong + bench.wrong_in_next_run())


def broken_pipe(folder: Path) -> Iterator[Outcome]:
    """Readers that stop reading, and streams that are closed from the start."""
    bench = Bench(folder)
    command = " ".join([sys.executable, "-m", "wavemorph.cli", *bench.arguments()])
    loud = command.replace("--quiet", "")
    for fault, line in (
        ("COMMAND | head -c 1", f"{command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"),
        ("COMMAND | true", f"{command} | true; exit ${{PIPESTATUS[0]}}"),
        ("COMMAND >&-", f"{command} >&-"),
        ("COMMAND <&-", f"{command} <&- > /dev/null"),
        ("COMMAND <&- >&- 2>&-", f"{command} <&- >&- 2>&-"),
        ("COMMAND 2>&1 | head -c 1", f"{loud} 2>&1 | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"),
        ("COMMAND 2>&1 | true", f"{loud} 2>&1 | true; exit ${{PIPESTATUS[0]}}"),
    ):
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, env=bench.environment(), check=False
        )
        present = contents(bench.out)
        wrong = bench.changed_inputs()
        wrong += [] if not present or bench.is_complete() else [f"partial: {sorted(present)}"]
        wrong += [] if done.returncode in (0, 141) and done.stderr == "" else [f"{done}"]
        wrong += ["temporary files are left"] if contents(bench.tmp) else []
        ended = f"exit {done.returncode}, {'all outputs' if present else 'no output'}"
        yield Outcome("broken pipe", fault.replace("|", "\\|"), ended, "", wrong + bench.wrong_in_next_run())
        bench.clear()
    jobs = WorkerBench(folder / "worker")
    for stage in STAGES:
        folder_of_job = jobs.tmp / "wavemorph-job-1-x"
        folder_of_job.mkdir()
        JobRequest(*pair()).write(folder_of_job)
        worker = subprocess.Popen(
            [sys.executable, "-m", "wavemorph.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=jobs.environment(),
        )
        worker.stdin.write(json.dumps({"job": 1, "folder": str(folder_of_job), "settings": QUICK}) + "\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if json.loads(line).get("stage") == stage:
                break
        worker.stdout.close()
        code, said = worker.wait(30), worker.stderr.read()
        wrong = [f"{code}, {said}"] if code or said else []
        wrong += [f"files are left: {sorted(contents(jobs.tmp))}"] if contents(jobs.tmp) else []
        wrong += jobs.wrong_in_next_job(jobs.job())
        yield Outcome(
            "broken pipe", "worker: its events are no longer read", "worker ended, its folder gone", stage, wrong
        )
        worker.stdin.close()


KINDS = {
    "killed": killed,
    "worker-killed": worker_killed,
    "signals": signals,
    "signals-at-any-time": signals_at_any_time,
    "parent-killed": parent_killed,
    "two-at-once": two_at_once,
    "broken-pipe": broken_pipe,
}
