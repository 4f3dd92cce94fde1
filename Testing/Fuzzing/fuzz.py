"""Give hostile inputs to every reader of WaveMorph, and say what became of them: the table of RELIABILITY.md.

    .venv/bin/python Testing/Fuzzing/fuzz.py                              all formats, 10,000 inputs each
    .venv/bin/python Testing/Fuzzing/fuzz.py --format nifti --count 500   one format, fewer inputs
    .venv/bin/python Testing/Fuzzing/fuzz.py --format nifti --input 1234 --keep FOLDER
                                                                          one input again, here, its files kept

Needs Linux: the children have a limit of memory, and are forked.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("WaveMorphRegistration", "Testing/Fuzzing", "Testing/Support"):
    sys.path.insert(0, str(ROOT / folder))

from hostile.formats import FORMATS
from hostile.runner import SECONDS_PER_INPUT, Tally, fuzz, make_input


def main() -> int:
    """Run the formats, print the table; returns 1 where there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", nargs="+", choices=sorted(FORMATS), default=list(FORMATS))
    parser.add_argument("--count", type=int, default=10_000, help="inputs of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_INPUT, help="that an input may take")
    parser.add_argument("--input", type=int, help="read this input alone, in this process, without limits")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="with --input: where its files are written")
    parser.add_argument("--sentences", action="store_true", help="print what the refusals say, and how often")
    options = parser.parse_args()
    if options.input is not None:
        return _read_one(options)
    rows = []
    for name in options.format:
        tally = fuzz(FORMATS[name], range(options.first, options.first + options.count), options.seed, options.seconds)
        rows.append(_row(FORMATS[name].title, tally))
        print(rows[-1], file=sys.stderr)
        for kind, count in tally.faults.most_common():
            number, detail = tally.examples[kind]
            print(f"  fault: {kind} ({count}); --format {name} --input {number}: {detail}", file=sys.stderr)
        if options.sentences:
            for sentence, count in tally.sentences.most_common():
                print(f"  {count:6d} {sentence}", file=sys.stderr)
        rows[-1] += "" if not tally.faults else " **"
    print("| format | inputs | read | refused with a sentence | faults | longest | inputs a second |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    return int(any(row.endswith("**") for row in rows))


def _row(title: str, tally: Tally) -> str:
    return (
        f"| {title} | {tally.inputs} | {tally.read} | {tally.refused} | {sum(tally.faults.values())} | "
        f"{tally.slowest_s:.2f} s | {tally.inputs / max(tally.seconds, 1e-9):.0f} |"
    )


def _read_one(options: argparse.Namespace) -> int:
    (name,) = options.format
    folder = options.keep or Path("/tmp/hostile-input")
    folder.mkdir(parents=True, exist_ok=True)
    form = FORMATS[name]
    form.prepare()
    case = make_input(form, options.input, options.seed, folder)
    print(f"{folder}: {sorted(path.name for path in folder.iterdir())} {case.must_refuse}")
    started = time.monotonic()
    try:
        print("read:", case.read())
    finally:
        print(f"{time.monotonic() - started:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
