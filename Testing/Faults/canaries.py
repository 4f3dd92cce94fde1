"""Volumes full of words that stand for a patient: in the headers, and in the names of files and folders."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from bench import pair
from dicom_files import write_stack

IN_HEADERS, IN_NAMES = "CANARYHEADER", "CANARYNAME"
_TAGS = {
    name: f"{IN_HEADERS}^{number}"
    for number, name in enumerate(
        ("PatientName", "OtherPatientNames", "ReferringPhysicianName", "OperatorsName", "PatientMotherBirthName")
    )
}
_TAGS.update({name: IN_HEADERS for name in ("PatientID", "PatientAddress", "AccessionNumber", "InstitutionName")})


def write_volumes(folder: Path) -> dict[str, Path]:
    """kind -> path: a DICOM series with a localizer, a NIfTI file in meters, a NRRD and a MetaImage file."""
    folder.mkdir()
    fixed, moving = pair()
    planes = sitk.GetArrayFromImage(sitk.Clamp(fixed, sitk.sitkUInt16, 0.0, 4000.0))
    size, spacing = fixed.GetSize(), fixed.GetSpacing()
    series = folder / f"{IN_NAMES}_series"
    positions = [fixed.TransformIndexToPhysicalPoint((0, 0, number)) for number in range(size[2])]
    write_stack(series, list(planes), positions, spacing=spacing[:2], prefix=f"{IN_NAMES}_", **_TAGS)
    localizer = [np.zeros((20, 20), np.uint16) for _ in range(2)]
    write_stack(
        series,
        localizer,
        [(0.0, 0.0, 0.0), (5.0, 0.0, 0.0)],
        orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        prefix=f"{IN_NAMES}_localizer_",
        series="1.2.3.5",
        SeriesDescription=f"{IN_NAMES} localizer",
        **_TAGS,
    )
    paths = {"dicom": series}
    for kind, extension in (("nifti", ".nii.gz"), ("nrrd", ".nrrd"), ("meta", ".mha")):
        image = sitk.Image(moving)
        for key in ("0010|0010", "0010|0020", "PatientName", "descrip", "aux_file", "intent_name", "Comment"):
            image.SetMetaData(key, IN_HEADERS)
        paths[kind] = folder / f"{IN_NAMES}_{kind}{extension}"
        sitk.WriteImage(image, str(paths[kind]))
    header = bytearray(gzip.decompress(paths["nifti"].read_bytes()))
    header[148 : 148 + len(IN_HEADERS)] = IN_HEADERS.encode()  # descrip
    paths["nifti"].write_bytes(gzip.compress(bytes(header)))
    return paths


def found_in(content: bytes, words: tuple[str, ...] = (IN_HEADERS, IN_NAMES)) -> set[str]:
    """The words that are in a file's content, also where it is compressed or an archive."""
    found = {word for word in words if word.encode() in content}
    if content[:2] == b"\x1f\x8b":
        found |= found_in(gzip.decompress(content), words)
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                found |= found_in(name.encode(), words) | found_in(archive.read(name), words)
    return found
