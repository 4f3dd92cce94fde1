"""NIfTI headers: what ITK does not say or read (units, unknown orientation, NIfTI-2, a neighbor of the same name)."""

from __future__ import annotations

import contextlib
import gzip
import math
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ...system.private_folders import private_folder
from .payload import Payload, refuse_short

_UNITS = {1: "meters", 3: "micrometers"}  # of xyzt_units, by its lowest three bits
_MM = {1: 1000.0, 3: 0.001}
_SECOND_HEADER, _FIRST_HEADER = 540, 348
_APART_VOXELS = 0.5  # of qform and sform: less is the rounding of a header
_SPACING_TOLERANCE = 1e-3  # by which the voxel sizes of pixdim and sform may differ: the rounding of a header
_SCANNER = 1  # of qform_code and sform_code: ITK uses a sform of this kind, or else the qform
_LARGEST_SIDE = 2**15 - 1  # of NIfTI-1
_EXTENSIONS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
_ONE_FILE, _TWO_FILES = b"n+1", b"ni1"
_MOST_AXES = 7
_LARGEST = 1e9  # of a length in the units of a header; at infinity ITK does not come to an end
_LARGEST_OFFSET = 2**31 - 1
# datatype -> bytes of a voxel
_BYTES = {1: 1, 2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 1536: 16}
_BYTES |= {1792: 16, 2048: 32, 2304: 4}
_OF_COMPONENTS = (32, 128, 1792, 2048, 2304)  # complex numbers and colors


class _Header(NamedTuple):
    """What a header states of the voxels and their place. dim, pixdim: all eight. sform: twelve values, of rows.

    quaternion: b, c, d and the three offsets.
    """

    dim: tuple
    datatype: int
    pixdim: tuple
    offset: float
    codes: tuple[int, int]
    quaternion: tuple
    sform: tuple
    magic: bytes


def is_nifti(path: Path) -> bool:
    """Whether the name of a file is one of NIfTI or Analyze."""
    return path.name.lower().endswith(_EXTENSIONS)


def check_header(path: Path, called: str, count: bool = True) -> None:
    """Check what a header of NIfTI or Analyze states, and that the voxels are there; see `check_claims`."""
    file = _with_header(path)
    header = _read_header(file, called)
    voxels = file if header.magic == _ONE_FILE else _with_voxels(path)
    if header.magic == _TWO_FILES and voxels.name.lower().endswith((".nii", ".nii.gz")):
        raise _unusable(called, "it belongs to a file .img")
    _check_numbers(header, called)
    sizes = [max(1, side) for side in header.dim[1 : header.dim[0] + 1]]
    width = _BYTES[header.datatype]
    start = max(_FIRST_HEADER if header.magic == _ONE_FILE else 0, int(header.offset))
    needed = math.prod(sizes) * width
    compressed = voxels.suffix.lower() == ".gz"
    payload = Payload([(voxels, 0)], "gzip", needed, start) if compressed else Payload([(voxels, start)], "raw", needed)
    refuse_short(payload, f"{' x '.join(map(str, sizes))} voxels of {width} bytes", called, count)


def _check_numbers(header: _Header, called: str) -> None:
    """Raises InputError where numbers are none, or beyond what they can be."""
    if not 1 <= header.dim[0] <= _MOST_AXES or min(header.dim[1 : header.dim[0] + 1]) < 0:
        raise _unusable(called, f"its sizes are {header.dim}")
    if header.datatype not in _BYTES:
        raise _unusable(called, f"its datatype is {header.datatype}")
    if header.datatype in _OF_COMPONENTS and header.dim[0] >= 5 and max(header.dim[5 : header.dim[0] + 1]) > 1:
        raise _unusable(called, f"its voxels are vectors of complex numbers or colors (datatype {header.datatype})")
    if not 0 <= header.offset <= _LARGEST_OFFSET:
        raise _unusable(called, f"its voxels begin at byte {header.offset:.9g}")
    qform, sform = header.codes
    used = [*(header.quaternion if qform > 0 else ()), *(header.sform if sform > 0 else ())]
    wrong = [value for value in header.pixdim[1:4] if abs(value) > _LARGEST]  # ITK takes 1 where it is no number
    wrong += [value for value in used if not abs(value) <= _LARGEST]
    if wrong:
        raise _unusable(called, f"its geometry holds {wrong[0]:.9g}")


