"""The one reader of volumes: image files, DICOM folders and DICOM files. Does not import torch.

What a user should know of a file is returned in words beside the image: other units than mm, an orientation that is
not stated, slices that were resampled or left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .checks import check_axes, check_kind
from .files import existing, load_image, one_sentence, open_image, refuse_changed, stamp
from .formats import nifti, nrrd
from .formats.dicom.headers import is_dicom
from .formats.dicom.reader import read_dicom
from .formats.isolation import as_itk_reads_it

_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "meter": 1000.0, "meters": 1000.0}
_MM.update({"millimetre": 1.0, "millimetres": 1.0, "metre": 1000.0, "metres": 1000.0, "centimetre": 10.0})
_MM.update({"micrometre": 1e-3, "micrometres": 1e-3, "centimetres": 10.0})
_MM.update({name: 1e-3 for name in ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers")})
_MM.update({"nm": 1e-6, "nanometer": 1e-6, "nanometers": 1e-6, "centimeter": 10.0, "centimeters": 10.0})


@dataclass(frozen=True)
class ReadVolume:
    """A volume as it was read.

    image: 3D, scalar, LPS mm. remarks: sentences that a user should see. name: what messages call it, such as
    'fixed image "head.nrrd"'.
    """

    image: sitk.Image
    remarks: tuple[str, ...] = ()
    name: str = "image"


def read_volume(
    path: str | os.PathLike, name: str = "image", series: str | None = None, labels: bool = False
) -> ReadVolume:
    """Read a 3D scalar volume. Whether it can be registered is checked by `images.validate_image`.

    Parameters:
        path: an image file of NIfTI-1 or NIfTI-2, Analyze, NRRD, MetaImage or another format of ITK; a folder of DICOM
            slices, or one whose subfolders hold them; or an enhanced DICOM file, which needs pydicom.
        name: what messages call it, such as "fixed image".
        series: which image to take where a DICOM folder or file holds several: number, name or UID of its series, or
            a part of the name that no other has.
        labels: whether it is a label map, so that no value is interpolated.

    Raises:
        InputError: it cannot be read, is not a 3D volume of one value a voxel, or is one of several images.
    """
    path, called = existing(path, name)
    before = stamp(path)
    if path.is_dir() or is_dicom(path):
        image, remarks = read_dicom(path, called, series, labels)
    else:
        image, remarks = _read_file(path, called)
    refuse_changed(path, before, called)
    check_axes(image, called)
    return ReadVolume(image, remarks, called)


def read_segmentation(path: str | os.PathLike, name: str = "label map") -> ReadVolume:
    """Read a label map with the keys of its header; see `read_volume`.

    A segmentation of Slicer whose segments overlap is an image of one component a layer.

    Raises:
        InputError: as for `read_volume`.
    """
    path, called = existing(path, name)
    if path.is_dir() or is_dicom(path):
        return read_volume(path, name, labels=True)
    before = stamp(path)
    image, remarks = _read_file(path, called, layers=True)
    refuse_changed(path, before, called)
    check_axes(image, called)
    return ReadVolume(image, remarks, called)


def read_foreground(path: str | os.PathLike, name: str = "mask") -> ReadVolume:
    """Read a mask, or a segmentation of Slicer whose segments overlap: 1 where any of them is.

    Raises:
        InputError: as for `read_volume`.
    """
    volume = read_segmentation(path, name)
    if volume.image.GetNumberOfComponentsPerPixel() == 1:
        return volume
    anywhere = np.any(sitk.GetArrayViewFromImage(volume.image), axis=-1)
    mask = sitk.GetImageFromArray(anywhere.astype(np.uint8))
    mask.CopyInformation(volume.image)
    return replace(volume, image=mask)


def read_lattice(path: str | os.PathLike, name: str = "reference image", series: str | None = None) -> sitk.Image:
    """The lattice of a volume as an image of zeros. Its voxels may be anything: empty, NaN, vectors, a single slice.

    Parameters:
        path: as for `read_volume`; of a file of several frames, the first three axes are taken.
        name: what messages call it.
        series: as for `read_volume`.

    Raises:
        InputError: it cannot be read, or has fewer than three axes.
    """
    path, called = existing(path, name)
    if path.is_dir() or is_dicom(path):
        return _zeros_like(read_dicom(path, called, series)[0])
    with as_itk_reads_it(path, called) as file:
        reader = open_image(file, called, count=False)
        if reader.GetDimension() != 3:
            check_kind(reader.GetSize()[:3], 1, sitk.sitkUInt8, called)
            reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (reader.GetDimension() - 3)])
            lattice = _zeros_like(load_image(reader, called))
        else:
            lattice = sitk.Image(reader.GetSize(), sitk.sitkUInt8)
            with one_sentence(f"The {called} has no usable geometry; correct its header"):
                lattice.SetOrigin(reader.GetOrigin())
                lattice.SetSpacing(reader.GetSpacing())
                lattice.SetDirection(reader.GetDirection())
        lattice, _ = nifti.with_stated_spacing(lattice, reader, file, called)
    lattice, _ = _in_mm(lattice, path, reader, called)
    check_axes(lattice, called)
    return lattice


def _zeros_like(image: sitk.Image) -> sitk.Image:
    zeros = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    zeros.CopyInformation(image)
    return zeros


def _read_file(path: Path, called: str, layers: bool = False) -> tuple[sitk.Image, tuple[str, ...]]:
    """(volume, remarks); the voxels are not checked. layers: whether a segmentation may have several components."""
    with as_itk_reads_it(path, called) as file:
        reader = open_image(file, called)
        size = reader.GetSize()
        if len(size) == 4 and size[3] == 1:
            reader.SetExtractSize([*size[:3], 0])
            size = size[:3]
        components = 1 if layers and nrrd.is_segmentation(reader) else reader.GetNumberOfComponents()
        check_kind(size, components, reader.GetPixelID(), called)
        image, on_spacing = nifti.with_stated_spacing(load_image(reader, called), reader, file, called)
    image, remarks = _in_mm(image, path, reader, called)
    header_remarks = nrrd.remarks_of(reader, called) if nrrd.is_nrrd(path) else nifti.remarks_of(reader, called)
    return image, (*remarks, *on_spacing, *header_remarks)


def _in_mm(
    image: sitk.Image, path: Path, reader: sitk.ImageFileReader, called: str
) -> tuple[sitk.Image, tuple[str, ...]]:
    """(the image in mm, remarks) where a NRRD or MetaImage file states other units, which ITK does not apply."""
    stated = _stated_units(path, reader)
    known = {unit: _MM[unit] for unit in stated if unit in _MM}
    if len(set(known.values())) != 1 or len(known) != len(stated):
        unknown = ", ".join(f'"{unit}"' for unit in stated)
        return image, (f"The {called} states its lengths in {unknown}; they were taken for mm.",) if stated else ()
    (factor,) = set(known.values())
    if factor == 1.0:
        return image, ()
    image.SetSpacing([factor * value for value in image.GetSpacing()])
    image.SetOrigin([factor * value for value in image.GetOrigin()])
    return image, (f'The {called} states its lengths in "{stated[0]}"; they were converted to mm.',)


def _stated_units(path: Path, reader: sitk.ImageFileReader) -> list[str]:
    """The distinct units of a NRRD or MetaImage header, in lower case; none where it states none."""
    if reader.HasMetaDataKey("ITK_VoxelUnits"):  # MetaImage's DistanceUnits
        units = [reader.GetMetaData("ITK_VoxelUnits")]
    elif nrrd.is_nrrd(path):
        units = nrrd.units_of(path)
    else:
        return []
    return list(dict.fromkeys(unit.strip().lower() for unit in units if unit.strip() not in ("", "?", "???")))
