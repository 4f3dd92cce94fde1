"""Volumes on any lattice, of any pixel type, in any format: read where an independent reader says, and kept by writing.

Hypothesis draws the lattices: oblique, flipped, permuted, left-handed, 2 to 400 voxels a side of 0.01 to 20 mm.
"""

from __future__ import annotations

import gzip
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_enhanced, write_stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wavemorph.io.images import read_labels
from wavemorph.io.outputs import write_image
from wavemorph.io.reading import read_volume

MAX_VOXELS = 6000
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
COMMON_TYPES = ("u1", "i2", "u2", "i4", "f4", "f8")
OTHER_TYPES = ("i1", "u4", "i8")
NRRD_TYPES = {
    "i1": "signed char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "i8": "longlong",
    "f4": "float", "f8": "double",
}  # fmt: skip
META_TYPES = {
    "i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT",
    "i8": "MET_LONG_LONG", "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip


def examples(count: int):
    """The same cases in each run, so that a change decides what fails."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@dataclass
class Lattice:
    """size and spacing (mm) along (i, j, k), origin LPS mm, axes: (3, 3), its columns unit LPS vectors."""

    size: tuple[int, int, int]
    spacing: np.ndarray
    origin: np.ndarray
    axes: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), indices (i, j, k) -> LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.axes * self.spacing, self.origin
        return matrix


@st.composite
def lattices(draw, right_handed: bool = False, most_slices: int = 400, finest_mm: float = 0.01) -> Lattice:
    size = [draw(st.integers(2, 400)), 2, 2]
    size[1] = draw(st.integers(2, max(2, min(400, MAX_VOXELS // (2 * size[0])))))
    size[2] = draw(st.integers(2, max(2, min(400, MAX_VOXELS // (size[0] * size[1])))))
    size = draw(st.permutations(size))
    size[2] = min(size[2], most_slices)
    exponents = st.floats(math.log(finest_mm), math.log(20.0))
    spacing = np.exp([draw(exponents) for _ in range(3)])
    origin = np.array([draw(st.floats(-1000, 1000)) for _ in range(3)]) * draw(st.sampled_from([0.0, 0.01, 1.0]))
    turn = np.eye(3)
    if draw(st.booleans()):  # else along the axes of the patient
        axis = [draw(st.floats(-1, 1)), draw(st.floats(-1, 1)), draw(st.floats(1, 2))]
        angle = draw(st.floats(0, math.pi))
        turn = np.reshape(sitk.VersorTransform(axis, angle).GetMatrix(), (3, 3))
    order, signs = draw(st.permutations([0, 1, 2])), draw(st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3))
    axes = turn @ (np.eye(3)[:, order] * signs)
    if right_handed and np.linalg.det(axes) < 0:
        axes[:, 2] *= -1
    return Lattice(tuple(size), spacing, origin, axes)


@st.composite
def arrays(draw, size, types=(*COMMON_TYPES, *OTHER_TYPES)) -> np.ndarray:
    """(k, j, i), over the whole range of its type."""
    dtype = np.dtype(draw(st.sampled_from(types))).newbyteorder(draw(st.sampled_from("<>")))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.kind == "f":
        values = random.normal(size=size[::-1]) * 10.0 ** draw(st.integers(-12, 9))
    else:
        limits = np.iinfo(dtype)
        values = random.integers(limits.min, limits.max, size[::-1], dtype=dtype.newbyteorder("="), endpoint=True)
    return values.astype(dtype)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def assert_positions(image: sitk.Image, affine: np.ndarray, of_a_voxel: float = 2e-3) -> None:
    """Every corner is at affine @ index (LPS mm), to a fraction of a voxel and what float32 headers round away."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    last = np.array(image.GetSize()) - 1
    corners = np.array([[*(last * corner), 1] for corner in np.ndindex(2, 2, 2)], float)
    away = np.linalg.norm(((matrix - affine) @ corners.T)[:3], axis=0).max()
    assert away < of_a_voxel * min(image.GetSpacing()) + 2e-7 * np.abs(affine @ corners.T).max() * 8


def assert_values(image: sitk.Image, array: np.ndarray) -> None:
    found = sitk.GetArrayFromImage(image)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(found, array)


@examples(400)
@given(data=st.data(), lattice=lattices(), version=st.sampled_from([1, 1, 2]), packed=st.booleans())
def test_a_nifti_file_is_read_where_nibabel_says(folder, data, lattice, version, packed):
    array = data.draw(arrays(lattice.size))
    path = folder / f"read.nii{'.gz' if packed else ''}"
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = kind.header_class(endianness=array.dtype.byteorder if array.dtype.byteorder in "<>" else "<")
    header.set_data_dtype(array.dtype)
    image = kind(array.T, RAS @ lattice.affine, header)
    qform, sform = data.draw(st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 4), (1, 2)]))
    image.set_qform(RAS @ lattice.affine, qform)
    image.set_sform(RAS @ lattice.affine, sform)
    nibabel.save(image, path)
    volume = read_volume(path)
    expected = nibabel.load(path)
    assert_positions(volume.image, RAS @ expected.affine)
    assert_values(volume.image, np.asarray(expected.dataobj).T)
    assert np.array_equal(np.asarray(expected.dataobj).T, array)
    assert volume.remarks == ()


