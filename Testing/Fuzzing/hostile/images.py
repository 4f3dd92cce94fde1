"""Hostile NIfTI, NRRD and MetaImage files, and those of other formats that ITK reads."""

from __future__ import annotations

import bz2
import functools
import gzip
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph.io.images import validate_image
from wavemorph.io.labels import read_label_map
from wavemorph.io.reading import read_foreground, read_lattice, read_volume

from .mutations import changed_bytes, changed_text, cut, extreme, some_bytes, with_field
from .runner import Case, Wrong

SIZE = (7, 6, 5)
_BOMB_BYTES = 128 << 20
_NIFTI_FIELDS = [(0, "i"), *((40 + 2 * n, "h") for n in range(8)), *((56 + 4 * n, "f") for n in range(3))]
_NIFTI_FIELDS += [(68, "h"), (70, "h"), (72, "h"), *((76 + 4 * n, "f") for n in range(8)), (108, "f"), (112, "f")]
_NIFTI_FIELDS += [(116, "f"), (123, "B"), (252, "h"), (254, "h"), *((256 + 4 * n, "f") for n in range(18))]
_NIFTI_FIELDS += [(344, "i"), (348, "B")]
_NIFTI2_FIELDS = [(0, "i"), (12, "h"), (14, "h"), *((16 + 8 * n, "q") for n in range(8)), (168, "q")]
_NIFTI2_FIELDS += [*((104 + 8 * n, "d") for n in range(8)), (176, "d"), (184, "d"), (344, "i"), (348, "i")]
_NIFTI2_FIELDS += [*((352 + 8 * n, "d") for n in range(18)), (500, "i"), (504, "i")]


def voxels(kind: str = "<i2") -> np.ndarray:
    """(5, 6, 7): values that differ, of a type."""
    return (np.arange(210).reshape(SIZE[::-1]) * 7 % 101).astype(kind)


