"""Settings of the process that must be made before torch is imported."""

from __future__ import annotations

import os


def set_passive_wait() -> None:
    """Let threads that wait for others sleep instead of spin; OpenMP reads this when torch is imported.

    On a busy machine spinning threads take the cores from the threads they wait for: a registration took twelve times
    as long. About ten microseconds of spinning (GNU's OpenMP) cost nothing there, and save a fifth of the time of the
    network on an idle machine. A value that the user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
