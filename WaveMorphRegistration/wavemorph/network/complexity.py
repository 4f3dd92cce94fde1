"""Parameters and multiply-adds of the network (paper section 4.3): `python -m wavemorph.network.complexity`."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from .config import DOWNSAMPLINGS, UPSAMPLINGS, NetworkConfig
from .dysample import DySample
from .mswf import WaveletFusion
from .network import WaveMorphNetwork

SIZE = (160, 192, 224)
_TAPS = 8  # of a trilinear sample


def complexity(config: NetworkConfig, size: tuple[int, int, int] = SIZE) -> dict[str, int]:
    """{"parameters", "multiply_adds"} of one forward pass of one pair of volumes (D, H, W).

    Counted: convolutions, and eight taps for each sample that DySample takes. Norms, activations, additions and the
    fixed interpolations are not. The pass runs on torch's meta device: shapes only, no arithmetic.
    """
    with torch.device("meta"):
        network = WaveMorphNetwork(config)
        pair = torch.empty(1, 1, *size), torch.empty(1, 1, *size)
    total = 0

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv3d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, DySample):
            total += output.numel() * _TAPS
        elif isinstance(module, WaveletFusion):  # uses the weights of `depthwise` without calling its modules
            total += output[0, 0].numel() * sum(
                parameter.numel() for name, parameter in module.depthwise.named_parameters() if name.endswith("weight")
            )

    for module in network.modules():
        module.register_forward_hook(count)
    with torch.inference_mode():
        network(*pair)
    return {"parameters": sum(p.numel() for p in network.parameters()), "multiply_adds": total}


def main() -> None:
    """Print the twelve combinations of the ablation (paper section 4.4) at 160x192x224."""
    print(f"{'downsampling':14}{'upsampling':12}{'parameters':>12}{'multiply-adds':>16}")
    for downsampling, upsampling in itertools.product(DOWNSAMPLINGS, UPSAMPLINGS):
        counts = complexity(NetworkConfig(downsampling=downsampling, upsampling=upsampling))
        parameters, billions = counts["parameters"], counts["multiply_adds"] / 1e9
        print(f"{downsampling:14}{upsampling:12}{parameters:12,}{billions:14.1f} G")


if __name__ == "__main__":
    main()
