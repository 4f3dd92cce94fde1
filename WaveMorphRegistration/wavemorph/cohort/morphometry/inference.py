"""The test at every voxel, by nilearn: ordinary least squares, and permutations against the errors of many tests."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ...errors import InputError

ALPHA = 0.05  # family-wise error


@dataclass(frozen=True)
class Statistics:
    """Of a contrast, (voxels,) each.

    t: Student's t. effect: the contrast of the coefficients, natural logarithm of the Jacobian a unit of the regressor.
    log_p: -log10 of the two-sided p of one test. log_p_fwe: that of the p corrected for all tests (family-wise error,
    two-sided, largest |t| of each permutation).
    """

    t: np.ndarray
    effect: np.ndarray
    log_p: np.ndarray
    log_p_fwe: np.ndarray

    @property
    def significant(self) -> np.ndarray:
        """Where the corrected p is at most `ALPHA`, (voxels,)."""
        return self.log_p_fwe >= -np.log10(ALPHA)

    @property
    def threshold(self) -> float | None:
        """The smallest |t| that is significant; None where none is."""
        return float(np.abs(self.t[self.significant]).min()) if self.significant.any() else None


def check_nilearn() -> None:
    """Raises InputError where nilearn, or what it draws with, is missing."""
    try:
        import matplotlib  # noqa: F401
        import nilearn.mass_univariate  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Morphometry needs the package nilearn ({error}); install it with: pip install 'wavemorph[cohort]'."
        ) from error


def infer(values: np.ndarray, matrix: np.ndarray, contrast: np.ndarray, permutations: int, seed: int = 0) -> Statistics:
    """Test whether a contrast differs from 0 at each voxel, two-sided.

    Parameters:
        values: (subjects, voxels).
        matrix: (subjects, columns), of full rank, its columns spanning an intercept.
        contrast: (columns,).
        permutations: how many; the smallest p is 1 / (permutations + 1).
        seed: of the permutations.

    Raises:
        InputError: the contrast cannot be tested by permutations.
    """
    tested, others = split(matrix, contrast)
    _check_exchangeable(tested, others)
    from nilearn.glm import compute_contrast
    from nilearn.glm.first_level import run_glm
    from nilearn.mass_univariate import permuted_ols
    from scipy.stats import norm

    fitted = compute_contrast(*run_glm(values, matrix, noise_model="ols"), contrast, stat_type="t")
    constant = np.ptp(others, axis=0) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the order of arrays in memory
        permuted = permuted_ols(
            tested[:, None],
            values,
            others[:, ~constant] if not constant.all() else None,
            model_intercept=bool(constant.any()),  # as a column of others nilearn would take it for the one tested
            n_perm=permutations,
            two_sided_test=True,
            random_state=seed,
        )
    return Statistics(
        t=fitted.stat().ravel(),
        effect=fitted.effect_size().ravel(),
        log_p=-(np.log(2) + norm.logsf(np.abs(fitted.z_score().ravel()))) / np.log(10),
        log_p_fwe=permuted["logp_max_t"].ravel(),
    )


def split(matrix: np.ndarray, contrast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The regressor that a contrast tests, and the others, which span the rest of the design.

    A regression on both has the coefficient and the t of the contrast (Ridgway's partition; Winkler et al., NeuroImage
    2014, 92: 381-397, appendix A).
    """
    if np.count_nonzero(contrast) == 1:
        index = int(np.flatnonzero(contrast)[0])
        return matrix[:, index] / contrast[index], np.delete(matrix, index, axis=1)
    _, _, directions = np.linalg.svd(contrast[None])
    inverse = np.linalg.inv(matrix.T @ matrix)
    tested = matrix @ inverse @ contrast / (contrast @ inverse @ contrast)
    null = directions[1:].T  # combinations of coefficients that the contrast does not see
    rest = null - np.outer(contrast, contrast @ inverse @ null) / (contrast @ inverse @ contrast)
    return tested, matrix @ inverse @ rest


def _check_exchangeable(tested: np.ndarray, others: np.ndarray) -> None:
    """Raises InputError where a mean is tested otherwise than by the intercept, whose sign alone nilearn permutes."""
    ones = np.ones(len(tested))
    fitted = others @ np.linalg.lstsq(others, ones, rcond=None)[0] if others.size else np.zeros_like(ones)
    if np.ptp(tested) > 0 and not np.allclose(fitted, ones, atol=1e-6):
        raise InputError(
            "The contrast compares a mean with 0, not groups with each other or with a regressor; use a design with an "
            "intercept, and the contrast intercept."
        )
