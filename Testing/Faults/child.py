"""A program of WaveMorph in which a fault happens at a given moment:  python child.py FAULTS cli|worker [ARGUMENT ...]

With "serve" instead of a program, it runs one command after another, each in a process of its own, and says how each
ended: lines of JSON, [FAULTS, ARGUMENTS, ENVIRONMENT] -> [EXIT CODE, STANDARD ERROR].

FAULTS is a list of JSON: [[MOMENT, N, ACTION, VALUE], ...]. The action happens before the Nth event of that kind.

Moments: "start"; "stage NAME" (of a registration); "read" (the voxels of a volume); and the audit events of Python
"os.rename", "os.link", "os.mkdir", "os.remove", "open", "tempfile.mkdtemp", ...
Actions: "signal" (to this process), "memory" (MB that may still be allocated), "remove", "truncate" (a path), "fill"
(the disk, by a file of that name), "replace" ([file, by which it is replaced]), "shell" (a command), "network" (denied:
a socket ends the process), "log" (the paths that are used from now on, to a file), "clock" (hours by which the clock
goes back at each reading).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_SYSTEM_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # AUDIT_ARCH of the machine, socket(2)
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of a BPF program, 32 bits
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOCAL_SOCKET = 1  # AF_UNIX


def deny_network(_value=None) -> None:
    """From now on a socket of another family than AF_UNIX ends this process and its children: by the kernel (SIGSYS),
    and in Python before that, with a sentence. Raises OSError where the kernel cannot."""

    def audit(event: str, arguments: tuple) -> None:
        if event.startswith("socket.") and event not in ("socket.__new__", "socket.close"):
            os.write(2, f"network: {event} {arguments!r}\n".encode())
            os._exit(99)

    sys.addaudithook(audit)
    architecture, socket = _SYSTEM_CALLS[os.uname().machine]
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_IF_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_JUMP_IF_EQUAL, 0, 2, socket),
        (_LOAD, 0, 0, 16),  # its first argument
        (_JUMP_IF_EQUAL, 0, 1, _LOCAL_SOCKET),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, header, 0, 0)):
        if library.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def limit_memory(megabytes: float) -> None:
    """Let this process allocate only so much more."""
    kilobytes = int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0])
    limit = 1024 * kilobytes + int(megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def turn_clock_back(hours: float) -> None:
    """Each reading of the clock gives a time that is `hours` before the one that was read last."""
    readings = Counter()
    real, real_ns = time.time, time.time_ns

    def shifted() -> float:
        readings["time"] += 1
        return real() - 3600 * hours * readings["time"]

    time.time, time.time_ns = shifted, lambda: real_ns() - int(3600e9 * hours)


def replace(paths: list[str]) -> None:
    """Replace a file by another one, as a program does that saves it anew."""
    target, source = paths
    shutil.copyfile(source, target + ".new")
    os.replace(target + ".new", target)


def fill(path: str) -> None:
    """Write a file until the disk is full."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))


def log_paths(path: str) -> None:
    """Write what this process opens, makes, renames and removes to a file, a line each."""
    log = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until the process ends

    def audit(event: str, arguments: tuple) -> None:
        if event.startswith(("open", "os.", "tempfile.")):
            log.write(f"{event} {arguments!r}\n")
            log.flush()

    sys.addaudithook(audit)


ACTIONS = {
    "signal": lambda number: os.kill(os.getpid(), number),
    "memory": limit_memory,
    "remove": shutil.rmtree,
    "truncate": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "fill": fill,
    "log": log_paths,
    "replace": replace,
    "shell": lambda command: subprocess.run(command, shell=True, check=True),
    "network": deny_network,
    "clock": turn_clock_back,
}


class Moments:
    """Counts events, and does what is asked for before one of them."""

    def __init__(self, faults: list[list]):
        self._faults, self._counts = {(moment, n): (action, value) for moment, n, action, value in faults}, Counter()

    def at(self, moment: str) -> None:
        self._counts[moment] += 1
        action, value = self._faults.pop((moment, self._counts[moment]), (None, None))
        if action is not None:
            ACTIONS[action](value)

    def watch(self) -> None:
        moments = {moment for moment, _ in self._faults}
        if any(moment.startswith("stage ") for moment in moments):
            self._watch_stages()
        if "read" in moments:
            self._watch_reading()
        events = {moment for moment in moments if "." in moment or moment == "open"}
        if events:
            sys.addaudithook(lambda event, _: self.at(event) if event in events else None)

    def _watch_stages(self) -> None:
        from wavemorph.registration.state import StageTimer

        start = StageTimer.start

        def started(timer, stage: str, fraction: float) -> None:
            self.at(f"stage {stage}")
            start(timer, stage, fraction)

        StageTimer.start = started

    def _watch_reading(self) -> None:
        import SimpleITK as sitk

        execute = sitk.ImageFileReader.Execute

        def read(reader):
            self.at("read")
            return execute(reader)

        sitk.ImageFileReader.Execute = read


def serve() -> int:
    """See the module. The processes are forks of this one, which has imported all that they need."""
    import tempfile

    import wavemorph.cli.main
    import wavemorph.registration.pipeline

    for line in sys.stdin:
        faults, arguments, environment = json.loads(line)
        with tempfile.TemporaryFile() as said:
            process = os.fork()
            if process == 0:
                os.environ.update(environment)
                tempfile.tempdir = None
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(said.fileno(), 2)
                try:
                    sys.exit(run(faults, wavemorph.cli.main.main, arguments))
                except SystemExit as end:
                    os._exit(end.code)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            said.seek(0)
            print(json.dumps([code, said.read().decode()]), flush=True)
    return 0


def run(faults: list[list], program: Callable[..., int], *arguments) -> int:
    """Run a program in which faults happen."""
    moments = Moments(faults)
    moments.watch()
    moments.at("start")
    return program(*arguments)


def main() -> int:
    faults, program, arguments = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if program == "serve":
        return serve()
    if program == "worker":
        from wavemorph.worker import main as work

        return run(faults, work)
    from wavemorph.cli.main import program as register

    sys.argv[1:] = arguments
    return run(faults, register)


if __name__ == "__main__":
    sys.exit(main())
