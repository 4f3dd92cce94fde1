"""Coefficients of the expected error, fitted by Testing/Benchmarks/calibration/calibrate_error.py."""

PROBABILITY = 0.9  # with which an error is below what is estimated
LIMIT = 4.0  # of standardized features
BIAS = -0.114
# name: (weight, mean, standard deviation)
COEFFICIENTS = {
    "independent": (0.128, -0.884, 0.697),
    "unseen far": (0.265, 0.109, 0.198),
    "other": (0.212, -0.758, 0.642),
    "rough": (0.111, 0.173, 0.073),
    "residual": (0.294, 3.086, 1.446),
    "backward": (0.148, -1.184, 0.580),
    "texture trace": (0.154, -4.957, 2.451),
    "body": (-0.129, 0.614, 0.487),
    "voxel": (0.104, 0.834, 0.287),
}
