"""Where tissue volume differs between the subjects of a study, by nilearn. Does not import torch."""

from .analysis import Morphometry, analyze

__all__ = ["Morphometry", "analyze"]
