"""Run hostile inputs in forked child processes, each with limits, and say what became of every input.

A child reads many inputs, one after the other. It may crash, hang or be refused memory; the parent then knows which
input it was, and goes on with the next one in a fresh child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import mmap
import os
import random
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wavemorph.errors import WaveMorphError
from wavemorph.io.formats import decoding, isolation

SECONDS_PER_INPUT = 10.0
MEMORY_BYTES = 1 << 30  # beyond what the child has when it starts
_INPUTS_PER_CHILD = 1000  # so that what C++ libraries leak does not count as an input's memory
_LONGEST_SENTENCE = 2000
_OF_MEMORY = re.compile(
    r"(failed|unable|cannot|not) (to )?allocate|out of memory|bad_alloc|memoryerror|file too large", re.I
)
_NO_SENTENCE = re.compile(r"Traceback|0x[0-9a-f]{6}|\.[ch]xx\b")
_FORBIDDEN_EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Case:
    """One input. read: reads it, checks that what it returns is of use, and raises Wrong where it is not.

    must_refuse: why it cannot be read rightly, such as "cut short"; "" where it may be read.
    """

    read: Callable[[], Any]
    must_refuse: str = ""


class Format(Protocol):
    """A kind of input. make: one input of it, written into an empty folder.

    prepare: imports modules and makes valid files before the children are started, so that they share them.
    """

    name: str
    title: str

    def prepare(self) -> None: ...

    def make(self, generator: random.Random, folder: Path) -> Case: ...


class Wrong(Exception):
    """An input was read, and what was returned is not what the file says."""


@dataclass
class Tally:
    """What became of the inputs of a format.

    faults: (kind and place, example: the number of an input and details), each kind once, with its count.
    """

    read: int = 0
    refused: int = 0
    faults: Counter = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    sentences: Counter = field(default_factory=Counter)
    slowest_s: float = 0.0
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return self.read + self.refused + sum(self.faults.values())

    def add(self, number: int, outcome: dict[str, Any]) -> None:
        self.slowest_s = max(self.slowest_s, outcome["seconds"])
        if outcome["kind"] == "read":
            self.read += 1
        elif outcome["kind"] == "refused":
            self.refused += 1
            self.sentences[re.sub(r"\d[\d.e+-]*|\"[^\"]*\"|\([^)]*\)", "*", outcome["detail"])[:90]] += 1
        else:
            self.faults[outcome["kind"]] += 1
            self.examples.setdefault(outcome["kind"], (number, outcome["detail"]))


def fuzz(form: Format, numbers: Iterable[int], seed: int = 0, seconds: float = SECONDS_PER_INPUT) -> Tally:
    """Read the inputs of these numbers; each depends on the format, the seed and its number alone."""
    form.prepare()
    started, tally, waiting = time.monotonic(), Tally(), list(numbers)
    with tempfile.TemporaryDirectory(prefix="fuzzing-", dir=_fast_folder()) as base:
        while waiting:
            batch = waiting[:_INPUTS_PER_CHILD]
            done = _run_child(form, batch, seed, seconds, Path(base), tally)
            waiting = waiting[done:]
    tally.seconds = time.monotonic() - started
    return tally


def make_input(form: Format, number: int, seed: int, folder: Path) -> Case:
    """The input of a number."""
    return form.make(random.Random(f"{form.name} {seed} {number}"), folder)


def _fast_folder() -> str | None:
    """Memory instead of a disk where the system has it: the inputs are many small files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _run_child(form: Format, batch: list[int], seed: int, seconds: float, base: Path, tally: Tally) -> int:
    """Fork a child for a batch; returns how many inputs are done, the one that ended the child included."""
    shared = mmap.mmap(-1, 16)  # (inputs begun, when the last of them was)
    shared[:] = struct.pack("qd", 0, time.monotonic())
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _as_child(form, batch, seed, base, shared, sending)
    os.close(sending)
    done, hung, partial = 0, False, b""
    with os.fdopen(receiving, "rb", buffering=0) as stream:
        while True:
            if select.select([stream], [], [], 0.2)[0]:
                content = stream.read(1 << 16)
                if not content:
                    break
                *lines, partial = (partial + content).split(b"\n")
                for line in lines:
                    tally.add(batch[done], json.loads(line))
                    done += 1
            begun, since = struct.unpack("qd", shared[:])
            if begun > done and time.monotonic() - since > seconds:
                hung = True
                os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if done < len(batch):
        kind = f"no answer within {seconds:g} s" if hung else f"the process died ({_describe(status)})"
        tally.add(batch[done], {"kind": kind, "detail": f"inputs {batch[0]} to {batch[done]}", "seconds": 0.0})
        done += 1
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(exist_ok=True)
    return done


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"


