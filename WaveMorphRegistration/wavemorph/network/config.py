"""The configuration of the network; each field says what the paper fixes and what is ours."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import SettingsError

DOWNSAMPLINGS = ("max", "merging", "wavelet", "mswf")
UPSAMPLINGS = ("nearest", "trilinear", "dysample")
OUTPUTS = ("velocity", "displacement", "segmentation")
INPUTS = ("pair", "pair+force", "image")


@dataclass(frozen=True)
class NetworkConfig:
    """The configuration of the network.

    The paper fixes the Haar transform with 8 sub-bands, multi-scale kernels, a ConvNeXt bottleneck and DySample. "Ours"
    marks what it leaves open.

    Attributes:
        channels: features after the stem and after each halving, one entry more than halvings (ours). Inputs of
            160x192x224 can be halved five times.
        downsampling: "mswf" (paper 3.4), or one of its ablation: "max" pooling, patch "merging", plain "wavelet".
        upsampling: "dysample" (paper 3.6), or "nearest" or "trilinear" of its ablation.
        kernels: sides of the depthwise kernels on bands with no, one, two and three high-pass directions (ours).
        expansion: ratio of hidden to outer channels of the pointwise layers (ours; 4 in ConvNeXt).
        bottleneck_blocks: ConvNeXt V2 blocks at the coarsest level (ours).
        bottleneck_kernel: side of their kernels (ours; 7 in ConvNeXt).
        dysample_groups: groups of channels with the same offset (ours; the default of DySample).
        dysample_scope: static scope of the offsets, voxels of the coarse lattice (ours; the default of DySample).
        flow_level: number of halvings of the lattice on which the flow is decoded; trilinear upsampling
            gives the full lattice (ours).
        flow_deviation: standard deviation of the flow head's initial weights, so that training begins near the
            identity (ours; that of VoxelMorph).
        output: "velocity", a stationary velocity field whose exponential is the map (ours), "displacement" (paper 3.7),
            or with the inputs "image" "segmentation", the structures in one volume (ours; `segmentation.py`).
        inputs: "pair", both volumes (paper 3.3); "pair+force", with the gradient of their local correlation as further
            channels, as in learned optimizers (ours; GraDIRN, Qiu et al., MIDL 2022); "image", one volume (ours).
        stem: a convolution on the full lattice before the first halving. Without it nothing is computed on the full
            lattice, and flow_level must be at least 1 (ours).
        passes_mm: spacings in mm on which the network is applied in turn, each time to the moving volume as warped so
            far (ours); empty for one application on the given lattice (paper).
        flow_sigma: Gaussian that smooths each flow, voxels of the lattice where it is decoded; 0 for none (ours).
        pass_sigma: Gaussian that smooths the displacement after each pass, voxels (ours).
        symmetric: each prediction is the mean over both directions, so that swapped inputs give the inverse, in twice
            the time (ours).
    """

    channels: tuple[int, ...] = (16, 32, 64, 96, 128)
    downsampling: str = "mswf"
    upsampling: str = "dysample"
    kernels: tuple[int, int, int, int] = (7, 5, 3, 1)
    expansion: int = 2
    bottleneck_blocks: int = 2
    bottleneck_kernel: int = 7
    dysample_groups: int = 4
    dysample_scope: float = 0.25
    flow_level: int = 1
    flow_deviation: float = 1e-5
    output: str = "velocity"
    inputs: str = "pair"
    stem: bool = True
    passes_mm: tuple[float, ...] = ()
    flow_sigma: float = 0.0
    pass_sigma: float = 0.8
    symmetric: bool = True

    def __post_init__(self):
        for name in ("channels", "kernels"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))
        object.__setattr__(self, "passes_mm", tuple(float(mm) for mm in self.passes_mm))
        for name, choices in (
            ("downsampling", DOWNSAMPLINGS),
            ("upsampling", UPSAMPLINGS),
            ("output", OUTPUTS),
            ("inputs", INPUTS),
        ):
            if getattr(self, name) not in choices:
                raise SettingsError(f"Unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise SettingsError(f"The network needs at least two positive channel counts, not {self.channels}.")
        if len(self.kernels) != 4 or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise SettingsError(f"The network needs four odd kernel sides, not {self.kernels}.")
        if (self.output == "segmentation") != (self.inputs == "image"):
            raise SettingsError(
                f"The output {self.output} does not fit the inputs {self.inputs}: a segmentation needs one image, "
                "a field needs a pair."
            )
        if not 0 <= self.flow_level < self.halvings:
            raise SettingsError(f"The flow level must lie between 0 and {self.halvings - 1}, not {self.flow_level}.")
        if not self.stem and self.flow_level == 0:
            raise SettingsError("Without a stem the flow cannot be decoded at level 0; choose level 1.")
        if self.passes_mm and self.output != "velocity":
            raise SettingsError("Passes compose maps, which needs the output velocity, not displacement.")
        if any(not 0.1 <= mm <= 50 for mm in self.passes_mm):
            raise SettingsError(f"The spacings of the passes must lie between 0.1 and 50 mm, not {self.passes_mm}.")
        if self.upsampling == "dysample" and any(c % self.dysample_groups for c in self.channels[1:]):
            raise SettingsError(
                f"DySample with {self.dysample_groups} groups needs channels it can divide, not {self.channels[1:]}."
            )

    @property
    def halvings(self) -> int:
        """The number of downsampling steps."""
        return len(self.channels) - 1

    @property
    def input_channels(self) -> int:
        """The number of channels of the network's input."""
        return {"image": 1, "pair": 2, "pair+force": 5}[self.inputs]

    @property
    def divisor(self) -> int:
        """Every side of the input must be a multiple of this number of voxels."""
        return 2**self.halvings

    def to_dict(self) -> dict:
        """The fields as values for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> NetworkConfig:
        """From a model card or a recipe. Raises SettingsError where a field is unknown or out of range."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(f"Unknown network setting {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        return cls(**values)