@functools.cache
def written(extension: str, kind: str = "i2", components: int = 1, compressed: bool = False) -> bytes:
    """A valid file as SimpleITK writes it."""
    array = voxels(kind)
    if components > 1:
        array = np.stack([array] * components, axis=-1)
    image = sitk.GetImageFromArray(array, isVector=components > 1)
    image.SetSpacing((1.5, 1.25, 2.0))
    image.SetOrigin((3.0, -4.0, 5.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{extension}"
        sitk.WriteImage(image, str(path), compressed)
        return path.read_bytes()


def image_case(path: Path, generator: random.Random, available: int, reason: str = "") -> Case:
    """The file, read with one of the readers of volumes, and what it returns checked.

    available: bytes of voxels that the input holds at most. reason: why the voxels cannot be read rightly.
    """
    reader = generator.choice((read_volume, read_volume, read_lattice, read_label_map, read_foreground))

    def read() -> None:
        result = reader(path)
        if reader is read_lattice:
            check_geometry(result)
            return
        image = result.layers[0] if reader is read_label_map else result.image
        check_geometry(image)
        if np.prod([float(n) for n in image.GetSize()]) > available:
            raise Wrong(f"more voxels than bytes ({reader.__name__})")
        if reader is read_volume:
            sitk.GetArrayViewFromImage(image).sum()
            validate_image(image, result.name)

    return Case(read, "" if reader is read_lattice else reason)


def check_geometry(image: sitk.Image) -> None:
    """Raises Wrong where the image has no usable geometry."""
    values = (*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection())
    if image.GetDimension() != 3 or not np.all(np.isfinite(values)) or min(image.GetSpacing()) <= 0:
        raise Wrong("a geometry that is none")


class Nifti:
    """NIfTI-1 and NIfTI-2, in one file or two, compressed or not."""

    name, title = "nifti", "NIfTI (.nii, .nii.gz, .hdr and .img)"

    def prepare(self) -> None:
        zeros(gzip.compress)

    def make(self, generator: random.Random, folder: Path) -> Case:
        second = generator.random() < 0.25
        kind = generator.choice(("<i2", "<f4", "u1", "<i4", "<f8"))
        content = _second_version(kind) if second else written(".nii", kind.lstrip("<"))
        header = 544 if second else 352
        what, reason = generator.randrange(10), ""
        if what <= 3:
            for _ in range(generator.choice((1, 1, 2, 3))):
                content = with_field(generator, _NIFTI2_FIELDS if second else _NIFTI_FIELDS, "<", content)
        elif what == 4:
            content = changed_bytes(generator, content, 0, header)
        elif what == 5:
            content = changed_bytes(generator, content)
        elif what == 6:
            content, reason = content[: generator.randrange(1, len(content))], "it is cut short"
        elif what == 7:
            content = _with_extension(generator, content, header)
        elif what == 8 and not second:
            return self._pair(generator, folder, content)
        elif what == 9 and generator.random() < 0.02:
            return self._bomb(generator, folder, content)
        available = len(content)
        path = folder / "volume.nii"
        if generator.random() < 0.4:
            path = folder / "volume.nii.gz"
            content = gzip.compress(content, 1)
            if what in (5, 9):
                content = changed_bytes(generator, content)
            elif what == 6 and generator.random() < 0.5:
                content, reason = cut(generator, content), "it is cut short"
        path.write_bytes(content)
        if (
            path.suffix == ".gz" and generator.random() < 0.05
        ):  # what ITK takes instead of a compressed file of the same name
            (folder / "volume.nii").write_bytes(written(".nii"))
        return image_case(path, generator, available, reason)

    def _pair(self, generator: random.Random, folder: Path, content: bytes) -> Case:
        header, data = bytearray(content[:352]), content[352:]
        header[344:348] = b"ni1\0"
        struct.pack_into("<f", header, 108, 0.0)
        header, reason = bytes(header[:348]), ""
        what = generator.randrange(4)
        if what == 0:
            header = with_field(generator, _NIFTI_FIELDS[:-1], "<", header)
        elif what == 1:
            header = changed_bytes(generator, header)
        elif what == 2:
            data, reason = cut(generator, data), "its voxels are cut short"
        (folder / "volume.hdr").write_bytes(header)
        if what != 3:
            (folder / "volume.img").write_bytes(data)
        else:
            reason = "it has no voxels"
        return image_case(
            folder / generator.choice(("volume.hdr", "volume.img")) if what != 3 else folder / "volume.hdr",
            generator,
            len(data),
            reason,
        )

    def _bomb(self, generator: random.Random, folder: Path, content: bytes) -> Case:
        """A small or a huge claim, and many zeros."""
        path, reason = folder / "volume.nii.gz", ""
        if generator.random() < 0.5:
            content = bytearray(content)
            struct.pack_into("<4h", content, 40, 3, 32000, 32000, 1000)
            content, reason = bytes(content), "it holds too little for 10^12 voxels"
        path.write_bytes(gzip.compress(content) + zeros(gzip.compress))
        return image_case(path, generator, _BOMB_BYTES, reason)


def with_changed_nifti_header(generator: random.Random, content: bytes) -> bytes:
    """A NIfTI-1 file with one to a few fields of its header replaced."""
    for _ in range(generator.choice((1, 1, 2, 3))):
        content = with_field(generator, _NIFTI_FIELDS, "<", content)
    return content


@functools.cache
def zeros(compress: Callable[[bytes], bytes]) -> bytes:
    """Many zeros, compressed to a thousandth."""
    return compress(bytes(_BOMB_BYTES))


def _second_version(kind: str) -> bytes:
    """A valid NIfTI-2 file."""
    code, bits = {"<i2": (4, 16), "<f4": (16, 32), "u1": (2, 8), "<i4": (8, 32), "<f8": (64, 64)}[kind]
    header = bytearray(544)
    struct.pack_into("<i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", code, bits, 3, *SIZE, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1.0, 1.5, 1.25, 2.0, 1, 1, 1, 1)
    struct.pack_into("<q2d", header, 168, 544, 1.0, 0.0)
    struct.pack_into("<2i6d12d", header, 344, 1, 1, *[0.0] * 6, 1.5, 0, 0, 0, 0, 1.25, 0, 0, 0, 0, 2.0, 0)
    struct.pack_into("<i", header, 500, 2)
    return bytes(header) + voxels(kind).tobytes()


def _with_extension(generator: random.Random, content: bytes, header: int) -> bytes:
    """Header extensions of sizes that may be wrong."""
    extension = struct.pack("<2i", extreme(generator, "i"), extreme(generator, "i")) + some_bytes(generator)
    changed = bytearray(content[: header - 4] + b"\1\0\0\0" + extension + content[header:])
    if generator.random() < 0.5:
        if header == 352:
            struct.pack_into("<f", changed, 108, 352 + len(extension))
        else:
            struct.pack_into("<q", changed, 168, 544 + len(extension))
    return bytes(changed)


_NRRD_HEADER = """NRRD0005
# made by code
type: short
dimension: 3
space: left-posterior-superior
sizes: 7 6 5
space directions: (1.5,0,0) (0,1.25,0) (0,0,2)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (3,-4,5)
"""
_SEGMENT_KEYS = """Segment0_ID:=Segment_1
Segment0_Name:=left
Segment0_LabelValue:=1
Segment0_Layer:=0
Segment0_Color:=0.5 0.2 0.1
Segment0_Extent:=0 6 0 5 0 4
Segment1_ID:=Segment_2
Segment1_Name:=right
Segment1_LabelValue:=2
Segment1_Layer:=0
Segmentation_MasterRepresentation:=Binary labelmap
Segmentation_ReferenceImageExtentOffset:=0 0 0
"""
_NRRD_LINES = (
    *('units: "m" "m" "m"', 'space units: "mm" "mm" "mm"', "thicknesses: 1 1 1", "spacings: 1 1 1"),
    *("spacings: nan nan 1e308", "axis mins: 0 0 0", "centers: cell cell cell", 'labels: "a" "b" "c"'),
    *("byte skip: 10", "byte skip: -1", "byte skip: -2", "byteskip: 1000000000000", "line skip: 3", "lineskip: -1"),
    *("line skip: 2147483647", "old min: 0", "measurement frame: (1,0,0) (0,1,0) (0,0,1)", "block size: 8"),
    *("sample units: kg", "space dimension: 3", "space: right-anterior-superior", "space: scanner-xyz-time"),
    *("dimension: 16", "type: block", "sizes: 100000 100000 100", "content: x", "number: 10", "min: nan"),
    *("data file: LIST\nvolume.raw\n../outside/bystander.raw", "data file: volume%03d.raw 1 5 1 2"),
    *(
        "data file: ../outside/bystander.raw",
        "data file: /dev/zero",
        "data file: pipe",
        "data file: volume%n.raw 1 2 1",
    ),
    *("data file: volume%d.raw 0 1000000000 1", "data file: LIST 4", "data file: .", "data file: volume.nhdr"),
)


class Nrrd:
    """NRRD, attached and detached, and segmentations of Slicer."""

    name, title = "nrrd", "NRRD (.nrrd, .nhdr, .seg.nrrd)"

    def prepare(self) -> None:
        zeros(gzip.compress)

    def make(self, generator: random.Random, folder: Path) -> Case:
        header, data = _NRRD_HEADER, voxels().tobytes()
        if generator.random() < 0.25:
            data = (voxels() % 3).astype("<i2").tobytes()
            header += _SEGMENT_KEYS
        header, data, available = _encoded(generator, header, data, "encoding: raw", _NRRD_ENCODINGS)
        what, reason = generator.randrange(8), ""
        if what <= 3:
            header = changed_text(generator, header)
        elif what == 4:
            lines = header.split("\n")
            lines.insert(generator.randrange(1, len(lines)), generator.choice(_NRRD_LINES))
            header = "\n".join(lines)
        elif what == 5:
            data = changed_bytes(generator, data)
        elif what == 6 and len(data) > 1:
            data, reason = cut(generator, data), "its voxels are cut short"
        if what == 7 and generator.random() < 0.03:
            header = header.replace("encoding: raw", "encoding: gzip")
            if generator.random() < 0.5:
                header, reason = header.replace("7 6 5", "10000 10000 10000"), "it holds too little for 10^12 voxels"
            data, available = zeros(gzip.compress), _BOMB_BYTES
        if generator.random() < 0.3 and what != 4:
            return self._detached(generator, folder, header, data, reason, available)
        content = header.encode("utf-8", "surrogatepass") + b"\n" + data
        if what == 7:
            content = changed_bytes(generator, content)
        _write_neighbors(folder, data)
        path = folder / generator.choice(("volume.nrrd", "volume.seg.nrrd", "volume.nhdr"))
        path.write_bytes(content)
        return image_case(path, generator, max(available, len(content), 5000), reason)

    def _detached(
        self, generator: random.Random, folder: Path, header: str, data: bytes, reason: str, available: int
    ) -> Case:
        name = generator.choice(("volume.raw", "./volume.raw", str(folder / "volume.raw")))
        header = header.rstrip("\n") + f"\ndata file: {name}\n"
        if generator.random() < 0.3:
            header = changed_text(generator, header)
        _write_neighbors(folder, data)
        path = folder / "volume.nhdr"
        path.write_bytes(header.encode("utf-8", "surrogatepass"))
        return image_case(path, generator, max(available, len(header), 5000), reason)


def _write_neighbors(folder: Path, data: bytes) -> None:
    """What headers may name as their data: a file, and several."""
    (folder / "volume.raw").write_bytes(data)
    for number in range(2):
        (folder / f"volume00{number + 1}.raw").write_bytes(data[:84])


def _hexadecimal(data: bytes) -> bytes:
    return data.hex().encode()


def _as_text(data: bytes) -> bytes:
    return " ".join(map(str, np.frombuffer(data, "<i2"))).encode()


_NRRD_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "encoding: raw": bytes,
    "encoding: gzip": functools.partial(gzip.compress, compresslevel=1),
    "encoding: bzip2": bz2.compress,
    "encoding: hex": _hexadecimal,
    "encoding: text": _as_text,
}
_META_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "BinaryData = True\nCompressedData = False": bytes,
    "BinaryData = True\nCompressedData = True": zlib.compress,
    "BinaryData = False\nCompressedData = False": _as_text,
}


