"""The benches on which commands and worker processes run."""

from __future__ import annotations

import pytest
from bench import Bench, WorkerBench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "bench")


@pytest.fixture
def jobs(tmp_path):
    return WorkerBench(tmp_path / "jobs")
