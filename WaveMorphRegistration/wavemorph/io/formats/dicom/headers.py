"""Slices from DICOM files of one frame, and from dose grids, through GDCM (SimpleITK)."""

from __future__ import annotations

import re
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...files import one_sentence, quiet_itk
from .slices import Plane, Slice, plane_from
from .structure import check_structure

# of a series: what a user may name it by
SERIES = {"number": "0020|0011", "description": "0008|103e", "uid": "0020|000e"}
# what may tell the images of a series apart, the most telling first
_TRAITS = {
    "echo time": "0018|0081",
    "echo": "0018|0086",
    "b-value": "0018|9087",
    "inversion time": "0018|0082",
    "flip angle": "0018|1314",
    "time point": "0020|0100",
    "trigger time": "0018|1060",
    "type": "0008|0008",
    "contrast agent": "0018|0010",
    "kernel": "0018|1210",
    "tube voltage": "0018|0060",
    "acquisition": "0020|0012",
    "acquisition time": "0008|0032",
    "content time": "0008|0033",
    "study": "0020|000d",
    "frame of reference": "0020|0052",
}
EXTENSIONS = (".dcm", ".ima", ".dic")
_PREAMBLE = 128
_PIXELS = b"\xe0\x7f\x10\x00"  # the tag of pixel data
_IMAGE_CLASS = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(2|4|7|12|20|128|130)[.\0]")  # CT, MR, SC, XA, NM, PET
_FRAMES, _OFFSETS, _POSITION = "0028|0008", "3004|000c", "0020|0032"
_SOP_CLASS = "0008|0016"
_LARGEST_NUMBER = 2**31  # of frames and of instances
# Enhanced and legacy converted MR, CT, PET and XA, parametric maps: positions are in sequences, which need pydicom
_ENHANCED = tuple(
    f"1.2.840.10008.5.1.4.1.1.{suffix}"
    for suffix in ("4.1", "4.4", "2.1", "2.2", "130", "128.1", "13.1.1", "13.1.2", "6.2", "30")
)
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, with its preamble or without one as old files do."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_PREAMBLE + 4)
    except OSError:
        return False
    if start[_PREAMBLE:] == b"DICM":
        return True
    return start[:2] in (b"\x08\x00", b"\x02\x00") and path.suffix.lower() in ("", *EXTENSIONS)


def should_be_image(path: Path) -> bool:
    """Whether a file that cannot be read was to be an image: it has pixels, the class of images, or nothing else.

    Reports, presentation states and plans are DICOM too.
    """
    content = path.read_bytes()
    return not is_dicom(path) or _PIXELS in content or _IMAGE_CLASS.search(content[:1024]) is not None


class Header:
    """The header of one file. Raises RuntimeError where it is damaged or GDCM cannot read it as an image."""

    def __init__(self, path: Path):
        check_structure(path)
        self.path = path
        self._reader = _reader(path)
        with quiet_itk():
            self._reader.ReadImageInformation()
        self._keys = set(self._reader.GetMetaDataKeys())

    def text(self, tag: str) -> str:
        """The value of a tag, "gggg|eeee"; "" where it is missing."""
        if tag not in self._keys:
            return ""
        return printable(self._reader.GetMetaData(tag))

    @property
    def frames(self) -> int:
        """The number of frames."""
        number = _whole(self.text(_FRAMES))
        return 1 if number is None else max(1, number)

    @property
    def is_enhanced(self) -> bool:
        """Whether the positions of its frames are in sequences, which GDCM does not show."""
        return self.text(_SOP_CLASS) in _ENHANCED or (
            self.frames > 1 and not self.text(_OFFSETS) and not self.text(_POSITION)
        )

    @property
    def is_segmentation(self) -> bool:
        """Whether it is a DICOM segmentation object."""
        return self.text(_SOP_CLASS) == _SEGMENTATION

    def slices(self) -> list[Slice]:
        """One slice, or those of a dose grid."""
        columns, rows = self._reader.GetSize()[:2]
        plane = plane_from(*(_numbers(self.text(tag)) for tag in (_POSITION, "0020|0037", "0028|0030")))
        series = {name: self.text(tag) for name, tag in SERIES.items()}
        traits = {name: self.text(tag) for name, tag in _TRAITS.items()}
        traits["folder"] = self.path.parent.name
        if self.frames == 1:
            order = _whole(self.text("0020|0013"))
            return [Slice(self.path, (rows, columns), plane, series, traits, lambda: read_planes(self.path)[0], order)]
        offsets = _numbers(self.text(_OFFSETS))
        return [
            Slice(
                self.path,
                (rows, columns),
                _moved(plane, offsets[number]) if offsets is not None and len(offsets) == self.frames else None,
                series,
                traits,
                partial(self._frame, number),
                number + 1,
            )
            for number in range(self.frames)
        ]

    @cached_property
    def _voxels(self) -> np.ndarray:
        return read_planes(self.path)

    def _frame(self, number: int) -> np.ndarray:
        """A frame of a dose grid, in the units of the dose: ITK leaves out the scaling of the grid."""
        scaling = _numbers(self.text("3004|000e"))
        stored = self._voxels[number]
        return stored * scaling[0] if scaling and stored.dtype.kind in "iu" else stored


def printable(text: str) -> str:
    """A text of a file without what controls a terminal, breaks lines or is no character."""
    return "".join(letter for letter in text if letter.isprintable()).strip()


def _moved(plane: Plane | None, offset: float) -> Plane | None:
    if plane is None:
        return None
    return Plane(plane.position + offset * plane.normal, plane.row, plane.column, plane.spacing)


def read_planes(path: Path) -> np.ndarray:
    """(frames, rows, columns), or with one axis more where a voxel is a color; rescaled as the header says."""
    with quiet_itk(), one_sentence(f'The voxels of the DICOM file "{path.name}" cannot be read; copy it again'):
        return sitk.GetArrayFromImage(_reader(path).Execute())


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split("\\")] if text else None
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    """The first of several whole numbers; None where there is none."""
    numbers = _numbers(text)
    return int(numbers[0]) if numbers and abs(numbers[0]) < _LARGEST_NUMBER else None