def _encoded(
    generator: random.Random, header: str, data: bytes, place: str, encodings: dict[str, Callable[[bytes], bytes]]
) -> tuple[str, bytes, int]:
    """(header, data, bytes of voxels) in one of the encodings; half of them raw."""
    available = len(data)
    if generator.random() < 0.5:
        return header, data, available
    chosen = generator.choice(list(encodings))
    return header.replace(place, chosen), encodings[chosen](data), available


_META_RAW = "BinaryData = True\nCompressedData = False"
_META_HEADER = f"""ObjectType = Image
NDims = 3
{_META_RAW}
BinaryDataByteOrderMSB = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 3 -4 5
CenterOfRotation = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = 1.5 1.25 2
DimSize = 7 6 5
ElementType = MET_SHORT
"""
_META_LINES = (
    *("HeaderSize = 10", "HeaderSize = -1", "HeaderSize = 1000000000000", "ElementNumberOfChannels = 3", "NDims = 100"),
    *(
        "ElementNumberOfChannels = 1000000",
        "CompressedDataSize = 10",
        "CompressedDataSize = 1000000000000",
        "NDims = 2",
    ),
    *("CompressedDataSize = -1", "DistanceUnits = um", "ElementSize = nan 0 -1", "Modality = MET_MOD_CT", "NDims = 0"),
    *("DimSize = 100000 100000 100", "DimSize = 7 6", "DimSize = 7 6 5 4 3", "ElementMin = nan", "Color = 1 1 1 1"),
    *("ElementToIntensityFunctionSlope = nan", "ElementType = MET_OTHER", "ElementType = MET_STRING", "NDims = -3"),
    *("ElementType = MET_DOUBLE", "ElementType = MET_UCHAR_ARRAY", "ObjectType = Tube", "CompressedData = True"),
    *("Comment = " + "x" * 5000, "Position = 1e309 nan 0", "Orientation = 0 0 0 0 0 0 0 0 0", "BinaryData = False"),
)
_META_FILES = (
    *(
        "volume.raw",
        "LIST\nvolume001.raw\nvolume002.raw",
        "LIST 2\nvolume.raw",
        "volume%03d.raw 1 2 1",
        "LIST",
        "LOCAL",
    ),
    *("../outside/bystander.raw", "/dev/zero", "/dev/stdin", "volume%d.raw 0 1000000000 1", "volume%n%n.raw 1 2 1"),
    *(".", "volume.mhd", "", "a" * 5000, "LIST 3\n" + "../outside/bystander.raw\n" * 5, "volume%s.raw 1 2 1"),
)


