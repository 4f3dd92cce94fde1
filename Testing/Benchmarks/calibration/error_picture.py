"""A picture of the expected error beside the true error of pairs with a known map.

    python Testing/Benchmarks/calibration/error_picture.py FOLDER OUTPUT.png [--pairs 1 21 31]

FOLDER is that of `verdict_pairs.py`; the pairs are those for the figures, by their number in `error_pairs.py`.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import SimpleITK as sitk
import wavemorph
from error_pairs import PairWithTruth, pairs
from matplotlib import pyplot

_COLUMNS = ("fixed", "registered", "true error, mm", "expected error (90 %), mm")
_PERCENTILE = 97


def true_error(pair: PairWithTruth, transform: sitk.Transform) -> np.ndarray:
    """|transform(x) - truth(x)| in mm at the voxels of the fixed volume, (D, H, W)."""
    lattice = pair.fixed
    fields = [
        sitk.TransformToDisplacementField(
            each,
            sitk.sitkVectorFloat32,
            lattice.GetSize(),
            lattice.GetOrigin(),
            lattice.GetSpacing(),
            lattice.GetDirection(),
        )
        for each in (transform, pair.truth)
    ]
    return np.linalg.norm(np.subtract(*map(sitk.GetArrayFromImage, fields)), axis=-1)


def draw(axes, pair: PairWithTruth) -> None:
    """One row: the middle slice along the longest way through the body."""
    result = wavemorph.register(pair.fixed, pair.moving, wavemorph.Settings(error_map=True))
    assert result.expected_error is not None
    bound = sitk.GetArrayFromImage(result.expected_error)
    error = np.where(bound > 0, true_error(pair, result.transform), np.nan)
    expected = np.where(bound > 0, bound, np.nan)
    middle = bound.shape[1] // 2
    height = pair.fixed.GetSpacing()[2] / pair.fixed.GetSpacing()[0]
    limit = float(np.nanpercentile(expected, _PERCENTILE))
    volumes = [sitk.GetArrayFromImage(pair.fixed), sitk.GetArrayFromImage(result.warped), error, expected]
    for column, (axis, volume) in enumerate(zip(axes, volumes)):
        shown = volume[:, middle]
        if column < 2:
            axis.imshow(shown, cmap="gray", origin="lower", aspect=height, vmax=np.percentile(volume, 99.5))
        else:
            drawn = axis.imshow(shown, cmap="viridis", origin="lower", aspect=height, vmin=0, vmax=limit)
            pyplot.colorbar(drawn, ax=axis, shrink=0.8)
        axis.set(xticks=[], yticks=[])
    axes[0].set_ylabel(f"{pair.name.rsplit(' ', 1)[0]},\n{pair.kind}", fontsize=9)


def main() -> None:
    """Register the pairs and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", default=(1, 21, 31))
    options = parser.parse_args()
    figure, rows = pyplot.subplots(len(options.pairs), 4, figsize=(13, 3.2 * len(options.pairs)), squeeze=False)
    for axes, number in zip(rows, options.pairs):
        draw(axes, next(itertools.islice(pairs(options.folder, False, number + 1), number, None)))
    for axis, title in zip(rows[0], _COLUMNS):
        axis.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(options.output, dpi=90)


if __name__ == "__main__":
    main()
