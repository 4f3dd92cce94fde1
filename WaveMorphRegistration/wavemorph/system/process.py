"""Settings of the process that must be made before torch is imported, its signals and its standard streams."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

# what asks a program to end: Ctrl-C, the system or a scheduler, a terminal that closes (not on Windows)
ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end. `signal` is its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


def set_passive_wait() -> None:
    """Make waiting OpenMP threads sleep instead of spin; to be called before torch is imported.

    On a busy machine, spinning threads made a registration take twelve times as long. GNU's OpenMP still spins for
    about ten microseconds: no cost on a busy machine, and a fifth of the network's time saved on an idle one. A value
    that the user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def open_closed_streams() -> None:
    """Open the standard streams that were closed when the program began, to nowhere.

    Otherwise the next file would get the number of the closed stream, and what a library prints would be written to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def end_process(code: int) -> NoReturn:
    """End the process at once, without what libraries do at the end of a program.

    After a file that did not fit on the disk, that of HDF5 crashes. It also takes a while, in which a signal would end
    the process as if its work were not done.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the context, a signal that asks the program to end raises `Interrupted`, so that it can clean up.

    Signals that are ignored, as SIGHUP under nohup, stay so. Does nothing outside the main thread.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled_by(end):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that ask the program to end are handled after the context. Does nothing outside the main thread."""
    arrived: list[int] = []
    with _handled_by(lambda number, _frame: arrived.append(number), only_python=True):
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextlib.contextmanager
def _handled_by(handler: Any, only_python: bool = False) -> Iterator[None]:
    """only_python: replace only handlers in Python; what the system does is left as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    kept = (signal.SIG_IGN, signal.SIG_DFL, None) if only_python else (signal.SIG_IGN, None)
    replaced = {number: former for number, former in before.items() if former not in kept}
    try:
        for number in replaced:
            signal.signal(number, handler)
        yield
    finally:
        for number, former in replaced.items():
            signal.signal(number, former)
