"""The picture of a test, by nilearn: t in axial planes, with the border of what is significant."""

from __future__ import annotations

import warnings

import numpy as np

from .inference import Statistics
from .maps import LogJacobians
from .nifti import as_nifti

_PLANES = 7
_SIZE_INCHES, _DPI = (13.0, 5.0), 100
_ROWS = ((0.0, 0.53, 0.97, 0.39), (0.0, 0.02, 0.97, 0.39))  # left, bottom, width, height
_MEAN = "mean log-Jacobian; red: the subjects have more tissue than the template"
_FAINT = 1.0  # |t| below which the template is left bare


def write_figure(maps: LogJacobians, statistics: Statistics, title: str, path: str) -> None:
    """A row of axial planes with t, and one with the mean log-Jacobian; significant voxels have a black border."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from nilearn.plotting import find_cut_slices, plot_stat_map

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI)
    FigureCanvasAgg(figure)  # whatever the backend of the process is
    upper, lower = (figure.add_axes(row) for row in _ROWS)
    cuts = find_cut_slices(as_nifti(maps.image(np.abs(statistics.t))), "z", _PLANES)
    shared = {"bg_img": as_nifti(maps.background), "display_mode": "z", "cut_coords": cuts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib, on contours that a plane does not have
        display = plot_stat_map(as_nifti(maps.image(statistics.t)), threshold=_FAINT, axes=upper, **shared)
        if statistics.significant.any():
            border = as_nifti(maps.image(statistics.significant))
            display.add_contours(border, levels=[0.5], colors="k", linewidths=1.2)
        plot_stat_map(as_nifti(maps.image(maps.values.mean(0))), axes=lower, **shared)
        for (left, bottom, _, height), words in zip(_ROWS, (title, _MEAN)):
            figure.text(left + 0.01, bottom + height + 0.025, words, fontsize=12)
        figure.savefig(path)
