"""Hostile transforms: ITK's binary and text files, those of other programs, and displacement fields."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from wavemorph.io.transforms import read_transform

from .images import with_changed_nifti_header
from .mutations import INTEGERS, NUMBERS, TEXTS, changed_bytes, changed_text, cut, extreme, some_bytes
from .runner import Case, Wrong

_POINTS = list(itertools.product((-100.0, 0.0, 30.0), repeat=3))


@functools.cache
def transforms() -> tuple[sitk.Transform, ...]:
    """One of every kind that programs write."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.1, 0.1, 0, -0.1, 0.9, 0, 0, 0.05, 1))
    affine.SetTranslation((3.0, -2.0, 1.0))
    euler = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (1.0, 2.0, 3.0))
    versor = sitk.VersorRigid3DTransform((0.0, 0.1, 0.0, 0.99), (1.0, 2.0, 3.0))
    spline = sitk.BSplineTransformInitializer(sitk.Image([8, 8, 8], sitk.sitkUInt8), [2, 2, 2])
    spline.SetParameters(np.linspace(-1, 1, len(spline.GetParameters())).tolist())
    field = sitk.GetImageFromArray(displacements().astype(np.float64), isVector=True)
    displacement = sitk.DisplacementFieldTransform(field)
    scale = sitk.ScaleTransform(3, (1.0, 1.1, 0.9))
    whole = sitk.CompositeTransform([sitk.Transform(affine), sitk.Transform(euler), sitk.Transform(displacement)])
    single = (affine, euler, versor, spline, displacement, scale, sitk.TranslationTransform(3, (1.0, 2.0, 3.0)))
    return (*map(sitk.Transform, single), whole)


def displacements() -> np.ndarray:
    """(4, 4, 5, 3), LPS mm."""
    return np.random.default_rng(0).uniform(-1, 1, (4, 4, 5, 3)).astype(np.float32)


@functools.cache
def written_transforms(extension: str) -> tuple[bytes, ...]:
    """Valid files of the kinds that a format holds."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"transform{extension}"
        for transform in transforms():
            with contextlib.suppress(RuntimeError):  # a .mat or .xfm file cannot hold every kind
                sitk.WriteTransform(transform, str(path))
                sitk.ReadTransform(str(path))
                found.append(path.read_bytes())
    return tuple(found)


def reading(path: Path) -> Callable[[], None]:
    """A function that reads a transform and maps points."""

    def read() -> None:
        transform = read_transform(path)
        if transform.GetDimension() != 3:
            raise Wrong("a transform that is not 3D")
        mapped = np.array([transform.TransformPoint(point) for point in _POINTS])
        if not np.all(np.isfinite(mapped)):
            raise Wrong("points that are mapped to no place")

    return read


class Hdf5Transforms:
    """.h5 as ITK writes it: damaged, with other sizes, and with links to other files."""

    name, title = "transform-h5", "transforms of ITK (.h5)"

    def prepare(self) -> None:
        written_transforms(".h5")
        _linked()

    def make(self, generator: random.Random, folder: Path) -> Case:
        content, reason = generator.choice(written_transforms(".h5")), ""
        what = generator.randrange(10)
        if what <= 3:
            content = changed_bytes(generator, content)
        elif what == 4:
            content, reason = cut(generator, content), "it is cut short"
        elif what <= 7:
            content = _with_other_number(generator, content)
        elif what == 8:
            content = _with_other_text(generator, content)
        else:
            content, reason = generator.choice(_linked()), "it takes its values from elsewhere, or has none"
        path = folder / generator.choice(("transform.h5", "transform.hdf5", "transform.hdf"))
        path.write_bytes(content)
        (folder / "other.h5").write_bytes(written_transforms(".h5")[0])
        (folder / "values.raw").write_bytes(bytes(4096))
        return Case(reading(path), reason)


def _with_other_number(generator: random.Random, content: bytes) -> bytes:
    """One of the numbers of eight or four bytes replaced that is small, as sizes and places are."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 3))):
        width = generator.choice((8, 8, 4, 2))
        places = [
            at
            for at in range(0, len(content) - width, width)
            if 0 < int.from_bytes(content[at : at + width], "little") < len(content) + 100
        ]
        value = generator.choice((*INTEGERS, 10**12, 2**62, 2**63, 2**64 - 1, len(content), generator.randrange(9000)))
        at = generator.choice(places)
        changed[at : at + width] = (value & (256**width - 1)).to_bytes(width, "little")
    return bytes(changed)


