"""The version of WaveMorph."""

__version__ = "0.1.0"
