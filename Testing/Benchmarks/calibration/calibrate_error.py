"""Fit the expected error on pairs with a known map, and compare it with the true error of other pairs.

    python Testing/Benchmarks/calibration/calibrate_error.py measure FOLDER SAMPLES [--pairs N] [--part fitting|figures]
    python Testing/Benchmarks/calibration/calibrate_error.py fit SAMPLES
    python Testing/Benchmarks/calibration/calibrate_error.py figures SAMPLES [--plot FILE.png]

`measure` registers the first N pairs of a part of `error_pairs.py`, and writes what is known at random places of each
to a file in SAMPLES; it goes on where it was interrupted. FOLDER is that of `verdict_pairs.py`. `fit` prints the
coefficients, from the part for fitting alone; `figures` compares them, as they are in the code, with the other part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
import wavemorph
from error_pairs import TWO_SUBJECTS, PairWithTruth, pairs
from scipy.optimize import minimize
from scipy.stats import spearmanr
from wavemorph.errors import WaveMorphError
from wavemorph.registration.expected_error import coefficients, estimate
from wavemorph.registration.expected_error.features import ErrorFeatures
from wavemorph.spatial.grid import array_from_tensor

_PLACES = 2500  # of a pair
_FITTED_PLACES = 400
_PRESETS = ("Balanced",) * 7 + ("Instant",) * 2 + ("Precise",)
_QUANTILE = coefficients.PROBABILITY
_RIDGE = 3e-3
_SMOOTHING = 0.05  # of the corner of the quantile loss
_LEAST_MM = 1e-3
_FOLDS = 7


@dataclass(frozen=True)
class Sample:
    """What is known of one pair. values: (places, features). error_mm: (places,). meta: of the registration."""

    values: np.ndarray
    error_mm: np.ndarray
    meta: dict

    @property
    def kind(self) -> str:
        """Pairs of organs in one contrast are a kind of their own."""
        if self.meta["body"] == "body" and self.meta["kind"] in ("same contrast", TWO_SUBJECTS):
            return "organs"
        return self.meta["kind"]

    @property
    def target(self) -> np.ndarray:
        """Logarithm of the error in coarse voxels."""
        return np.log(np.maximum(self.error_mm, _LEAST_MM) / self.meta["spacing"])


def measure(pair: PairWithTruth, path: Path) -> None:
    """Register a pair, and write features and true errors at random places of the fixed subject."""
    generator = np.random.default_rng(pair.seed + 1)
    preset = str(generator.choice(_PRESETS))
    features: list[ErrorFeatures] = []
    seconds = [0.0]
    compute = estimate.error_features

    def keep(*given: object) -> ErrorFeatures:
        began = time.process_time()
        features.append(compute(*given))
        seconds[0] += time.process_time() - began
        return features[-1]

    began = time.process_time()
    with mock.patch.object(estimate, "error_features", keep):
        result = wavemorph.register(
            pair.fixed, pair.moving, wavemorph.Settings(threads=1, preset=preset, error_map=True)
        )
    total = time.process_time() - began
    found = features[-1]
    where = array_from_tensor(found.inside) > 0.5
    if pair.known is not None:
        where &= _where_known(found, pair.known) > 0
    kji = np.argwhere(where)
    kji = kji[generator.permutation(len(kji))[:_PLACES]]
    points = [found.grid.point(place[::-1].tolist()) for place in kji]
    transform = result.transform
    error = [np.subtract(transform.TransformPoint(p), pair.truth.TransformPoint(p)) for p in points]
    meta = {
        "name": pair.name,
        "kind": pair.kind,
        "preset": preset,
        "spacing": max(found.grid.spacing),
        "body": result.report["subject"]["kind"],
        "level": result.report["verdict"]["level"],
        "seconds": seconds[0],
        "total": total,
    }
    np.savez_compressed(
        path,
        x=array_from_tensor(found.values)[:, kji[:, 0], kji[:, 1], kji[:, 2]].T,
        e=np.linalg.norm(error, axis=1).astype(np.float32),
        names=np.array(found.names),
        meta=json.dumps(meta),
    )


def _where_known(found: ErrorFeatures, known: sitk.Image) -> np.ndarray:
    """Where the true map is known, on the lattice of the features."""

    return sitk.GetArrayFromImage(found.grid.resample(known, None, sitk.sitkNearestNeighbor))


def read(folder: Path, part: str) -> tuple[list[Sample], list[str]]:
    """The samples of a part and the names of the features."""
    samples, names = [], []
    for path in sorted((folder / part).glob("*.npz")):
        with np.load(path) as content:
            names = [str(name) for name in content["names"]]
            samples.append(Sample(content["x"], content["e"], json.loads(str(content["meta"]))))
    return samples, names


@dataclass(frozen=True)
class Fit:
    """A linear quantile regression of the logarithm of the error. biases: by the kind of the subject."""

    biases: dict[str, float]
    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray


def fit(samples: list[Sample], columns: list[int]) -> Fit:
    """The regression; its biases are moved so that the probability holds for volumes that were left out.

    There each kind of pair counts the same, so that the bound is no narrower for kinds of which there are few pairs.
    """
    mean, deviation = _moments(samples, columns)
    weights = _regress(samples, columns, mean, deviation)
    number = Counter(_group(sample) for sample in samples)
    bases = sorted({_base(sample) for sample in samples})
    residuals: dict[str, list[np.ndarray]] = {kind: [] for kind in coefficients.BIASES}
    shares: dict[str, list[np.ndarray]] = {kind: [] for kind in coefficients.BIASES}
    for fold in range(min(_FOLDS, len(bases))):
        out = set(bases[fold::_FOLDS])
        inner = _regress([s for s in samples if _base(s) not in out], columns, mean, deviation)
        for sample in samples:
            if _base(sample) in out:
                residual = sample.target - _predict(sample, columns, mean, deviation, inner)
                residuals[sample.meta["body"]].append(residual)
                share = 1 / len(residual) / number[_group(sample)]
                shares[sample.meta["body"]].append(np.full(len(residual), share))
    shifts = {k: _weighted_quantile(np.concatenate(residuals[k]), np.concatenate(shares[k])) for k in residuals}
    return Fit({kind: float(weights[0] + shift) for kind, shift in shifts.items()}, weights[1:], mean, deviation)


def _group(sample: Sample) -> tuple[str, str]:
    return sample.meta["body"], sample.meta["kind"]


def _base(sample: Sample) -> str:
    return str(sample.meta["name"]).rsplit(" ", 1)[0]


def _moments(samples: list[Sample], columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    stacked = np.concatenate([sample.values[:_FITTED_PLACES, columns] for sample in samples])
    return stacked.mean(0), stacked.std(0) + 1e-6


def _standardized(sample: Sample, columns: list[int], mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.clip((sample.values[:, columns] - mean) / deviation, -coefficients.LIMIT, coefficients.LIMIT)


def _predict(sample, columns, mean, deviation, weights) -> np.ndarray:
    return _standardized(sample, columns, mean, deviation) @ weights[1:] + weights[0]


def _regress(samples: list[Sample], columns: list[int], mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Bias and weights that minimize the smoothed quantile loss; each pair counts the same."""
    design = np.concatenate([_standardized(s, columns, mean, deviation)[:_FITTED_PLACES] for s in samples])
    target = np.concatenate([s.target[:_FITTED_PLACES] for s in samples])
    counts = [min(len(sample.target), _FITTED_PLACES) for sample in samples]
    share = np.repeat([1 / count / len(samples) for count in counts], counts)
    design = np.column_stack([np.ones(len(design)), design])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        residual = target - design @ w
        soft = _SMOOTHING * np.logaddexp(0, -residual / _SMOOTHING)
        slope = _QUANTILE - 1 / (1 + np.exp(np.clip(residual / _SMOOTHING, -50, 50)))
        value = (share * (_QUANTILE * residual + soft)).sum() + _RIDGE * (w[1:] ** 2).sum()
        return value, -design.T @ (share * slope) + 2 * _RIDGE * np.r_[0, w[1:]]

    start = np.r_[np.quantile(target, _QUANTILE), np.zeros(len(columns))]
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x


