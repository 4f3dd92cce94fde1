"""What can go wrong, each with one sentence for the user and an exit code for the shell."""

from __future__ import annotations


class WaveMorphError(Exception):
    """An expected failure. `str(error)` is one sentence: what is wrong, the values seen, what to do."""

    exit_code = 1


class InputError(WaveMorphError):
    """An input image, mask, label map, transform or point file cannot be used."""

    exit_code = 2


class SettingsError(WaveMorphError):
    """An unknown preset, or a setting out of range."""

    exit_code = 2


class OutputError(WaveMorphError):
    """An output cannot be written, or would overwrite an input."""

    exit_code = 3


class DeviceError(WaveMorphError):
    """The device asked for is not there."""

    exit_code = 4


class WeightsError(WaveMorphError):
    """A weights file is missing, corrupt, or made for another network."""

    exit_code = 5


class OutOfMemoryError(WaveMorphError):
    """The job does not fit in memory even on the coarsest working grid."""

    exit_code = 6


class Cancelled(WaveMorphError):
    """The user asked to stop."""

    exit_code = 130
