"""WaveMorph: deformable registration of medical volumes (the engine; needs numpy, SimpleITK, torch, safetensors)."""

from __future__ import annotations

from .errors import WaveMorphError
from .result import Registration
from .settings import Settings

__version__ = "0.1.0"
__all__ = ["Registration", "Settings", "WaveMorphError", "__version__", "register"]


def register(*args, **kwargs) -> Registration:
    """Register two volumes; see `wavemorph.registration.register`, which is imported here at the first call."""
    from .registration import register as run

    return run(*args, **kwargs)
