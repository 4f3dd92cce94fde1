"""Right and wrong pairs of volumes, for the calibration of the verdict: real ones, and changed copies of them.

The volumes are those of a folder: brain_a_t1, brain_b_t1, head_a_t1, head_b_t1_contrast, head_template_t1,
head_a_pd_thick_slices (.nii.gz), and organs/NAME/{fixed,moving}.nii.gz. They are made coarser, so that a registration
takes seconds.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph.spatial.preprocessing import foreground
from wavemorph.training.known_deformation import Difference, SyntheticPair, make_pair

_VOXELS = 150_000  # of a volume, about
_HEADS = ("head_a_t1", "head_b_t1_contrast", "head_template_t1")
_BRAINS = ("brain_a_t1", "brain_b_t1")
_ORGANS = ("abdomen_ct", "lung_mr", "lung_ct_breathing", "cervical_spine_t2_t1", "mouse_brain")
Read = Callable[[str], sitk.Image]
Maker = Callable[["Read"], "Iterator[CalibrationPair]"]
_DIFFERENCES = {
    "plain": Difference(),
    "reversed contrast": Difference(reversed_contrast=True),
    "noise and bias": Difference(noise=0.08, bias=0.6),
    "lesion": Difference(lesion_mm=16.0),
    "large deformation": Difference(deformation_mm=7.0),
}


@dataclass(frozen=True)
class CalibrationPair:
    """One pair. right: whether it shows the same anatomy, and None where the known error decides.

    truth: fixed points -> moving points in LPS mm, where it is known. aligned: registered without the affine stage.
    """

    name: str
    kind: str
    right: bool | None
    fixed: sitk.Image
    moving: sitk.Image
    truth: sitk.Transform | None = None
    initial: sitk.Transform | None = None

    @property
    def for_tuning(self) -> bool:
        """Half of the pairs, by a checksum of the name; the figures are of the other half."""
        return zlib.crc32(self.name.encode()) % 2 == 0


def pairs(folder: Path, makers: Sequence[Maker] | None = None) -> Iterator[CalibrationPair]:
    """All pairs, or those of some of `MAKERS`, one at a time: each is made when it is asked for."""
    read = functools.lru_cache(maxsize=4)(lambda name: _coarser(sitk.ReadImage(str(folder / f"{name}.nii.gz"))))
    for maker in makers or MAKERS:
        yield from maker(read)


def _real(read: Read) -> Iterator[CalibrationPair]:
    chosen = [*itertools.permutations(_HEADS, 2), *itertools.permutations(_BRAINS)]
    chosen += [("brain_a_t1", "head_b_t1_contrast"), ("head_template_t1", "brain_b_t1")]
    chosen += [(name, "head_a_pd_thick_slices") for name in _HEADS]
    for organ in _ORGANS:
        chosen += itertools.permutations((f"organs/{organ}/fixed", f"organs/{organ}/moving"))
    for fixed, moving in chosen:
        yield CalibrationPair(f"{fixed} {moving}", "two scans", True, read(fixed), read(moving))


def _bases() -> list[str]:
    return [*_HEADS, *_BRAINS, *(f"organs/{name}/fixed" for name in _ORGANS[:3])]


def _synthetic(read: Read) -> Iterator[CalibrationPair]:
    for base, (kind, difference) in itertools.product(_bases(), _DIFFERENCES.items()):
        made = _changed_copy(read(base), difference, seed=zlib.crc32(f"{base} {kind}".encode()))
        yield CalibrationPair(f"{base} {kind}", kind, None, made.fixed, made.moving, made.truth)


def _cut(read: Read) -> Iterator[CalibrationPair]:
    """The moving volume shows only a part, or has few and thick slices."""
    for number, base in enumerate(_bases()):
        made = _changed_copy(read(base), Difference(obliqueness=4.0), seed=number)
        size, axis = made.moving.GetSize(), number % 3
        part = [slice(None)] * 3
        part[axis] = slice(0, int(0.6 * size[axis])) if number % 2 else slice(int(0.4 * size[axis]), None)
        yield CalibrationPair(f"{base} cut", "cut view", None, made.fixed, made.moving[tuple(part)], made.truth)
        slices = sitk.BinShrink(made.moving, [1, 1, 2])
        first = slices.GetSize()[2] // 3
        slab = slices[:, :, first : first + 12]
        yield CalibrationPair(f"{base} slab", "few slices", None, made.fixed, slab, made.truth)


def _of_other_organs(read: Read) -> Iterator[CalibrationPair]:
    shown = ["brain_a_t1", "head_b_t1_contrast", *(f"organs/{name}/moving" for name in _ORGANS)]
    for fixed, moving in itertools.permutations(shown, 2):
        both = {fixed, moving}
        if both == {"brain_a_t1", "head_b_t1_contrast"}:
            continue
        yield CalibrationPair(f"{fixed} {moving}", "another organ", False, read(fixed), read(moving))


def _damaged(read: Read) -> Iterator[CalibrationPair]:
    chosen = [_HEADS[:2], _BRAINS, *((f"organs/{organ}/fixed", f"organs/{organ}/moving") for organ in _ORGANS[:3])]
    for number, (fixed_name, moving_name) in enumerate(chosen):
        generator = np.random.default_rng(number)
        fixed, moving = read(fixed_name), read(moving_name)
        values, name = sitk.GetArrayFromImage(moving), f"{fixed_name} {moving_name}"
        shuffled = _like(values[generator.permutation(len(values))], moving)
        yield CalibrationPair(f"{name} shuffled", "slices in wrong order", False, fixed, shuffled)
        halves = _like(np.concatenate([values[len(values) // 2 :], values[: len(values) // 2]]), moving)
        yield CalibrationPair(f"{name} swapped", "slices in wrong order", False, fixed, halves)
        noise = _like(generator.normal(0, 1, values.shape).astype(np.float32), moving)
        yield CalibrationPair(f"{name} noise", "noise", False, fixed, noise)
        smooth = sitk.SmoothingRecursiveGaussian(noise, 3 * max(moving.GetSpacing()))
        yield CalibrationPair(f"{name} smooth noise", "noise", False, fixed, smooth)
        for factor, axis in ((2.0, 2), (0.5, number % 3)):
            yield CalibrationPair(
                f"{name} spacing {factor}", "wrong spacing", False, fixed, _stretched(moving, factor, axis)
            )
        mirrored = _like(values[:, :, ::-1], moving)
        yield CalibrationPair(f"{name} mirrored", "mirrored", False, fixed, mirrored)
        size = fixed.GetSize()[2], moving.GetSize()[2]
        lower, upper = fixed[:, :, : int(0.45 * size[0])], moving[:, :, int(0.55 * size[1]) :]
        yield CalibrationPair(f"{name} halves", "other half", False, lower, upper)


def _astray(read: Read) -> Iterator[CalibrationPair]:
    """The affine is given, and wrong by 10 mm and 15 degrees."""
    for number, base in enumerate(_bases()):
        generator = np.random.default_rng(100 + number)
        made = _changed_copy(read(base), Difference(), seed=200 + number)
        wrong = sitk.Euler3DTransform()
        wrong.SetCenter(made.fixed.TransformContinuousIndexToPhysicalPoint([n / 2 for n in made.fixed.GetSize()]))
        turn, shift = (generator.normal(size=3) for _ in range(2))
        wrong.SetRotation(*(np.radians(15) * turn / np.linalg.norm(turn)).tolist())
        wrong.SetTranslation((10 * shift / np.linalg.norm(shift)).tolist())
        parts = [made.truth.GetNthTransform(0), wrong]
        initial = sitk.CompositeTransform(parts)
        yield CalibrationPair(f"{base} astray", "affine astray", None, made.fixed, made.moving, made.truth, initial)


MAKERS = (_real, _synthetic, _cut, _of_other_organs, _damaged, _astray)


def _changed_copy(base: sitk.Image, difference: Difference, seed: int) -> SyntheticPair:
    """`make_pair` on a lattice about as fine as that of the volume. Its background is 0, so that of CT is made 0."""
    base = base - float(sitk.GetArrayViewFromImage(base).min())
    side = min(base.GetSpacing())
    return make_pair(base, replace(difference, spacing_mm=(side, side, 2 * side)), seed)


def _coarser(image: sitk.Image) -> sitk.Image:
    """The image with about `_VOXELS` voxels in its foreground's surroundings; each the mean of whole voxels."""
    target = (np.prod(np.multiply(image.GetSize(), image.GetSpacing())) / _VOXELS) ** (1 / 3)
    factors = [max(1, round(target / side)) for side in image.GetSpacing()]
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)


def _like(values: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(np.ascontiguousarray(values))
    result.CopyInformation(image)
    return result


def _stretched(image: sitk.Image, factor: float, axis: int) -> sitk.Image:
    result = sitk.Image(image)
    spacing = list(image.GetSpacing())
    spacing[axis] *= factor
    result.SetSpacing(spacing)
    return result


def error_mm(pair: CalibrationPair, transform: sitk.Transform, shown: bool = True) -> float:
    """The mean error in the fixed foreground, LPS mm, where the moving volume shows it; needs a known truth."""
    assert pair.truth is not None
    mask = foreground(pair.fixed)
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    chosen = indices[np.random.default_rng(0).integers(len(indices), size=1500)]
    points = [pair.fixed.TransformIndexToPhysicalPoint(index.tolist()) for index in chosen]
    truth = [pair.truth.TransformPoint(point) for point in points]
    found = np.array([transform.TransformPoint(point) for point in points])
    where = np.array([pair.moving.TransformPhysicalPointToContinuousIndex(point) for point in truth])
    inside = np.all((where >= 0) & (where <= np.array(pair.moving.GetSize()) - 1), axis=1)
    return float(np.linalg.norm(found - truth, axis=1)[inside].mean())
