"""Headers that lie: sizes, lengths, numbers and places that are not there, refused before a library trusts them."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from hostile.dicom import _slices
from hostile.images import voxels, written
from hostile.transforms import _linked, transforms, written_transforms
from hypothesis import given, settings
from hypothesis import strategies as st
from wavemorph.errors import InputError, SettingsError, WaveMorphError
from wavemorph.io.formats.dicom.multiframe import EnhancedFile
from wavemorph.io.labels import read_label_map
from wavemorph.io.points import read_points
from wavemorph.io.reading import read_lattice, read_volume
from wavemorph.io.result import Registration
from wavemorph.io.text_files.label_names import read_label_names
from wavemorph.io.transforms import read_transform
from wavemorph.settings import Settings

NRRD = (
    "NRRD0005\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\n"
)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\nDimSize = 7 6 5\n"
    "ElementType = MET_SHORT\n"
)
DATA = voxels().tobytes()
TEXT = " ".join(map(str, voxels().ravel())).encode()


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    sentence = str(caught.value)
    assert sentence.isprintable() and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [("raw", DATA), ("gzip", gzip.compress(DATA)), ("text", TEXT), ("hex", DATA.hex().encode())],
)
def test_a_nrrd_file_that_is_cut_short_is_refused_and_a_whole_one_read(tmp_path, encoding, data, detached):
    def write(content: bytes) -> None:
        header = f"{NRRD}encoding: {encoding}\n" + ("data file: volume.raw\n" if detached else "\n")
        (tmp_path / "volume.nhdr").write_bytes(header.encode() + (b"" if detached else content))
        (tmp_path / "volume.raw").write_bytes(content)

    write(data)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "volume.nhdr").image), voxels())
    write(data[: len(data) * 2 // 3])
    assert "cut short" in refusal(read_volume, tmp_path / "volume.nhdr")


def test_a_gipl_file_that_states_more_voxels_than_it_holds_is_refused_and_a_whole_one_read(tmp_path):
    content = written(".gipl")
    (tmp_path / "volume.gipl").write_bytes(content)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "volume.gipl").image), voxels())
    (tmp_path / "volume.gipl").write_bytes(content[:4] + struct.pack(">H", 2053) + content[6:])
    assert "7 x 6 x 2053 x 1 voxels and holds fewer" in refusal(read_volume, tmp_path / "volume.gipl")


def test_an_mrc_file_that_states_more_voxels_than_it_holds_is_refused_and_a_whole_one_read(tmp_path):
    content = written(".mrc")
    (tmp_path / "volume.mrc").write_bytes(content)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "volume.mrc").image), voxels())
    (tmp_path / "volume.mrc").write_bytes(content[:4] + struct.pack("<i", 32768) + content[8:])
    assert "7 x 32768 x 5 voxels and holds fewer" in refusal(read_volume, tmp_path / "volume.mrc")


def test_a_metaimage_whose_compressed_size_is_more_than_its_file_is_refused(tmp_path):
    header = META + "CompressedData = True\nCompressedDataSize = 1000000000000\nElementDataFile = volume.raw\n"
    (tmp_path / "volume.mhd").write_text(header)
    (tmp_path / "volume.raw").write_bytes(zlib.compress(DATA))
    assert "cut short" in refusal(read_volume, tmp_path / "volume.mhd")


def test_a_header_with_a_key_that_is_no_text_does_not_disturb_the_reading_of_labels(tmp_path):
    (tmp_path / "labels.mha").write_bytes(META.encode() + b"\xffffset = 3\nElementDataFile = LOCAL\n" + DATA)
    labels = read_label_map(tmp_path / "labels.mha")
    assert np.array_equal(sitk.GetArrayFromImage(labels.layers[0]), voxels())
    assert sitk.GetArrayFromImage(labels.image()).shape == voxels().shape


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(
    ("header", "data"),
    [("", DATA), (f"CompressedData = True\nCompressedDataSize = {len(zlib.compress(DATA))}\n", zlib.compress(DATA))],
    ids=["raw", "compressed"],
)
def test_a_metaimage_that_is_cut_short_is_refused_and_a_whole_one_read(tmp_path, header, data, detached):
    def write(content: bytes) -> None:
        text = META + header + ("ElementDataFile = volume.raw\n" if detached else "ElementDataFile = LOCAL\n")
        (tmp_path / "volume.mhd").write_bytes(text.encode() + (b"" if detached else content))
        (tmp_path / "volume.raw").write_bytes(content)

    write(data)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "volume.mhd").image), voxels())
    write(data[: len(data) * 2 // 3])
    assert "cut short" in refusal(read_volume, tmp_path / "volume.mhd")


@pytest.mark.parametrize("reader", [read_volume, read_lattice])
@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz", "volume.nrrd", "volume.mha"])
def test_a_claim_of_a_million_million_voxels_is_refused_by_the_size_of_the_file(tmp_path, reader, name):
    if ".nii" in name:
        content = bytearray(written(".nii"))
        struct.pack_into("<4h", content, 40, 3, 30000, 30000, 1200)
        content = gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content)
    elif name.endswith(".nrrd"):
        content = (NRRD.replace("7 6 5", "10000 10000 10000") + "encoding: raw\n\n").encode() + DATA
    else:
        content = (META.replace("7 6 5", "10000 10000 10000") + "ElementDataFile = LOCAL\n").encode() + DATA
    (tmp_path / name).write_bytes(content)
    assert "cut short" in refusal(reader, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("long.nrrd", (NRRD.replace("sizes: 7 6 5", "sizes: 7 6 " + "9" * 5000) + "encoding: raw\n\n").encode() + DATA),
        ("twice.nrrd", (NRRD + "encoding: raw\nencoding: gzip\n\n").encode() + DATA),
        ("axes.mha", (META.replace("NDims = 3", "NDims = 100") + "ElementDataFile = LOCAL\n").encode() + DATA),
        ("size.mha", (META + "CompressedData = True\nElementDataFile = LOCAL\n").encode() + zlib.compress(DATA)),
        ("format.mha", (META + "ElementDataFile = volume%n%n.raw 1 2 1\n").encode()),
        ("endless.mha", (META + "TransformMatrix = 1 0 0 -1e308 1 0 0 0 1\nElementDataFile = LOCAL\n").encode() + DATA),
        ("device.nhdr", (NRRD + "encoding: raw\ndata file: /dev/zero\n").encode()),
        ("volume.vtk", b"# vtk DataFile Version 3.0\nx\nBINARY\nDATASET STRUCTURED_POINTS\nDIMENSIONS 7\x006 5\n"),
    ],
)
def test_headers_on_which_the_library_crashed_or_did_not_end_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refusal(read_volume, tmp_path / name)


def test_voxels_in_a_pipe_are_refused_without_waiting_for_them(tmp_path):
    os.mkfifo(tmp_path / "volume.raw")
    (tmp_path / "volume.nhdr").write_bytes((NRRD + "encoding: raw\ndata file: volume.raw\n").encode())
    assert "another file" in refusal(read_volume, tmp_path / "volume.nhdr")


def test_an_infinite_position_in_a_nifti_header_is_refused(tmp_path):
    content = bytearray(written(".nii"))
    struct.pack_into("<h", content, 254, 1)
    struct.pack_into("<f", content, 316, float("-inf"))
    (tmp_path / "volume.nii").write_bytes(content)
    assert "-inf" in refusal(read_volume, tmp_path / "volume.nii")


def test_deeply_nested_dicom_sequences_are_refused_before_they_take_forever(tmp_path):
    opening = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
    closing = b"\xfe\xff\xdd\xe0\0\0\0\0\xfe\xff\x0d\xe0\0\0\0\0"
    nested = opening * 30 + closing * 30
    for number, content in enumerate(_slices()):
        place = content.index(b"\x10\x00\x10\x00PN")
        sequence = b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<I", len(nested)) + nested
        (tmp_path / f"{number}.dcm").write_bytes(content[:place] + sequence + content[place:])
    refusal(read_volume, tmp_path)


def test_dicom_slices_that_state_more_pixels_than_they_hold_are_refused(tmp_path):
    for number, content in enumerate(_slices()):
        (tmp_path / f"{number}.dcm").write_bytes(
            content.replace(b"\x28\x00\x10\x00US\x02\x00\x06\x00", b"\x28\x00\x10\x00US\x02\x00\xff\xff")
        )
    refusal(read_volume, tmp_path)


@pytest.mark.parametrize("number", range(len(transforms())))
def test_transforms_in_hdf5_are_those_that_itk_reads(tmp_path, number):
    (tmp_path / "transform.h5").write_bytes(written_transforms(".h5")[number])
    ours, of_itk = read_transform(tmp_path / "transform.h5"), sitk.ReadTransform(str(tmp_path / "transform.h5"))
    for point in np.random.default_rng(0).uniform(-2, 12, (50, 3)).tolist():
        assert np.allclose(ours.TransformPoint(point), of_itk.TransformPoint(point), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("number", range(18))
def test_hdf5_files_with_values_elsewhere_or_nowhere_are_refused(tmp_path, number):
    (tmp_path / "transform.h5").write_bytes(_linked()[number])
    refusal(read_transform, tmp_path / "transform.h5")


@pytest.mark.parametrize(
    "lines",
    [
        "Transform: AffineTransform_double_3_3\nParameters: 1 0 0\nFixedParameters: 0 0 0\n",
        "Transform: Euler3DTransform_double_3_3\nParameters: 0 0 0 0 0 1e308\nFixedParameters: 0 0 0\n",
        "Transform: BSplineTransform_double_3_3\nParameters: 1 2 3\nFixedParameters: "
        "10000 10000 10000 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1\n",
        "Transform: TranslationTransform_double_3_3\nParameters: 1 2 nan\nFixedParameters: \n",
    ],
)
def test_transforms_with_other_parameters_than_their_kind_has_are_refused(tmp_path, lines):
    (tmp_path / "transform.tfm").write_text("#Insight Transform File V1.0\n#Transform 0\n" + lines)
    refusal(read_transform, tmp_path / "transform.tfm")


@pytest.mark.parametrize("text", ["[" * 100000, '{"labels": ' + "9" * 5000 + "}", '{"1": "\\ud800"}'])
def test_json_that_is_too_deep_or_too_long_or_holds_half_a_character_is_refused(tmp_path, text):
    for name, reader in (("points.mrk.json", read_points), ("labels.json", read_label_names)):
        (tmp_path / name).write_text(text)
        refusal(reader, tmp_path / name)


@settings(max_examples=60, deadline=None)
@given(position=st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()), max_size=4))
def test_any_position_in_markups_is_read_or_refused(tmp_path_factory, position):
    path = tmp_path_factory.mktemp("markups") / "points.mrk.json"
    point = {"label": "a", "position": position}
    path.write_text(json.dumps({"markups": [{"type": "Fiducial", "controlPoints": [point]}]}))
    try:
        points = read_points(path)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert points.positions.shape == (1, 3) and np.all(np.isfinite(points.positions))


@given(st.text())
def test_an_error_is_one_line_without_control_characters(text):
    assert str(WaveMorphError(text)).isprintable()


@pytest.mark.parametrize("values", [[], {"seed": 10**30}, {"threads": "two"}, {"spacing_mm": "1"}, {"weights": 3}])
def test_settings_of_another_type_are_refused(values):
    with pytest.raises(SettingsError):
        Settings.from_dict(values)


@pytest.mark.parametrize("line", ["# CoordinateSystem = LPS", "# columns = id,z,y,x"])
def test_what_a_landmark_file_states_after_its_landmarks_is_refused(tmp_path, line):
    (tmp_path / "points.fcsv").write_text(f"# columns = id,x,y,z\n1,1,2,3\n{line}\n2,4,5,6\n")
    assert "after landmarks" in refusal(read_points, tmp_path / "points.fcsv")


def test_a_saved_result_whose_field_has_a_damaged_header_is_refused_in_one_sentence(tmp_path):
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "affine.tfm"))
    (tmp_path / "report.json").write_text("{}")
    np.save(tmp_path / "field.npy", np.zeros((2, 2, 2, 3), np.float32))
    whole = (tmp_path / "field.npy").read_bytes()
    for damaged in (whole.replace(b"(2, 2", b"(2, 2(("), whole.replace(b"{", b"'")):
        (tmp_path / "field.npy").write_bytes(damaged)
        assert "cannot be read" in refusal(Registration.load, tmp_path)


@pytest.mark.parametrize(("first", "values"), [(7, ["1e-300"] * 3), (11, ["2e-314"])], ids=["spacing", "direction"])
def test_a_b_spline_whose_lattice_itk_cannot_invert_is_refused(tmp_path, first, values):
    spline = sitk.BSplineTransformInitializer(sitk.Image((8, 8, 8), sitk.sitkUInt8), (2, 2, 2))
    sitk.WriteTransform(spline, str(tmp_path / "spline.tfm"))
    lines = (tmp_path / "spline.tfm").read_text().splitlines()
    fixed = next(n for n, line in enumerate(lines) if line.startswith("FixedParameters"))
    numbers = lines[fixed].split()
    numbers[first : first + len(values)] = values
    lines[fixed] = " ".join(numbers)
    (tmp_path / "spline.tfm").write_text("\n".join(lines) + "\n")
    assert "no usable size, spacing or direction" in refusal(read_transform, tmp_path / "spline.tfm")


def test_an_enhanced_file_that_states_two_encodings_is_refused_in_one_sentence():
    file = EnhancedFile.__new__(EnhancedFile)
    file._called, file._count = "image", 1
    file._data = SimpleNamespace(file_meta=SimpleNamespace(TransferSyntaxUID=["1.2", "1.3"]))
    assert "The voxels of the image cannot be read" in refusal(file._stored_pixels)
