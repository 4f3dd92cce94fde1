"""What our programs set for their process before torch is imported, and the signals that ask them to end."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from wavemorph.system.process import ENDING_SIGNALS, Interrupted, ended_by_signals, set_passive_wait, uninterrupted


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


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_raises_within_the_context_and_does_what_it_did_before_after_it(number):
    arrived = []
    former = signal.signal(number, lambda *_: arrived.append("former"))
    try:
        with pytest.raises(Interrupted) as raised, ended_by_signals():
            signal.raise_signal(number)
        assert raised.value.signal == number
        signal.raise_signal(number)
    finally:
        signal.signal(number, former)
    assert arrived == ["former"]


def test_a_signal_waits_for_the_end_of_what_must_not_be_interrupted():
    done = []
    with pytest.raises(Interrupted), ended_by_signals():
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            done.append("the work")
        done.append("more")
    assert done == ["the work"]


def test_a_signal_that_is_ignored_stays_so():
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ended_by_signals(), uninterrupted():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)


def test_other_threads_leave_signals_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def look():
        with ended_by_signals(), uninterrupted():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [before]