class Meta:
    """MetaImage, attached and detached."""

    name, title = "metaimage", "MetaImage (.mha, .mhd)"

    def prepare(self) -> None:
        zeros(zlib.compress)

    def make(self, generator: random.Random, folder: Path) -> Case:
        header, data, available = _encoded(generator, _META_HEADER, voxels().tobytes(), _META_RAW, _META_ENCODINGS)
        is_compressed = "CompressedData = True" in header
        if is_compressed and generator.random() < 0.7:
            header += f"CompressedDataSize = {len(data)}\n"
        what, reason = generator.randrange(8), ""
        if what <= 2:
            header = changed_text(generator, header)
        elif what == 3:
            lines = header.split("\n")
            lines.insert(generator.randrange(1, len(lines)), generator.choice(_META_LINES))
            header = "\n".join(lines)
        elif what == 4:
            data = changed_bytes(generator, data)
        elif what == 5:
            data, reason = cut(generator, data), "its voxels are cut short"
        elif what == 6 and generator.random() < 0.03:
            header = header.replace("CompressedData = False", "CompressedData = True")
            if generator.random() < 0.5:
                header, reason = header.replace("7 6 5", "10000 10000 10000"), "it holds too little for 10^12 voxels"
            data, available = zeros(zlib.compress), _BOMB_BYTES
        attached = generator.random() < 0.5
        place = "LOCAL" if attached else "volume.raw"
        if what in (6, 7) and not reason and generator.random() < 0.6:
            place = generator.choice(_META_FILES)
        content = (header.rstrip("\n") + f"\nElementDataFile = {place}\n").encode("utf-8", "surrogatepass")
        if attached:
            content += data
        if what == 7:
            content = changed_bytes(generator, content)
        _write_neighbors(folder, data)
        path = folder / generator.choice(("volume.mha", "volume.mhd"))
        path.write_bytes(content)
        return image_case(path, generator, max(available, len(content), 25000), reason)