def _read_header(file: Path, called: str) -> _Header:
    """The header of either version and byte order."""
    try:
        with _opened(file) as stream:
            content = stream.read(_SECOND_HEADER)
        for order in "<>":
            length = struct.unpack_from(order + "i", content)[0]
            if length == _FIRST_HEADER:
                return _first_version(content, order)
            if length == _SECOND_HEADER:
                return _second_version(content, order)
    except (EOFError, OSError, zlib.error, struct.error) as error:
        raise InputError(f"The {called} is cut short or damaged; copy or download it again.") from error
    raise _unusable(called, f"it begins with {content[:4].hex(' ')}")


def _first_version(content: bytes, order: str) -> _Header:
    def values(form: str, offset: int) -> tuple:
        return struct.unpack_from(order + form, content, offset)

    (datatype,), (offset,) = values("h", 70), values("f", 108)
    magic = content[344:347]
    return _Header(
        values("8h", 40),
        datatype,
        values("8f", 76),
        offset,
        values("2h", 252),
        values("6f", 256),
        values("12f", 280),
        magic,
    )


def _second_version(content: bytes, order: str) -> _Header:
    def values(form: str, offset: int) -> tuple:
        return struct.unpack_from(order + form, content, offset)

    (datatype,), (offset,) = values("h", 12), values("q", 168)
    return _Header(
        values("8q", 16),
        datatype,
        values("8d", 104),
        offset,
        values("2i", 344),
        values("6d", 352),
        values("12d", 400),
        _ONE_FILE,
    )


def _with_header(path: Path) -> Path:
    """Of a pair of header and image, the header; else the file itself."""
    return _of_pair(path, ".img", (".hdr", ".hdr.gz", ".HDR", ".HDR.GZ"))


def _with_voxels(path: Path) -> Path:
    """Of a pair of header and image, the image; else the file itself."""
    return _of_pair(path, ".hdr", (".img", ".img.gz", ".IMG", ".IMG.GZ"))


def _of_pair(path: Path, given: str, wanted: tuple[str, ...]) -> Path:
    name = path.name[: -len(".gz")] if path.suffix.lower() == ".gz" else path.name
    if not name.lower().endswith(given):
        return path
    candidates = [path.with_name(name[: -len(given)] + ending) for ending in wanted]
    return next((file for file in candidates if file.exists()), candidates[0])


def _unusable(called: str, what: str) -> InputError:
    return InputError(f"The {called} has a NIfTI header that cannot be used: {what}; write the file again.")


def remarks_of(reader: sitk.ImageFileReader, called: str) -> tuple[str, ...]:
    """What a user should know of the header: other units than mm, which ITK converts; an orientation not stated."""
    if not reader.HasMetaDataKey("qform_code"):
        return ()
    remarks = []
    units = _UNITS.get(int(reader.GetMetaData("xyzt_units")) & 7)
    if units is not None:
        remarks.append(f"The {called} states its lengths in {units}; they were converted to mm.")
    qform, sform = _codes(reader)
    if qform > 0 and sform > 0:
        remarks += _disagreement(reader, "sform" if sform == _SCANNER else "qform", called)
    if qform <= 0 and sform <= 0:
        kind = "is an Analyze file, which has" if reader.GetMetaData("nifti_type") == "0" else "states"
        remarks.append(
            f"The {called} {kind} no orientation; it was read as if its axes were those of the patient, and left and "
            "right may be exchanged, which no registration can tell."
        )
    return tuple(remarks)


