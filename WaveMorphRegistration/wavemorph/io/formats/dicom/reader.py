"""A DICOM folder or file as a volume: its images listed, one chosen, and read."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ....errors import InputError
from ...files import refuse_lack_of_memory
from .grouping import DicomImage, images_of_series
from .headers import EXTENSIONS, Header, is_dicom, should_be_image
from .multiframe import EnhancedFile
from .slices import Slice
from .stack import volume_of

_MIN_VOLUME_SLICES = 5  # fewer are a localizer: not taken for the volume where another image has more
_MAX_LISTED = 12
_WHOLE = re.compile(r"-?[0-9]{1,18}")


@dataclass
class _Found:
    """What DICOM files hold. damaged: those that have pixels and cannot be read. segmentations: label maps as DICOM."""

    slices: list[Slice] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    segmentations: list[Path] = field(default_factory=list)


def read_dicom(
    path: Path, called: str, series: str | None = None, labels: bool = False
) -> tuple[sitk.Image, tuple[str, ...]]:
    """(volume, remarks) from a folder, from the folders below it, or from a file of several frames.

    Parameters:
        path: where a folder holds no DICOM image itself, the folders below it are searched.
        called: what messages call it.
        series: which image to read where there are several: number, name or UID of its series, or the part of the
            name that no other has.
        labels: whether it is a label map, which is never interpolated.

    Raises:
        InputError: there is no image, or several and none is chosen, or it cannot be read as a volume.
    """
    files = [file for file in sorted(path.iterdir()) if _may_be_slice(file)] if path.is_dir() else [path]
    found = _read_headers(files, called)
    if path.is_dir() and not found.slices:
        files = _files_below(path)
        found = _read_headers(files, called)
    if not found.slices:
        raise InputError(_without_slices(path, called, files, found))
    if path.is_file() and len(found.slices) == 1:
        raise InputError(
            f"The {called} is a single slice of a DICOM series; give the folder that holds all of them, "
            f'"{path.parent}".'
        )
    images = _images(found.slices)
    image, remarks = _choose(images, series, called)
    _refuse_damaged(found.damaged, image, called)
    volume, more = volume_of(image, called, labels)
    return volume, (*remarks, *more)


def _files_below(folder: Path) -> list[Path]:
    """The DICOM files of a folder and of all folders below it."""
    below = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        below += [path for name in sorted(names) if _may_be_slice(path := Path(parent, name))]
    return below


def _may_be_slice(path: Path) -> bool:
    if not path.is_file() or path.name.upper() == "DICOMDIR" or path.name.startswith("."):
        return False
    return path.suffix.lower() in EXTENSIONS or is_dicom(path)


def _read_headers(files: Iterable[Path], called: str) -> _Found:
    found = _Found()
    known: dict[tuple, Slice] = {}
    for file in files:
        try:
            header = Header(file)
        except RuntimeError as error:
            refuse_lack_of_memory(error, called)
            if should_be_image(file):
                found.damaged.append(file)
            continue
        if header.is_segmentation:
            found.segmentations.append(file)
            continue
        if header.is_enhanced:
            found.slices += EnhancedFile(file, called).slices
            continue
        slices = header.slices()
        identity = (header.text("0008|0018"), header.text("0020|0032"))
        if _is_copy(slices[0], known.get(identity)):
            continue
        known.setdefault(identity, slices[0])
        found.slices += slices
    return found


def _is_copy(one: Slice, other: Slice | None) -> bool:
    """Whether a slice is one that was read before: exported twice, or in a second folder of a disc."""
    if other is None or one.shape != other.shape:
        return False
    return filecmp.cmp(other.file, one.file, shallow=False) or np.array_equal(one.load(), other.load())


def _without_slices(path: Path, called: str, files: Sequence[Path], found: _Found) -> str:
    if found.damaged:
        return f'The {called} cannot be read: "{found.damaged[0].name}" is no complete DICOM file; copy it again.'
    if found.segmentations:
        return f"The {called} is a DICOM segmentation, which is not read; open it in Slicer and save it as .seg.nrrd."
    if path.is_file():
        return f"The {called} is a DICOM file without an image that can be read; give the folder of an image series."
    what = "without DICOM slices" if not files else f"with {len(files)} DICOM files, none of which is an image"
    return f"The {called} is a folder {what}; give a file such as .nii.gz, .nrrd or .mha, or another folder."


def _images(slices: Sequence[Slice]) -> list[DicomImage]:
    """All images, by the number of their series."""
    series: dict[str, list[Slice]] = {}
    for one in slices:
        series.setdefault(one.series["uid"], []).append(one)
    images = [image for group in series.values() for image in images_of_series(group)]
    return sorted(images, key=lambda image: _order(image.series["number"]))


def _order(number: str) -> tuple[int, str]:
    return (int(number), "") if _WHOLE.fullmatch(number) else (2**31, number)


def _choose(images: Sequence[DicomImage], wanted: str | None, called: str) -> tuple[DicomImage, tuple[str, ...]]:
    """(the image to read, remarks)."""
    if wanted:
        chosen = _matching(images, wanted)
        if len(chosen) == 1:
            return chosen[0], ()
        what = f'no image "{wanted}"' if not chosen else f'{len(chosen)} images that "{wanted}" fits'
        raise InputError(f"The {called} holds {what}; it holds {_listed(chosen or images)}; {_HOW}.")
    if len(images) == 1:
        return images[0], ()
    volumes = [image for image in images if len(image.slices) >= _MIN_VOLUME_SLICES]
    if len(volumes) == 1:
        others = [image for image in images if image is not volumes[0]]
        return volumes[0], (f"Of the {called}, {volumes[0].title} was read; left out: {_listed(others)}.",)
    series = {image.series["uid"] for image in images}
    count = "one" if len(series) == 1 else str(len(series))
    kind = "DICOM series" if len(series) == len(images) else f"images in {count} DICOM series"
    raise InputError(f"The {called} holds {len(images)} {kind}: {_listed(images)}; {_HOW}.")


_HOW = "choose one by its number, name or UID with --series (in Python: read_volume(path, series=...))"


def _matching(images: Sequence[DicomImage], wanted: str) -> list[DicomImage]:
    """The images that a choice fits: by UID, number or name, or by a part of the name."""
    wanted = wanted.strip().strip('"').casefold()
    names = [image.name.casefold() for image in images]
    for fits in (
        [image.series["uid"] == wanted for image in images],
        [name == wanted for name in names],
        [image.series["number"] == wanted for image in images],
        [image.series["description"].casefold() == wanted for image in images],
        [wanted in name for name in names],
    ):
        if any(fits):
            return [image for image, fit in zip(images, fits) if fit]
    return []


def _listed(images: Sequence[DicomImage]) -> str:
    titles = [image.title for image in images]
    shown = [
        f'{title} in folder "{image.slices[0].file.parent.name}" with UID {image.series["uid"]}'
        if titles.count(title) > 1
        else title
        for title, image in zip(titles, images)
    ]
    more = f", and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
    return ", ".join(shown[:_MAX_LISTED]) + more


def _refuse_damaged(damaged: Sequence[Path], image: DicomImage, called: str) -> None:
    """A slice that cannot be read may belong to the image, and would be missing at its end without a trace."""
    folders = {one.file.parent for one in image.slices}
    beside = [path for path in damaged if path.parent in folders]
    if beside:
        raise InputError(
            f"The {called} has {len(beside)} DICOM file(s) beside its slices that cannot be read, such as "
            f'"{beside[0].name}": cut short or damaged; copy them again, or remove them.'
        )
