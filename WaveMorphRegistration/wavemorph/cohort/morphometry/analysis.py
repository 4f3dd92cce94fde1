"""Mass-univariate morphometry of a finished study: from its folder and a design to maps, clusters and a picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, OutputError, SettingsError
from ...io.outputs import Outputs, Writer, write_image, write_json
from ...system.version import __version__
from ..finished import TABLE, read_finished
from .covariates import covariates_of, design_of_covariates, is_participants_table
from .design import Design, contrast_of, read_design, some
from .figure import write_figure
from .inference import ALPHA, Statistics, check_nilearn, infer
from .maps import LogJacobians, read_log_jacobians
from .nifti import as_nifti

_FEWEST_PERMUTATIONS = 100
_WIDEST_SMOOTHING_MM = 50.0


@dataclass(frozen=True)
class Morphometry:
    """The result of `analyze`.

    Attributes:
        design: subjects and regressors, with the intercept.
        contrast: (columns,).
        maps: the smoothed log-Jacobians.
        statistics: at the voxels of `maps.mask`.
        clusters: a pandas.DataFrame with a row for each cluster of voxels that are significant with family-wise error,
            and its peaks, in RAS mm.
        report: numbers and settings, ready for JSON.
        notes: sentences that a user should see.
    """

    design: Design
    contrast: np.ndarray
    maps: LogJacobians
    statistics: Statistics
    clusters: Any
    report: dict[str, Any]
    notes: tuple[str, ...] = ()

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write maps, table, picture and report into a folder, all or none; returns the paths. Raises OutputError."""
        folder = Path(folder)
        if folder.is_file():
            raise OutputError(f'"{folder}" is a file; name a folder for the results.')
        statistics, files = self.statistics, Outputs()
        for name, values in (
            ("t", statistics.t),
            ("effect", statistics.effect),
            ("minus_log10_p", statistics.log_p),
            ("minus_log10_p_fwe", statistics.log_p_fwe),
            ("mean_log_jacobian", self.maps.values.mean(0)),
            ("mask", np.ones(self.maps.values.shape[1])),
        ):
            files.add(folder / f"{name}.nii.gz", self._volume_writer(values), (".nii.gz",), "map")
        files.add(folder / "clusters.tsv", _write_table, (".tsv",), "table of clusters")
        files.add(folder / "morphometry.png", _write_picture, (".png",), "picture")
        files.add(folder / "morphometry.json", lambda made, path: write_json(made.report, path), (".json",), "report")
        return files.write(self)

    def _volume_writer(self, values: np.ndarray) -> Writer:
        return lambda _, path: write_image(self.maps.image(values), path)


def analyze(
    study: str | os.PathLike,
    design: str | os.PathLike | None,
    contrast: str,
    *,
    columns: Sequence[str] | None = None,
    smoothing_mm: float = 6.0,
    permutations: int = 1000,
    mask: str | os.PathLike | None = None,
    seed: int = 0,
    progress: Callable[[str, float, str], None] | None = None,
) -> Morphometry:
    """Test at each voxel of the template whether the subjects' tissue volume depends on a contrast of the design.

    The data are the log-Jacobian maps of a finished study: above 0 the subject has more tissue than the template. The
    whole map counts, affine included, so that a larger head is larger everywhere; add a regressor such as the
    intracranial volume to test beyond that.

    Parameters:
        study: the folder of a finished study, with subjects.tsv.
        design: a .tsv or .csv (`read_design`), the participants.tsv of a BIDS data set, or None for the columns that
            came into the study with its subjects (`covariates.design_of_covariates`).
        contrast: a column of the design, or numbers with commas; see `contrast_of`.
        columns: which columns are regressors; None for all of a table. The other two designs need it.
        smoothing_mm: full width at half maximum of the Gaussian that smooths each map; 0 for none.
        permutations: for the family-wise error; the smallest p is 1 / (permutations + 1).
        mask: where to test, in the space of the template; None for where the registered volumes have tissue.
        seed: of the permutations.
        progress: called as progress(stage, fraction, message).

    Raises:
        InputError: the study, the design, the contrast or the mask cannot be used.
        SettingsError: a number is out of range.
    """
    _check_settings(smoothing_mm, permutations)
    check_nilearn()
    study = Path(study)
    rows = read_finished(study)
    model, remarks = _design(design, columns, rows)
    weights = contrast_of(contrast, model)
    chosen = _rows_of(model.subjects, rows, design or study)
    maps = read_log_jacobians(study, chosen, smoothing_mm, mask, progress)
    if progress is not None:
        progress("testing", 0.99, f"{permutations} permutations at {maps.values.shape[1]} voxels")
    statistics = infer(maps.values, model.matrix, weights, permutations, seed)
    clusters = _clusters(maps, statistics)
    report = _report(model, contrast, weights, maps, statistics)
    report.update({"smoothing_fwhm_mm": smoothing_mm, "permutations": permutations, "seed": seed})
    if progress is not None:
        progress("testing", 1.0, "")
    return Morphometry(model, weights, maps, statistics, clusters, report, (*remarks, *_notes(chosen, rows)))


