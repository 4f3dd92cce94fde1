"""Studies on Dask: processes of this machine, a scheduler that runs, and processes that are killed."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from small_study import (
    KILLED,
    SETTINGS,
    always_killed,
    fail,
    register_or_be_killed,
    what_a_worker_may_use,
    write_heads,
    write_torsos,
)
from wavemorph import Settings, cohort
from wavemorph.cohort.cluster import opening
from wavemorph.cohort.cluster.opening import local_runner, tcp_runner
from wavemorph.cohort.cluster.plan import Machine
from wavemorph.cohort.runner import SerialRunner
from wavemorph.cohort.study import run as studies
from wavemorph.cohort.template.study import TemplateOptions
from wavemorph.errors import ClusterError

QUIET = ("--no-dashboard", "--host", "127.0.0.1")  # options of Dask's commands
SECONDS = 60  # in which what a test waits for must happen


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads"), 3)


def environment() -> dict[str, str]:
    """Of a process that imports what this one imports."""
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def finished(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours that has ended."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


@contextlib.contextmanager
def process(*arguments: str, folder: Path | None = None):
    """A process of the command line of Dask or ours in a folder, and the lines that it writes to standard error."""
    command = [sys.executable, "-m", *arguments]
    started = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True, cwd=folder
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in started.stderr], daemon=True)
    reader.start()
    try:
        yield started, lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        reader.join()
        started.stderr.close()


def line_with(lines: queue.Queue, text: str) -> str:
    seen = []
    while True:
        try:
            seen.append(lines.get(timeout=SECONDS))
        except queue.Empty:
            raise AssertionError(f"no {text!r} in {seen}") from None
        if text in seen[-1]:
            return seen[-1]


@pytest.fixture(scope="module")
def local():
    with local_runner(2) as runner:
        yield runner


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a Dask scheduler with two workers, in another folder than the client."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with process("distributed.cli.dask_scheduler", *QUIET, "--port", "0") as (_, lines):
        address = line_with(lines, "Scheduler at:").split()[-1]
        worker = ("distributed.cli.dask_worker", address, *QUIET, "--nthreads", "1")
        with process(*worker, folder=folder) as (_, first), process(*worker, folder=folder) as (_, second):
            for started in (first, second):
                line_with(started, "Registered to:")
            yield address


def numbers(folder: Path) -> dict[str, list[tuple[float, ...]]]:
    """The numbers of each part of each transform below a folder, by its name."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        read = sitk.CompositeTransform(sitk.ReadTransform(str(path)))
        parts = range(read.GetNumberOfTransforms())
        found[str(path.relative_to(folder))] = [read.GetNthTransform(part).GetParameters() for part in parts]
    return found


def test_local_processes_and_the_workers_of_a_scheduler_find_the_same_transforms(heads, local, scheduler, tmp_path):
    template, files = heads
    here = cohort.run(template, files, output=tmp_path / "here", settings=SETTINGS, runner=local)
    with tcp_runner(scheduler) as runner:
        assert runner.description == f"2 workers of {scheduler}"
        there = cohort.run(template, files, output=tmp_path / "there", settings=SETTINGS, runner=runner)
    assert list(here["status"]) == list(there["status"]) == ["done"] * 3
    assert len(numbers(tmp_path / "here")) == 3 and numbers(tmp_path / "here") == numbers(tmp_path / "there")
    columns = [name for name in here.columns if name not in ("seconds", "peak_memory_mb")]
    assert here[columns].equals(there[columns])


def test_times_of_a_person_have_the_same_maps_in_one_process_and_in_several(heads, scheduler, tmp_path, monkeypatch):
    first = sitk.ReadImage(str(heads[1][0]))
    sitk.WriteImage(sitk.Cast(first > 60, sitk.sitkUInt8), str(tmp_path / "labels.nii.gz"))
    monkeypatch.chdir(heads[0].parent)
    times = [file.name for file in heads[1][:2]]  # relative: the workers have another folder
    with tcp_runner(scheduler) as several:
        for name, runner in (("several", several), ("one", SerialRunner())):
            settings = Settings(weights="none", threads=1)
            cohort.compare_times(times, tmp_path / name, tmp_path / "labels.nii.gz", "head-0", settings, runner)
    one, several = numbers(tmp_path / "one"), numbers(tmp_path / "several")
    assert len(one) == len(several) == 6
    for name, parts in one.items():
        for part, other in zip(parts, several[name], strict=True):
            assert np.allclose(part, other, rtol=0, atol=1e-3)  # mm; the number of threads may differ


def test_a_worker_that_is_killed_loses_nothing(heads, local, tmp_path, monkeypatch):
    template, files = heads
    monkeypatch.setattr(studies, "register_subject", register_or_be_killed)
    table = cohort.run(template, files, output=tmp_path / "study", settings=SETTINGS, runner=local)
    assert (tmp_path / "study" / KILLED).exists()
    assert list(table["status"]) == ["done"] * 3


def test_a_job_that_always_kills_its_process_is_one_sentence_and_stops_nobody(local):
    outcomes = dict(local.run(always_killed, {name: name for name in ("a", "end", "b")}, "killing"))
    assert (outcomes["a"], outcomes["b"]) == ("a", "b")
    assert isinstance(outcomes["end"], ClusterError)
    assert "was killed each time it was tried" in str(outcomes["end"])


