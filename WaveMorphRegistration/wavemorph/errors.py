"""The errors that WaveMorph raises. Each has one sentence for the user and an exit code for the shell."""

from __future__ import annotations

_LONGEST = 2000  # characters of a sentence
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS
    "alloc_failed",  # cuBLAS, cuDNN
    "not enough memory",  # torch on Windows
    "can't allocate memory",  # torch on Linux and macOS
    "failed to allocate memory",  # ITK
    "bad_alloc",
    "failed to map segment",  # of a library that is loaded
    "can't start new thread",  # Python: no room for its stack
)


class WaveMorphError(Exception):
    """An expected failure. `str(error)` is one sentence: what is wrong, the values found, what to do.

    The values may come from any file: what would control a terminal or break the line is replaced, and the middle of a
    very long sentence is left out.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in super().__str__())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


class InputError(WaveMorphError):
    """An input (image, mask, label map, transform or landmark file) cannot be used."""

    exit_code = 2


class SettingsError(WaveMorphError):
    """A setting is unknown or out of range, or settings contradict each other."""

    exit_code = 2


class OutputError(WaveMorphError):
    """An output cannot be written, or would overwrite an input."""

    exit_code = 3


class DeviceError(WaveMorphError):
    """The requested device is not available."""

    exit_code = 4


class WeightsError(WaveMorphError):
    """A model is missing, damaged, or made for another network."""

    exit_code = 5


class OutOfMemoryError(WaveMorphError):
    """Memory does not suffice even on the coarsest working grid."""

    exit_code = 6


class ClusterError(WaveMorphError):
    """The processes that were to do the work cannot be started or reached, or were lost."""

    exit_code = 9


class Cancelled(WaveMorphError):
    """The user canceled the work."""

    exit_code = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is a failed allocation in Python, numpy, torch (CPU or GPU), SimpleITK or the system."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)