def with_stated_spacing(
    image: sitk.Image, reader: sitk.ImageFileReader, file: Path, called: str
) -> tuple[sitk.Image, tuple[str, ...]]:
    """(the image, remarks): ITK takes the voxel sizes of pixdim also where the sform states others, and 1 for 0.

    file: of the reader. Raises InputError where the header states no usable voxel size.
    """
    if not reader.HasMetaDataKey("qform_code"):
        return image, ()
    qform, sform = _codes(reader)
    pixdim, lengths = _stored_pixdim(file, reader), np.linalg.norm(_sform(reader)[:, :3], axis=0)
    by_sform = sform > 0 and (sform == _SCANNER or qform <= 0) and bool(np.all(lengths > 0))
    usable = pixdim > 0 if qform > 0 else np.abs(pixdim) > 0  # without orientation, a sign tells of a flip at most
    if not by_sform and not np.all(usable):
        raise InputError(
            f"The {called} states voxels of {_times(pixdim)} mm (pixdim), which is no size; correct its header."
        )
    if not by_sform or np.all(np.abs(pixdim - lengths) <= _SPACING_TOLERANCE * lengths):
        return image, ()
    factor = _MM.get(int(reader.GetMetaData("xyzt_units")) & 7, 1.0)
    image.SetSpacing((factor * lengths).tolist())
    return image, (
        f"The {called} states voxels of {_times(lengths)} by its sform and of {_times(pixdim)} by its pixdim; the "
        "sform was used.",
    )


def _codes(reader: sitk.ImageFileReader) -> tuple[int, int]:
    """(qform_code, sform_code)"""
    return int(reader.GetMetaData("qform_code")), int(reader.GetMetaData("sform_code"))


def _pixdim(reader: sitk.ImageFileReader) -> np.ndarray:
    """(3,): the voxel sizes, in the units of the header."""
    return np.array([float(reader.GetMetaData(f"pixdim[{axis}]")) for axis in (1, 2, 3)])


def _stored_pixdim(file: Path, reader: sitk.ImageFileReader) -> np.ndarray:
    """`_pixdim` as the file has it: ITK says 1 where that is 0 or no number."""
    name = file.name.replace(".img", ".hdr").replace(".IMG", ".HDR")
    with contextlib.suppress(OSError, EOFError, zlib.error, struct.error), _opened(file.with_name(name)) as stream:
        header = stream.read(_FIRST_HEADER)
        order = next(mark for mark in "<>" if mark == ">" or struct.unpack_from("<i", header)[0] == _FIRST_HEADER)
        return np.array(struct.unpack_from(order + "3f", header, 80), float)
    return _pixdim(reader)


def _sform(reader: sitk.ImageFileReader) -> np.ndarray:
    """(3, 4), in the units of the header."""
    return np.array([[float(value) for value in reader.GetMetaData(f"srow_{axis}").split()] for axis in "xyz"])


