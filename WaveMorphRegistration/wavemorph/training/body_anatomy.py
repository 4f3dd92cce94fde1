"""Random anatomies beyond the head: torsos, limbs and necks, organs in layers, shapes (ours).

An anatomy is a map of tissues on the training lattice, drawn from nothing but random numbers. Lengths are relative to
half the extent of a subject, to which the registration scales every body: 100 mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .synthetic_pairs import SIZE, SPACING_MM, Draw

_HALF_EXTENT_MM = 100.0
# Hounsfield units, and value in the noise-free images that the loss compares, where each tissue differs from the others
TISSUES: dict[str, tuple[float, float]] = {
    "air": (-1000, 0.0),
    "gas": (-950, 0.05),
    "lung": (-820, 0.2),
    "fat": (-100, 0.35),
    "fluid": (10, 0.3),
    "disc": (75, 0.42),
    "bowel": (30, 0.5),
    "muscle": (55, 0.57),
    "heart": (45, 0.66),
    "liver": (65, 0.72),
    "spleen": (50, 0.62),
    "kidney": (90, 0.8),
    "vessel": (80, 0.86),
    "marrow": (250, 0.76),
    "bone": (900, 1.0),
}
INDEX = {name: number for number, name in enumerate(TISSUES)}
FIRST_OTHER = len(TISSUES)  # tissues from here on have no name: muscles of a limb, layers of an organ, shapes
OTHERS = 14


@dataclass(frozen=True)
class Anatomy:
    """labels: uint8 (D, H, W), see `TISSUES` and `FIRST_OTHER`. hollow: bool (D, H, W), where bowel gas may be."""

    labels: torch.Tensor
    hollow: torch.Tensor

    def of_one_subject(self, draw: Draw) -> Anatomy:
        """The same with gas in the bowel and, in one of three, a mass, as only one subject has them."""
        labels = self.labels.clone()
        if self.hollow.any():
            gas = draw.noise((draw.uniform(1.5, 3.0),))[0, 0] > draw.uniform(0.8, 2.0)
            labels[gas & self.hollow] = INDEX["gas"]
        if draw.chance(0.3):
            mass = (draw.noise((draw.uniform(2.0, 5.0),))[0, 0] > draw.uniform(2.2, 3.0)) & (labels > INDEX["lung"])
            labels[mass] = FIRST_OTHER + OTHERS - 1
        return Anatomy(labels, self.hollow)


class Canvas:
    """Tissues that are painted over each other, in coordinates (z, y, x) of the body: cranial, anterior, right.

    The axes of the body lie along those of the lattice in any order, tilted a little, and are bent at random.
    """

    def __init__(self, draw: Draw, device: torch.device, is_inside: bool):
        """is_inside: whether the lattice shows a small part of the body, as a rule without air around it."""
        self.draw = draw
        size = draw.uniform(1.7, 2.6) if is_inside else draw.uniform(0.75, 1.1)
        axes = [(torch.arange(n, device=device) - (n - 1) / 2) * (SPACING_MM / _HALF_EXTENT_MM / size) for n in SIZE]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        bent = draw.noise((draw.uniform(8.0, 16.0),), 3)[0] * draw.uniform(0.02, 0.06)
        turned = _orientation(draw).to(device) @ points.flatten(1)
        shift = [draw.uniform(-0.3, 0.3) if is_inside else draw.uniform(-0.1, 0.1) for _ in range(3)]
        self.z, self.y, self.x = (axis + s for axis, s in zip(turned.view_as(points) + bent, shift))
        self.labels = torch.zeros(SIZE, dtype=torch.uint8, device=device)
        self.hollow = torch.zeros(SIZE, dtype=torch.bool, device=device)

    def paint(self, tissue: str | int, where: torch.Tensor) -> None:
        self.labels.masked_fill_(where, INDEX[tissue] if isinstance(tissue, str) else tissue)

    def ball(self, center: Sequence[float], radii: Sequence[float]) -> torch.Tensor:
        """Squared distance from the center in units of the radii, (z, y, x): below 1 inside an ellipsoid."""
        parts = ((axis - c) / r for axis, c, r in zip((self.z, self.y, self.x), center, radii))
        return sum((part.square() for part in parts), torch.zeros(()))

    def tube(self, y: float, x: float, radius: float) -> torch.Tensor:
        """Squared distance from a line along z in units of the radius."""
        return ((self.y - y) / radius).square() + ((self.x - x) / radius).square()

    def about(self, *values: float, share: float = 0.2) -> tuple[float, ...]:
        """The values, each changed at random by at most a share of it."""
        return tuple(value * (1 + share * self.draw.uniform(-1, 1)) for value in values)

    def branches(self, width: float) -> torch.Tensor:
        """Bool: thin branching lines, where two smooth noises are about zero at once."""
        sigma = self.draw.uniform(2.5, 4.0)
        first, second = (self.draw.noise((sigma,))[0, 0] for _ in range(2))
        return first.square() + second.square() < width**2

    def compartments(self, count: int, sigma_voxels: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(index of the largest of `count` smooth noises, how far it exceeds the second)."""
        noises = torch.cat([self.draw.noise((sigma_voxels,)) for _ in range(count)], 1)[0]
        most = noises.topk(2, dim=0)
        return most.indices[0], most.values[0] - most.values[1]

    def finished(self) -> Anatomy:
        return Anatomy(self.labels, self.hollow)


