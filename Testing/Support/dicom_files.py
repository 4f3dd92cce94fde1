"""DICOM files for tests, written by pydicom: slices anywhere, and enhanced files of many frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def write_slice(
    path: Path,
    pixels: np.ndarray,
    position: Sequence[float] | None,
    orientation: Sequence[float] | None = AXIAL,
    spacing: Sequence[float] = (1.0, 1.0),
    series: str = "1.2.3.4",
    **tags: Any,
) -> None:
    """One slice. pixels: (rows, columns), 8 or 16 bits. position: LPS mm. spacing: mm along (i, j). tags: keywords."""
    data = _dataset(path, pixels, CTImageStorage if tags.get("Modality") == "CT" else MRImageStorage, series)
    if position is not None:
        data.ImagePositionPatient = [_decimal(value) for value in position]
    if orientation is not None:
        data.ImageOrientationPatient = [_decimal(value) for value in orientation]
    data.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data.save_as(path, enforce_file_format=True)


def write_stack(
    folder: Path,
    planes: Iterable[np.ndarray],
    positions: Iterable[Sequence[float]],
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (1.0, 1.0),
    prefix: str = "IM",
    **tags: Any,
) -> list[Path]:
    """A slice for each plane and position; a tag that is a list has a value for each slice. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (plane, position) in enumerate(zip(planes, positions)):
        own = {name: value[number] if isinstance(value, list) else value for name, value in tags.items()}
        files.append(folder / f"{prefix}{number:04d}.dcm")
        write_slice(files[-1], plane, position, orientation, spacing, **{"InstanceNumber": number + 1, **own})
    return files


def write_enhanced(
    path: Path,
    planes: Sequence[np.ndarray],
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (1.0, 1.0),
    rescale: Sequence[tuple[float, float]] | None = None,
    series: str = "1.2.3.4",
    **groups: Sequence[dict[str, Any]],
) -> None:
    """An enhanced MR file. rescale: (slope, intercept) for each frame. groups: a sequence's name -> its item's
    attributes, for each frame."""
    data = _dataset(path, planes[0], EnhancedMRImageStorage, series)
    data.NumberOfFrames = len(planes)
    measures = _item(PixelSpacing=[_decimal(spacing[1]), _decimal(spacing[0])])
    plane = _item(ImageOrientationPatient=[_decimal(value) for value in orientation])
    data.SharedFunctionalGroupsSequence = Items(
        [_item(PixelMeasuresSequence=Items([measures]), PlaneOrientationSequence=Items([plane]))]
    )
    frames = []
    for number, position in enumerate(positions):
        frame = _item(
            PlanePositionSequence=Items([_item(ImagePositionPatient=[_decimal(value) for value in position])])
        )
        if rescale is not None:
            slope, intercept = rescale[number]
            values = _item(RescaleSlope=_decimal(slope), RescaleIntercept=_decimal(intercept), RescaleType="US")
            frame.PixelValueTransformationSequence = Items([values])
        for name, items in groups.items():
            setattr(frame, name, Items([_item(**items[number])]))
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    data.PixelData = np.ascontiguousarray(planes).tobytes()
    data.save_as(path, enforce_file_format=True)


def _dataset(path: Path, pixels: np.ndarray, sop_class: str, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.Modality = "Test^Phantom", "1", "MR"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", series, "1.2.3.9"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    return data


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def _decimal(value: float) -> str:
    """A number in at most 16 characters, as DICOM demands."""
    return next(text for digits in range(14, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)