@examples(100)
@given(data=st.data(), lattice=lattices(), slope=st.floats(1e-6, 1e6), intercept=st.floats(-1e5, 1e5))
def test_the_scaling_of_a_nifti_file_is_that_of_nibabel(folder, data, lattice, slope, intercept):
    array = data.draw(arrays(lattice.size, ("u1", "i2", "u2")))
    image = nibabel.Nifti1Image(array.T.astype(array.dtype.newbyteorder("<")), RAS @ lattice.affine)
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, folder / "scaled.nii")
    expected = nibabel.load(folder / "scaled.nii").get_fdata().T
    found = sitk.GetArrayFromImage(read_volume(folder / "scaled.nii").image)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def vector(values) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


@examples(250)
@given(
    data=st.data(),
    lattice=lattices(),
    detached=st.booleans(),
    packed=st.booleans(),
    space=st.sampled_from(["left-posterior-superior", "LPS", "right-anterior-superior", "RAS", "LAS"]),
)
def test_a_nrrd_file_is_read_where_its_header_says(folder, data, lattice, detached, packed, space):
    array = data.draw(arrays(lattice.size))
    signs = np.array({"R": [-1, -1, 1], "r": [-1, -1, 1], "L": [1, 1, 1], "l": [1, 1, 1]}[space[0]])
    if space == "LAS":
        signs = np.array([1, -1, 1])
    content = gzip.compress(array.tobytes()) if packed else array.tobytes()
    header = [
        "NRRD0004",
        f"type: {NRRD_TYPES[array.dtype.str[1:]]}",
        "dimension: 3",
        f"space: {space}",
        f"sizes: {' '.join(map(str, lattice.size))}",
        "space directions: " + " ".join(vector(signs * axis) for axis in (lattice.axes * lattice.spacing).T),
        f"endian: {'big' if array.dtype.byteorder == '>' else 'little'}",
        f"encoding: {'gzip' if packed else 'raw'}",
        f"space origin: {vector(signs * lattice.origin)}",
    ]
    path = folder / ("read.nhdr" if detached else "read.nrrd")
    if detached:
        (folder / "read.raw").write_bytes(content)
        path.write_text("\n".join([*header, "data file: read.raw"]) + "\n\n")
    else:
        path.write_bytes(("\n".join(header) + "\n\n").encode() + content)
    volume = read_volume(path)
    assert_positions(volume.image, lattice.affine)
    assert_values(volume.image, array)
    assert volume.remarks == ()


@examples(180)
@given(data=st.data(), lattice=lattices(), detached=st.booleans())
def test_a_metaimage_is_read_where_its_header_says(folder, data, lattice, detached):
    array = data.draw(arrays(lattice.size))
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": array.dtype.byteorder == ">",
        "TransformMatrix": " ".join(repr(float(value)) for value in lattice.axes.T.ravel()),
        "Offset": " ".join(repr(float(value)) for value in lattice.origin),
        "ElementSpacing": " ".join(repr(float(value)) for value in lattice.spacing),
        "DimSize": " ".join(map(str, lattice.size)),
        "ElementType": META_TYPES[array.dtype.str[1:]],
        "ElementDataFile": "meta.raw" if detached else "LOCAL",
    }
    text = "".join(f"{name} = {value}\n" for name, value in header.items())
    path = folder / ("read.mhd" if detached else "read.mha")
    if detached:
        path.write_text(text)
        (folder / "meta.raw").write_bytes(array.tobytes())
    else:
        path.write_bytes(text.encode() + array.tobytes())
    volume = read_volume(path)
    assert_positions(volume.image, lattice.affine)
    assert_values(volume.image, array)
    assert volume.remarks == ()


