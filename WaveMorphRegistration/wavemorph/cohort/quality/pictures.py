"""The pictures of a quality page as data URIs: written by SimpleITK, so that no other package is needed."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..outline import intensity_classes, subject_mask
from .planes import Planes, planes_through

# log2 of the Jacobian -> color: ColorBrewer's RdBu, which the color-blind tell apart
JACOBIAN_RANGE = 1.0  # log2: from half to twice the volume
JACOBIAN_COLORS = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
FOLDED_COLOR = (255, 0, 255)
OUTER_COLOR, INNER_COLOR = (255, 214, 0), (0, 220, 255)
_OUTLINE_FINER = 2  # pixels of the outlines for one of the volume
_OUTLINE_SMOOTHING = 1.0  # pixels, so that outlines do not follow noise
_QUALITY = 82  # of JPEG
_JACOBIAN_QUALITY = 88
_DARKEST, _BRIGHTEST = 1.0, 99.5  # percentiles of the subject that are black, where air is no darker, and white


@dataclass(frozen=True)
class Frame:
    """What all pictures of a page share.

    planes: where they are cut. subject: 1 within the fixed subject, in the montage. outlines: of the fixed volume, a
    transparent PNG. fixed: the fixed volume itself, a JPEG.
    """

    planes: Planes
    subject: np.ndarray
    outlines: str
    fixed: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a picture."""
        return self.subject.shape[0], self.subject.shape[1]


def frame_of(fixed: sitk.Image) -> Frame:
    """The planes through a fixed volume and its outlines, at the levels that Otsu's method finds in it."""
    inside = subject_mask(fixed)
    planes = planes_through(fixed, inside)
    subject = planes.montage(inside) > 0.5
    return Frame(planes, subject, _outlines(planes, intensity_classes(fixed)), volume_picture(fixed, planes, subject))


def volume_picture(image: sitk.Image, planes: Planes, subject: np.ndarray) -> str:
    """A volume in gray, a JPEG as a data URI."""
    montage = planes.montage(image, outside=float(sitk.GetArrayViewFromImage(image).min()))
    values = montage[subject] if subject.any() else montage
    low, high = np.percentile(values, (_DARKEST, _BRIGHTEST))
    if not subject.all():
        low = min(low, float(np.median(montage[~subject])))  # so that air is black
    gray = np.clip((montage - low) / max(high - low, 1e-6), 0, 1)
    return _data_uri(np.rint(255 * gray).astype(np.uint8), ".jpg", _QUALITY)


def jacobian_picture(jacobian: sitk.Image, planes: Planes, subject: np.ndarray) -> str:
    """The Jacobian determinant in color within the subject, black outside, a JPEG as a data URI."""
    montage = planes.montage(jacobian, outside=1.0)
    log = np.log2(np.clip(montage, 2.0**-JACOBIAN_RANGE, 2.0**JACOBIAN_RANGE))
    positions = np.linspace(-JACOBIAN_RANGE, JACOBIAN_RANGE, len(JACOBIAN_COLORS))
    channels = [np.interp(log, positions, channel) for channel in np.transpose(JACOBIAN_COLORS)]
    colors = np.stack(channels, axis=-1)
    colors[montage <= 0] = FOLDED_COLOR
    colors[~subject] = 0
    return _data_uri(np.rint(colors).astype(np.uint8), ".jpg", _JACOBIAN_QUALITY)


def _outlines(planes: Planes, classes: sitk.Image) -> str:
    """Where the classes of the fixed volume begin, transparent elsewhere, a PNG as a data URI."""
    colors = None
    for level, color in ((1, OUTER_COLOR), (2, INNER_COLOR)):
        montage = planes.montage(sitk.Cast(classes >= level, sitk.sitkFloat32), finer=_OUTLINE_FINER)
        smooth = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(montage), _OUTLINE_SMOOTHING * _OUTLINE_FINER)
        within = smooth > 0.5
        edge = sitk.GetArrayFromImage(sitk.BinaryDilate(within, [1, 1]) ^ sitk.BinaryErode(within, [1, 1])) > 0
        if colors is None:
            colors = np.zeros((*edge.shape, 4), np.uint8)
        colors[edge] = (*color, 255)
    assert colors is not None
    return _data_uri(colors, ".png", 9)


def _data_uri(pixels: np.ndarray, extension: str, level: int) -> str:
    """(rows, columns[, channels]) of uint8 as a data URI. level: quality of .jpg, compression of .png."""
    image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{extension}"
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=level)
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:image/{'png' if extension == '.png' else 'jpeg'};base64,{content}"
