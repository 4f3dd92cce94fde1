"""Fit the verdict on one half of the calibration pairs, and count what it says of the other half.

    python Testing/Benchmarks/calibration/calibrate_verdict.py measure FOLDER [--part N OF]
    python Testing/Benchmarks/calibration/calibrate_verdict.py fit

`measure` registers all pairs, and writes what it finds to evidence.jsonl; it goes on where it was interrupted. FOLDER
is that of `verdict_pairs.py`. `fit` prints weights and tables. A pair with a known answer is right where the mean error
is below 2 % of the subject's extent, wrong above 4 %, and left out between.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import wavemorph
from scipy.optimize import minimize
from verdict_pairs import CalibrationPair, error_mm, pairs
from wavemorph.errors import WaveMorphError
from wavemorph.registration import verdict

EVIDENCE = Path(__file__).with_name("evidence.jsonl")
_ENTRIES = ("transform_type", "evidence", "subject", "segmentation", "contrast", "mirrored_gain", "warnings")
_RIGHT_BELOW, _WRONG_ABOVE = 0.02, 0.04  # mean error relative to the subject's extent
_RIDGE = 1.0
_RAISES = ("stretch", "displacement", "rigid part", "rotation", "unseen")  # others lower the odds


def measure(pair: CalibrationPair) -> dict:
    """The numbers of one registration; "refused" with its sentence where the engine refuses the pair."""
    row = {"name": pair.name, "kind": pair.kind, "right": pair.right, "tuning": pair.for_tuning}
    finest = max(min(pair.fixed.GetSpacing()), min(pair.moving.GetSpacing()))
    settings = wavemorph.Settings(threads=1, affine=pair.initial is None, spacing_mm=1.2 * finest)
    try:
        result = wavemorph.register(pair.fixed, pair.moving, settings, initial_transform=pair.initial)
    except WaveMorphError as error:
        return {**row, "refused": str(error)}
    if pair.truth is not None:
        row["error"] = error_mm(pair, result.transform)
    return {**row, **{name: result.report[name] for name in _ENTRIES}}


def is_right(row: dict) -> bool | None:
    """None where a known error is neither small nor large."""
    if row["right"] is not None:
        return row["right"]
    relative = row["error"] / np.prod(row["subject"]["extent_mm"]) ** (1 / 3)
    return True if relative < _RIGHT_BELOW else False if relative > _WRONG_ABOVE else None


def rows() -> list[dict]:
    """What was measured, without refused pairs and those that are neither right nor wrong."""
    lines = EVIDENCE.read_text(encoding="utf-8").splitlines()
    found = [row for row in map(json.loads, lines) if "refused" not in row]
    return [row for row in found if is_right(row) is not None]


def fit(measured: list[dict]) -> tuple[float, dict[str, tuple[float, float]]]:
    """(bias, weight and mean of the right pairs by feature), by ridge regression on the half for tuning.

    Each weight has the sign that its feature must have, so that no better number makes a verdict worse.
    """
    values = np.array([list(verdict.features(row).values()) for row in measured])
    wrong = np.array([not is_right(row) for row in measured])
    tuning = np.array([row["tuning"] for row in measured])
    usual, scale = values[tuning & ~wrong].mean(0), values[tuning].std(0) + 1e-6
    design, sign = ((values - usual) / scale)[tuning], np.where(wrong[tuning], -1.0, 1.0)
    balance = np.where(wrong[tuning], 0.5 / wrong[tuning].mean(), 0.5 / (1 - wrong[tuning].mean()))

    def loss(w: np.ndarray) -> float:
        misfit = balance * np.logaddexp(0, sign * (design @ w[1:] + w[0]))
        return float(misfit.sum() + _RIDGE * (w[1:] ** 2).sum() / 2)

    names = list(verdict.features(measured[0]))
    bounds = [(None, None), *((0.0, None) if name in _RAISES else (None, 0.0) for name in names)]
    weights = minimize(loss, np.zeros(len(names) + 1), method="L-BFGS-B", bounds=bounds).x
    return float(weights[0]), {
        name: (round(float(w / s), 3), round(float(u), 3)) for name, w, s, u in zip(names, weights[1:], scale, usual)
    }


def table(measured: list[dict], tuning: bool) -> str:
    """Verdicts of one half, a row a kind of pairs."""
    counts: dict[tuple[bool, str], Counter] = {}
    for row in measured:
        if row["tuning"] == tuning:
            key = bool(is_right(row)), row["kind"]
            counts.setdefault(key, Counter())[verdict.judge(row)["level"]] += 1
    lines = [f"| pairs | {' | '.join(verdict.LEVELS)} |", "|---|" + "---|" * len(verdict.LEVELS)]
    for right in (True, False):
        total = sum((count for key, count in counts.items() if key[0] == right), Counter())
        kinds = [(key[1], count) for key, count in sorted(counts.items()) if key[0] == right]
        for name, count in [(f"**{'right' if right else 'wrong'}, {total.total()} pairs**", total), *kinds]:
            lines.append(f"| {name} | {' | '.join(str(count[level]) for level in verdict.LEVELS)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("N", "OF"), help="for several processes")
    options = parser.parse_args()
    if options.what == "fit":
        bias, weights = fit(rows())
        print(f"_BIAS = {bias:.3f}\n_WEIGHTS = {json.dumps(weights, indent=4)}")
        for title, tuning in (("Tuning", True), ("The other half", False)):
            print(f"\n{title}, with the weights of the code:\n\n{table(rows(), tuning)}")
        return
    part, parts = options.part
    EVIDENCE.touch()
    done = {(row["name"], row["kind"]) for row in map(json.loads, EVIDENCE.read_text(encoding="utf-8").splitlines())}
    for pair in pairs(options.folder):
        if (pair.name, pair.kind) in done or zlib.crc32(f"{pair.name}{pair.kind}".encode()) % parts != part:
            continue
        line = json.dumps(measure(pair), default=float)
        with EVIDENCE.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
