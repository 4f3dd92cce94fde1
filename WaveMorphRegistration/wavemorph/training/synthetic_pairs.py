"""Synthetic pairs of subjects with a known deformation, computed faster than a network trains on them (ours).

As in SynthMorph (Hoffmann et al., IEEE TMI 2022), brains and shapes are drawn at random. The inputs of the network have
random contrast, bias, blur, noise, lesions and surroundings; the loss compares images without them. Half of the
contrasts resemble T1. One in five pairs is made of random shapes instead of a brain.

The brains come from the MNI ICBM152 template (2009a, nonlinear, symmetric) that ships with nilearn; its license allows
use, copying and distribution with its notice. A pair depends on (seed, index) alone.
"""

from __future__ import annotations

import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import InputError
from ..spatial.displacement import compose, exponentiate, resize, warp
from ..spatial.filters import smooth

SPACING_MM = 2.0
SIZE = (88, 104, 80)
_SCALES_MM = (5.0, 9.0, 18.0, 36.0)
# T1 intensity of the template (0 to 1) -> contrast of one subject's scan, where tissue is not averaged over many
_KNOTS = (0.0, 0.30, 0.48, 0.60, 0.69, 0.78, 0.86, 1.0)
T1_TONES = (0.0, 0.10, 0.22, 0.45, 0.54, 0.80, 0.88, 0.96)