def _with_other_text(generator: random.Random, content: bytes) -> bytes:
    """A name of a group or a kind of transform replaced by another of its length."""
    names = [
        name
        for name in (
            b"TransformGroup",
            b"TransformType",
            b"TransformParameters",
            b"TransformFixedParameters",
            b"AffineTransform_double_3_3",
            b"CompositeTransform_double_3_3",
            b"ITKVersion",
            b"DisplacementFieldTransform",
            b"_double_3_3",
            b"Euler3DTransform",
        )
        if name in content
    ]
    name = generator.choice(names)
    other = generator.choice((b"TransformType", b"Euler3DTransform_double_3_3", b"_float_3_3", b"_double_2_2", b"\0"))
    other = generator.choice((other, some_bytes(generator), generator.choice(TEXTS).encode("utf-8", "surrogatepass")))
    return content.replace(name, other[: len(name)].ljust(len(name), b"\0"))


@functools.cache
def _linked() -> tuple[bytes, ...]:
    """Files whose values are in other files, in each other, or nowhere, of sizes up to 10^12."""
    import h5py

    def whole(file: h5py.File) -> h5py.Group:
        file["ITKVersion"], file["HDFVersion"], file["OSName"], file["OSVersion"] = "5.4.0", "1.12", "Linux", "6"
        group = file.create_group("TransformGroup/0")
        group.create_dataset("TransformType", data=["AffineTransform_double_3_3"], dtype=h5py.string_dtype())
        return group

    def external_link(file: h5py.File) -> None:
        group = whole(file)
        group["TransformParameters"] = h5py.ExternalLink(
            "../outside/bystander.raw", "/TransformGroup/0/TransformParameters"
        )
        group["TransformFixedParameters"] = np.zeros(3)

    def linked_group(file: h5py.File) -> None:
        file["ITKVersion"] = "5.4.0"
        file["TransformGroup"] = h5py.ExternalLink("other.h5", "/TransformGroup")

    def soft_loop(file: h5py.File) -> None:
        group = whole(file)
        group["TransformParameters"] = h5py.SoftLink("/TransformGroup/0/TransformParameters")
        group["TransformFixedParameters"] = np.zeros(3)

    def external_values(file: h5py.File) -> None:
        group = whole(file)
        group.create_dataset("TransformParameters", (12,), "f8", external=[("values.raw", 0, 96)])
        group["TransformFixedParameters"] = np.zeros(3)

    def huge(file: h5py.File, **options) -> None:
        group = whole(file)
        group.create_dataset("TransformParameters", (10**12,), "f8", **options)
        group["TransformFixedParameters"] = np.zeros(3)

    def huge_chunked(file: h5py.File) -> None:
        huge(file, chunks=(1 << 20,), compression="gzip")

    def unallocated(file: h5py.File) -> None:
        group = whole(file)
        group.create_dataset("TransformParameters", (12,), "f8")
        group["TransformFixedParameters"] = np.zeros(3)

    def many_axes(file: h5py.File) -> None:
        group = whole(file)
        group["TransformParameters"] = np.zeros((3, 2, 2))
        group["TransformFixedParameters"] = np.zeros(3)

    def bomb(file: h5py.File) -> None:
        group = whole(file)
        data = group.create_dataset("TransformParameters", (1 << 28,), "f8", chunks=(1 << 22,), compression="gzip")
        for start in range(0, 1 << 28, 1 << 26):
            data[start : start + (1 << 22)] = 0
        group["TransformFixedParameters"] = np.zeros(3)

    found = []
    with tempfile.TemporaryDirectory() as folder:
        makers = (
            external_link,
            linked_group,
            soft_loop,
            external_values,
            huge,
            huge_chunked,
            unallocated,
            many_axes,
            bomb,
        )
        for number, make in enumerate(makers):
            for version in ("earliest", "latest"):
                path = Path(folder) / f"{number}{version}.h5"
                with h5py.File(path, "w", libver=version) as file:
                    make(file)
                found.append(path.read_bytes())
    return tuple(found)


_FOREIGN = {
    ".xfm": "MNI Transform File\n% made by code\n\nTransform_Type = Linear;\nLinear_Transform =\n"
    " 1 0 0 3\n 0 1 0 -2\n 0 0 1 1;\n",
    ".mat": "1.0 0.0 0.0 3.0\n0.0 1.0 0.0 -2.0\n0.0 0.0 1.0 1.0\n0.0 0.0 0.0 1.0\n",
    ".txt": "1 0 0 3\n0 1 0 -2\n0 0 1 1\n0 0 0 1\n",
    ".lta": "type      = 1\nnxforms   = 1\nmean      = 0.0 0.0 0.0\nsigma     = 1.0\n"
    "1 4 4\n1 0 0 3\n0 1 0 -2\n0 0 1 1\n0 0 0 1\n",
    ".dat": "subject\n1.0\n1.0\n0.15\n1 0 0 3\n0 1 0 -2\n0 0 1 1\n0 0 0 1\nround\n",
    ".aff12.1D": "# 3dAllineate\n1 0 0 3 0 1 0 -2 0 0 1 1\n",
    ".x5": "x",
}


