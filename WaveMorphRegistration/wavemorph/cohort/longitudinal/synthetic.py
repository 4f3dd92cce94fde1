"""Several times of one head with a known change of volume in one region. For trials, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..template.shape import linear_transform

_REACH = 1.5  # standard deviation of the contraction, relative to the radius of the region
_TABLE = np.linspace(0.0, 400.0, 40_001)  # radii in mm, at which the inverse of a contraction is tabulated
_BISECTIONS = 60


@dataclass(frozen=True)
class Contraction:
    """x -> c + (x - c) (1 - amount exp(-|x - c|^2 / (2 width^2))): a smooth shrinking towards a center, LPS mm."""

    center: np.ndarray
    width: float
    amount: float

    def jacobian(self, points: np.ndarray) -> np.ndarray:
        """(N,): the Jacobian determinant at points (N, 3)."""
        squared = np.sum((points - self.center) ** 2, axis=-1) / self.width**2
        weight = self.amount * np.exp(-squared / 2)
        return (1 - weight) ** 2 * (1 - weight * (1 - squared))

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """(..., 3): the points that the contraction maps to `points`."""
        radius = np.linalg.norm(points - self.center, axis=-1, keepdims=True)
        moved = _TABLE * (1 - self.amount * np.exp(-(_TABLE**2) / (2 * self.width**2)))
        source = np.interp(radius, moved, _TABLE)
        ratio = np.divide(source, radius, out=np.ones_like(radius), where=radius > 0)
        return self.center + (points - self.center) * ratio


@dataclass(frozen=True)
class Scan:
    """One time of a head. image: int16. motion: points of the changed head -> points of the scan, LPS mm."""

    image: sitk.Image
    motion: sitk.AffineTransform
    contraction: Contraction


def contraction_of(region: sitk.Image, percent: float) -> Contraction:
    """The contraction about the centroid of a region (a mask) after which its volume is smaller by `percent`."""
    points = _points_of(region)
    center = points.mean(0)
    voxel = float(np.prod(region.GetSpacing()))
    width = _REACH * (3 * len(points) * voxel / (4 * np.pi)) ** (1 / 3)
    low, high = -0.5, 0.5
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        change = Contraction(center, width, middle).jacobian(points).mean() - 1
        low, high = (middle, high) if change > -percent / 100 else (low, middle)
    return Contraction(center, width, middle)


def make_times(
    head: sitk.Image, region: sitk.Image, percents: Sequence[float], seed: int = 0, spacing_mm: float = 1.0
) -> Iterator[Scan]:
    """A scan of the head for each percentage by which the region has shrunk.

    Position and rotation, the lattice, bias field and noise differ between the scans. region: a mask.
    """
    source = sitk.Cast(head, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(source)
    top = float(np.percentile(values[values > 0.1 * values.max()], 99.5))
    for number, percent in enumerate(percents):
        generator = np.random.default_rng((seed, number))
        motion = _random_motion(head, generator)
        lattice = _lattice_of(head, motion, spacing_mm)
        contraction = contraction_of(region, percent)
        clean = _resampled(source, lattice, motion, contraction)
        yield Scan(_scanned(clean / top, lattice, generator), motion, contraction)


def _resampled(
    source: sitk.Image, lattice: sitk.Image, motion: sitk.AffineTransform, contraction: Contraction
) -> np.ndarray:
    """(D, H, W): the changed head on a lattice, interpolated once by cubic B-splines."""
    points = _points_of(lattice + 1).reshape(*lattice.GetSize()[::-1], 3)
    back = motion.GetInverse()
    matrix, offset = np.reshape(back.GetMatrix(), (3, 3)), np.array(back.TransformPoint((0.0, 0.0, 0.0)))
    field = sitk.GetImageFromArray(contraction.inverse(points @ matrix.T + offset) - points, isVector=True)
    field.CopyInformation(lattice)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    warped = sitk.Resample(source, lattice, transform, sitk.sitkBSpline, 0.0, sitk.sitkFloat32)
    return np.clip(sitk.GetArrayFromImage(warped), 0, None)


def _scanned(values: np.ndarray, lattice: sitk.Image, generator: np.random.Generator) -> sitk.Image:
    """A linear bias field of 10 % and Rician noise of 2 % of the brightest tissue."""
    slope = generator.standard_normal(3)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in values.shape], indexing="ij", sparse=True)
    bias = 1 + 0.1 * sum(s * axis for s, axis in zip(slope / np.linalg.norm(slope), axes))
    noise = 0.02 * generator.standard_normal((2, *values.shape))
    image = sitk.GetImageFromArray(np.rint(1000 * np.hypot(values * bias + noise[0], noise[1])).astype(np.int16))
    image.CopyInformation(lattice)
    return image


def _random_motion(head: sitk.Image, generator: np.random.Generator) -> sitk.AffineTransform:
    """Up to 5 degrees about each axis and 5 mm along it, about the middle of the volume."""
    middle = np.array(head.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in head.GetSize()]))
    euler = sitk.Euler3DTransform(middle.tolist(), *np.radians(generator.uniform(-5, 5, 3)).tolist())
    matrix = np.reshape(euler.GetMatrix(), (3, 3))
    return linear_transform(matrix, middle - matrix @ middle + generator.uniform(-5, 5, 3))


def _lattice_of(head: sitk.Image, motion: sitk.AffineTransform, spacing_mm: float) -> sitk.Image:
    """An empty volume of the size of the head in mm, about where the motion moves its middle."""
    size = np.ceil(np.array(head.GetSize()) * np.array(head.GetSpacing()) / spacing_mm).astype(int) + 8
    middle = motion.TransformPoint(head.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in head.GetSize()]))
    lattice = sitk.Image(size.tolist(), sitk.sitkUInt8)
    lattice.SetSpacing((spacing_mm,) * 3)
    lattice.SetDirection(head.GetDirection())
    direction = np.reshape(head.GetDirection(), (3, 3))
    lattice.SetOrigin((np.array(middle) - direction @ ((size - 1) / 2 * spacing_mm)).tolist())
    return lattice


def _points_of(mask: sitk.Image) -> np.ndarray:
    """(N, 3) LPS mm: the voxels of a mask."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    steps = np.reshape(mask.GetDirection(), (3, 3)) * np.array(mask.GetSpacing())
    return indices @ steps.T + np.array(mask.GetOrigin())
