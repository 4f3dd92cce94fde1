"""Coefficients of the expected error, fitted by Testing/Benchmarks/calibration/calibrate_error.py."""

PROBABILITY = 0.9  # with which an error is below what is estimated
LIMIT = 4.0  # of standardized features
BIASES = {"brain": -0.037, "body": -0.218}  # by the kind of the subject
# name: (weight, mean, standard deviation)
COEFFICIENTS = {
    "independent": (0.116, -0.891, 0.756),
    "other": (0.132, -0.770, 0.689),
    "backward": (0.181, -1.244, 0.656),
    "residual": (0.255, 3.120, 1.513),
    "texture": (0.080, -5.077, 2.627),
    "unseen": (0.403, 0.120, 0.218),
    "rough": (0.263, 0.182, 0.077),
}