def _weighted_quantile(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(np.interp(_QUANTILE, np.cumsum(weights[order]) / weights.sum(), values[order]))


def bounds_mm(sample: Sample, names: list[str]) -> np.ndarray:
    """What the code says of each place."""
    columns = [names.index(name) for name in coefficients.COEFFICIENTS]
    weight, mean, deviation = np.array(list(coefficients.COEFFICIENTS.values())).T
    standardized = _standardized(sample, columns, mean, deviation)
    return np.exp(standardized @ weight + coefficients.BIASES[sample.meta["body"]]) * sample.meta["spacing"]


def table(samples: list[Sample], names: list[str]) -> str:
    """A row a kind: pairs, share of places below the bound, rank correlations, bound and true error."""
    lines = [
        "| pairs | number | below the bound | rank correlation, all places | within a pair, mean | bound mm, median | "
        "error mm, 90 % |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = sorted({sample.kind for sample in samples})
    for title, chosen in [*((kind, [s for s in samples if s.kind == kind]) for kind in kinds), ("**all**", samples)]:
        bounds = [bounds_mm(sample, names) for sample in chosen]
        bound, error = np.concatenate(bounds), np.concatenate([sample.error_mm for sample in chosen])
        within = np.mean([spearmanr(b, s.error_mm)[0] for b, s in zip(bounds, chosen)])
        lines.append(
            f"| {title} | {len(chosen)} | {100 * np.mean(error < bound):.1f} % | {spearmanr(bound, error)[0]:.2f} | "
            f"{within:.2f} | {np.median(bound):.2f} | {np.quantile(error, 0.9):.2f} |"
        )
    return "\n".join(lines)


def plot(samples: list[Sample], names: list[str], path: Path) -> None:
    """The reliability diagram: true errors of places with about the same bound, and the share of them below it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6))
    left.set_xscale("log")
    for kind in [*sorted({sample.kind for sample in samples}), "all"]:
        chosen = [sample for sample in samples if kind in ("all", sample.kind)]
        bound = np.concatenate([bounds_mm(sample, names) for sample in chosen])
        error = np.concatenate([sample.error_mm for sample in chosen])
        edges = np.quantile(bound, np.linspace(0, 1, 11))
        bins = [(bound >= low) & (bound <= high) for low, high in zip(edges, edges[1:])]
        middle = [np.median(bound[each]) for each in bins]
        style = {"color": "black", "linewidth": 2.5} if kind == "all" else {}
        left.plot(middle, [np.quantile(error[each], _QUANTILE) for each in bins], "o-", label=kind, **style)
        right.plot(middle, [100 * np.mean(error[each] < bound[each]) for each in bins], "o-", label=kind, **style)
    low, high = left.get_xlim()
    left.plot([low, high], [low, high], "--", color="gray")
    left.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        xlabel="bound, mm",
        ylabel="true error that 90 % of places stay below, mm",
    )
    right.axhline(100 * _QUANTILE, linestyle="--", color="gray")
    right.set(xscale="log", xlabel="bound, mm", ylabel="places with an error below the bound, %", ylim=(50, 101))
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, fit or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("samples", type=Path)
    measuring.add_argument("--pairs", type=int, default=100)
    measuring.add_argument("--part", choices=("fitting", "figures"), default="fitting")
    commands.add_parser("fit").add_argument("samples", type=Path)
    comparing = commands.add_parser("figures")
    comparing.add_argument("samples", type=Path)
    comparing.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.what == "measure":
        _measure_all(options.folder, options.samples / options.part, options.part == "fitting", options.pairs)
    elif options.what == "fit":
        samples, names = read(options.samples, "fitting")
        columns = [names.index(name) for name in coefficients.COEFFICIENTS]
        found = fit(samples, columns)
        biases = ", ".join(f'"{kind}": {bias:.3f}' for kind, bias in found.biases.items())
        print(f"BIASES = {{{biases}}}\nCOEFFICIENTS = {{")
        for column, numbers in zip(columns, zip(found.weights, found.means, found.deviations)):
            print(f'    "{names[column]}": ({", ".join(f"{number:.3f}" for number in numbers)}),')
        print("}")
    else:
        samples, names = read(options.samples, "figures")
        print(table(samples, names))
        share = np.mean([sample.meta["seconds"] / sample.meta["total"] for sample in samples])
        print(f"\nShare of the processor time of a registration: {100 * share:.0f} % on average")
        if options.plot:
            plot(samples, names, options.plot)


def _measure_all(folder: Path, target: Path, fitting: bool, count: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(pairs(folder, fitting, count)):
        path = target / f"{number:04d}.npz"
        if path.exists():
            continue
        try:
            measure(pair, path)
            print(f"{number} {pair.name} ({pair.kind})", flush=True)
        except WaveMorphError as error:
            print(f"{number} {pair.name} ({pair.kind}): refused, {error}", flush=True)


if __name__ == "__main__":
    main()