def _as_child(form: Format, batch: list[int], seed: int, base: Path, shared: mmap.mmap, sending: int) -> None:
    """Read a batch, and write an outcome for each input as a line of JSON. Does not return."""
    code = 1
    faulthandler.disable()  # which a test runner enables
    try:
        with open(os.devnull, "w") as nowhere:  # what C++ libraries print of damaged files
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        _limit_memory()
        isolation.run_decoder = _decoded_in_fork
        watch = _Watch(base)
        sys.addaudithook(watch.on_event)
        for done, number in enumerate(batch, 1):
            shared[:] = struct.pack("qd", done, time.monotonic())
            outcome = _outcome(form, number, seed, base, watch)
            os.write(sending, json.dumps(outcome).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _decoded_in_fork(path: Path, target: Path, called: str, seconds: float) -> int:
    """`isolation.run_decoder` a hundred times as fast: what it runs, in a fork, in place of a new interpreter."""
    child = os.fork()
    if child == 0:
        os._exit(decoding.decode(path, target, called))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _limit_memory() -> None:
    used = int(re.search(r"^VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY_BYTES // 4, MEMORY_BYTES // 4))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Watch:
    """What an input may not do: run a program, load a pickled class, connect, write outside its folder."""

    def __init__(self, base: Path):
        self.inside, self.forbidden = str(base) + os.sep, ""

    def on_event(self, event: str, arguments: tuple) -> None:
        if event in _FORBIDDEN_EVENTS:
            self.forbidden = event
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            path = os.path.realpath(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes)) else ""
            if path and not path.startswith((self.inside, os.devnull)):
                self.forbidden = f"wrote {path}"


def _outcome(form: Format, number: int, seed: int, base: Path, watch: _Watch) -> dict[str, Any]:
    """Make an input in a folder of its own, beside files that nobody may touch, and read it."""
    folder, temporary, outside = base / "input", base / "temporary", base / "outside"
    for each in (folder, temporary, outside):
        each.mkdir(parents=True)
    (outside / "bystander.raw").write_bytes(bytes(4096))
    tempfile.tempdir = str(temporary)
    case = make_input(form, number, seed, folder)
    before = _contents(folder)
    watch.forbidden = ""
    started = time.monotonic()
    kind, detail = _read(case)
    seconds = time.monotonic() - started
    left = _left_behind(base, folder, before)
    if watch.forbidden or left:
        kind, detail = f"did what no input may do: {watch.forbidden or left}"[:120], detail
    for each in (folder, temporary, outside):
        shutil.rmtree(each)
    return {"kind": kind, "detail": detail, "seconds": seconds}


def _read(case: Case) -> tuple[str, str]:
    """(kind, detail): "read", "refused" with the sentence, or a kind of fault with its place."""
    try:
        case.read()
    except Wrong as error:
        return f"wrong: {error}", ""
    except WaveMorphError as error:
        return _judged(str(error))
    except (Exception, MemoryError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "wavemorph" in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside the engine"
        return f"{type(error).__name__} in {place}", " ".join(traceback.format_exc().split("\n"))[-900:]
    if case.must_refuse:
        return f"wrong: read although {case.must_refuse}", ""
    return "read", ""


def _judged(sentence: str) -> tuple[str, str]:
    if _OF_MEMORY.search(sentence):
        return "refused for want of memory only", sentence
    is_one = sentence.endswith(".") and sentence.isprintable() and len(sentence) <= _LONGEST_SENTENCE
    if not is_one or _NO_SENTENCE.search(sentence):
        return "refused, but not with one clean sentence", sentence[:600]
    return "refused", sentence


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _left_behind(base: Path, folder: Path, before: dict[str, str]) -> str:
    """What reading changed: an input, a file outside, a temporary file that is still there; "" for nothing."""
    after = {name: digest for name, digest in _contents(folder).items() if not name.startswith(("written", "result"))}
    if after != before:
        return "changed " + ", ".join(sorted({name for name, _ in after.items() ^ before.items()}))
    others = sorted(str(path.relative_to(base)) for path in base.rglob("*") if not path.is_relative_to(folder))
    if others != ["outside", "outside/bystander.raw", "temporary"]:
        return f"left {', '.join(others)}"
    with contextlib.suppress(OSError):
        if (base / "outside" / "bystander.raw").read_bytes() == bytes(4096):
            return ""
    return "changed outside/bystander.raw"
