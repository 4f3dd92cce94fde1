"""The panel with a fake worker. The real one is tested in Testing/Integration."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fakeWorker import FakeWorker, WorkerRecordings
from openedModule import headlessScene, openedModule
from WaveMorphRegistrationLib.engine import registrationLogic
from WaveMorphRegistrationLib.engine.job import RegistrationJob


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    return WorkerRecordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture
def headless():
    with headlessScene() as scene:
        yield scene


@pytest.fixture
def fakeWorker(recordings, monkeypatch):
    """Every job starts a fake worker; returns the keyword arguments of the next one, to be changed by a test."""
    options = {}
    makeJob = functools.partial(RegistrationJob, makeWorker=lambda: FakeWorker(recordings, **options))
    monkeypatch.setattr(registrationLogic, "RegistrationJob", makeJob)
    return options


@pytest.fixture
def opened(headless, fakeWorker, monkeypatch):
    from WaveMorphRegistrationLib.panel import panel

    monkeypatch.setattr(panel, "POLL_MS", 1)
    with openedModule(headless, monkeypatch) as module:
        yield module
