"""What a program of our own sets for its whole process, before torch is there. Not for a library call."""

from __future__ import annotations

import os


def let_threads_sleep() -> None:
    """Threads that wait for others soon sleep instead of spinning (OpenMP reads this once, when torch is imported).

    On a machine with other work to do, spinning threads take the cores from those they wait for: measured there, a
    registration took twelve times as long. Some ten microseconds of it (GNU's OpenMP) cost nothing there, and save a
    fifth of the network's time on an idle machine. A choice of the user's stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
