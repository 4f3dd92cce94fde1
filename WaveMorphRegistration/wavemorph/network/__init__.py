"""The WaveMorph network, in the order of the paper: wavelet, mswf, convnext, dysample, network; config: choices."""

from .config import NetworkConfig
from .network import WaveMorphNetwork
from .segmentation import SegmentationNetwork

__all__ = ["NetworkConfig", "SegmentationNetwork", "WaveMorphNetwork"]