def paint_torso(canvas: Canvas) -> None:
    """Fat and skin, muscle, ribs, spine, lungs with vessels, heart, abdominal organs, bowel."""
    draw = canvas.draw
    width, depth = draw.uniform(0.95, 1.2), draw.uniform(0.6, 0.85)
    radius = ((canvas.x / width).square() + (canvas.y / depth).square()).sqrt()
    wall = 1 - draw.uniform(0.03, 0.16)
    cavity = radius < wall - draw.uniform(0.08, 0.14)
    border = draw.uniform(-0.6, 0.5)  # of thorax and abdomen
    dome = border + 0.15 - draw.uniform(0.2, 0.6) * ((canvas.x.abs() - 0.45).square() + canvas.y.square())
    in_thorax = canvas.z > dome
    canvas.paint("fat", radius < 1)
    canvas.paint("muscle", radius < wall)
    canvas.paint("fat", cavity)
    slope, distance = draw.uniform(0.2, 0.6), draw.uniform(16.0, 28.0)
    near_wall = ~cavity & (radius < wall - 0.03) & (canvas.z > border - 0.25)
    canvas.paint("bone", near_wall & (torch.sin(distance * (canvas.z + slope * canvas.y)) > 0.35))
    _paint_abdomen(canvas, cavity & ~in_thorax, border)
    _paint_thorax(canvas, cavity & in_thorax, border)
    _paint_spine(canvas, -0.68 * depth)


def paint_limb(canvas: Canvas) -> None:
    """A limb or a neck: skin and fat, muscles with fascia between them, one to three bones, vessels, an airway."""
    draw = canvas.draw
    width, depth = canvas.about(0.7, 0.65, share=0.25)
    radius = ((canvas.x / width).square() + (canvas.y / depth).square()).sqrt()
    canvas.paint("fat", radius < 1)
    muscles, ahead = canvas.compartments(4 + int(draw.uniform(0, 4)), draw.uniform(5.0, 9.0))
    inner = radius < draw.uniform(0.75, 0.95)
    labels = (FIRST_OTHER + muscles).to(torch.uint8)
    canvas.labels = torch.where(inner & (ahead > draw.uniform(0.05, 0.2)), labels, canvas.labels)
    if draw.chance(0.4):
        _paint_spine(canvas, -0.3 * depth)
        canvas.paint("gas", inner & (canvas.tube(0.35 * depth, 0.0, draw.uniform(0.06, 0.14)) < 1))
    else:
        for _ in range(1 + int(draw.uniform(0, 3))):
            at, size = (draw.uniform(-0.3, 0.3), draw.uniform(-0.3, 0.3)), draw.uniform(0.1, 0.25)
            _paint_bone(canvas, canvas.tube(*at, size), draw.uniform(0.4, 0.8))
    for _ in range(4):
        canvas.paint("vessel", canvas.tube(draw.uniform(-0.4, 0.4), draw.uniform(-0.4, 0.4), 0.04) < 1)


def paint_layers(canvas: Canvas) -> None:
    """An organ in layers, with folds, hollows and nuclei, alone or in a small animal."""
    draw = canvas.draw
    radii = canvas.about(0.85, 0.8, 0.75, share=0.25)
    folds = draw.noise((draw.uniform(2.0, 5.0),))[0, 0] * draw.uniform(0.01, 0.08)
    radius = canvas.ball((0, 0, 0), radii).sqrt() + folds
    if draw.chance(0.6):
        canvas.paint("fat", radius - folds < draw.uniform(1.15, 1.4))
        canvas.paint("muscle", radius - folds < draw.uniform(1.05, 1.3))
        canvas.paint("bone", radius - folds < draw.uniform(1.0, 1.15))
        canvas.paint("fluid", radius < 1.02)
    limit = 1.0
    for number in range(2 + int(draw.uniform(0, 4))):
        canvas.paint(FIRST_OTHER + number, radius < limit)
        limit *= draw.uniform(0.6, 0.95)
    parts, ahead = canvas.compartments(4, draw.uniform(4.0, 7.0))
    nuclei = (radius < 0.7) & (ahead > draw.uniform(0.5, 1.2))
    canvas.labels = torch.where(nuclei, (FIRST_OTHER + 6 + parts).to(torch.uint8), canvas.labels)
    hollow = draw.noise((draw.uniform(2.5, 5.0),))[0, 0] > draw.uniform(1.2, 2.5)
    canvas.paint("fluid", hollow & (radius < 0.6))


def paint_shapes(canvas: Canvas) -> None:
    """Random shapes, and thin lines between them."""
    draw = canvas.draw
    radius = canvas.ball((0, 0, 0), canvas.about(0.85, 0.85, 0.85)).sqrt()
    shapes, _ = canvas.compartments(3 + int(draw.uniform(0, 10)), draw.uniform(3.0, 8.0))
    canvas.labels = torch.where(radius < 1, (FIRST_OTHER + shapes).to(torch.uint8), canvas.labels)
    if draw.chance(0.4):
        canvas.paint("vessel", canvas.branches(draw.uniform(0.1, 0.3)) & (radius < 0.95))


