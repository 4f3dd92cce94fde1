"""The WaveMorph network, with a module for each part of the paper: wavelet, mswf, convnext, dysample, network."""

from .config import NetworkConfig
from .network import WaveMorphNetwork
from .segmentation import SegmentationNetwork

__all__ = ["NetworkConfig", "SegmentationNetwork", "WaveMorphNetwork"]
