"""Settings of the process that must be made before torch is imported."""

from __future__ import annotations

import os


def set_passive_wait() -> None:
    """Make waiting OpenMP threads sleep instead of spin; to be called before torch is imported.

    On a busy machine, spinning threads made a registration take twelve times as long. GNU's OpenMP still spins for
    about ten microseconds: no cost on a busy machine, and a fifth of the network's time saved on an idle one. A value
    that the user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
