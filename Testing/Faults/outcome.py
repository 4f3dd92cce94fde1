"""What became of one fault."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench import COMPLETE, KILLED, LIBRARY_ENDED, Finished


@dataclass(frozen=True)
class Outcome:
    """kind and fault: the row of the table. detail: which one of the row. wrong: what must not be, in words."""

    kind: str
    fault: str
    ending: str
    detail: str = ""
    wrong: list[str] = field(default_factory=list)


def ending(finished: Finished) -> str:
    """How a program ended, in words."""
    if finished.code in COMPLETE:
        return "complete"
    if finished.code == KILLED:
        return "killed"
    if finished.code < 0:
        return f"ended by signal {-finished.code}"
    if LIBRARY_ENDED in finished.err:
        return "ended by a library"
    return f"one sentence, exit {finished.code}"


def ending_of_job(finished: Finished) -> str:
    """How a job ended, in words."""
    return "one sentence in the panel" if finished.code else "complete"
