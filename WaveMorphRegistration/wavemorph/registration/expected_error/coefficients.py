"""Coefficients of the expected error, fitted by Testing/Benchmarks/calibration/calibrate_error.py."""

PROBABILITY = 0.9  # with which an error is below what is estimated
LIMIT = 4.0  # of standardized features
BIAS = 0.0
# name: (weight, mean, standard deviation)
COEFFICIENTS = {
    "independent": (0.6, -1.0, 0.8),
}