@dataclass(frozen=True)
class TrainingPair:
    """One training example of the registration network, all on one lattice.

    Attributes:
        fixed: input of the network, (1, 1, D, H, W), about [0, 1].
        moving: the same for the moving volume.
        fixed_target: (1, 1, D, H, W), compared by the loss with the warped `moving_target`.
        moving_target: (1, 1, D, H, W).
        weight: weight of each voxel in the loss, (1, 1, D, H, W).
        truth: true displacement, fixed points -> moving points, (1, 3, D, H, W) in voxels (k, j, i); None if unknown.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_target: torch.Tensor
    moving_target: torch.Tensor
    weight: torch.Tensor
    truth: torch.Tensor | None = None


def load_template(path: Path | None = None) -> torch.Tensor:
    """The T1 template and its brain mask, (1, 2, D, H, W), float16 at 1 mm, axes S, A, R.

    Parameters:
        path: a file that `torch.save` wrote of it, for machines without nilearn; None reads it from nilearn.

    Raises:
        InputError: the template cannot be read.
    """
    if path is not None:
        try:
            return torch.load(path, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f'The template "{path}" cannot be read as one; make it again.') from error
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise InputError("Synthetic brains need the template in the package nilearn: pip install nilearn.")
    import SimpleITK as sitk

    from ..spatial.grid import tensor_from_array

    folder = Path(found.origin).parent / "datasets" / "data"
    image = sitk.ReadImage(str(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"), sitk.sitkFloat32)
    array = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))[:, ::-1, ::-1]  # to S, A, R
    brain = tensor_from_array(array / array.max())[None, None]
    return torch.cat([brain, (brain > 0).float()], 1).half()


class SyntheticPairs:
    """`pairs[index]` is a `TrainingPair` that depends on the seed and the index alone.

    shapes: fraction of pairs that are made of random shapes.
    """

    spacing_mm = SPACING_MM

    def __init__(self, template: torch.Tensor, seed: int = 0, device: torch.device | str = "cpu", shapes: float = 0.2):
        self._template, self._seed, self._device = template.to(device).float(), seed, torch.device(device)
        self._shapes = shapes

    def __getitem__(self, index: int) -> TrainingPair:
        draw = Draw(self._seed * 1_000_003 + index, self._device)
        with torch.no_grad():
            deformations = [draw.deformation() for _ in range(2)]
            truth = compose(deformations[1][1], deformations[0][0])  # fixed -> template -> moving
            make = self._shape_pair if draw.chance(self._shapes) else self._brain_pair
            (fixed, moving), targets, masks = make(draw, [forward for forward, _ in deformations])
            weight = (smooth(masks[0] + masks[1], 2.0) > 0.05).float()
            return TrainingPair(fixed, moving, targets[0], targets[1], weight, truth)

    def _brain_pair(self, draw: Draw, deformations: list[torch.Tensor]):
        images, targets, masks = [], [], []
        contrast = draw.contrast()
        other = contrast if draw.chance(0.65) else draw.contrast()
        surroundings = draw.chance(0.25)
        for deformation, curve in zip(deformations, (contrast, other)):
            tissue, mask = _sample(self._template, deformation).split(1, 1)
            # individual detail that no deformation of one brain explains
            own = draw.noise((draw.uniform(1.0, 2.5),)) * draw.uniform(0.0, 0.1)
            tissue = (tissue + own * mask * (tissue > 0.1)).clamp(0, 1)
            targets.append(tone(tissue, T1_TONES) * mask)
            curve = [value + 0.03 * draw.uniform(-1, 1) for value in curve]
            image = tone(tissue, curve) * mask * (1 + 0.06 * draw.noise((5.0,)))
            image = draw.lesion(image, mask)
            if surroundings:
                image = draw.surrounded(image, mask)
            images.append(draw.scanned(image, mask))
            masks.append(mask)
        return images, targets, masks

    def _shape_pair(self, draw: Draw, deformations: list[torch.Tensor]):
        count = 3 + int(draw.uniform(0, 10))
        noises = torch.cat([draw.noise((draw.uniform(3.0, 8.0),)) for _ in range(count)], 1)
        labels = F.one_hot(noises.argmax(1), count).movedim(-1, 1).float()
        images, targets, masks = [], [], []
        tones = [draw.uniform(0, 1) for _ in range(count)]
        others = tones if draw.chance(0.5) else [draw.uniform(0, 1) for _ in range(count)]
        whole = torch.ones(1, 1, *SIZE, device=self._device)
        ball = draw.ball()
        for deformation, shown in zip(deformations, (tones, others)):
            maps = warp(torch.cat([labels, ball], 1), deformation)
            mask = maps[:, -1:]
            clean, image = (
                sum(maps[:, n : n + 1] * value for n, value in enumerate(values)) * mask for values in (tones, shown)
            )
            targets.append(clean)
            images.append(draw.scanned(image, mask if draw.chance(0.7) else whole))
            masks.append(mask)
        return images, targets, masks


class Draw:
    """The random choices of one example, all from one generator."""

    def __init__(self, seed: int, device: torch.device):
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self._generator, device=self._device))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def noise(self, sigmas_voxels: tuple[float, ...], channels: int = 1, size=SIZE, amplitudes=None) -> torch.Tensor:
        """(1, channels, *size): a sum of smooth noises, each of unit deviation times its amplitude.

        Drawn on lattices as coarse as each smoothness allows.
        """
        total = torch.zeros(1, channels, *size, device=self._device)
        for n, sigma in enumerate(sigmas_voxels):
            step = max(1.0, sigma / 1.2)
            coarse = [max(4, round(side / step)) for side in size]
            drawn = torch.randn(1, channels, *coarse, generator=self._generator, device=self._device)
            drawn = smooth(drawn, min(sigma, sigma / step))
            drawn = F.interpolate(drawn, size=size, mode="trilinear", align_corners=False)
            total += drawn / drawn.std().clamp(min=1e-6) * (1.0 if amplitudes is None else amplitudes[n])
        return total

    def white(self, size) -> torch.Tensor:
        """(1, 1, *size) of independent standard normal values."""
        return torch.randn((1, 1, *size), generator=self._generator, device=self._device)

    def deformation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A random diffeomorphism and its inverse: displacements (1, 3, *SIZE) in voxels, 1 to 4 mm in the mean."""
        half = tuple(n // 2 for n in SIZE)
        sigmas = tuple(mm / (2 * SPACING_MM) / 2 for mm in _SCALES_MM)
        amplitudes = [mm**0.8 * self.uniform(0.3, 1.0) for mm in _SCALES_MM]
        velocity = self.noise(sigmas, 3, half, amplitudes)
        length = self.uniform(0.8, 3.2) / (2 * SPACING_MM)  # of one axis, in voxels of the coarse lattice
        velocity = velocity * (length / velocity.std())
        return resize(exponentiate(velocity), SIZE), resize(exponentiate(-1 * velocity), SIZE)

    def contrast(self) -> list[float]:
        """Values at `_KNOTS`: like T1, like reversed T1, or random."""
        if self.chance(0.55):
            return [value + 0.04 * self.uniform(-1, 1) for value in T1_TONES]
        if self.chance(0.3):
            return [0.0] + [1.05 - value + 0.1 * self.uniform(-1, 1) for value in T1_TONES[1:]]
        return [0.0] + [self.uniform(0.05, 1.0) for _ in T1_TONES[1:]]

    def ball(self) -> torch.Tensor:
        """(1, 1, *SIZE): a ball with a soft, irregular edge, inside the volume."""
        axes = [torch.linspace(-1, 1, n, device=self._device) for n in SIZE]
        k, j, i = torch.meshgrid(*axes, indexing="ij")
        radius = (k**2 + j**2 + i**2).sqrt()[None, None] + 0.08 * self.noise((6.0,))
        return torch.sigmoid((0.82 - radius) * 40)

    def lesion(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if not self.chance(0.15):
            return image
        spot = self.noise((self.uniform(2.0, 5.0),))
        fraction = torch.sigmoid((spot - self.uniform(2.0, 2.8)) * 8) * mask
        return image + fraction * (self.uniform(0, 1) - image)

    def surrounded(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Fluid, skull, scalp and air around the brain, in shells of random thickness."""
        far = smooth(mask, self.uniform(3.0, 4.5)) + 0.03 * self.noise((4.0,))
        inner, outer = self.uniform(0.18, 0.3), self.uniform(0.05, 0.1)
        skull, scalp = self.uniform(0.0, 0.25), self.uniform(0.3, 1.0)
        shell = torch.where(far > inner, image.new_tensor(skull), image.new_tensor(scalp))
        shell = torch.where(far > outer, shell, image.new_tensor(0.0))
        return image + (1 - mask) * smooth(shell, 0.5)

    def scanned(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Bias, blur, thick slices and noise; normalized as `preprocessing.normalize` does."""
        image = image * torch.exp(self.noise((14.0,)) * self.uniform(0, 0.15))
        image = smooth(image, self.uniform(0, 0.6))
        if self.chance(0.2):
            axis = int(self.uniform(0, 3))
            size = list(SIZE)
            size[axis] = round(SIZE[axis] / self.uniform(1.2, 2.2))
            image = F.interpolate(image, size=size, mode="area")
            image = F.interpolate(image, size=SIZE, mode="trilinear", align_corners=False)
        noise = self.white(SIZE)
        inside = (mask > 0.5).float()
        where = inside if self.chance(0.6) else 1.0  # a skull-stripped volume has no noise outside
        image = image + noise * self.uniform(0, 0.04) * where
        values = image[inside > 0]
        low, high = torch.quantile(values[:: max(1, len(values) // 50_000)], values.new_tensor([0.005, 0.995])).tolist()
        low = min(low, 0.0) if self.chance(0.6) else low
        return ((image - low) / max(high - low, 1e-3)).clamp(0, 1.2)


def _sample(source: torch.Tensor, deformation: torch.Tensor) -> torch.Tensor:
    """The 1 mm source on the training lattice, warped by `deformation`; both lattices have the same center."""
    size, fine = deformation.shape[2:], source.shape[2:]
    axes = [torch.arange(n, device=deformation.device) - (n - 1) / 2 for n in size]
    points = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + deformation[0]) * SPACING_MM  # mm from the center
    half = torch.tensor([(n - 1) / 2 for n in fine], device=deformation.device).view(3, 1, 1, 1)
    points = (points / half).flip(0).movedim(0, -1)[None]
    return F.grid_sample(source, points, mode="bilinear", padding_mode="zeros", align_corners=True)


def tone(image: torch.Tensor, values: list[float] | tuple[float, ...]) -> torch.Tensor:
    """Map intensities by the piecewise linear function with `values` at `_KNOTS`."""
    result = torch.full_like(image, float(values[0]))
    for low, high, start, end in zip(_KNOTS, _KNOTS[1:], values, values[1:]):
        result += ((image - low) / (high - low)).clamp(0, 1) * (end - start)
    return result