def _times(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _disagreement(reader: sitk.ImageFileReader, used: str, called: str) -> list[str]:
    """A remark where qform and sform put the volume at different places. used: the one that ITK uses."""

    def number(key: str) -> float:
        return float(reader.GetMetaData(key))

    quaternion = [number(f"quatern_{axis}") for axis in "bcd"] + [number(f"qoffset_{axis}") for axis in "xyz"]
    spacing, by_sform = _pixdim(reader), _sform(reader)
    last = np.array(reader.GetSize()[:3]) - 1
    corners = np.array([[*(last * corner), 1] for corner in np.ndindex(2, 2, 2)])
    apart_mm = min(  # ITK does not tell whether the axes of the qform are left-handed
        np.linalg.norm(corners @ (np.reshape(_rows(tuple(quaternion), (sign, *spacing)), (3, 4)) - by_sform).T, axis=1)
        .max()
        .item()
        for sign in (-1.0, 1.0)
    )
    if not apart_mm > _APART_VOXELS * spacing.max():
        return []
    return [
        f"The {called} states two positions (qform and sform) that are up to {apart_mm:.1f} mm apart; the {used} was "
        "used, as Slicer does."
    ]


@contextlib.contextmanager
def as_itk_reads_it(path: Path, called: str) -> Iterator[Path]:
    """The file itself, or a temporary copy or link that ITK reads rightly.

    ITK reads no NIfTI-2; and beside "scan.nii" it takes the voxels of "scan.nii.gz" from the former.

    Raises:
        InputError: a side is too long for NIfTI-1, or the file is cut short.
    """
    second_version = path.name.lower().endswith((".nii", ".nii.gz")) and _is_second_version(path)
    shadowed = path.name.lower().endswith(".nii.gz") and path.with_suffix("").exists()
    if not second_version and not shadowed:
        yield path
        return
    with private_folder() as folder:
        if not second_version:
            yield _linked(path, folder / "volume.nii.gz")
            return
        copy = folder / "volume.nii"
        check_header(path, called)
        try:
            with _opened(path) as source, copy.open("wb") as target:
                _convert(source, target, called)
        except (EOFError, OSError, zlib.error, struct.error) as error:
            raise InputError(f"The {called} is cut short or damaged; copy or download it again.") from error
        yield copy


def _linked(path: Path, link: Path) -> Path:
    try:
        link.symlink_to(path.absolute())
    except OSError:  # as on Windows without the right to make links
        shutil.copyfile(path, link)
    return link


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def _is_second_version(path: Path) -> bool:
    try:
        with _opened(path) as stream:
            start = stream.read(8)
    except (EOFError, OSError, zlib.error):
        return False  # the reader that follows says what is wrong
    return start[4:7] == b"n+2" and _SECOND_HEADER in struct.unpack("<i", start[:4]) + struct.unpack(">i", start[:4])


def _convert(source: BinaryIO, target: BinaryIO, called: str) -> None:
    """Write NIfTI-1 from NIfTI-2: https://nifti.nimh.nih.gov/nifti-2. The voxels are copied as they are."""
    header = source.read(_SECOND_HEADER)
    order = "<" if struct.unpack("<i", header[:4])[0] == _SECOND_HEADER else ">"

    def values(form: str, offset: int) -> tuple:
        return struct.unpack_from(order + form, header, offset)

    datatype, bitpix, *dim = values("2h8q", 12)
    if max(dim[1:]) > _LARGEST_SIDE:
        raise InputError(
            f"The {called} is a NIfTI-2 file with {max(dim[1:])} voxels along one axis, and at most {_LARGEST_SIDE} "
            "are read; crop it, or save it as .nrrd."
        )
    intent, pixdim = values("3d", 80), values("8d", 104)
    (offset,) = values("q", 168)
    qform, sform = values("2i", 344)
    quaternion, rows = values("6d", 352), values("12d", 400)
    units, intent_code = values("2i", 500)
    if qform > 0 and sform != _SCANNER:  # ITK would use the quaternion, which loses too much in float32
        rows, sform = _rows(quaternion, pixdim), _SCANNER
    intent, pixdim, quaternion, rows = (_in_float32(part) for part in (intent, pixdim, quaternion, rows))
    slope, intercept, highest, lowest, duration, shift = _in_float32(values("6d", 176))
    first = struct.pack(
        order + "i10s18sihcB8h3f4h8f3fhbB4f2i80s24s2h6f12f16s4s",
        *(_FIRST_HEADER, b"", b"", 0, 0, b"r", header[524], *dim, *intent, intent_code, datatype, bitpix, 0, *pixdim),
        *(_FIRST_HEADER + 4.0, slope, intercept, 0, 0, units, highest, lowest),
        *(duration, shift, 0, 0, header[240:320], header[320:344], qform, sform, *quaternion, *rows),
        *(header[508:524], b"n+1\0"),
    )
    target.write(first + b"\0" * 4)
    source.seek(offset)
    left = math.prod(max(1, side) for side in dim[1 : dim[0] + 1]) * _BYTES[datatype]
    while left > 0 and (piece := source.read(min(left, 1 << 22))):  # and nothing of what may follow the voxels
        target.write(piece)
        left -= len(piece)


def _in_float32(values: tuple) -> tuple:
    """The values as float32 holds them: infinite where they are too large."""
    with np.errstate(over="ignore"):
        return tuple(np.array(values).astype(np.float32).tolist())


def _rows(quaternion: tuple, pixdim: tuple) -> tuple:
    """The twelve values of a sform that is the same as a qform. quaternion: b, c, d and the three offsets."""
    b, c, d = quaternion[:3]
    a = math.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = rotation * (pixdim[1], pixdim[2], -pixdim[3] if pixdim[0] < 0 else pixdim[3])
    return tuple(np.column_stack([matrix, quaternion[3:]]).ravel())
