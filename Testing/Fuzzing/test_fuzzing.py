"""A short run of every kind of hostile input, and what the harness says of readers that fail."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from hostile.formats import FORMATS
from hostile.runner import Case, Wrong, fuzz
from wavemorph.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness forks, and limits memory as Linux does")
_COUNT, _SEED = 120, 7


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_hostile_inputs_are_read_or_refused_with_a_sentence(name):
    tally = fuzz(FORMATS[name], range(_COUNT), _SEED)
    assert not tally.faults, tally.examples
    assert tally.inputs == _COUNT
    assert tally.read > 0  # the readers still read what is harmless
    assert tally.refused > 0 or name == "worker-jobs"  # which answers with events


class Failing:
    """A format whose input number 1 does something; the others are read."""

    name, title = "failing", "failing"

    def __init__(self, act, reason: str = ""):
        self.act, self.reason = act, reason

    def prepare(self) -> None:
        """Nothing is to be made."""

    def make(self, generator: random.Random, folder: Path) -> Case:
        (folder / "input").write_text("input")
        if generator.random() == random.Random("failing 0 1").random():
            return Case(lambda: self.act(folder), self.reason)
        return Case(lambda: None)


def _refuse(sentence: str):
    raise InputError(sentence)


def _wrong():
    raise Wrong("nothing")


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda _: os.kill(os.getpid(), signal.SIGSEGV), "the process died (SIGSEGV)"),
        (lambda _: os._exit(3), "the process died (exit code 3)"),
        (lambda _: time.sleep(60), "no answer within 1 s"),
        (lambda _: bytearray(3 << 30), "MemoryError in outside the engine"),
        (lambda _: 1 / 0, "ZeroDivisionError in outside the engine"),
        (lambda _: _refuse("Memory: failed to allocate."), "refused for want of memory only"),
        (lambda _: _refuse("no sentence"), "refused, but not with one clean sentence"),
        (lambda _: _wrong(), "wrong: nothing"),
        (lambda folder: (folder / "input").write_text("other"), "did what no input may do: changed input"),
        (lambda folder: (folder.parent / "temporary" / "left").touch(), "did what no input may do: left"),
        (lambda _: os.system("true"), "did what no input may do: os.system"),
    ],
)
def test_the_harness_names_a_fault_and_goes_on(act, kind):
    tally = fuzz(Failing(act), range(4), seconds=1.0)
    ((found, count),) = tally.faults.items()
    assert found.startswith(kind) and count == 1
    assert tally.examples[found][0] == 1
    assert tally.read == 3


def test_the_harness_notices_that_a_cut_file_was_read():
    tally = fuzz(Failing(lambda _: None, "it is cut short"), range(4))
    assert dict(tally.faults) == {"wrong: read although it is cut short": 1}
