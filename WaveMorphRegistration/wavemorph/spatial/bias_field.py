"""A strong slope of a scanner's gain, as of a surface coil, taken out of the copy of a volume that is compared (ours).

In tissue of one kind the logarithm of the intensity changes from voxel to voxel as the gain does; borders between kinds
are outliers of both signs. So the robust mean of these differences along an axis is the slope of the gain, without a
model of the tissue. Local correlation bears weak gain; strong gain hides a part of the subject from thresholds and from
the segmentation network.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

_SIDE = 32  # voxels along a side of the coarse copy in which the slope is found
_SCALE = 0.05  # of Cauchy's weight: a difference this far from the mean counts by half
_ROUNDS, _ITERATIONS = 3, 10
_MIN_DIFFERENCES = 200  # along an axis, without which its slope is 0
_MIN_TISSUE = 1 / 1.5  # of Otsu's threshold, above which a voxel is tissue
_PERCENTILES = (0.5, 99.5)  # of the intensities: the lower one is air
_LEAST = 1e-4  # of their range, below which there is no logarithm
# Range of the logarithm of the gain in tissue, above which it is taken out. Of 22 volumes it is at most 0.19 in heads,
# brains and CT, and 0.61 in lungs and a neck in MR. Curved gain is not looked for: skull-stripped brains, whose rim is
# dark, seem to have it.
_MIN_LOG_RANGE = 1.2


def without_strong_bias(image: sitk.Image) -> sitk.Image:
    """The image itself, or a float32 copy divided by the slope of its gain where that is steep; air keeps its value."""
    factors = _factors(image)
    coarse = sitk.GetArrayFromImage(sitk.BinShrink(image, factors)).astype(np.float64)
    air, top = np.percentile(coarse, _PERCENTILES)
    floor = _LEAST * (top - air)
    if floor <= 0:
        return image
    slopes, tissue = _slopes(coarse - air, floor)
    logarithm = _plane(slopes, coarse.shape)[tissue]
    if not len(logarithm) or np.ptp(np.percentile(logarithm, (1, 99))) < _MIN_LOG_RANGE:
        return image
    return _divided(image, float(air), slopes / factors[::-1], float(logarithm.mean()))


def _factors(image: sitk.Image) -> list[int]:
    """Voxels along each side of one of the coarse copy."""
    side = np.prod(np.multiply(image.GetSize(), image.GetSpacing()) / _SIDE) ** (1 / 3)
    return [min(max(1, round(side / own)), size) for own, size in zip(image.GetSpacing(), image.GetSize())]


def _slopes(intensities: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """(3,) change of the logarithm of the gain from voxel to voxel along (k, j, i), and where the tissue is.

    Found in turn: a threshold finds tissue only where the gain is even.
    """
    slopes = np.zeros(3)
    seen = intensities > floor
    logarithm = np.log(np.maximum(intensities, floor))
    tissue = seen
    for _ in range(_ROUNDS):
        even = logarithm - _plane(slopes, logarithm.shape)
        values = np.exp(np.clip(even - np.median(even[seen]), -8, 4))
        tissue = seen & (values > _MIN_TISSUE * _otsu(values[seen]))
        slopes = np.array([_robust_slope(logarithm, tissue, axis, slopes[axis]) for axis in range(3)])
    return slopes, tissue


def _plane(slopes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A linear function of the indices (k, j, i), 0 at the first voxel."""
    k, j, i = np.ogrid[tuple(map(slice, shape))]
    return slopes[0] * k + slopes[1] * j + slopes[2] * i


def _otsu(values: np.ndarray) -> float:
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(sitk.GetImageFromArray(values[None, None]))
    return float(threshold.GetThreshold())


def _robust_slope(logarithm: np.ndarray, tissue: np.ndarray, axis: int, slope: float) -> float:
    """The mean with Cauchy's weights of the differences between neighbors in tissue, by iteration from `slope`."""
    logarithm, tissue = (np.moveaxis(each, axis, 0) for each in (logarithm, tissue))
    differences = np.diff(logarithm, axis=0)[tissue[1:] & tissue[:-1]]
    if len(differences) < _MIN_DIFFERENCES:
        return 0.0
    for _ in range(_ITERATIONS):
        weight = 1 / (1 + ((differences - slope) / _SCALE) ** 2)
        slope = float((weight * differences).sum() / weight.sum())
    return slope


def _divided(image: sitk.Image, air: float, slopes: np.ndarray, middle: float) -> sitk.Image:
    """The image divided by exp(slopes @ (k, j, i) - middle), one slice at a time: no field of its size is held."""
    values = sitk.GetArrayViewFromImage(image).astype(np.float32)
    across = _plane(slopes, (1, *values.shape[1:]))[0]
    for number, plane in enumerate(values):
        plane[:] = (plane - air) * np.exp(middle - slopes[0] * number - across) + air
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result