class OtherImages:
    """Formats of ITK beside those that the documentation names."""

    name, title = "other-images", "other image files that ITK reads (VTK, GIPL, MRC, TIFF, PNG, MINC, HDF5)"
    _EXTENSIONS = (".vtk", ".gipl", ".mrc", ".tif", ".mnc", ".hdf5", ".nia", ".png", ".bmp", ".jpg")

    def prepare(self) -> None:
        for extension in self._EXTENSIONS:
            _other(extension)

    def make(self, generator: random.Random, folder: Path) -> Case:
        extension = generator.choice(self._EXTENSIONS)
        content = _other(extension)
        what, reason = generator.randrange(4), ""
        if what == 0:
            content = changed_bytes(generator, content, 0, 512)
        elif what == 1:
            content = changed_bytes(generator, content)
        elif what == 2:
            content = cut(generator, content)
        else:
            extension = generator.choice((*self._EXTENSIONS, ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".img", ""))
        path = folder / f"volume{extension}"
        path.write_bytes(content)
        return image_case(path, generator, max(210, len(content)), reason)


@functools.cache
def _other(extension: str) -> bytes:
    """A valid file of one of the other formats; of the flat ones, a slice."""
    if extension not in (".png", ".bmp", ".jpg"):
        return written(extension, "u1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{extension}"
        sitk.WriteImage(sitk.GetImageFromArray(voxels("u1")[0]), str(path))
        return path.read_bytes()
