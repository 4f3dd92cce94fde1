"""Slices from enhanced (multi-frame) DICOM files, whose positions are in sequences: through pydicom.

pydicom is imported when such a file is read. Slicer has it; elsewhere it is the optional extra "dicom".
"""

from __future__ import annotations

import copy
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError, OutOfMemoryError
from ....system.private_folders import private_folder
from ...files import refuse_lack_of_memory
from .headers import printable, read_planes
from .slices import Plane, Slice, plane_from

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame, of 16-bit words
# what may tell the images of one file apart: name -> (sequence of a frame, attribute), the most telling first
_TRAITS = {
    "echo time": ("MREchoSequence", "EffectiveEchoTime"),
    "b-value": ("MRDiffusionSequence", "DiffusionBValue"),
    "inversion time": ("MRModifierSequence", "InversionTimes"),
    "time point": ("FrameContentSequence", "TemporalPositionIndex"),
    "trigger time": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "type": ("MRImageFrameTypeSequence", "FrameType"),
    "type of CT": ("CTImageFrameTypeSequence", "FrameType"),
    "type of PET": ("PETFrameTypeSequence", "FrameType"),
    "stack": ("FrameContentSequence", "StackID"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
}


class EnhancedFile:
    """An enhanced DICOM file. Raises InputError where pydicom is missing or cannot read it.

    called: what messages call it.
    """

    def __init__(self, path: Path, called: str):
        self._path, self._called = path, called
        self._pixels: np.ndarray | None = None
        try:
            import pydicom
        except ImportError as error:
            raise InputError(
                f"The {called} is an enhanced (multi-frame) DICOM file, and reading it needs the package pydicom; "
                "install it with: pip install 'wavemorph[dicom]'."
            ) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._data = pydicom.dcmread(path, force=True)
                self._count = int(self._data.get("NumberOfFrames", 1) or 1)
                if self._count > path.stat().st_size:
                    raise ValueError(f"{self._count} frames in {path.stat().st_size} bytes")
                self._shared = _first(self._data, "SharedFunctionalGroupsSequence")
                self._frames = list(self._data.get("PerFrameFunctionalGroupsSequence") or [])
                self.slices = [self._slice(number) for number in range(self._count)]
        except Exception as error:  # pydicom raises many kinds for a damaged file
            refuse_lack_of_memory(error, called)
            raise InputError(
                f"The {called} is a multi-frame DICOM file that cannot be read ({type(error).__name__}: "
                f"{printable(' '.join(str(error).split()))[:120]}); copy it again, or open it in Slicer and save it as "
                ".nrrd."
            ) from error

    def _slice(self, number: int) -> Slice:
        data = self._data
        series = {
            "number": printable(str(data.get("SeriesNumber", "") or "")),
            "description": printable(str(data.get("SeriesDescription", "") or "")),
            "uid": printable(str(data.get("SeriesInstanceUID", "") or "")),
        }
        return Slice(
            self._path,
            (int(data.Rows), int(data.Columns)),
            self._plane(number),
            series,
            self._traits(number),
            partial(self._load, number),
            number + 1,
        )

    def _plane(self, number: int) -> Plane | None:
        return plane_from(
            self._value(number, "PlanePositionSequence", "ImagePositionPatient"),
            self._value(number, "PlaneOrientationSequence", "ImageOrientationPatient"),
            self._value(number, "PixelMeasuresSequence", "PixelSpacing"),
        )

    def _traits(self, number: int) -> dict[str, str]:
        traits = {}
        for name, (sequence, attribute) in _TRAITS.items():
            value = self._value(number, sequence, attribute)
            if value is not None:
                text = str(value) if isinstance(value, (str, int, float)) else "\\".join(map(str, value))
                traits[name] = printable(text)
        content = self._value(number, "FrameContentSequence", "DimensionIndexValues")
        indices = np.atleast_1d(content) if content is not None else ()
        traits.update({f"dimension {place}": str(index) for place, index in enumerate(indices, 1)})
        traits["file"] = self._path.name
        return traits

    def _value(self, number: int, sequence: str, attribute: str) -> Any:
        """An attribute of a frame, from its own groups or from those that all frames share; None where missing."""
        own = _first(self._frames[number], sequence) if number < len(self._frames) else None
        for group in (own, _first(self._shared, sequence) if self._shared is not None else None):
            value = group.get(attribute) if group is not None else None
            if value is not None and value != "":
                return value
        return None

    def _load(self, number: int) -> np.ndarray:
        """(rows, columns): stored integers where the rescaling is whole, else float64."""
        if self._pixels is None:
            self._pixels = self._stored_pixels()
        slope, intercept = self._rescaling(number)
        plane = self._pixels[number]
        if (slope, intercept) == (1.0, 0.0):
            return plane
        whole = slope.is_integer() and intercept.is_integer() and abs(slope) < 1024 and abs(intercept) < 2**24
        if whole and plane.dtype.kind in "iu" and plane.dtype.itemsize <= 2:
            return (plane.astype(np.int64) * int(slope) + int(intercept)).astype(np.int32)
        return plane * np.float64(slope) + intercept

    def _rescaling(self, number: int) -> tuple[float, float]:
        """(slope, intercept) of a frame."""
        values = [
            self._value(number, "PixelValueTransformationSequence", name)
            for name in ("RescaleSlope", "RescaleIntercept")
        ]
        try:
            slope, intercept = float(values[0] or 1.0), float(values[1] or 0.0)
            if math.isfinite(slope) and math.isfinite(intercept):
                return slope, intercept
        except (TypeError, ValueError):
            pass
        raise InputError(
            f"The {self._called} states the slope {values[0]} and the intercept {values[1]} for frame {number + 1}, "
            "which are no numbers; copy it again."
        )

    def _stored_pixels(self) -> np.ndarray:
        """(frames, rows, columns), or with one axis more for colors; by GDCM where pydicom lacks the decoder."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = np.asarray(self._data.pixel_array)
            return pixels if self._count > 1 else pixels[None]
        except Exception as error:
            refuse_lack_of_memory(error, self._called)
            syntax = getattr(self._data.file_meta, "TransferSyntaxUID", None)
            if getattr(syntax, "is_compressed", False):
                try:
                    return self._decoded_by_gdcm()
                except OutOfMemoryError:
                    raise
                except Exception as second:  # of pydicom, which writes the copy, too
                    refuse_lack_of_memory(second, self._called)
            raise InputError(
                f"The voxels of the {self._called} cannot be read (transfer syntax {getattr(syntax, 'name', syntax)}); "
                "copy it again, or open it in Slicer and save it as .nrrd."
            ) from None

    def _decoded_by_gdcm(self) -> np.ndarray:
        """The stored pixels from a plain multi-frame copy, so that GDCM does not rescale them."""
        from pydicom.uid import UID

        plain = copy.deepcopy(self._data)
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            if name in plain:
                delattr(plain, name)
        plain.SOPClassUID = plain.file_meta.MediaStorageSOPClassUID = UID(_SECONDARY_CAPTURE)
        with private_folder() as folder:
            path = folder / "plain.dcm"
            plain.save_as(path)
            return read_planes(path)


def _first(data: Any, sequence: str) -> Any:
    """The first item of a sequence, or None."""
    items = data.get(sequence)
    return items[0] if items else None
