"""The WaveMorph network, in the order of the paper: wavelet, mswf, convnext, dysample, network; config: choices."""

from .anatomy import AnatomyNetwork
from .config import NetworkConfig
from .network import WaveMorphNetwork

__all__ = ["AnatomyNetwork", "NetworkConfig", "WaveMorphNetwork"]
