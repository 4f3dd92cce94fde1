"""Named training configurations: the paper's two protocols, and ours for the default model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ..errors import SettingsError
from ..network import NetworkConfig

DATA = ("synthetic", "ixi", "oasis", "synthetic-heads", "synthetic-bodies")


@dataclass(frozen=True)
class Recipe:
    """One training configuration. "Ours" marks what the paper leaves open.

    Attributes:
        name: of the recipe and of its model.
        data: "ixi" (atlas to patient) or "oasis" (inter-patient), as in the paper; "synthetic" pairs of brains or
            "synthetic-bodies" (ours); or "synthetic-heads": labeled crops for the segmentation network (ours), where a
            pair is one crop.
        network: its configuration.
        pairs: number of training pairs. The default is IXI's: 500 epochs of 403 patients.
        learning_rate: Adam's, at the start.
        decay: of the learning rate: "polynomial", power 0.9 as in TransMorph (ours for the paper), or "cosine".
        window: side of the windows of local correlation, voxels (9 in the paper).
        noise: variance added in each window.
        intensity: weight of the mean squared difference (0 in the paper).
        smoothness: weight of the diffusion loss, on the velocity of a network with one pass, else on the displacement.
        model_passes_mm: passes of the finished model, mm, if they differ from those of the training (ours).
        clip: largest norm of the gradient.
        precision: "float32", or "bfloat16" for autocast.
        seed: of the weights and of the data.
    """

    name: str
    data: str
    network: NetworkConfig = field(default_factory=NetworkConfig)
    pairs: int = 500 * 403
    learning_rate: float = 1e-4
    decay: str = "polynomial"
    window: int = 9
    noise: float = 1e-5
    intensity: float = 0.0
    smoothness: float = 1.0
    model_passes_mm: tuple[float, ...] = ()
    clip: float = 1.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "model_passes_mm", tuple(float(mm) for mm in self.model_passes_mm))
        for name, value, choices in (
            ("data", self.data, DATA),
            ("decay", self.decay, ("polynomial", "cosine")),
            ("precision", self.precision, ("float32", "bfloat16")),
        ):
            if value not in choices:
                raise SettingsError(f"Unknown {name} {value!r}; choose one of {', '.join(choices)}.")
        if self.pairs < 1 or self.window < 3 or self.window % 2 == 0:
            raise SettingsError(f"Training needs pairs >= 1 and an odd window >= 3, not {self.pairs}, {self.window}.")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate at the pair `step` of `pairs`."""
        remaining = max(0.0, 1 - step / self.pairs)
        if self.decay == "polynomial":
            return self.learning_rate * remaining**0.9
        warmup = min(1.0, (step + 1) / 20)
        return self.learning_rate * warmup * (0.02 + 0.98 * remaining**1.5)

    def trains_like(self, other: Recipe) -> bool:
        """Whether a checkpoint of one recipe can be continued by the other."""
        return dataclasses.replace(self, pairs=other.pairs, model_passes_mm=other.model_passes_mm) == other

    def to_dict(self) -> dict:
        passes = list(self.model_passes_mm)
        return {**dataclasses.asdict(self), "network": self.network.to_dict(), "model_passes_mm": passes}

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        return cls(**{**values, "network": NetworkConfig.from_dict(values["network"])})


# Our default model: without a stem, decoded on half the lattice, small enough to train for an hour on two CPU cores
DEFAULT_NETWORK = NetworkConfig(
    channels=(8, 32, 64, 96),
    kernels=(5, 3, 3, 1),
    bottleneck_kernel=5,
    flow_level=1,
    inputs="pair+force",
    stem=False,
    passes_mm=(4.0, 4.0, 2.0, 2.0, 2.0),
    flow_sigma=0.8,
    symmetric=False,
)
SEGMENTATION_NETWORK = NetworkConfig(
    channels=(8, 16, 32, 64, 96),
    kernels=(5, 3, 3, 1),
    bottleneck_kernel=5,
    flow_level=1,
    output="segmentation",
    inputs="image",
    stem=False,
    symmetric=False,
)
_WAVEMORPH = Recipe(
    "wavemorph",
    "synthetic",
    DEFAULT_NETWORK,
    pairs=850,
    learning_rate=1.5e-3,
    decay="cosine",
    window=5,
    noise=1e-3,
    intensity=3.0,
    smoothness=3.0,
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("ixi", "ixi", NetworkConfig(symmetric=False)),
        Recipe("oasis", "oasis", NetworkConfig(symmetric=False), pairs=500 * 394),
        _WAVEMORPH,
        dataclasses.replace(
            _WAVEMORPH,
            name="wavemorph-bodies",
            data="synthetic-bodies",
            network=dataclasses.replace(DEFAULT_NETWORK, passes_mm=(8.0, 8.0, 4.0, 4.0, 4.0, 3.0)),
            pairs=1250,
        ),
        Recipe(
            "brain-segmentation",
            "synthetic-heads",
            SEGMENTATION_NETWORK,
            pairs=5000,
            learning_rate=2e-3,
            decay="cosine",
            precision="bfloat16",
        ),
    )
}
