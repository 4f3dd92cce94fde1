"""What our programs set for their process before torch is imported."""

from __future__ import annotations

import os

import pytest
from wavemorph.system.process import set_passive_wait


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_chose_otherwise(monkeypatch, before, after):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    set_passive_wait()
    assert os.environ["OMP_WAIT_POLICY"] == after
    assert os.environ.get("GOMP_SPINCOUNT") == (None if before else "1000")


def test_a_spin_count_that_the_user_has_set_stays(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    set_passive_wait()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
