"""Progress on a terminal and in a file."""

from __future__ import annotations

import io

from wavemorph.cli.progress import TerminalProgress, format_duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def clock_of(*times):
    return iter(times).__next__


def test_a_terminal_shows_one_line_with_stage_percentage_and_time_left():
    screen = Terminal()
    progress = TerminalProgress(screen, clock=clock_of(0.0, 10.0, 20.0))
    progress("Refinement", 0.25, "refining")
    assert "\n" not in screen.getvalue()
    assert "25 %  Refinement: refining, 30 s left" in screen.getvalue()
    progress("Done", 1.0)
    first, last = screen.getvalue().split("\r")[1:]
    assert "100 %  Done" in last
    assert len(last) == len(first) + 1  # wide enough to cover the line before, and the end of the line


def test_a_file_gets_few_lines():
    log = io.StringIO()
    progress = TerminalProgress(log, clock=lambda: 0.0)
    for step in range(101):
        progress("Refinement", step / 100)
    assert 9 <= len(log.getvalue().splitlines()) <= 12


def test_an_interruption_leaves_the_line():
    screen = Terminal()
    progress = TerminalProgress(screen, clock=lambda: 0.0)
    progress("Affine", 0.1)
    progress.interrupt()
    progress.interrupt()
    assert screen.getvalue().endswith("Affine\n")
    assert screen.getvalue().count("\n") == 1


def test_durations_have_units_that_suit_their_size():
    assert [format_duration(seconds) for seconds in (0.2, 59, 200, 7500)] == ["1 s", "59 s", "3 min 20 s", "2 h 5 min"]
