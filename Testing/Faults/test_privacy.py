"""No network, no names of patients in what is written, and private temporary files that do not outlive a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import canaries
import pytest
import SimpleITK as sitk
from bench import CHILD, Finished, contents, pair
from canaries import IN_HEADERS, IN_NAMES
from WaveMorphRegistrationLib.engine.jobFolders import removeFoldersOfDeadProcesses

NO_NETWORK = [["start", 1, "network", None]]


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        ("socket.socketpair()", 0),
        ("socket.socket()", -signal.SIGSYS),
        ("ctypes.CDLL(None).socket(10, 1, 0)", -signal.SIGSYS),  # past Python
        ("socket.getaddrinfo('localhost', 80)", 99),
    ],
)
def test_the_denial_of_the_network_ends_a_program_that_tries(attempt, code):
    script = f"import sys; sys.path.insert(0, {str(CHILD.parent)!r}); import child; child.deny_network(); "
    assert subprocess.run([sys.executable, "-c", f"{script} import ctypes, socket; {attempt}"]).returncode == code


def test_a_command_with_both_models_runs_without_network(bench):
    arguments = [argument.replace("none", "auto") for argument in bench.arguments()]
    assert bench.run(arguments, NO_NETWORK, stdout=subprocess.DEVNULL) == Finished(0)
    assert bench.wrong_after(Finished(0)) == []


def test_the_demo_runs_without_network(bench):
    """On a pair of the user, for the time; the built-in pair is a file of a package."""
    files = [f"--{name}={bench.inputs / name}.nii.gz" for name in ("fixed", "moving")]
    quick = ["--spacing=4", "--weights=none", "--threads=1", "--quiet"]
    arguments = ["demo", *files, f"--output={bench.out}", *quick]
    assert bench.run(arguments, NO_NETWORK, stdout=subprocess.DEVNULL) == Finished(0)
    assert (bench.out / "scene.mrb").is_file()
    assert contents(bench.tmp) == {}


def test_a_job_runs_in_a_worker_without_network(jobs):
    job = jobs.job(NO_NETWORK)
    finished = jobs.run_job(job)
    job.close()
    assert finished == Finished(0)
    assert jobs.wrong_after_job(finished) == []


def test_no_word_of_headers_is_written_and_no_name_of_a_file_but_by_the_scene(bench, tmp_path):
    volumes = canaries.write_volumes(tmp_path / f"{IN_NAMES}_patient")
    kinds = [
        ("dicom", "nifti", ".h5", ".nii.gz"),
        ("nrrd", "meta", ".nii.gz", ".nrrd"),
        ("meta", "nrrd", ".tfm", ".mha"),
    ]
    for fixed, moving, transform, image in kinds:
        outputs = {"transform": f"t{transform}", "warped": f"w{image}", "jacobian": f"j{image}", "report": "r.json"}
        arguments = bench.arguments("--aligned", outputs=outputs)
        arguments[arguments.index("--fixed") + 1] = str(volumes[fixed])
        arguments[arguments.index("--moving") + 1] = str(volumes[moving])
        arguments.remove("--quiet")
        log = tmp_path / "names.log"
        finished = bench.run(arguments, [["start", 1, "log", str(log)]])
        assert finished.code == 0, finished
        assert IN_HEADERS not in finished.err
        for path in bench.out.iterdir():
            assert canaries.found_in(path.read_bytes()) == set(), path
        own = [line for line in log.read_text().splitlines() if str(bench.folder) in line]
        assert len(own) > 4  # the private folders were watched
        assert not [line for line in own if IN_NAMES in line or IN_HEADERS in line]
        bench.clear()


def test_the_remarks_on_a_file_are_in_the_report_without_its_name(bench, tmp_path):
    volumes = canaries.write_volumes(tmp_path / f"{IN_NAMES}_patient")
    arguments = bench.arguments("--aligned")
    arguments[arguments.index("--fixed") + 1] = str(volumes["dicom"])
    arguments.remove("--quiet")
    finished = bench.run(arguments)
    assert f'Of the fixed image "{IN_NAMES}_series"' in finished.err  # the name that the user gave
    (note,) = [note for note in json.loads((bench.out / "report.json").read_text())["notes"] if "left out" in note]
    assert note.startswith("Of the fixed image, ")
    assert "(44 slices) was read; left out: " in note
    assert canaries.found_in(note.encode()) == set()


def test_a_scene_has_the_names_of_the_files_and_no_word_of_headers(bench, tmp_path):
    volumes = canaries.write_volumes(tmp_path / "volumes")
    arguments = [
        "scene",
        f"--fixed={volumes['dicom']}",
        f"--moving={volumes['nrrd']}",
        f"--output={bench.out}/scene.mrb",
    ]
    quick = ["--spacing=4", "--weights=none", "--threads=1", "--aligned", "--quiet"]
    assert bench.run([*arguments, *quick]).code == 0
    assert canaries.found_in((bench.out / "scene.mrb").read_bytes()) == {IN_NAMES}  # its nodes are called after files
    assert canaries.found_in((bench.out / "scene.png").read_bytes()) == set()


def test_a_job_of_the_panel_holds_no_name_and_its_folder_is_private(jobs):
    named = [sitk.Image(image) for image in pair()]
    for image in named:
        image.SetMetaData("0010|0010", IN_HEADERS)
    seen: set[str] = set()

    def look(running):
        for path in jobs.tmp.rglob("*"):
            if running.stage == "Affine" and path.is_file():
                seen.update(canaries.found_in(path.read_bytes()) | {path.name})

    job = jobs.job()
    finished = jobs.run_job(job, look, named)
    job.close()
    assert jobs.wrong_after_job(finished) == []
    assert seen == {"fixed.nrrd", "moving.nrrd"}
    report = jobs.results_received[0].report
    assert canaries.found_in(json.dumps([report, job.log]).encode()) == set()


@pytest.mark.parametrize("moment", ["tempfile.mkdtemp", "os.rename"])
def test_a_killed_command_leaves_private_folders_which_the_next_one_removes(bench, moment):
    finished = bench.run(bench.arguments("--aligned"), [[moment, 3, "signal", signal.SIGKILL]])
    assert finished.code == -signal.SIGKILL
    assert [path for path in bench.out.iterdir() if path.name.startswith(".wavemorph-")]
    assert bench.open_folders() == []
    assert bench.wrong_in_next_run() == []


def test_the_folder_of_a_live_process_is_left_alone(bench):
    halted = bench.start(bench.arguments("--aligned"), [["os.rename", 1, "signal", signal.SIGSTOP]])
    os.waitid(os.P_PID, halted.pid, os.WSTOPPED | os.WNOWAIT)
    private = {path for path in bench.out.iterdir() if path.name.startswith(".wavemorph-")}
    assert len(private) == 5
    bench.run(["models"])
    arguments = bench.arguments("--aligned", outputs={"transform": "new/t.tfm"})  # `new` is made in the same folder
    assert bench.run(arguments).code == 0
    assert private <= set(bench.out.iterdir())
    halted.send_signal(signal.SIGCONT)
    assert halted.wait(60) == 0


def test_the_folder_of_a_job_is_gone_after_its_parent_was_killed_or_at_the_next_start(jobs):
    (folder := jobs.tmp / "wavemorph-job-999999999-abc").mkdir()
    (folder / "fixed.nrrd").write_bytes(b"x")
    (other := jobs.tmp / f"wavemorph-job-{os.getpid()}-abc").mkdir()
    removeFoldersOfDeadProcesses(str(jobs.tmp))
    assert list(jobs.tmp.iterdir()) == [other]


def test_a_worker_removes_only_a_folder_that_was_made_for_a_job(tmp_path):
    from wavemorph.worker import _remove_private_folder

    for name in ("wavemorph-job-12-ab_c1", "Documents", "wavemorph-job-12-ab.c1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "wavemorph-job-1-link").symlink_to(tmp_path / "Documents")
    for path in list(tmp_path.iterdir()):
        _remove_private_folder(path)
    assert {path.name for path in tmp_path.iterdir()} == {"Documents", "wavemorph-job-12-ab.c1", "wavemorph-job-1-link"}
    assert (tmp_path / "Documents" / "file").exists()
