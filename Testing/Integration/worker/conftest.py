"""The panel and the job with the real worker process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "Panel"))
from openedModule import headlessScene, openedModule


@pytest.fixture
def headless():
    with headlessScene() as scene:
        yield scene


@pytest.fixture
def opened(headless, monkeypatch):
    with openedModule(headless, monkeypatch) as module:
        yield module
