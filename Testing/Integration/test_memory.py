"""What a process gives back of its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@ON_LINUX
def test_what_is_freed_and_kept_can_be_given_back():
    """Blocks below one that stays in use are kept, here all the more so as the process is told to keep them."""
    program = (
        "from wavemorph import machine; import numpy as np;"
        "resident = lambda: machine._kilobytes('/proc/self/status', 'VmRSS');"
        "machine.keep_freed_memory();"
        "blocks = [np.ones(2**17) for _ in range(200)]; last = blocks[-1]; del blocks;"
        "before = resident(); machine.return_freed_memory(); print(before - resident())"
    )
    assert int(subprocess.check_output([sys.executable, "-c", program], text=True)) > 100e6
