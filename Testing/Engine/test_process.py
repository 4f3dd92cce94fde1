"""What our own programs set for their process before torch is there."""

from __future__ import annotations

import os

import pytest
from wavemorph.process import let_threads_sleep


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_chose_otherwise(monkeypatch, before, after):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == after
