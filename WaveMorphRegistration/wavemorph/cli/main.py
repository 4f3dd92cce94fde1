"""The command `wavemorph`. Torch is imported only by the commands that need it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import Cancelled, OutOfMemoryError, OutputError, WaveMorphError, is_out_of_memory
from ..system.private_folders import remove_abandoned_folders
from ..system.process import Interrupted, end_process, ended_by_signals, open_closed_streams, set_passive_wait
from ..system.version import __version__
from .progress import TerminalProgress

_OUTPUT_CLOSED = 141  # as of a program that the signal SIGPIPE ends
_SIGNALED = 128  # and the number of the signal
_DESCRIPTION = "Deformable registration of medical volumes, as in the Slicer module WaveMorph Registration."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. WAVEMORPH_DEBUG=1 shows the traceback of an error."""
    set_passive_wait()
    open_closed_streams()
    remove_abandoned_folders()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # what is still buffered would fail later, with a message of the interpreter
    except BrokenPipeError:
        _discard_output()
        return _OUTPUT_CLOSED


def program() -> NoReturn:
    """The command as a program of its own."""
    end_process(main())


def _run(arguments: Sequence[str] | None) -> int:
    progress, before = None, _files_written()
    try:
        with ended_by_signals():
            options = make_parser().parse_args(arguments)
            progress = None if getattr(options, "quiet", False) else TerminalProgress()
            code = options.run(options, progress) or 0
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        raise
    except (WaveMorphError, KeyboardInterrupt, MemoryError, Exception) as error:
        if os.environ.get("WAVEMORPH_DEBUG"):
            raise
        sentence, code = _message_and_code(error, _files_written() - before)
        _say(sentence, progress)
        return code


def _files_written() -> int:
    outputs = sys.modules.get("wavemorph.io.outputs")
    return outputs.Outputs.files_written if outputs is not None else 0


def _say(sentence: str, progress: TerminalProgress | None) -> None:
    """Write a sentence to standard error, unless it cannot be written to, as that of a terminal that was closed."""
    try:
        if progress is not None:
            progress.interrupt()
        print(f"wavemorph: {sentence}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        _discard_output()


def _discard_output() -> None:
    """Let what is still buffered for a reader that has closed its end, such as `head`, go nowhere."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the result of parsing has a function `run(options, progress)`."""
    # not at the top: a signal that arrives while they are imported must be handled
    from . import apply, demo, evaluate, models, register, scene, train
    from .cohorts import cohort, longitudinal, morphometry, population, template
    from .options import EPILOG

    parser = argparse.ArgumentParser(prog="wavemorph", description=_DESCRIPTION, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"wavemorph {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    of_pairs = (register, scene, demo, apply, evaluate)
    for command in (*of_pairs, population, cohort, template, longitudinal, morphometry):
        command.add_command(commands)
    train.add_commands(commands)
    models.add_command(commands)
    return parser


def _message_and_code(error: BaseException, written: int) -> tuple[str, int]:
    """The sentence for an error, and the exit code. written: how many files the command had written before it."""
    files = {0: "nothing was written", 1: "one file was written"}.get(written, f"{written} files were written")
    if isinstance(error, Interrupted) and error.signal != signal.SIGINT:
        return f"Ended by the signal {signal.Signals(error.signal).name}; {files}.", _SIGNALED + error.signal
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled(f"Canceled; {files}.")
    elif is_out_of_memory(error) and not isinstance(error, WaveMorphError):
        error = OutOfMemoryError("Memory ran out; close other programs or give smaller volumes.")
    if isinstance(error, WaveMorphError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full ({_reason(error)}); {files}.", OutputError.exit_code
    return f"Unexpected {type(error).__name__} ({_reason(error)}); set WAVEMORPH_DEBUG=1 to see where.", 1


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or "no details"
