"""Pairs with a known deformation: a volume, and a copy with a random diffeomorphism, other contrast and geometry.

Used by the demo, the tests and the benchmark, not by the registration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ..io.result import displacement_transform
from ..spatial.displacement import exponentiate
from ..spatial.filters import smooth
from ..spatial.grid import WorkingGrid, array_from_tensor, make_working_grid, tensor_from_array
from ..spatial.preprocessing import bounding_box, foreground


@dataclass(frozen=True)
class Difference:
    """How the moving volume differs from the fixed one.

    Attributes:
        deformation_mm: root-mean-square displacement of the diffeomorphism, mm.
        scales_mm: scales of the smooth fields that it is built from, mm.
        rotation: largest angle of the affine about each axis, degrees.
        translation_mm: largest translation along each axis, mm.
        scale: largest relative change of scale along each axis.
        spacing_mm: of the moving lattice, mm along (i, j, k).
        obliqueness: largest angle of the moving lattice about each axis, degrees.
        gamma: exponent applied to the intensities.
        reversed_contrast: bright tissue becomes dark, as from T1 to T2.
        bias: amplitude of the bias field, relative to the brightest intensity.
        noise: standard deviation of the noise, relative to the brightest intensity.
        lesion_mm: mean radius of an irregular blob that only the moving volume has, mm; 0 for none.
    """

    deformation_mm: float = 4.0
    scales_mm: tuple[float, ...] = (40.0, 20.0)
    rotation: float = 8.0
    translation_mm: float = 8.0
    scale: float = 0.05
    spacing_mm: tuple[float, float, float] = (0.9, 0.9, 1.8)
    obliqueness: float = 15.0
    gamma: float = 1.6
    reversed_contrast: bool = False
    bias: float = 0.3
    noise: float = 0.02
    lesion_mm: float = 0.0


@dataclass(frozen=True)
class SyntheticPair:
    """A pair of volumes with its true transform.

    Attributes:
        fixed: the given volume.
        moving: its deformed copy.
        truth: fixed points -> moving points, LPS mm.
        inverse_truth: moving points -> fixed points, LPS mm.
        foreground: mask of the fixed volume, where errors are measured.
    """

    fixed: sitk.Image
    moving: sitk.Image
    truth: sitk.Transform
    inverse_truth: sitk.Transform
    foreground: sitk.Image

    def error_mm(self, transform: sitk.Transform, points: int = 5000, seed: int = 0) -> np.ndarray:
        """|transform(x) - truth(x)| in mm at random voxels x of the fixed foreground."""
        nodes = np.argwhere(sitk.GetArrayViewFromImage(self.foreground) > 0)[:, ::-1]
        chosen = nodes[np.random.default_rng(seed).integers(len(nodes), size=points)]
        errors = []
        for index in chosen:
            point = self.fixed.TransformIndexToPhysicalPoint(index.tolist())
            errors.append(np.subtract(transform.TransformPoint(point), self.truth.TransformPoint(point)))
        return np.linalg.norm(errors, axis=1)


def make_pair(fixed: sitk.Image, difference: Difference | None = None, seed: int = 0) -> SyntheticPair:
    """A pair of `fixed` and a copy of it that is changed at random as `difference` says."""
    difference = difference or Difference()
    generator = np.random.default_rng(seed)
    mask = foreground(fixed)
    grid = make_working_grid(fixed, bounding_box(mask), max(2.0, *fixed.GetSpacing()), margin_mm=16.0)
    velocity = _random_velocity(grid, difference, generator)
    forward, backward = grid.to_mm(exponentiate(velocity)), grid.to_mm(exponentiate(-velocity))
    affine = _random_affine(mask, difference, generator)
    truth = sitk.CompositeTransform([affine, displacement_transform(forward)])
    inverse_truth = sitk.CompositeTransform([displacement_transform(backward), affine.GetInverse()])

    lattice = _oblique_lattice(fixed, affine, difference, generator)
    source = sitk.Cast(fixed, sitk.sitkFloat32)
    clean = sitk.Resample(source, lattice, inverse_truth, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    subject = sitk.Resample(mask, lattice, inverse_truth, sitk.sitkNearestNeighbor, 0)
    moving = _rescanned(clean, subject, difference, generator)
    return SyntheticPair(fixed, moving, truth, inverse_truth, mask)


def _random_velocity(grid: WorkingGrid, difference: Difference, generator: np.random.Generator) -> torch.Tensor:
    """(1, 3, D, H, W) in voxels, zero at the border of the grid."""
    velocity = torch.zeros(1, 3, *grid.shape)
    taper = torch.ones(1, 1, *grid.shape)
    for axis, n in enumerate(grid.shape):
        distance = torch.arange(n).minimum(torch.arange(n).flip(0)) * grid.spacing[2 - axis]
        taper = taper * (distance / 12.0).clamp(max=1).view([n if a == axis + 2 else 1 for a in range(5)])
    for scale in difference.scales_mm:
        noise = tensor_from_array(generator.standard_normal(velocity.shape))
        smoothed = smooth(noise, scale / 2 / max(grid.spacing))
        velocity += smoothed / smoothed.pow(2).sum(1).mean().sqrt() * (scale / max(difference.scales_mm))
    velocity *= taper
    rms = float(velocity.pow(2).sum(1).mean().sqrt())
    return velocity * (difference.deformation_mm / max(grid.spacing) / rms)


def _random_affine(mask: sitk.Image, difference: Difference, generator: np.random.Generator) -> sitk.AffineTransform:
    first, last = bounding_box(mask)
    center = mask.TransformContinuousIndexToPhysicalPoint(((first + last) / 2).tolist())
    affine = sitk.AffineTransform(3)
    affine.SetCenter(center)
    rotation = _rotation(np.radians(generator.uniform(-1, 1, 3) * difference.rotation))
    scaling = np.diag(1 + generator.uniform(-1, 1, 3) * difference.scale)
    affine.SetMatrix((rotation @ scaling).ravel().tolist())
    affine.SetTranslation((generator.uniform(-1, 1, 3) * difference.translation_mm).tolist())
    return affine


def _oblique_lattice(
    fixed: sitk.Image, affine: sitk.AffineTransform, difference: Difference, generator: np.random.Generator
) -> sitk.Image:
    """An empty image that covers the deformed subject with the other scanner's spacing and direction."""
    direction = _rotation(np.radians(generator.uniform(-1, 1, 3) * difference.obliqueness))
    spacing = np.array(difference.spacing_mm)
    extent = np.array(fixed.GetSize()) * np.array(fixed.GetSpacing())
    axes = np.abs(np.reshape(fixed.GetDirection(), (3, 3)))
    size = np.ceil(np.abs(direction.T) @ axes @ extent / spacing).astype(int)
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    origin = np.array(affine.TransformPoint(middle)) - direction @ (spacing * (size - 1) / 2)
    lattice = sitk.Image(size.tolist(), sitk.sitkUInt8)
    lattice.SetSpacing(spacing.tolist())
    lattice.SetDirection(direction.ravel().tolist())
    lattice.SetOrigin(origin.tolist())
    return lattice


