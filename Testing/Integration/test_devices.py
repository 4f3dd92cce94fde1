"""What a process returns of its memory, and whether the tests of devices would notice a tensor on the wrong one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from removed_transfers import REMOVALS, outcomes

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@ON_LINUX
def test_freed_memory_that_is_kept_is_returned_at_the_end():
    """Blocks below one that stays in use are kept, all the more so within `freed_memory_kept`."""
    program = """
import numpy as np
from wavemorph.system import machine

resident = lambda: machine._kilobytes("/proc/self/status", "VmRSS")
with machine.freed_memory_kept():
    blocks = [np.ones(2**17) for _ in range(200)]
    last = blocks[-1]
    del blocks
    before = resident()
    {end_within}
print(before - resident())
"""
    for end_within in ("machine.return_freed_memory(); print(before - resident()); sys.exit()", "pass"):
        code = "import sys" + program.format(end_within=end_within)
        assert int(subprocess.check_output([sys.executable, "-c", code], text=True)) > 100e6


@ON_LINUX
def test_memory_is_kept_until_the_last_of_several_contexts_ends():
    """As where a registration, which keeps what it frees, is part of a job that does too."""
    code = """
import numpy as np
from wavemorph.system import machine

resident = lambda: machine._kilobytes("/proc/self/status", "VmRSS")
with machine.freed_memory_kept():
    with machine.freed_memory_kept():
        blocks = [np.ones(2**17) for _ in range(200)]
        last = blocks[-1]
        del blocks
        before = resident()
    print(before - resident())
print(before - resident())
"""
    inner, outer = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert int(inner) < 10e6
    assert int(outer) > 100e6


def test_a_registration_on_a_device_fails_where_one_choice_of_the_device_is_taken_away():
    (as_it_is, nothing), *removed = outcomes()
    assert as_it_is is None and nothing == ""
    assert len(removed) == len(REMOVALS) >= 10
    assert [removal for removal, error in removed if not error] == []
