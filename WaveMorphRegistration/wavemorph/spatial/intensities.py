"""What of a volume can be compared: intensities of any scale, without the padding around what was scanned (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .bias_field import without_strong_bias

_PERCENTILES = (0.5, 99.5)  # the range of what was scanned, without metal and flow
_MIN_PADDING_FRACTION = 0.005  # of the volume that has exactly the value of the padding
# Distance of the padding from the range of the other voxels, relative to that range: 1.3 where CT is padded with -3024,
# 0 to 0.23 between the background and the tissue of skull-stripped brains, which is kept.
_MIN_GAP = 0.25
_KEPT_GAP = 0.1  # that is left where the padding borders on tissue
_BORDER_VOXELS = 2  # width of the border of the padding that is looked at
_AIR_INTENSITY = 0.1  # of the range, below which a voxel at this border is air
_MIN_AIR_FRACTION = 0.5  # of the border
# Fraction of the voxels within a constant background that are air: 0.5 in CT, at most 0.17 where the air was removed.
_MIN_AIR_INSIDE = 0.3
_MIN_CUT_FRACTION = 0.25  # of the plane in which planes without data cut through the subject
_MIN_CORNERS = 0.5  # fraction of the corners of the volume that padding with the value of some tissue fills
_COMPUTABLE_RANGE = (1e-3, 1e6)  # of intensities that are kept as they are
_RESCALED_RANGE = 1000.0
_MAX_PADDINGS = 3  # values of padding in one volume: of the scanner, and of a resampling after it
_MAX_OFFSET = 1e4  # times the range: float32 would lose the contrast of larger ones


@dataclass(frozen=True)
class _Range:
    """The range of the voxels that were scanned."""

    low: float
    high: float

    @property
    def span(self) -> float:
        return self.high - self.low

    @property
    def air(self) -> float:
        """Intensities up to this are air, where the volume shows air."""
        return self.low + _AIR_INTENSITY * self.span

    @property
    def is_computable(self) -> bool:
        """Whether float32 can hold the contrast and its squares; also where there is none."""
        least, most = _COMPUTABLE_RANGE
        return self.span <= 0 or (least <= self.span <= most and abs(self.low) <= _MAX_OFFSET * self.span)

    def gap(self, value: float) -> float:
        """The distance of a value outside the range, relative to it; 0 inside."""
        return max(self.low - value, value - self.high, 0.0) / self.span if self.span > 0 else 0.0


def comparable(image: sitk.Image) -> sitk.Image:
    """The image itself, or a copy that can be compared with another volume.

    Planes of one value at the ends of an axis are cut away where they cut through the subject: they were not scanned.
    Padding gets the value of air where air borders on it, and one near that of tissue otherwise. Padding is a value far
    outside the range of all others, or one in the corners that tissue has and on which only air borders. Intensities
    are rescaled to about 0 to 1000 where float32 could not hold their contrast. A strong bias field is divided out.
    """
    image = _cropped(image)
    for _ in range(_MAX_PADDINGS):
        replaced = _without_padding(image)
        if replaced is None:
            break
        image = replaced
    scanned = _range_of(_sample(sitk.GetArrayViewFromImage(image)))
    return without_strong_bias(image if scanned.is_computable else _changed(image, scanned, None))


def is_air_inside(array: np.ndarray, background: float) -> bool:
    """Whether a volume shows air of its own within a constant background, as a CT with padding outside a circle does.

    array: (D, H, W). Where the background was made by removing what is not the subject, tissue borders on it.
    """
    shown = array != background
    scanned = _range_of(array[shown])
    dark = array <= scanned.air
    return bool(dark[shown].mean() > _MIN_AIR_INSIDE and dark[_border_of(~shown)].mean() > _MIN_AIR_FRACTION)


def corners_of(array: np.ndarray) -> np.ndarray:
    """The values in the corners of an array of three axes."""
    return np.asarray(array[tuple(slice(None, None, max(n - 1, 1)) for n in array.shape)])


def _cropped(image: sitk.Image) -> sitk.Image:
    """The image without the planes of one value that are next to a plane most of which has other values."""
    array = sitk.GetArrayViewFromImage(image)
    first, last = [0, 0, 0], list(image.GetSize())
    for axis in range(3):
        planes = np.moveaxis(array, 2 - axis, 0)
        if planes[0].min() == planes[0].max():
            begin = _first_different(planes)
            first[axis] = begin if _shows_subject(planes[begin], planes[0]) else 0
        if planes[-1].min() == planes[-1].max():
            end = len(planes) - _first_different(planes[::-1])
            last[axis] = end if _shows_subject(planes[end - 1], planes[-1]) else len(planes)
    if first == [0, 0, 0] and last == list(image.GetSize()):
        return image
    return sitk.RegionOfInterest(image, np.subtract(last, first).tolist(), first)


def _first_different(planes: np.ndarray) -> int:
    """The index of the first plane with a value that the first plane, which has one only, lacks; 0 without one."""
    value = planes[0].flat[0]
    return next((n for n, plane in enumerate(planes) if np.any(plane != value)), 0)


def _shows_subject(plane: np.ndarray, constant: np.ndarray) -> bool:
    return bool(np.mean(plane != constant) > _MIN_CUT_FRACTION)


def _without_padding(image: sitk.Image) -> sitk.Image | None:
    """A copy in which one value of padding is replaced; None where there is none."""
    array = sitk.GetArrayViewFromImage(image)
    sample = _sample(array)
    for value in _candidates(array, sample):
        scanned = _range_of(sample[sample != value])
        padding = _padding(array, value, scanned)
        if padding is not None:
            return _changed(image, scanned, padding)
    return None


def _sample(array: np.ndarray) -> np.ndarray:
    return array[::2, ::2, ::2]


def _candidates(array: np.ndarray, sample: np.ndarray) -> list[float]:
    """Values that may be padding, the most frequent in the corners first."""
    values, counts = np.unique(corners_of(array), return_counts=True)
    found = dict.fromkeys([values[counts.argmax()], sample.min(), sample.max()])
    return [value for value in found if _MIN_PADDING_FRACTION <= np.mean(sample == value) < 1]


def _range_of(values: np.ndarray) -> _Range:
    low, high = np.percentile(values, _PERCENTILES)
    return _Range(float(low), float(high))


def _padding(array: np.ndarray, value: float, scanned: _Range) -> tuple[np.ndarray, float] | None:
    """(bool (D, H, W), where the padding is; what it is replaced with), or None where `value` is no padding."""
    isolated = scanned.gap(value) > _MIN_GAP
    bright = value > scanned.air
    if not isolated and not (bright and np.mean(corners_of(array) == value) >= _MIN_CORNERS):
        return None
    padding = array == value if isolated else _connected_to_corners(array == value)
    if np.mean(array[_border_of(padding)] <= scanned.air) > _MIN_AIR_FRACTION:
        return padding, scanned.low
    if not isolated:
        return None
    beyond = _KEPT_GAP * scanned.span
    return padding, scanned.low - beyond if value < scanned.low else scanned.high + beyond


def _border_of(region: np.ndarray) -> np.ndarray:
    """The voxels outside a region, bool (D, H, W), that are at most two voxels away from it."""
    grown = sitk.BinaryDilate(sitk.GetImageFromArray(region.view(np.uint8)), [_BORDER_VOXELS] * 3)
    return (sitk.GetArrayViewFromImage(grown) > 0) & ~region


def _connected_to_corners(region: np.ndarray) -> np.ndarray:
    """The connected components of a region, bool (D, H, W), that hold a corner of the volume."""
    components = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(region.view(np.uint8))))
    return np.isin(components, np.setdiff1d(corners_of(components), [0]))


def _changed(image: sitk.Image, scanned: _Range, padding: tuple[np.ndarray, float] | None) -> sitk.Image:
    """A float32 copy with the padding (where it is, its new value) replaced, rescaled where that is necessary."""
    array = sitk.GetArrayViewFromImage(image)
    with np.errstate(over="ignore"):  # of padding, which is replaced
        values: np.ndarray = array.astype(np.float32 if scanned.is_computable else np.float64)
    if padding is not None:
        values[padding[0]] = padding[1]
    if not scanned.is_computable:
        values = ((values - scanned.low) * (_RESCALED_RANGE / scanned.span)).astype(np.float32)
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result
