"""Each kind of fault of the harness a few times: nothing partial is left, one sentence is said, the next run works."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import SimpleITK as sitk
from bench import KILLED, contents, pair, wrong_words
from wavemorph.errors import OutputError, WeightsError
from wavemorph.io import outputs
from wavemorph.models import weights


@contextlib.contextmanager
def files_limited_to(size: int):
    """No file of this process can be larger, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("extension", [".tfm", ".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", ["transform", "volume"])
def test_an_output_that_does_not_fit_is_one_sentence_and_leaves_nothing(
    kind, extension, random_registration, tmp_path, capfd
):
    registration = random_registration(3)
    if kind == "volume" and extension not in outputs.IMAGE_EXTENSIONS:
        extension = ".json"
    writer = {
        "transform": outputs.write_transform,
        "volume": lambda result, path: outputs.write_image(result.warped, path),
    }[kind]
    if extension == ".json":
        writer = lambda result, path: outputs.write_json(result.report, path)  # noqa: E731
    files = outputs.Outputs()
    files.add(tmp_path / f"o{extension}", writer, (extension,))
    (whole,) = files.write(registration)
    size = whole.stat().st_size
    whole.write_bytes(b"previous")
    for part in (0.0, 0.02, 0.5, 0.98):
        with files_limited_to(int(part * size)), pytest.raises(OutputError, match=r"disk full|No space"):
            files.write(registration)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {whole.name: b"previous"}
    assert capfd.readouterr().err == ""
    files.write(registration)
    assert whole.stat().st_size == size


@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.98])
def test_a_program_whose_hdf5_file_does_not_fit_ends_with_the_code_for_outputs(part, bench):
    """Where such a file was not closed, HDF5 crashes at the end of the process: not seen in a fork, which skips it."""
    transform = {"transform": "transform.h5"}
    arguments = bench.arguments("--aligned", outputs=transform)
    assert bench.run(arguments).code == 0
    before = contents(bench.out)
    size = int(part * (bench.out / "transform.h5").stat().st_size)
    finished = bench.run(arguments, preexec_fn=lambda: _limit_files(size))
    assert finished.code == OutputError.exit_code
    assert wrong_words(finished) == []
    assert contents(bench.out) == before


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_folder_in_which_nothing_can_be_made_is_refused_before_the_work(bench):
    """/proc is such a folder for root too."""
    finished = bench.run([*bench.arguments(outputs={}), "--transform=/proc/t.h5"], [["read", 1, "signal", KILLED]])
    assert finished.code == 3
    assert wrong_words(finished) == []


@pytest.mark.parametrize("moment", ["read", "tempfile.mkdtemp"])
def test_a_folder_for_temporary_files_that_goes_is_not_missed(bench, moment):
    finished = bench.run(bench.arguments("--aligned"), [[moment, 1, "remove", str(bench.tmp)]])
    assert finished.code == 0
    assert bench.wrong_after(finished) == []


@pytest.mark.parametrize(("moment", "count"), [("os.remove", 2), ("os.rename", 3)])
def test_a_killed_command_leaves_no_mixture_and_the_next_one_works(bench, moment, count):
    bench.run(bench.arguments("--aligned"))
    old = contents(bench.out)
    arguments = bench.arguments("--aligned", spacing=5.0)
    assert bench.run(arguments, [[moment, count, "signal", signal.SIGKILL]]).code == KILLED
    left = {name: digest for name, digest in contents(bench.out).items() if not name.startswith(".wavemorph-")}
    assert len({old[name] == digest for name, digest in left.items()}) == 1
    assert bench.changed_inputs() == []
    assert bench.wrong_in_next_run() == []


def test_a_killed_worker_is_one_sentence_and_leaves_no_file(jobs):
    job = jobs.job([["stage Finishing", 1, "signal", signal.SIGKILL]])
    finished = jobs.run_job(job)
    job.close()
    assert "ended unexpectedly" in finished.err
    assert jobs.wrong_after_job(finished) == []


@pytest.mark.parametrize(
    ("moment", "count", "number"),
    [("read", 1, signal.SIGINT), ("stage Affine", 1, signal.SIGTERM), ("tempfile.mkdtemp", 4, signal.SIGHUP)],
)
def test_a_signal_ends_a_command_with_one_sentence_and_its_own_code(bench, moment, count, number):
    finished = bench.run(faults=[[moment, count, "signal", number]])
    assert finished.code == 128 + number
    assert "nothing was written" in finished.err
    assert bench.wrong_after(finished) == []


def test_a_signal_while_files_are_put_in_place_waits_until_all_are(bench):
    finished = bench.run(bench.arguments("--aligned"), [["os.rename", 2, "signal", signal.SIGTERM]])
    assert finished.code == 128 + signal.SIGTERM
    assert "5 files were written" in finished.err
    assert bench.is_complete()


def test_a_signal_that_is_ignored_stays_so(bench):
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}  # as nohup does
    assert bench.run(["models"], [["start", 1, "signal", signal.SIGHUP]], **ignored).code == 0


