"""Pairs of volumes with a known map, drawn at random, for the calibration of the expected error.

Volumes are those of the folder that `verdict_pairs.py` names, the template of nilearn, generated torsos, and synthetic
pairs of two subjects. Half of the volumes are used for fitting only, the other half for the figures only.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph.io.result import displacement_transform
from wavemorph.spatial.grid import WorkingGrid, image_from_tensor
from wavemorph.training.known_deformation import Difference, make_pair
from wavemorph.training.synthetic_pairs import SIZE, SPACING_MM, SyntheticPairs, load_template

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bodies import torso

KINDS = ("same contrast", "across contrasts", "lesion", "cut view")
TWO_SUBJECTS = "two subjects"
_FITTING = (
    "template",
    "brain_a_t1",
    "head_a_t1",
    "head_template_t1",
    "organs/abdomen_ct/fixed",
    "organs/lung_mr/fixed",
    "organs/mouse_brain/fixed",
    "torso 0",
    "torso 1",
    "torso 2",
    "two brains",
    "two brains",
    "two shapes",
)
_FIGURES = (
    "brain_b_t1",
    "head_b_t1_contrast",
    "organs/lung_mr/moving",
    "organs/lung_ct_breathing/fixed",
    "organs/cervical_spine_t2_t1/fixed",
    "organs/mouse_brain/moving",
    "torso 8",
    "torso 9",
    "two brains",
    "head_a_pd_thick_slices",
)
_SEEDS = {True: 1000, False: 50000}
_SHAPES = {"two brains": 0.0, "two shapes": 1.0}  # fraction of pairs of random shapes
_MOUSE_FACTOR = 12.0  # by which mice are enlarged: deformations are drawn in millimeters of a head
_TORSO_SIDE = 96
_HEAD_MM = 200.0
_FEW_VOXELS, _MANY_VOXELS = (3e5, 2e6), 7e6


@dataclass(frozen=True)
class PairWithTruth:
    """truth: fixed points -> moving points, LPS mm. known: mask of the fixed voxels where it is known, None for all."""

    name: str
    kind: str
    fixed: sitk.Image
    moving: sitk.Image
    truth: sitk.Transform
    known: sitk.Image | None
    seed: int


def pairs(folder: Path, fitting: bool, count: int) -> Iterator[PairWithTruth]:
    """The first `count` pairs for fitting or for the figures, all kinds in turn."""
    bases = _FITTING if fitting else _FIGURES
    for number in range(count):
        base, kind = bases[number % len(bases)], KINDS[number // len(bases) % len(KINDS)]
        seed = _SEEDS[fitting] + number
        if base in _SHAPES:
            yield _two_subjects(base, seed)
        else:
            yield _changed_copy(folder, base, kind, seed)


def _two_subjects(base: str, seed: int) -> PairWithTruth:
    pair = _synthetic_pairs(_SHAPES[base])[seed]
    size, direction = SIZE[::-1], np.diag([-1.0, -1.0, 1.0])
    origin = -direction @ (np.array(size) - 1) * SPACING_MM / 2
    grid = WorkingGrid(size, (SPACING_MM,) * 3, tuple(origin.tolist()), direction)
    known = image_from_tensor((pair.fixed_target[0, 0] > 0.02).float(), grid) > 0.5
    fixed, moving = (image_from_tensor(image[0, 0], grid) for image in (pair.fixed, pair.moving))
    truth = displacement_transform(grid.to_mm(pair.truth))
    return PairWithTruth(f"{base} {seed}", TWO_SUBJECTS, fixed, moving, truth, known, seed)


@functools.lru_cache(maxsize=2)
def _synthetic_pairs(shapes: float) -> SyntheticPairs:
    return SyntheticPairs(_template(), seed=77, shapes=shapes)


@functools.lru_cache(maxsize=1)
def _template():
    return load_template()


def _changed_copy(folder: Path, base: str, kind: str, seed: int) -> PairWithTruth:
    generator = np.random.default_rng(seed)
    image = _read(folder, base)
    voxels = float(np.exp(generator.uniform(*np.log(_FEW_VOXELS)))) if generator.random() < 0.85 else _MANY_VOXELS
    image = _coarser(image, voxels)
    image = image - float(sitk.GetArrayViewFromImage(image).min())  # the background of `make_pair` is 0
    extent = np.prod(np.multiply(image.GetSize(), image.GetSpacing())) ** (1 / 3) / _HEAD_MM
    pair = make_pair(image, _difference(generator, image, kind, min(1.5, max(0.3, extent))), seed)
    moving = pair.moving
    if kind == "across contrasts" and generator.random() < 0.5:
        moving = _with_other_tones(moving, generator)
    if kind == "cut view":
        axis = int(generator.integers(3))
        count, kept = moving.GetSize()[axis], generator.uniform(0.55, 0.85)
        part = [slice(None)] * 3
        lower = generator.random() < 0.5
        part[axis] = slice(0, int(kept * count)) if lower else slice(int((1 - kept) * count), None)
        moving = moving[tuple(part)]
    return PairWithTruth(f"{base} {seed}", kind, pair.fixed, moving, pair.truth, None, seed)


def _difference(generator: np.random.Generator, image: sitk.Image, kind: str, scale: float) -> Difference:
    spacing = [float(step) for step in np.array(image.GetSpacing()) * generator.uniform(0.9, 1.3, 3)]
    if generator.random() < 0.25:
        spacing[2] *= generator.uniform(1.5, 3)
    return Difference(
        deformation_mm=generator.uniform(1, 6) * scale,
        scales_mm=(generator.uniform(30, 60) * scale, generator.uniform(14, 28) * scale),
        rotation=generator.uniform(1, 10),
        translation_mm=generator.uniform(1, 8) * scale,
        scale=generator.uniform(0, 0.05),
        spacing_mm=tuple(spacing),
        obliqueness=generator.uniform(0, 10),
        gamma=generator.uniform(0.6, 1.7),
        bias=generator.uniform(0, 0.5),
        noise=generator.choice([0.005, 0.02, 0.04, 0.08]),
        reversed_contrast=kind == "across contrasts",
        lesion_mm=generator.uniform(8, 20) * scale if kind == "lesion" else 0.0,
    )


def _with_other_tones(image: sitk.Image, generator: np.random.Generator) -> sitk.Image:
    """Intensities along a random curve that may rise and fall; the background stays dark."""
    values = sitk.GetArrayFromImage(image).astype(np.float32) / 1000
    knots, tones = np.sort(generator.uniform(0.08, 1.1, 4)), generator.uniform(0.1, 1, 4)
    values = 1000 * np.interp(values, [0, 0.03, *knots], [0, 0.03, *tones])
    changed = sitk.GetImageFromArray(values.astype(np.float32))
    changed.CopyInformation(image)
    return changed


def _read(folder: Path, base: str) -> sitk.Image:
    if base == "template":
        array = _template().float()[0, 0]
        grid = WorkingGrid(tuple(reversed(array.shape)), (1.0,) * 3, (0.0,) * 3, np.diag([-1.0, -1.0, 1.0]))
        return image_from_tensor(array * 1000, grid)
    if base.startswith("torso"):
        return torso(_TORSO_SIDE, np.random.default_rng(int(base.split()[1])))
    image = sitk.ReadImage(str(folder / f"{base}.nii.gz"), sitk.sitkFloat32)
    if "mouse" in base:
        image.SetSpacing([_MOUSE_FACTOR * step for step in image.GetSpacing()])
        image.SetOrigin([_MOUSE_FACTOR * value for value in image.GetOrigin()])
    return image


def _coarser(image: sitk.Image, voxels: float) -> sitk.Image:
    target = (np.prod(np.multiply(image.GetSize(), image.GetSpacing())) / voxels) ** (1 / 3)
    return sitk.BinShrink(image, [max(1, round(target / step)) for step in image.GetSpacing()])
