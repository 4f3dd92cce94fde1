"""What a user can choose about a registration. Free of torch, so that the panel and the worker share it."""

from __future__ import annotations

import dataclasses
import numbers
import os
import re
from dataclasses import dataclass

from .errors import SettingsError

PRESETS = ("Instant", "Balanced", "Precise")
TRANSFORM_TYPES = ("rigid", "affine", "deformable")
SMOOTHNESS = ("low", "medium", "high")
CONTRASTS = ("auto", "same", "different")
SIMILARITIES = ("auto", "lncc", "mind", "mi")
DEVICES = ("auto", "cpu", "cuda", "mps")
_MIN_SPACING_MM, _MAX_SPACING_MM = 0.001, 100.0  # from an embryo under a microscope to more than a human body needs
_LARGEST_SEED, _MOST_THREADS = 2**32 - 1, 4096


@dataclass(frozen=True)
class Settings:
    """Choices for `register`. Every field has a default.

    Attributes:
        preset: "Instant" (network alone; outside the head a short refinement on a coarser grid), "Balanced" (network,
            then refinement) or "Precise" (segmentation with test-time augmentation, refinement in both directions, more
            iterations at full resolution); case does not matter.
        transform_type: "rigid" (rotation and translation), "affine" (with scale and shear) or "deformable". For the
            first two the result is the linear transform alone: neither the network nor the refinement runs.
        contrast: "same" (e.g. T1 with T1), "different" (e.g. T1 with PD), or "auto", measured after the affine.
        similarity: what the refinement maximizes: "lncc" (local correlation), "mind" (MIND-SSC), "mi" (mutual
            information), or "auto", which depends on the contrast.
        smoothness: "low", "medium" or "high": how smooth the refinement keeps the deformation.
        device: "auto" takes CUDA, then Apple's MPS, each where a registration runs on it, then the CPU. "cuda" is the
            GPU with the most free memory, "cuda:1" the second one.
        threads: CPU threads; None leaves the choice to torch.
        weights: "auto" (the default model), "none", the name of an installed model, or a file.
        affine: False when the pair is already aligned: the initial transform (or identity) is then kept as it is.
            Only for a deformable transform.
        spacing_mm: spacing of the working grid in mm; None means 1 mm for brains and in proportion for other subjects,
            more where all voxels are coarser or `max_voxels` demands it.
        max_voxels: the most voxels that the working grid may have; None derives it from the device's free memory.
        inverse: also compute the inverse and measure the inverse consistency. The map is then smoothed where a lattice
            could not represent its inverse, which takes time and costs a little overlap. Without it, the inverse of the
            result is computed from the map as it is, when it is first read.
        error_map: also estimate the error of the map in mm, voxel by voxel. Only for a deformable transform.
        seed: of every random choice. The same inputs on the same device give the same transform, except for rounding in
            the order in which threads add.
    """

    preset: str = "Balanced"
    transform_type: str = "deformable"
    contrast: str = "auto"
    similarity: str = "auto"
    smoothness: str = "medium"
    device: str = "auto"
    threads: int | None = None
    weights: str = "auto"
    affine: bool = True
    spacing_mm: float | None = None
    max_voxels: int | None = None
    inverse: bool = False
    error_map: bool = False
    seed: int = 0

    def __post_init__(self):
        self._check_types()
        object.__setattr__(self, "preset", _one_of("preset", self.preset, PRESETS))
        transform_type = _one_of("transform type", self.transform_type, TRANSFORM_TYPES)
        object.__setattr__(self, "transform_type", transform_type)
        object.__setattr__(self, "contrast", _one_of("contrast", self.contrast, CONTRASTS))
        object.__setattr__(self, "similarity", _one_of("similarity", self.similarity, SIMILARITIES))
        object.__setattr__(self, "smoothness", _one_of("smoothness", self.smoothness, SMOOTHNESS))
        if not re.fullmatch(r"cuda:\d+", str(self.device)):
            object.__setattr__(self, "device", _one_of("device", self.device, DEVICES))
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"The number of threads must be at least 1, not {self.threads}.")
        if self.spacing_mm is not None and not _MIN_SPACING_MM <= self.spacing_mm <= _MAX_SPACING_MM:
            raise SettingsError(
                f"The working spacing must lie between {_MIN_SPACING_MM:g} and {_MAX_SPACING_MM:g} mm, not "
                f"{str(self.spacing_mm)[:20]} mm."
            )
        if self.max_voxels is not None and self.max_voxels < 16**3:
            raise SettingsError(f"The working grid needs at least {16**3} voxels, not {self.max_voxels}.")
        if self.error_map and not self.deformable:
            raise SettingsError(
                f"The expected error is estimated for a deformable transform only, not for {self.transform_type}; "
                "leave it out, or choose deformable."
            )
        if not self.affine and not self.deformable:
            raise SettingsError(
                f"A pair that is aligned already leaves nothing to do for a transform of type {self.transform_type}; "
                "choose deformable, or let the pair be aligned."
            )

    @property
    def deformable(self) -> bool:
        """Whether a displacement is made after the linear stage."""
        return self.transform_type == "deformable"

    def _check_types(self) -> None:
        """Raises SettingsError where a value is of another type, or a number that no other part can hold."""
        for names, known, what in (
            (("threads", "max_voxels", "seed"), numbers.Integral, "a whole number"),
            (("spacing_mm",), numbers.Real, "a number"),
            (("weights",), (str, os.PathLike), "a name or a file"),
        ):
            for name in names:
                value = getattr(self, name)
                if value is None and name not in ("seed", "weights"):
                    continue
                if isinstance(value, bool) or not isinstance(value, known):
                    raise SettingsError(f"The setting {name} must be {what}, not {str(value)[:80]!r}.")
        if not 0 <= self.seed <= _LARGEST_SEED or (self.threads is not None and self.threads > _MOST_THREADS):
            raise SettingsError(
                f"The seed must lie between 0 and {_LARGEST_SEED}, and there may be {_MOST_THREADS} threads at most; "
                f"they are {str(self.seed)[:80]} and {str(self.threads)[:80]}."
            )

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Settings:
        if not isinstance(values, dict):
            raise SettingsError(f"Settings are names with values, not {str(values)[:80]!r}.")
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(f"Unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        return cls(**values)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    for choice in choices:
        if str(value).lower() == choice.lower():
            return choice
    raise SettingsError(f"Unknown {name} {value!r}; choose one of {', '.join(choices)}.")
