"""Synthetic pairs of bodies with a known deformation, for a network beyond the head (ours).

Torsos, limbs, layered organs and shapes from `body_anatomy`, seen as CT or as MR, in whole or in part, with larger
deformations than heads have: bodies of two people are aligned rigidly before.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

import torch

from ..spatial.displacement import compose, exponentiate, resize, warp
from ..spatial.filters import smooth
from .body_anatomy import OTHERS, TISSUES, Anatomy, draw_anatomy, draw_rotation
from .synthetic_pairs import SIZE, SPACING_MM, Draw, TrainingPair

KINDS = {"torso": 0.45, "limb": 0.15, "layers": 0.2, "shapes": 0.2}  # fraction of the pairs
_SCALES_MM = (8.0, 16.0, 32.0, 60.0)
_NEAR_VOXELS = 2.0  # of the subject, where the loss compares


class SyntheticBodies:
    """`bodies[index]` is a `TrainingPair` that depends on the seed and the index alone."""

    spacing_mm = SPACING_MM

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu"):
        self._seed, self._device = seed, torch.device(device)

    def kind(self, index: int) -> str:
        """What the pair shows: a key of `KINDS`."""
        return self._begin(index)[1]

    def __getitem__(self, index: int) -> TrainingPair:
        draw, kind = self._begin(index)
        with torch.no_grad():
            first, second = draw_deformation(draw), draw_deformation(draw)
            truth = compose(_displacement(-1 * second), _displacement(first))  # fixed -> anatomy -> moving
            anatomy = draw_anatomy(draw, self._device, kind, is_inside=draw.chance(0.15))
            images, targets, near = self._scans(draw, anatomy, (_displacement(first), _displacement(second)))
            scanned = [torch.ones(1, 1, *SIZE, device=self._device) for _ in range(2)]
            for n, is_part in enumerate([draw.chance(0.5) for _ in range(2)]):
                if is_part:
                    images[n], scanned[n] = draw_part(draw, images[n])
            shown = scanned[0] * warp(scanned[1], truth, padding="zeros") > 0.99
            weight = shown & (smooth(near[0] + near[1], _NEAR_VOXELS) > 0.05)
            return TrainingPair(images[0], images[1], targets[0], targets[1], weight.float(), truth)

    def _begin(self, index: int) -> tuple[Draw, str]:
        draw = Draw(self._seed * 1_000_003 + index, self._device)
        limits = list(accumulate(KINDS.values()))
        number = bisect_right(limits, draw.uniform(0, limits[-1]))
        return draw, list(KINDS)[min(number, len(KINDS) - 1)]

    def _scans(self, draw: Draw, anatomy: Anatomy, deformations: tuple[torch.Tensor, torch.Tensor]):
        """(images, targets, outlines) of both subjects."""
        is_one_person = draw.chance(0.35)
        is_ct = draw.chance(0.4)
        tones = draw_tones(draw, is_ct).to(self._device)
        others = tones if draw.chance(0.65) else draw_tones(draw, draw.chance(0.3)).to(self._device)
        clean = draw_clean_tones(draw).to(self._device)
        texture = draw.noise((draw.uniform(1.0, 2.5),)) * draw.uniform(0.0, 0.06)
        images, targets, outlines = [], [], []
        for deformation, shown in zip(deformations, (tones, others)):
            labels = (anatomy if is_one_person else anatomy.of_one_subject(draw)).labels.long()
            inside = (labels > 0)[None, None].float()
            values = torch.cat([clean[labels][None, None], shown[labels][None, None]], 1)
            values = torch.cat([smooth(values + texture * inside, 0.5), inside], 1)
            target, image, outline = warp(values, deformation).split(1, 1)
            targets.append(target)
            outlines.append(outline)
            images.append(draw.scanned(image, outline))
        return images, targets, outlines


def draw_clean_tones(draw: Draw) -> torch.Tensor:
    """(tissues,): the contrast that the loss compares, in which every tissue differs from its neighbors."""
    named = [value + 0.04 * draw.uniform(-1, 1) * (value > 0.1) for _, value in TISSUES.values()]
    return torch.tensor(named + [draw.uniform(0.1, 1.0) for _ in range(OTHERS)])


def draw_tones(draw: Draw, is_ct: bool) -> torch.Tensor:
    """(tissues,): the contrast of a scan, like CT in a random window or like MR."""
    if not is_ct:
        dark = {"air": 0.02, "gas": 0.03, "lung": 0.15, "bone": 0.25}  # largest signal of what gives little
        named = [draw.uniform(0, dark[name]) if name in dark else draw.uniform(0.15, 1.0) for name in TISSUES]
        return torch.tensor(named + [draw.uniform(0.1, 1.0) for _ in range(OTHERS)])
    low, high = (-1000, draw.uniform(300, 1200)) if draw.chance(0.7) else (draw.uniform(-300, -150), 300)
    enhanced = draw.uniform(0, 200)
    units = [hu + 15 * draw.uniform(-1, 1) + (enhanced if name == "vessel" else 0) for name, (hu, _) in TISSUES.items()]
    units += [draw.uniform(-150, 300) for _ in range(OTHERS)]
    return ((torch.tensor(units) - low) / (high - low)).clamp(0, 1)


def draw_deformation(draw: Draw) -> torch.Tensor:
    """A random velocity on a lattice half as fine, in its voxels: smooth at several extents, and nearly linear.

    In one of six the inner part slides along the outer one.
    """
    half, voxel = tuple(n // 2 for n in SIZE), 2 * SPACING_MM
    amplitudes = [mm**0.8 * draw.uniform(0.2, 1.0) for mm in _SCALES_MM]
    velocity = draw.noise(tuple(mm / voxel / 2 for mm in _SCALES_MM), 3, half, amplitudes)
    length = draw.uniform(0.8, 3.0) if draw.chance(0.65) else draw.uniform(3.0, 5.0)  # mm, of one axis
    velocity = velocity * (length / voxel / velocity.std())
    axes = [torch.arange(n, device=velocity.device) - (n - 1) / 2 for n in half]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    linear = torch.tensor([[draw.uniform(-0.05, 0.05) for _ in range(3)] for _ in range(3)], device=velocity.device)
    velocity = velocity + torch.einsum("ab,nbkji->nakji", linear, points)
    if draw.chance(1 / 6):
        radius = sum((axis / draw.uniform(9.0, 16.0)) ** 2 for axis in points[0]).sqrt()
        along = int(draw.uniform(0, 3))
        velocity[:, along] += draw.uniform(-8.0, 8.0) / voxel * smooth((radius < 1)[None, None].float(), 0.7)[:, 0]
    return velocity


def draw_part(draw: Draw, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(image, where it was scanned) of a scan that shows a box of the lattice, a little oblique to it.

    Beyond the box the values of its faces are continued, as on the working grid of a registration.
    """
    turn = draw_rotation(draw, 0.12).to(image.device)
    axes = [torch.arange(n, device=image.device) - (n - 1) / 2 for n in SIZE]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    turned = torch.einsum("ab,bkji->akji", turn, points)
    scanned, kept = torch.ones(SIZE, dtype=torch.bool, device=image.device), []
    for axis, n in enumerate(SIZE):
        first, last = (-n * draw.uniform(0.25, 0.48) if draw.chance(0.4) else -math.inf, math.inf)
        if draw.chance(0.4):
            last = n * draw.uniform(0.25, 0.48)
        scanned &= (turned[axis] >= first) & (turned[axis] <= last)
        kept.append(turned[axis].clamp(first, last))
    back = torch.einsum("ba,bkji->akji", turn, torch.stack(kept))
    return warp(image, (back - points)[None]), scanned[None, None].float()


def _displacement(velocity: torch.Tensor) -> torch.Tensor:
    return resize(exponentiate(velocity), SIZE)
