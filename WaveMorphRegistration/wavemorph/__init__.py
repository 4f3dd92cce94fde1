"""WaveMorph: deformable registration of medical volumes (the engine; needs numpy, SimpleITK, torch, safetensors).

What needs SimpleITK is imported at its first use, so that the network trains where there is only numpy and torch.
"""

from __future__ import annotations

from .errors import WaveMorphError
from .settings import Settings

__version__ = "0.1.0"
__all__ = ["Registration", "Settings", "WaveMorphError", "__version__", "register"]


def register(*args, **kwargs):
    """Register two volumes; see `wavemorph.registration.register`, which is imported here at the first call."""
    from .registration import register as run

    return run(*args, **kwargs)


def __getattr__(name: str):
    if name == "Registration":
        from .result import Registration

        return Registration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