PAINTERS = {"torso": paint_torso, "limb": paint_limb, "layers": paint_layers, "shapes": paint_shapes}


def draw_anatomy(draw: Draw, device: torch.device, kind: str, is_inside: bool) -> Anatomy:
    """A random anatomy of a kind in `PAINTERS`. is_inside: whether the lattice shows a small part of it."""
    canvas = Canvas(draw, device, is_inside)
    PAINTERS[kind](canvas)
    return canvas.finished()


def draw_rotation(draw: Draw, largest: float) -> torch.Tensor:
    """(3, 3): a random rotation, by at most `largest` radians about each axis."""
    a, b, c = (draw.uniform(-largest, largest) for _ in range(3))
    return torch.linalg.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]]))


def _orientation(draw: Draw) -> torch.Tensor:
    """(3, 3): the axes of the lattice in a random order and direction, tilted a little."""
    order = sorted(range(3), key=lambda axis: draw.uniform(0, 1))
    signs = torch.tensor([1.0 if draw.chance(0.5) else -1.0 for _ in range(3)])
    return draw_rotation(draw, 0.2) @ torch.diag(signs)[order]


def _paint_thorax(canvas: Canvas, cavity: torch.Tensor, border: float) -> None:
    draw = canvas.draw
    middle = canvas.x.abs() < draw.uniform(0.1, 0.22)
    heart = canvas.ball((border + 0.3, 0.15, -0.12), canvas.about(0.3, 0.28, 0.3))
    lungs = cavity & ~middle
    canvas.paint("lung", lungs)
    if draw.chance(0.8):
        canvas.paint("vessel", lungs & canvas.branches(draw.uniform(0.12, 0.35)))
    canvas.paint("heart", cavity & (heart < 1))
    canvas.paint("vessel", cavity & (heart < draw.uniform(0.2, 0.4)))
    canvas.paint("gas", cavity & (canvas.tube(-0.1, 0.0, 0.07) < 1))
    canvas.paint("vessel", cavity & (canvas.tube(-0.35, -0.12, draw.uniform(0.06, 0.12)) < 1))


def _paint_abdomen(canvas: Canvas, cavity: torch.Tensor, border: float) -> None:
    draw = canvas.draw
    loops = draw.noise((draw.uniform(3.0, 5.0),))[0, 0].abs() < draw.uniform(0.3, 0.8)
    hollow = cavity & loops & (canvas.z < border - 0.35) & (canvas.y > -0.25)
    canvas.paint("bowel", hollow)
    liver = canvas.ball((border - 0.15, 0.05, 0.42), canvas.about(0.45, 0.5, 0.55))
    canvas.paint("liver", cavity & (liver < 1))
    canvas.paint("vessel", cavity & (liver < 0.8) & canvas.branches(draw.uniform(0.05, 0.15)))
    stomach = canvas.ball((border - 0.2, 0.1, -0.4), canvas.about(0.25, 0.25, 0.3))
    canvas.paint("bowel", cavity & (stomach < 1))
    spleen = canvas.ball((border - 0.15, -0.3, -0.65), canvas.about(0.25, 0.2, 0.14))
    canvas.paint("spleen", cavity & (spleen < 1))
    for side in (-1, 1):
        kidney = canvas.ball((border - 0.5, -0.3, 0.35 * side), canvas.about(0.24, 0.12, 0.13))
        canvas.paint("kidney", cavity & (kidney < 1))
        canvas.paint("fluid", cavity & (kidney < 0.2))
    canvas.paint("vessel", cavity & (canvas.tube(-0.3, -0.08, draw.uniform(0.06, 0.1)) < 1))
    canvas.hollow |= hollow | (cavity & (stomach < 0.7))


def _paint_spine(canvas: Canvas, y: float) -> None:
    draw = canvas.draw
    radius, count = draw.uniform(0.12, 0.2), draw.uniform(14.0, 24.0)
    phase = torch.sin(count * canvas.z)
    behind = canvas.tube(y - 1.5 * radius, 0.0, 0.9 * radius)
    canvas.paint("bone", (behind < 1) & (phase < 0.2))
    canvas.paint("fluid", canvas.tube(y - 1.2 * radius, 0.0, 0.5 * radius) < 1)
    body = canvas.tube(y, 0.0, radius)
    _paint_bone(canvas, body, draw.uniform(0.6, 0.85))
    canvas.paint("disc", (body < 1) & (phase > draw.uniform(0.6, 0.85)))


def _paint_bone(canvas: Canvas, squared_radius: torch.Tensor, marrow: float) -> None:
    """Bone within a squared radius of 1, and marrow in it. marrow: fourth power of the radius of the marrow."""
    canvas.paint("bone", squared_radius < 1)
    canvas.paint("marrow", squared_radius < math.sqrt(marrow))