def _design(
    design: str | os.PathLike | None, columns: Sequence[str] | None, rows: Sequence[Mapping[str, str]]
) -> tuple[Design, tuple[str, ...]]:
    """The design, and sentences on it that a user should see. Raises InputError."""
    if design is not None and not is_participants_table(design):
        return read_design(design, columns), ()
    cells = covariates_of(rows, design)
    called = TABLE if design is None else os.fspath(design)
    if columns is None:
        known = ", ".join(dict.fromkeys(name for row in cells.values() for name in row))
        raise InputError(f'Say which columns of "{called}" are regressors; there are {known or "none"}.')
    return design_of_covariates(cells, columns, called)


def _check_settings(smoothing_mm: float, permutations: int) -> None:
    if not 0 <= smoothing_mm <= _WIDEST_SMOOTHING_MM:
        raise SettingsError(
            f"The smoothing must lie between 0 and {_WIDEST_SMOOTHING_MM:g} mm (full width at half maximum), not "
            f"{smoothing_mm:g} mm."
        )
    if permutations < _FEWEST_PERMUTATIONS:
        raise SettingsError(f"There must be at least {_FEWEST_PERMUTATIONS} permutations, not {permutations}.")


def _rows_of(
    subjects: Sequence[str], rows: Sequence[Mapping[str, str]], design: str | os.PathLike
) -> list[Mapping[str, str]]:
    """The rows of the subjects of a design, in its order. Raises InputError where one is not there or has failed."""
    known = {row["subject"]: row for row in rows}
    missing = [name for name in subjects if name not in known]
    if missing:
        raise InputError(
            f'The design "{design}" names {some(missing)}, which the study does not have; its subjects are '
            f"{some(list(known))}."
        )
    failed = [name for name in subjects if known[name]["status"] != "done"]
    if failed:
        raise InputError(
            f'The registration of {some(failed)} in the design "{design}" has failed; leave out these rows, or '
            "register again with --resume."
        )
    return [known[name] for name in subjects]


def _notes(chosen: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    notes = []
    doubtful = [row["subject"] for row in chosen if row.get("verdict") == "do not trust"]
    if doubtful:
        notes.append(
            f"The verdict on {some(doubtful)} is do not trust; look at the quality page, and leave out wrong ones."
        )
    names = {row["subject"] for row in chosen}
    unused = [row["subject"] for row in rows if row["subject"] not in names]
    if unused:
        notes.append(f"The design leaves out {some(unused)}.")
    return tuple(notes)


def _clusters(maps: LogJacobians, statistics: Statistics) -> Any:
    """The clusters that are significant with family-wise error, by nilearn."""
    from nilearn.reporting import get_clusters_table

    significant = np.where(statistics.significant, statistics.t, 0)
    lowest = 1.0 if statistics.threshold is None else 0.999 * statistics.threshold  # nilearn takes what is above it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are none; the report says so
        return get_clusters_table(as_nifti(maps.image(significant)), lowest, two_sided=True)


def _report(
    design: Design, contrast: str, weights: np.ndarray, maps: LogJacobians, statistics: Statistics
) -> dict[str, Any]:
    significant = statistics.significant
    voxel_ml = float(np.prod(maps.mask.GetSpacing())) / 1000
    return {
        "wavemorph": __version__,
        "subjects": list(design.subjects),
        "columns": list(design.columns),
        "contrast": {"name": contrast, "weights": weights.tolist()},
        "degrees_of_freedom": design.freedom,
        "voxels": int(maps.values.shape[1]),
        "voxel_spacing_mm": list(maps.mask.GetSpacing()),
        "tested_ml": maps.values.shape[1] * voxel_ml,
        "t": {"min": float(statistics.t.min()), "max": float(statistics.t.max())},
        "smallest_p_fwe": float(10 ** -statistics.log_p_fwe.max()),
        "significant_ml": {
            "more_tissue": float((significant & (statistics.t > 0)).sum()) * voxel_ml,
            "less_tissue": float((significant & (statistics.t < 0)).sum()) * voxel_ml,
        },
    }


def _write_table(made: Morphometry, path: str) -> None:
    made.clusters.to_csv(path, sep="\t", index=False)


def _write_picture(made: Morphometry, path: str) -> None:
    name, threshold = made.report["contrast"]["name"], made.statistics.threshold
    border = (
        "nothing is significant" if threshold is None else f"border: |t| >= {threshold:.2f}, corrected p <= {ALPHA}"
    )
    subjects = f"{len(made.design.subjects)} subjects, {made.design.freedom} degrees of freedom"
    title = f"t of {name} ({subjects}); red: more tissue with a larger {name}; {border}"
    write_figure(made.maps, made.statistics, title, path)
