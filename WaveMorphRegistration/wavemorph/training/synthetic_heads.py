"""Labeled crops of synthetic heads at 1 mm, made from one atlas, with random shape and contrast (ours).

As in SynthSeg (Billot et al., Medical Image Analysis 2023), but over half of the contrasts resemble T1. The template is
a brain without head: fluid, skull, scalp, face and neck are drawn at random. Crop n depends on the seed and n alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..network.segmentation import STRUCTURES
from ..spatial.displacement import gradient
from ..spatial.filters import smooth
from .brain_atlas import Atlas
from .synthetic_pairs import T1_TONES, Draw, tone

SIZE = (96, 112, 96)
_SCALES_MM = ((6.0, 1.1), (12.0, 1.8), (24.0, 3.0), (48.0, 4.0))  # smoothness and length of the deformations
_T1 = (0.12, 0.88, 0.52, 0.10, 0.50, 0.82, 0.78, 0.70, 0.56, 0.60, 0.76, 0.53)  # of STRUCTURES
_WHITE, _CORTEX, _VENTRICLES = (STRUCTURES.index(name) for name in ("white matter", "cortex", "ventricles"))


@dataclass(frozen=True)
class Crop:
    """One training example of the segmentation network.

    Attributes:
        image: (1, 1, D, H, W), about [0, 1].
        probabilities: (1, len(STRUCTURES), D/2, H/2, W/2), the fraction of each structure in each voxel.
    """

    image: torch.Tensor
    probabilities: torch.Tensor


class LabeledCrops:
    """`crops[index]` is a `Crop` that depends on the seed and the index alone."""

    spacing_mm = 1.0

    def __init__(self, atlas: Atlas, seed: int = 0, device: torch.device | str = "cpu", size=SIZE):
        self._intensities = atlas.intensities.to(device)
        self._labels, self._depths = atlas.labels.to(device), atlas.depths.to(device)
        self._outside = atlas.outside.to(device)
        self._center = torch.tensor(atlas.center, device=device).view(3, 1, 1, 1)
        self._seed, self._device, self._size = seed, torch.device(device), size

    def __getitem__(self, index: int) -> Crop:
        draw = Draw(self._seed * 1_000_003 + index, self._device)
        with torch.no_grad():
            whole_head = draw.chance(0.5)
            points = self._random_points(draw, whole_head)
            t1, mask = _sample(self._intensities, points).split(1, 1)
            labels = _sample(self._labels, points, mode="nearest")[0, 0].long()
            outside = _sample(self._outside, points, step=2.0, padding_mode="border")
            refold = draw.chance(0.75)
            if refold:
                depths = _sample(self._depths, points, padding_mode="border").split(1, 1)
                labels = self._with_new_folds(draw, labels, *depths)
            else:
                labels = self._with_wider_sulci(draw, labels, t1)
            probabilities = F.one_hot(labels, len(STRUCTURES)).movedim(-1, 0)[None].float()
            image, fluid = self._brain(draw, None if refold else t1, mask, probabilities)
            image = image * (1 + draw.noise((draw.uniform(1.5, 6),), 1, self._size) * draw.uniform(0, 0.06))
            image = self._lesion(draw, image, mask)
            if whole_head:
                image, visible = self._head(draw, image, mask, outside, points + self._center, fluid)
            else:
                image, visible = self._stripped(draw, image, mask, outside, fluid)
            return Crop(self._scanned(draw, image, visible), F.avg_pool3d(probabilities, 2))

    def _random_points(self, draw: Draw, whole_head: bool) -> torch.Tensor:
        """(3, D, H, W): the points of the template that a randomly deformed crop shows, mm from its center."""
        size = self._size
        bend = torch.zeros(1, 3, *(n // 2 for n in size), device=self._device)
        for smoothness, length in _SCALES_MM:
            drawn = draw.noise((smoothness / 4,), 3, tuple(bend.shape[2:]))
            bend = bend + drawn * length * draw.uniform(0.3, 1.1)
        bend = F.interpolate(bend, size=size, mode="trilinear", align_corners=False)[0]
        tilt = 30 if draw.chance(0.3) else 12
        matrix = torch.eye(3, device=self._device)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            angle = math.radians(draw.uniform(-tilt, tilt))
            rotation = torch.eye(3, device=self._device)
            rotation[a, a] = rotation[b, b] = math.cos(angle)
            rotation[a, b], rotation[b, a] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ rotation
        scaling = [[draw.uniform(0.82, 1.22) if a == b else 0.0 for b in range(3)] for a in range(3)]
        shear = [[draw.uniform(-0.06, 0.06) + (a == b) for b in range(3)] for a in range(3)]
        matrix = matrix @ torch.tensor(scaling, device=self._device) @ torch.tensor(shear, device=self._device)
        lowest = -90 if whole_head else -45
        center = torch.tensor([draw.uniform(lowest, 45), draw.uniform(-50, 50), draw.uniform(-36, 36)])
        axes = [torch.arange(n, device=self._device) - (n - 1) / 2 for n in size]
        nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return (matrix @ nodes.reshape(3, -1)).view_as(nodes) + bend + center.to(self._device).view(3, 1, 1, 1)

    def _with_wider_sulci(self, draw: Draw, labels: torch.Tensor, t1: torch.Tensor) -> torch.Tensor:
        """The template, a mean of many brains, shows few sulci: dark cortex becomes fluid, below a random threshold."""
        threshold = draw.uniform(0.46, 0.65) + 0.04 * draw.noise((draw.uniform(1.5, 4),), 1, self._size)
        return torch.where((labels == _CORTEX) & (t1 < threshold)[0, 0], torch.zeros_like(labels), labels)

    def _with_new_folds(self, draw: Draw, labels: torch.Tensor, depth: torch.Tensor, to_ventricles: torch.Tensor):
        """Cortical folds that the template, a mean of many brains, does not have; ventricles of random size.

        The surface of the white matter is displaced at random and covered by a ribbon of cortex, then by fluid. The
        ribbon is thinner between folds.
        """
        size = self._size
        depth = depth + draw.noise((draw.uniform(1.6, 4),), 1, size) * draw.uniform(0.3, 1.8)
        depth = depth + draw.noise((draw.uniform(5, 9),), 1, size) * draw.uniform(0, 1) + draw.uniform(-1.2, 0.6)
        thickness = draw.uniform(1.8, 3.6) + 0.3 * draw.noise((6.0,), 1, size)
        between = 1 - gradient(depth).pow(2).sum(1, keepdim=True).sqrt().clamp(max=1)
        ribbon = depth < thickness - between * draw.uniform(0, 1.2)
        layers = torch.where(depth < 0, _WHITE, torch.where(ribbon, _CORTEX, 0))[0, 0]
        labels = torch.where((labels == _WHITE) | (labels == _CORTEX), layers, labels)
        grown = draw.uniform(-3, 7) + draw.noise((6.0,), 1, size)
        return torch.where((labels == _WHITE) & (to_ventricles < grown)[0, 0], _VENTRICLES, labels)

    def _brain(self, draw: Draw, t1: torch.Tensor | None, mask: torch.Tensor, probabilities: torch.Tensor):
        """(brain in a random contrast, intensity of fluid). t1: the template's, if the labels are its own."""

        def varied(values, width):
            return [value + width * draw.uniform(-1, 1) for value in values]

        kind = draw.uniform(0, 1)
        if kind < 0.25 and t1 is not None:
            tones = varied(T1_TONES, 0.06)
            return tone(t1, tones) * mask, tones[1]
        if kind < 0.62:
            values = varied(_T1, 0.07)
            values[0] = draw.uniform(0.05, 0.38)  # narrow sulci contain some tissue, unlike the ventricles
        elif kind < 0.72:
            values = varied([1 - value for value in _T1], 0.1)
        elif kind < 0.80:  # like proton density: gray a little brighter than white
            values = varied([0.75 + 0.4 * (0.7 - value) for value in _T1], 0.05)
        else:
            values = [draw.uniform(0.03, 1) for _ in STRUCTURES]
            if draw.chance(0.5):
                values[3] = values[0] + 0.05 * draw.uniform(-1, 1)
            if draw.chance(0.5):
                values[4] = values[2] + 0.05 * draw.uniform(-1, 1)
                values[5] = values[1] + 0.05 * draw.uniform(-1, 1)
        image = (probabilities * torch.tensor(values, device=self._device).view(1, -1, 1, 1, 1)).sum(1, keepdim=True)
        image = smooth(image, draw.uniform(0.35, 0.8))
        if kind < 0.62 and t1 is not None:
            own = draw.uniform(0, 0.35)
            image = (1 - own) * image + own * tone(t1, T1_TONES)
        return image * mask, values[0]

    def _lesion(self, draw: Draw, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if not draw.chance(0.12):
            return image
        spot = draw.noise((draw.uniform(3, 9),), 1, self._size)
        fraction = torch.sigmoid((spot - draw.uniform(2.0, 2.8)) * 8) * mask
        return image + fraction * (draw.uniform(0, 1) - image)

    def _stripped(self, draw: Draw, image, mask, outside, fluid):
        """(skull-stripped brain, its mask), with a rim of fluid of random width, as skull stripping leaves it."""
        width = draw.uniform(-1, 3) + draw.noise((6.0,), 1, self._size)
        kept = ((outside < width) | (mask > 0.5)).float()
        rim = fluid + draw.uniform(0, 0.2) * draw.noise((1.5,), 1, self._size).abs()
        return (image + (1 - mask) * rim) * kept, kept > 0.5

    def _head(self, draw: Draw, image, mask, outside, mm, fluid):
        """Fluid, skull with marrow, scalp, and below the brain random tissue of face and neck; air outside."""
        deep = outside + draw.uniform(0.5, 2) * draw.noise((draw.uniform(3, 8),), 1, self._size)
        skull = draw.uniform(0.5, 5) + draw.uniform(0, 1) * draw.noise((12.0,), 1, self._size)
        thick = draw.uniform(3, 9)
        scalp = skull + thick
        end = scalp + draw.uniform(3, 11)
        bone, fat, marrow = draw.uniform(0, 0.2), draw.uniform(0.3, 1.4), draw.uniform(0.1, 1)
        around = torch.full_like(image, fluid)
        around = torch.where(deep > skull, around.new_tensor(bone), around)
        if draw.chance(0.6):
            inside = (deep > skull + 0.3 * thick) & (deep < skull + 0.75 * thick)
            around = torch.where(inside, around.new_tensor(marrow), around)
        around = torch.where(deep > scalp, around.new_tensor(fat), around)
        z, y, x = (part[None, None] for part in mm)
        wobble = 8 * draw.noise((8.0,), 1, self._size)
        below = (z + wobble < draw.uniform(-45, -15)) & ((x / 72) ** 2 + ((y - 10) / 100) ** 2 < 1)
        below = below & (deep > skull + draw.uniform(1, 4))
        if below.any():
            maps = torch.cat([draw.noise((draw.uniform(2.5, 8),), 1, self._size) for _ in range(5)], 1)
            values = [bone, draw.uniform(0.2, 0.7), draw.uniform(0.2, 0.7), fat, draw.uniform(0, 0.1)]
            neck = torch.tensor(values, device=self._device)[maps.argmax(1, keepdim=True)]
            around = torch.where(below, neck, around)
        visible = (deep < end) | below
        around = smooth(around * visible, draw.uniform(0.3, 0.8))
        around = around * (1 + 0.15 * draw.noise((draw.uniform(1.5, 5),), 1, self._size))
        return image + (1 - mask) * around.clamp(min=0), visible

    def _scanned(self, draw: Draw, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Bias, blur, thick slices and noise; normalized about as `preprocessing.normalize` does."""
        size = self._size
        image = image + draw.noise((2.5,), 1, size) * draw.uniform(0, 0.05) * visible
        image = image * torch.exp(draw.noise((28.0,), 1, size) * draw.uniform(0, 0.18))
        if draw.chance(0.25):
            axis, coarse = int(draw.uniform(0, 3)), list(size)
            coarse[axis] = round(size[axis] / draw.uniform(1.3, 4))
            image = F.interpolate(image, size=coarse, mode="area")
            image = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
        if draw.chance(0.6):
            image = smooth(image, draw.uniform(0, 1.1))
        where = visible if draw.chance(0.6) else torch.ones_like(visible)
        image = image + draw.white(size) * draw.uniform(0, 0.05) * where
        values = image[visible] if int(visible.sum()) > 1000 else image.flatten()
        low, high = torch.quantile(values[:: max(1, len(values) // 50_000)], values.new_tensor([0.005, 0.995])).tolist()
        low = min(low, 0.0) if draw.chance(0.6) else low
        high = low + (high - low) * draw.uniform(0.85, 1.2)
        return ((image - low) / max(high - low, 1e-3)).clamp(0, 1.2)


def _sample(source: torch.Tensor, points: torch.Tensor, step: float = 1.0, **how) -> torch.Tensor:
    """`source`, voxels of `step` mm, at points in mm from its center."""
    half = torch.tensor([(n - 1) / 2 * step for n in source.shape[2:]], device=points.device).view(3, 1, 1, 1)
    grid = (points / half).flip(0).movedim(0, -1)[None]
    return F.grid_sample(source, grid, align_corners=True, **{"mode": "bilinear", "padding_mode": "zeros", **how})
