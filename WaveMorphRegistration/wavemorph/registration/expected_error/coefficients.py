"""Coefficients of the expected error, fitted by Testing/Benchmarks/calibration/calibrate_error.py."""

PROBABILITY = 0.9  # with which an error is below what is estimated
LIMIT = 4.0  # of standardized features
BIAS = -0.070
# name: (weight, mean, standard deviation)
COEFFICIENTS = {
    "independent": (0.143, -0.868, 0.739),
    "other": (0.199, -0.738, 0.673),
    "backward": (0.136, -1.200, 0.613),
    "residual": (0.225, 3.080, 1.483),
    "texture": (0.072, -5.015, 2.537),
    "unseen": (0.364, 0.112, 0.204),
    "rough": (0.187, 0.177, 0.081),
}
