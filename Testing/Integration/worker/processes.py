"""Whether a process still runs."""

from __future__ import annotations

from pathlib import Path


def isRunning(processId: int) -> bool:
    try:
        return Path(f"/proc/{processId}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