class TextTransforms:
    """.tfm and .txt of ITK, .mat of ITK and ANTs, .xfm of MINC and ITK, and matrices of other programs."""

    name, title = "transform-text", "transforms (.tfm, .txt, .mat, .xfm, and those of other programs)"

    def prepare(self) -> None:
        for extension in (".tfm", ".mat", ".xfm"):
            written_transforms(extension)

    def make(self, generator: random.Random, folder: Path) -> Case:
        what, reason = generator.randrange(10), ""
        if what <= 4:
            extension = generator.choice((".tfm", ".txt"))
            text = generator.choice(written_transforms(".tfm")).decode()
            if what == 4:
                place = generator.randrange(1, text.rindex("Parameters:"))
                text, reason = text[:place], "it is cut short"
            else:
                text = _changed_itk_text(generator, text)
            content = text.encode("utf-8", "surrogatepass")
        elif what <= 7:
            extension = ".mat"
            content = generator.choice(written_transforms(".mat"))
            if what == 5:
                content = changed_bytes(generator, content)
            elif what == 6:
                content, reason = cut(generator, content), "it is cut short"
            else:
                changed = bytearray(content)
                for _ in range(generator.choice((1, 2))):
                    struct.pack_into("<i", changed, generator.choice((0, 4, 8, 12, 16)), extreme(generator, "i"))
                content = bytes(changed)
        elif what == 8:
            extension = ".xfm"
            content = changed_text(
                generator, generator.choice((_FOREIGN[".xfm"], *map(bytes.decode, written_transforms(".xfm"))))
            ).encode("utf-8", "surrogatepass")
        else:
            extension = generator.choice(list(_FOREIGN))
            content = changed_text(generator, _FOREIGN[extension]).encode("utf-8", "surrogatepass")
            if generator.random() < 0.3:
                content = changed_bytes(generator, content)
            if generator.random() < 0.1:
                content = gzip.compress(content)
        path = folder / f"transform{extension}"
        path.write_bytes(content)
        return Case(reading(path), reason)


def _changed_itk_text(generator: random.Random, text: str) -> str:
    """A text file of ITK with a number, a count or a kind changed."""
    what = generator.randrange(4)
    lines = text.split("\n")
    at = generator.choice([n for n, line in enumerate(lines) if ":" in line])
    name, _, value = lines[at].partition(":")
    if what == 0:
        return changed_text(generator, text)
    if what == 1:
        values = value.split() or ["0"]
        values[generator.randrange(len(values))] = generator.choice(NUMBERS)
        value = " ".join(values)
    elif what == 2:
        values = value.split()
        value = " ".join(values[: generator.randrange(len(values) + 1)] * generator.choice((1, 1, 2, 1000)))
    else:
        kinds = (
            "AffineTransform",
            "Euler3DTransform",
            "CompositeTransform",
            "BSplineTransform",
            "FooTransform",
            "DisplacementFieldTransform",
            "IdentityTransform",
            "Euler2DTransform",
            "ThinPlateSplineKernelTransform",
            "GaussianExponentialDiffeomorphicTransform",
            "MatrixOffsetTransformBase",
            "QuaternionRigidTransform",
        )
        types = ("_double_3_3", "_float_3_3", "_double_2_2", "_double_3_2", "_double_4_4", "", "_int_3_3")
        value = " " + generator.choice(kinds) + generator.choice(types)
    lines[at] = f"{name}: {value}"
    return "\n".join(lines)


class Fields:
    """Displacement fields as NIfTI, NRRD and MetaImage."""

    name, title = "transform-field", "displacement fields (.nii, .nii.gz, .nrrd, .mha)"
    _EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".mha")

    def prepare(self) -> None:
        for extension in self._EXTENSIONS:
            _field(extension)

    def make(self, generator: random.Random, folder: Path) -> Case:
        extension = generator.choice(self._EXTENSIONS)
        content, reason = _field(extension), ""
        what = generator.randrange(5)
        header = len(content) - displacements().nbytes
        if extension == ".nii.gz":
            content = gzip.decompress(content)
            header = 352
        if what == 0:
            content, reason = content[: generator.randrange(1, len(content))], "it is cut short"
        elif what == 1:
            content = changed_bytes(generator, content)
        elif extension.startswith(".nii"):
            content = with_changed_nifti_header(generator, content)
        else:
            text = changed_text(generator, content[:header].decode("latin-1"))
            content = text.encode("latin-1", "replace") + content[header:]
        if extension == ".nii.gz":
            content = gzip.compress(content, 1)
        path = folder / f"field{extension}"
        path.write_bytes(content)
        return Case(reading(path), reason)


@functools.cache
def _field(extension: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"field{extension}"
        image = sitk.GetImageFromArray(displacements(), isVector=True)
        image.SetSpacing((20.0, 20.0, 20.0))
        sitk.WriteImage(image, str(path))
        return path.read_bytes()
