"""The command `wavemorph`. Torch is imported only by the commands that need it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from ..errors import Cancelled, OutOfMemoryError, WaveMorphError
from ..system.process import set_passive_wait
from ..system.version import __version__
from . import apply, demo, evaluate, models, register, scene, train
from .options import EPILOG
from .progress import TerminalProgress

_OUTPUT_CLOSED = 141  # as of a program that the signal SIGPIPE ends
_DESCRIPTION = "Deformable registration of medical volumes, as in the Slicer module WaveMorph Registration."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. WAVEMORPH_DEBUG=1 shows the traceback of an error."""
    set_passive_wait()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # what is still buffered would fail later, with a message of the interpreter
    except BrokenPipeError:
        _discard_output()
        return _OUTPUT_CLOSED


def _run(arguments: Sequence[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    progress = None if getattr(options, "quiet", False) else TerminalProgress()
    try:
        return options.run(options, progress) or 0
    except BrokenPipeError:
        raise
    except (WaveMorphError, KeyboardInterrupt, MemoryError, Exception) as error:
        if os.environ.get("WAVEMORPH_DEBUG"):
            raise
        if progress is not None:
            progress.interrupt()
        sentence, code = _message_and_code(error)
        print(f"wavemorph: {sentence}", file=sys.stderr)
        return code


def _discard_output() -> None:
    """Let what is still buffered for a reader that has closed its end, such as `head`, go nowhere."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the result of parsing has a function `run(options, progress)`."""
    parser = argparse.ArgumentParser(prog="wavemorph", description=_DESCRIPTION, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"wavemorph {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (register, scene, demo, apply, evaluate):
        command.add_command(commands)
    train.add_commands(commands)
    models.add_command(commands)
    return parser


def _message_and_code(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled("Canceled; nothing was written.")
    elif isinstance(error, MemoryError):
        error = OutOfMemoryError("Memory ran out; close other programs or give smaller volumes.")
    if isinstance(error, WaveMorphError):
        return str(error), error.exit_code
    reason = " ".join(str(error).split())[:200] or "no details"
    return f"Unexpected {type(error).__name__} ({reason}); set WAVEMORPH_DEBUG=1 to see where.", 1