def _rescanned(
    clean: sitk.Image, subject: sitk.Image, difference: Difference, generator: np.random.Generator
) -> sitk.Image:
    """Another contrast, a bias field and Rician noise, as int16; the background remains near zero."""
    array = sitk.GetArrayFromImage(clean)
    inside = sitk.GetArrayViewFromImage(subject) > 0
    top = float(np.percentile(array[inside], 99.5))
    value = np.clip(array / top, 0, 1.2)
    if difference.reversed_contrast:
        value = np.where(inside, 1.2 - value, 0.0)
    changed = value**difference.gamma
    if difference.lesion_mm > 0:
        changed = _with_lesion(changed, subject, difference.lesion_mm, generator)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in array.shape], indexing="ij")
    slope = generator.uniform(-1, 1, 3)
    bias = 1 + difference.bias * sum(s * a for s, a in zip(slope / np.linalg.norm(slope), axes))
    noise = generator.standard_normal((2, *array.shape)) * difference.noise
    scanned = np.hypot(changed * bias + noise[0], noise[1])
    image = sitk.GetImageFromArray(np.rint(1000 * scanned).astype(np.int16))
    image.CopyInformation(clean)
    return image


def _with_lesion(
    value: np.ndarray, subject: sitk.Image, radius_mm: float, generator: np.random.Generator
) -> np.ndarray:
    """Add an irregular blob, where possible its radius away from the surface; bright in dark tissue, dark in bright."""
    depth = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(subject, True, False, True))
    candidates = np.argwhere(depth >= min(radius_mm, 0.8 * float(depth.max())))
    center = candidates[generator.integers(len(candidates))]
    spacing = np.array(subject.GetSpacing())[::-1]
    axes = [(np.arange(n) - c) * mm for n, c, mm in zip(value.shape, center, spacing)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    noise = tensor_from_array(generator.standard_normal((1, 1, *value.shape)))
    bumps = smooth(noise, 0.5 * radius_mm / max(subject.GetSpacing()))
    bumps = array_from_tensor(bumps / bumps.std())[0]
    weight = 1 / (1 + np.exp(np.clip((distance - radius_mm * (1 + 0.2 * bumps)) * 2, -30, 30)))
    weight *= sitk.GetArrayViewFromImage(subject) > 0
    tissue = float((value * weight).sum() / weight.sum())
    return value + weight * ((0.1 if tissue > 0.5 else 1.0) - value)


def _rotation(angles_radians: np.ndarray) -> np.ndarray:
    x, y, z = (sitk.VersorTransform(axis, float(angle)) for axis, angle in zip(np.eye(3).tolist(), angles_radians))
    matrices = [np.reshape(t.GetMatrix(), (3, 3)) for t in (x, y, z)]
    return matrices[2] @ matrices[1] @ matrices[0]