def test_workers_share_the_machine_and_the_progress_says_how_many_are_done_and_failed(monkeypatch):
    monkeypatch.setattr(opening, "this_machine", lambda: Machine(4, 3_000_000_000))
    reports = []
    with local_runner(2, progress=lambda *report: reports.append(report)) as runner:
        assert runner.description.startswith("2 workers of 2 threads on this machine")
        used = dict(runner.run(what_a_worker_may_use, {str(number): number for number in range(6)}, "asking"))
        outcomes = dict(runner.run(fail, {"one": "luck", "two": "time"}, "failing"))
    assert len({process_id for process_id, _, _ in used.values()}) == 2
    assert {threads for _, threads, _ in used.values()} == {2}
    assert all(0 < free < 1_500_000_000 for _, _, free in used.values())
    assert {name: str(error) for name, error in outcomes.items()} == {"one": "no luck", "two": "no time"}
    assert reports[-4:] == [
        ("asking", 1.0, "6 of 6 done"),
        ("failing", 0.0, "0 of 2 done"),
        ("failing", 0.5, "1 of 2 done, 1 failed"),
        ("failing", 1.0, "2 of 2 done, 2 failed"),
    ]


def arguments(template: Path, files: list[Path], study: Path) -> list[str]:
    paths = ["--fixed", str(template), "--moving", *map(str, files), "--output", str(study)]
    choices = ["--workers", "1", "--threads", "1", "--spacing", "8", "--weights", "none"]
    return ["wavemorph.cli", "cohort", *paths, *choices]


def written_at(study: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in study.glob("*/registered.nii.gz")}


def ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=SECONDS)[1]


def test_a_client_that_is_killed_loses_nothing_and_resuming_does_what_is_left(heads, tmp_path):
    template, files = heads
    study, broken = tmp_path / "study", tmp_path / "broken.nii.gz"
    broken.write_bytes(files[0].read_bytes()[:4000])
    command = arguments(template, [*files, broken], study)
    with process(*command) as (client, lines):
        line_with(lines, "1 of 4 done")
        workers = psutil.Process(client.pid).children(recursive=True)
        client.kill()
        client.wait()
        assert len(workers) >= 1 and ended(workers)
    before = written_at(study)
    table = studies.read_table(study / "subjects.tsv")
    assert 1 <= len(table) <= len(before) < 3
    resumed = finished(*command, "--resume")
    assert resumed.returncode == 10, resumed.stderr  # one subject failed
    assert "3 of 4" in resumed.stdout and "Traceback" not in resumed.stderr
    assert "failed: broken: The moving image 'broken.nii.gz' is cut short or damaged" in resumed.stdout
    after = written_at(study)
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert list(studies.read_table(study / "subjects.tsv")["status"]) == ["done"] * 3 + ["failed"]
    assert not list(study.rglob(".wavemorph-*"))  # what the killed processes had begun


def test_a_template_whose_client_is_killed_is_resumed_to_the_same_template(tmp_path):
    torsos = write_torsos(tmp_path)
    choices = ["--rounds", "1", "--spacing", "6", "--begin-with", str(torsos[0]), "--weights", "none", "--threads", "1"]
    paths = ["--volumes", *map(str, torsos), "--output", str(tmp_path / "killed")]
    command = ["wavemorph.cli", "template", *paths, *choices, "--workers", "1"]
    with process(*command) as (client, lines):
        line_with(lines, "1 of 2 done")
        workers = psutil.Process(client.pid).children(recursive=True)
        client.kill()
        client.wait()
        assert ended(workers)
    kept = list((tmp_path / "killed" / ".wavemorph_template" / "jobs" / "register_subject").glob("torso-*.json"))
    assert len(kept) == 1
    resumed = finished(*command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    options = TemplateOptions(rounds=1, spacing_mm=6.0, begin_with=torsos[0])
    cohort.make_template(torsos, tmp_path / "whole", options, Settings(weights="none", threads=1))
    made, expected = numbers(tmp_path / "killed"), numbers(tmp_path / "whole")
    assert len(expected) == 4 and set(made) == set(expected)
    for name, parts in expected.items():
        for part, other in zip(parts, made[name], strict=True):
            assert np.allclose(part, other, rtol=0, atol=0.1)  # mm; the number of threads differs


def test_a_ctrl_c_ends_all_processes_and_leaves_a_table_of_what_was_done(heads, tmp_path):
    study = tmp_path / "study"
    with process(*arguments(*heads, study)) as (client, lines):
        line_with(lines, "1 of 3 done")
        workers = psutil.Process(client.pid).children(recursive=True)
        os.killpg(client.pid, signal.SIGINT)  # as a terminal sends it
        last = line_with(lines, "wavemorph: ")
        assert client.wait(SECONDS) == 130
        assert "5 files were written" in last and lines.empty()
        assert ended(workers)
    table = studies.read_table(study / "subjects.tsv")
    assert 1 <= len(table) < 3 and set(table["status"]) == {"done"}


def test_a_scheduler_that_does_not_answer_or_has_no_worker_is_one_sentence(monkeypatch):
    monkeypatch.setattr(opening, "_SECONDS_TO_ANSWER", 1)
    monkeypatch.setattr(opening, "_SECONDS_TO_HAVE_WORKERS", 1)
    for address in ("tcp://127.0.0.1:9", "nowhere"):
        with pytest.raises(ClusterError, match="No Dask scheduler answers at"), tcp_runner(address):
            pass
    with process("distributed.cli.dask_scheduler", *QUIET, "--port", "0") as (_, lines):
        address = line_with(lines, "Scheduler at:").split()[-1]
        with pytest.raises(ClusterError, match="has no worker; start some with `dask worker tcp:"), tcp_runner(address):
            pass


def test_a_worker_of_another_version_is_one_sentence(local, monkeypatch):
    address = local._client.scheduler.address
    monkeypatch.setattr("wavemorph.system.version.__version__", "9.9.9")
    with pytest.raises(ClusterError, match=r"has wavemorph [\d.]+, and this program 9\.9\.9"), tcp_runner(address):
        pass
