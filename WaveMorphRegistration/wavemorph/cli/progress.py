"""Progress on a terminal: stage, percentage, time left. On standard error: standard output is for results."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_BAR = 24
_STEP = 0.1  # of the work between two lines where lines cannot be overwritten


class TerminalProgress:
    """Called as progress(stage, fraction, message): one line that is redrawn on a terminal, a few lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, clock=time.monotonic):
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._redraws = self._stream.isatty()
        self._began = clock()
        self._fraction = 0.0
        self._shown: tuple[str, float] = ("", -1.0)
        self._width = 0

    def __call__(self, stage: str, fraction: float, message: str = "") -> None:
        if fraction < self._fraction:  # other work begins
            self._began = self._clock()
        self._fraction = fraction
        if self._redraws:
            filled = round(_BAR * fraction)
            line = f"[{'#' * filled}{'.' * (_BAR - filled)}] {self._status(stage, fraction, message)}"
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
            if fraction >= 1:
                self._stream.write("\n")
        elif stage != self._shown[0] or fraction >= self._shown[1] + _STEP:
            self._stream.write(self._status(stage, fraction, message) + "\n")
            self._shown = (stage, fraction)
        self._stream.flush()

    def interrupt(self) -> None:
        """End the line of the progress bar, so that the next output starts on a new line."""
        if self._redraws and self._width:
            self._stream.write("\n")
            self._width = 0

    def _status(self, stage: str, fraction: float, message: str) -> str:
        text = f"{100 * fraction:3.0f} %  {stage}" + (f": {message}" if message else "")
        left = self._seconds_left(fraction)
        return text if left is None else f"{text}, {format_duration(left)} left"

    def _seconds_left(self, fraction: float) -> float | None:
        """Extrapolated from the elapsed time; None in the first second, below 5 %, and at the end."""
        elapsed = self._clock() - self._began
        if elapsed < 1 or not 0.05 <= fraction < 1:
            return None
        return elapsed * (1 - fraction) / fraction


def format_duration(seconds: float) -> str:
    """A duration as text: "8 s", "3 min 20 s", "2 h 5 min"."""
    seconds = max(1, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
