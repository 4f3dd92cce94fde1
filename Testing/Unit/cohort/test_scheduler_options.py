"""The options that say where the work is done; what they refuse before a process is started."""

from __future__ import annotations

import argparse

import pytest
from wavemorph.cli.cohorts.options import add_scheduler, runner_of
from wavemorph.errors import ClusterError, SettingsError, WaveMorphError


def refused(*arguments: str) -> WaveMorphError:
    parser = argparse.ArgumentParser()
    add_scheduler(parser)
    with pytest.raises(WaveMorphError) as caught, runner_of(parser.parse_args(arguments)):
        pass
    return caught.value


def test_options_that_contradict_each_other_are_refused():
    for arguments, sentence in (
        (["--workers", "0"], "must be at least 1, not 0"),
        (["--workers", "2", "--scheduler", "tcp://10.0.0.1:8786"], "leave --workers out"),
        (["--slurm", "partition=long"], "Slurm has no 'partition=long'"),
    ):
        error = refused(*arguments)
        assert isinstance(error, SettingsError) and sentence in str(error)


def test_slurm_that_is_not_there_or_refuses_a_job_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused("--slurm", "cores=1")
    assert isinstance(error, ClusterError) and "sbatch is not here" in str(error)
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'allocation failure: Invalid partition name' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    error = refused("--slurm", "cores=1", "queue=none")
    assert isinstance(error, ClusterError)
    assert str(error) == "Slurm does not take the jobs (allocation failure: Invalid partition name); check the keys."