@pytest.mark.parametrize("moment", ["stage Affine", "stage Finishing"])
def test_memory_that_runs_out_is_one_sentence_or_a_coarser_grid(bench, moment):
    finished = bench.run(faults=[[moment, 1, "memory", 0]])
    assert bench.wrong_after(finished) == []
    assert finished.code in (0, 6)


def test_a_second_registration_waits_until_the_first_has_put_its_files_in_place(bench):
    first = bench.start(bench.arguments("--aligned"), [["os.rename", 2, "signal", signal.SIGSTOP]])
    os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
    second = bench.start(bench.arguments("--aligned", spacing=5.0))
    time.sleep(5.0)
    assert second.poll() is None
    first.send_signal(signal.SIGCONT)
    assert [process.wait(60) for process in (first, second)] == [0, 0]
    together = bench.results()
    bench.clear()
    bench.run(bench.arguments("--aligned", spacing=5.0))
    assert together == bench.results()


def test_a_damaged_model_or_card_is_refused_or_the_same(tmp_path):
    """Some bits of a card are in words for readers."""
    paths = [tmp_path / name for name in ("own.safetensors", "own.json")]
    for path in paths:
        shutil.copyfile(weights.SHIPPED_FOLDER / f"wavemorph{path.suffix}", path)
    intact, choose = weights.load(paths[0], "cpu"), random.Random(1)
    for path, count in zip(paths, (10, 100)):
        content = path.read_bytes()
        for _ in range(count):
            bit = choose.randrange(8 * len(content))
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                loaded = weights.load(paths[0], "cpu")
            except WeightsError as error:
                assert str(error).endswith(".")
                continue
            assert path is paths[1]
            assert (loaded.network.config, loaded.card.extra) == (intact.network.config, intact.card.extra)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError):
            weights.load(paths[0], "cpu")
        path.write_bytes(content)


def test_a_changed_number_in_a_card_is_noticed_and_the_entry_that_tells_it_may_be_removed(tmp_path):
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(weights.SHIPPED_FOLDER / f"wavemorph{suffix}", tmp_path / f"own{suffix}")
    card = json.loads((tmp_path / "own.json").read_text())
    card["config"]["passes_mm"] = [9.0, 5.0]  # fits the tensors too
    (tmp_path / "own.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="own checksum"):
        weights.load(tmp_path / "own.safetensors", "cpu")
    del card["checksum"]
    (tmp_path / "own.json").write_text(json.dumps(card))
    assert list(weights.load(tmp_path / "own.safetensors", "cpu").network.config.passes_mm) == [9.0, 5.0]


@pytest.mark.parametrize("action", ["truncate", "replace"])
def test_an_input_that_changes_while_it_is_read_is_refused(bench, action):
    path = bench.inputs / "moving.nii.gz"
    other, content = bench.inputs / "fixed.nii.gz", path.read_bytes()
    value = str(path) if action == "truncate" else [str(path), str(other)]
    finished = bench.run(bench.arguments("--aligned"), [["read", 2, action, value]])
    path.write_bytes(content)
    assert finished.code == 2
    assert 'moving image "moving.nii.gz"' in finished.err
    assert bench.wrong_after(finished) == []


def test_streams_that_are_closed_or_full_do_no_harm(bench):
    command = f"{sys.executable} -m wavemorph.cli models"
    for redirection, code, said in ((">&-", 0, ""), ("<&- >&- 2>&-", 0, ""), ("> /dev/full", 3, "The disk is full")):
        done = subprocess.run(
            ["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True, env=bench.environment()
        )
        assert done.returncode == code
        assert said in done.stderr and len(done.stderr.splitlines()) == bool(said)


def test_a_clock_that_goes_back_changes_no_duration(bench):
    assert bench.run(bench.arguments("--aligned"), [["start", 1, "clock", 24.0]]).code == 0
    seconds = json.loads((bench.out / "report.json").read_text())["seconds"]
    assert all(0 <= value < 100 for value in seconds.values())


def test_a_worker_whose_events_are_no_longer_read_ends_and_removes_the_folder_of_its_job(jobs):
    folder = jobs.tmp / "wavemorph-job-1-x"
    folder.mkdir()
    for name, image in zip(("fixed", "moving"), pair()):
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "wavemorph.worker"]
    with subprocess.Popen(command, **pipes, text=True, env=jobs.environment()) as worker:
        settings = {"spacing_mm": 4.0, "weights": "none", "threads": 1}
        worker.stdin.write(json.dumps({"job": 1, "folder": str(folder), "settings": settings}) + "\n")
        worker.stdin.flush()
        next(line for line in worker.stdout if json.loads(line).get("stage") == "Affine")
        worker.stdout.close()
        assert worker.wait(60) == 0
        assert worker.stderr.read() == ""
    assert list(Path(jobs.tmp).iterdir()) == []
