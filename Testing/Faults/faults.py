"""Faults while WaveMorph works, and whether anything is lost:  faults.py [--only KIND ...] [--output FILE]

Prints the table of Testing/RELIABILITY.md. After each fault: inputs are unchanged, no output is partial, no temporary
file is left (after SIGKILL: not after the next run), what is said is one sentence, the exit code is defined, and the
next run works. The kinds are the functions of the modules beside this script. Needs Linux, and `unshare` for the
mounts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "WaveMorphRegistration"), str(ROOT / "Testing" / "Support")]

import contentFaults  # noqa: E402 - after the path to the modules
import diskFaults  # noqa: E402
import memoryFaults  # noqa: E402
import processFaults  # noqa: E402
from outcome import Outcome  # noqa: E402

KINDS = {**diskFaults.KINDS, **processFaults.KINDS, **memoryFaults.KINDS, **contentFaults.KINDS}
_IN_NAMESPACE = "WAVEMORPH_FAULTS_IN_NAMESPACE"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--output", type=Path, help="the table as a file")
    options = parser.parse_args()
    _enter_namespace()
    outcomes: list[Outcome] = []
    for name in options.only:
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        for outcome in KINDS[name](folder):
            outcomes.append(outcome)
            for wrong in outcome.wrong:
                print(f"WRONG {outcome.kind}, {outcome.fault}, {outcome.detail}: {wrong}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    table = as_table(outcomes)
    print(table)
    if options.output:
        options.output.write_text(table + "\n", encoding="utf-8")
    return any(outcome.wrong for outcome in outcomes)


def as_table(outcomes: list[Outcome]) -> str:
    """One row for each kind and fault."""
    lines = ["| kind | fault | times | outcomes | wrong |", "|---|---|---|---|---|"]
    for kind, fault in dict.fromkeys((outcome.kind, outcome.fault) for outcome in outcomes):
        of_row = [outcome for outcome in outcomes if (outcome.kind, outcome.fault) == (kind, fault)]
        endings = Counter(outcome.ending for outcome in of_row)
        told = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        lines.append(f"| {kind} | {fault} | {len(of_row)} | {told} | {sum(bool(one.wrong) for one in of_row)} |")
    return "\n".join(lines)


def _enter_namespace() -> None:
    """Continue in a mount namespace of its own, in which file systems can be mounted without being root."""
    if _IN_NAMESPACE not in os.environ:
        os.environ[_IN_NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])


if __name__ == "__main__":
    sys.exit(main())