def dicom_slices(lattice: Lattice, array: np.ndarray) -> tuple:
    """(planes, positions, orientation, spacing) as `write_stack` and `write_enhanced` take them."""
    step = lattice.axes[:, 2] * lattice.spacing[2]
    positions = [lattice.origin + k * step for k in range(len(array))]
    return array, positions, lattice.axes[:, :2].T.ravel(), lattice.spacing[:2]


def empty(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


@examples(180)
@given(data=st.data(), lattice=lattices(right_handed=True, most_slices=6), enhanced=st.booleans())
def test_a_dicom_series_is_read_where_pydicom_says(folder, data, lattice, enhanced):
    array = data.draw(arrays(lattice.size, ("u1", "i2", "u2")))
    array = array.astype(array.dtype.newbyteorder("<"))
    series = empty(folder / "series")
    order = data.draw(st.permutations(range(len(array))))
    planes, positions, orientation, spacing = dicom_slices(lattice, array)
    shuffled = [planes[k] for k in order], [positions[k] for k in order]
    if enhanced:
        write_enhanced(series / "e.dcm", *shuffled, orientation, spacing)
    else:
        write_stack(series, *shuffled, orientation, spacing)
    image = read_volume(series).image
    assert image.GetSize() == lattice.size
    assert_positions(image, lattice.affine, 0.01)
    for number, file in enumerate(sorted(series.iterdir())):
        stored = pydicom.dcmread(file)
        frames = stored.pixel_array if enhanced else [stored.pixel_array]
        for frame, plane in enumerate(frames):
            assert np.array_equal(sitk.GetArrayViewFromImage(image)[order[number + frame]], plane)


@examples(400)
@given(data=st.data(), lattice=lattices(), extension=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]))
def test_what_is_written_is_read_back(folder, data, lattice, extension):
    array = data.draw(arrays(lattice.size))
    image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("=")))
    image.SetSpacing(lattice.spacing.tolist())
    image.SetOrigin(lattice.origin.tolist())
    image.SetDirection(lattice.axes.ravel().tolist())
    path = folder / f"written{extension}"
    write_image(image, path)
    volume = read_volume(path)
    assert_positions(volume.image, lattice.affine, 1e-3)
    assert_values(volume.image, array)
    assert volume.remarks == ()
    if extension.startswith(".nii"):
        assert_positions(volume.image, RAS @ nibabel.load(path).affine, 1e-3)


@examples(180)
@given(
    data=st.data(),
    lattice=lattices(right_handed=True, most_slices=6),
    form=st.sampled_from([".nii.gz", ".nrrd", ".mha", "dicom", "tilted dicom"]),
    numbers=st.lists(st.integers(1, 255), min_size=1, max_size=5, unique=True),
    pixel=st.sampled_from(["u1", "u2", "i4", "f4", "f8"]),
)
def test_labels_never_change_their_numbers(folder, data, lattice, form, numbers, pixel):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    array = np.array([0, *numbers])[random.integers(0, len(numbers) + 1, lattice.size[::-1])]
    array[0, 0, 0] = numbers[0]
    present = sorted(set(np.unique(array)) - {0})
    if "dicom" in form:
        path = empty(folder / "labels")
        planes, positions, orientation, spacing = dicom_slices(lattice, array.astype(np.uint16))
        if form == "tilted dicom":
            shift = 0.3 * lattice.spacing[2] * lattice.axes[:, 1]
            positions = [position + k * shift for k, position in enumerate(positions)]
        write_stack(path, planes, positions, orientation, spacing)
    else:
        path = folder / f"labels{form}"
        image = sitk.GetImageFromArray(array.astype(pixel))
        image.SetSpacing(lattice.spacing.tolist())
        image.SetDirection(lattice.axes.ravel().tolist())
        write_image(image, path)
    labels = read_labels(path)
    assert sorted(set(np.unique(sitk.GetArrayViewFromImage(labels))) - {0}) == present
    if form != "tilted dicom":
        assert np.array_equal(sitk.GetArrayFromImage(labels), array)
