"""What a volume's file says of itself: units, orientation, version; and lattices, whose voxels do not matter."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import wavemorph
from dicom_files import write_stack
from wavemorph.cli.main import main
from wavemorph.errors import InputError
from wavemorph.io.files import existing, refuse_changed, stamp, without_names
from wavemorph.io.images import read_labels, same_lattice
from wavemorph.io.reading import read_lattice, read_volume

RANDOM = np.random.default_rng(0)
ARRAY = RANDOM.random((5, 6, 7)).astype(np.float32)  # (i, j, k) of nibabel
AFFINE = np.array([[-1.2, 0, 0.3, 40], [0.1, 1.0, 0, -30], [0.3, 0, 2.0, 7], [0, 0, 0, 1]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] @ np.diag([1.5, 1.25, 2.0])


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def write_nrrd(path, *fields: str, data: bytes = ARRAY.tobytes(order="F")) -> None:
    """A NRRD file of ARRAY with these fields of its header beside type and sizes."""
    header = ["NRRD0004", "type: float", "dimension: 3", "sizes: 5 6 7", "endian: little", "encoding: raw", *fields]
    path.write_bytes(("\n".join(header) + "\n\n").encode() + data)


def assert_positions(image: sitk.Image, affine: np.ndarray) -> None:
    """affine: indices -> RAS mm."""
    for index in ((0, 0, 0), (3, 4, 5), (4, 5, 6)):
        expected = (affine @ [*index, 1])[:3] * [-1, -1, 1]
        found = np.array(image.TransformIndexToPhysicalPoint(index))
        assert np.abs(found - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(("units", "factor", "word"), [("meter", 1000, "meters"), ("micron", 1e-3, "micrometers")])
@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_units_of_a_nifti_file_are_converted_and_said(tmp_path, image_class, units, factor, word):
    image = image_class(ARRAY, AFFINE)
    image.header.set_xyzt_units(units)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz", "fixed image")
    assert_positions(volume.image, np.diag([factor, factor, factor, 1]) @ AFFINE)
    (remark,) = volume.remarks
    assert remark == f'The fixed image "scan.nii.gz" states its lengths in {word}; they were converted to mm.'


@pytest.mark.parametrize("units", ["mm", "unknown"])
def test_millimeters_and_unknown_units_of_a_nifti_file_are_not_worth_a_remark(tmp_path, units):
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.header.set_xyzt_units(units)
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert_positions(volume.image, AFFINE)
    assert volume.remarks == ()


DIRECTIONS = "space directions: (2,0,0) (0,3,0) (0,0,4)"


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("um", 1e-3), ("micrometre", 1e-3), ("µm", 1e-3), ("microns", 1e-3), ("m", 1e3), ("cm", 10.0)],
)
def test_the_space_units_of_a_nrrd_file_are_converted_and_said(tmp_path, unit, factor):
    units = " ".join([f'"{unit}"'] * 3)
    fields = ("space: left-posterior-superior", DIRECTIONS, "space origin: (10,20,30)", f"space units: {units}")
    write_nrrd(tmp_path / "scan.nrrd", *fields)
    write_nrrd(tmp_path / "scan.nhdr", *fields, "data file: scan.raw", data=b"")
    (tmp_path / "scan.raw").write_bytes(ARRAY.tobytes(order="F"))
    for name in ("scan.nrrd", "scan.nhdr"):
        volume = read_volume(tmp_path / name)
        assert volume.image.GetSpacing() == pytest.approx(np.multiply(factor, (2, 3, 4)))
        assert volume.image.GetOrigin() == pytest.approx(np.multiply(factor, (10, 20, 30)))
        (remark,) = volume.remarks
        assert f'"{unit}"; they were converted to mm' in remark


def test_the_distance_units_of_a_metaimage_are_converted_and_said(tmp_path):
    image = sitk.GetImageFromArray(ARRAY)
    image.SetSpacing((500.0, 500.0, 700.0))
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    content = (tmp_path / "scan.mha").read_bytes()
    (tmp_path / "scan.mha").write_bytes(content.replace(b"ElementSpacing", b"DistanceUnits = um\nElementSpacing"))
    volume = read_volume(tmp_path / "scan.mha")
    assert volume.image.GetSpacing() == pytest.approx((0.5, 0.5, 0.7))
    assert "converted to mm" in volume.remarks[0]


def test_units_that_are_unknown_or_differ_are_taken_for_mm_and_said(tmp_path):
    lps = ("space: left-posterior-superior", DIRECTIONS)
    write_nrrd(tmp_path / "odd.nrrd", *lps, 'space units: "furlong" "furlong" "furlong"')
    write_nrrd(tmp_path / "mixed.nrrd", *lps, 'space units: "mm" "mm" "um"')
    for name, words in (("odd", '"furlong"'), ("mixed", '"mm", "um"')):
        volume = read_volume(tmp_path / f"{name}.nrrd")
        assert volume.image.GetSpacing() == (2, 3, 4)
        assert f"{words}; they were taken for mm" in volume.remarks[0]


def test_files_that_state_no_orientation_are_said_to(tmp_path):
    bare = nibabel.Nifti1Image(ARRAY, None)
    bare.header["qform_code"] = bare.header["sform_code"] = 0
    nibabel.save(bare, tmp_path / "bare.nii.gz")
    second = nibabel.Nifti2Image(ARRAY, None)
    second.header["qform_code"] = second.header["sform_code"] = 0
    nibabel.save(second, tmp_path / "second.nii")
    nibabel.save(nibabel.AnalyzeImage(ARRAY, np.diag([2.0, 3, 4, 1])), tmp_path / "analyze.img")
    write_nrrd(tmp_path / "spacings.nrrd", "spacings: 2 3 4")
    write_nrrd(tmp_path / "frame.nrrd", "space: 3D-right-handed", DIRECTIONS)
    for name in ("bare.nii.gz", "second.nii", "analyze.img", "analyze.hdr", "spacings.nrrd", "frame.nrrd"):
        volume = read_volume(tmp_path / name, "moving image")
        assert np.allclose(sitk.GetArrayFromImage(volume.image), ARRAY.T)
        (remark,) = volume.remarks
        assert name in remark and "orientation" in remark and "left and right" in remark


def test_a_file_with_either_of_both_nifti_codes_states_its_orientation(tmp_path):
    for code in ("qform_code", "sform_code"):
        image = nibabel.Nifti1Image(ARRAY, AFFINE)
        image.set_qform(AFFINE, code=1)
        image.header[code] = 0
        nibabel.save(image, tmp_path / f"{code}.nii")
        volume = read_volume(tmp_path / f"{code}.nii")
        assert volume.remarks == ()
        assert_positions(volume.image, AFFINE)


def saved_with_voxel_sizes(path: Path, sizes: tuple[float, float, float], codes: tuple[int, int]) -> Path:
    """A file whose qform and sform are AFFINE, but for the codes and the sizes that pixdim states."""
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, 80, *sizes)
    struct.pack_into("<2h", content, 252, *codes)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("code", [1, 2])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (0, 0, 0)])
def test_voxel_sizes_are_those_of_the_sform_that_places_the_voxels(tmp_path, code, sizes):
    path = saved_with_voxel_sizes(tmp_path / "scan.nii", sizes, (0, code))
    volume = read_volume(path)
    assert_positions(volume.image, nibabel.load(path).affine)
    assert np.allclose(read_lattice(path).GetSpacing(), volume.image.GetSpacing())
    (remark,) = volume.remarks
    assert "by its sform" in remark and "by its pixdim; the sform was used" in remark


@pytest.mark.parametrize("codes", [(1, 0), (0, 0)])
@pytest.mark.parametrize("sizes", [(0, 0, 0), (2, 2, 0), (float("nan"), 2, 2), (-2, -2, -2)])
def test_a_file_without_usable_voxel_sizes_is_refused_with_them(tmp_path, codes, sizes):
    path = saved_with_voxel_sizes(tmp_path / "scan.nii", sizes, codes)
    if min(sizes) < 0 and codes == (0, 0):  # SPM's mark of a flip, where no orientation is stated
        assert "orientation" in read_volume(path).remarks[0]
        return
    with pytest.raises(InputError, match=r"states voxels of .* mm \(pixdim\), which is no size; correct its header"):
        read_volume(path)


@pytest.mark.parametrize(("codes", "used"), [((1, 2), "qform"), ((2, 4), "qform"), ((1, 1), "sform")])
def test_two_positions_in_one_header_are_said_with_the_one_that_is_used(tmp_path, codes, used):
    elsewhere = AFFINE.copy()
    elsewhere[:3, 3] += (0.0, 3.0, 4.0)
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, codes[0])
    image.set_sform(elsewhere, codes[1])
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert_positions(volume.image, AFFINE if used == "qform" else elsewhere)
    (remark,) = volume.remarks
    assert "up to 5.0 mm apart" in remark and f"the {used} was used" in remark


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_nifti_2_file_is_read_with_its_scaling(tmp_path, extension, order):
    stored = RANDOM.integers(-3000, 3000, (5, 6, 7)).astype(f"{order}i2")
    header = nibabel.Nifti2Header(endianness=order)
    header.set_data_dtype(stored.dtype)
    image = nibabel.Nifti2Image(stored, AFFINE, header)
    image.header.set_slope_inter(0.5, -8.0)
    path = tmp_path / f"scan{extension}"
    nibabel.save(image, path)
    volume = read_volume(path)
    assert np.allclose(sitk.GetArrayFromImage(volume.image), nibabel.load(path).get_fdata().T)
    assert_positions(volume.image, AFFINE)
    assert volume.remarks == ()
    whole = gzip.decompress(path.read_bytes()) if extension == ".nii.gz" else path.read_bytes()
    path.write_bytes(gzip.compress(whole[:-100]) if extension == ".nii.gz" else whole[:-100])
    assert "cut short" in refusal(read_volume, path)


@pytest.mark.parametrize("image_class", [nibabel.Nifti1Pair, nibabel.AnalyzeImage])
def test_a_pair_of_header_and_image_that_was_cut_short_is_refused(tmp_path, image_class):
    nibabel.save(image_class(ARRAY, np.diag([2.0, 3, 4, 1])), tmp_path / "scan.img")
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "scan.hdr").image), ARRAY.T)
    (tmp_path / "scan.img").write_bytes((tmp_path / "scan.img").read_bytes()[:400])
    for name in ("scan.img", "scan.hdr"):
        assert "cut short" in refusal(read_volume, tmp_path / name)


def test_a_nifti_2_file_too_long_for_nifti_1_is_refused_with_its_length(tmp_path):
    nibabel.save(nibabel.Nifti2Image(np.zeros((40000, 2, 2), np.uint8), np.eye(4)), tmp_path / "long.nii")
    assert "40000 voxels along one axis" in refusal(read_volume, tmp_path / "long.nii")


def test_a_compressed_file_beside_an_uncompressed_one_of_the_same_name_has_its_own_voxels(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ARRAY, AFFINE), tmp_path / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(1 - ARRAY, AFFINE), tmp_path / "scan.nii")
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "scan.nii.gz").image), ARRAY.T)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "scan.nii").image), (1 - ARRAY).T)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scan.nii", "scan.nii.gz"]


def test_whole_labels_that_a_slope_made_inexact_are_labels(tmp_path):
    array = np.zeros((18, 18, 18), np.uint8)
    array[3:9, 4:12, 5:11] = 3
    array[12:, 4:12, 5:11] = 200
    for slope, numbers in ((2.0000001, [6, 400]), (1.9999999, [6, 400]), (0.33333334, None)):
        image = nibabel.Nifti1Image(array, np.eye(4))
        image.header.set_slope_inter(slope, 0)
        nibabel.save(image, tmp_path / "labels.nii.gz")
        if numbers is None:
            assert "66.6666" in refusal(read_labels, tmp_path / "labels.nii.gz")
        else:
            labels = read_labels(tmp_path / "labels.nii.gz")
            assert np.unique(sitk.GetArrayViewFromImage(labels)).tolist() == [0, *numbers]
            assert labels[4, 5, 6] == 6 and labels[13, 5, 6] == 400


def test_a_number_that_is_no_label_is_written_with_all_its_digits(tmp_path):
    array = np.full((18, 18, 18), 6.0021, np.float64)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "labels.nii.gz")
    assert "such as 6.0021;" in refusal(read_labels, tmp_path / "labels.nii.gz")


def image_of(array: np.ndarray, vectors: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(array, isVector=vectors)
    image.SetSpacing((2.0, 3.0, 4.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    return image


LATTICES = {
    "empty": image_of(np.zeros((4, 5, 6), np.uint8)),
    "one slice": image_of(np.zeros((1, 5, 6), np.int16)),
    "not a number": image_of(np.full((4, 5, 6), np.nan, np.float32)),
    "vectors": image_of(np.zeros((4, 5, 6, 3), np.float32), vectors=True),
    "as large as a house": image_of(np.zeros((4, 5, 2000), np.uint8)),
}


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", LATTICES)
def test_a_lattice_may_hold_anything(tmp_path, kind, extension):
    expected = LATTICES[kind]
    sitk.WriteImage(expected, str(tmp_path / f"lattice{extension}"))
    assert same_lattice(read_lattice(tmp_path / f"lattice{extension}"), expected)


def test_the_lattice_of_several_frames_and_of_a_dicom_folder_is_that_of_a_volume(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7, 3), np.float32), AFFINE), tmp_path / "frames.nii")
    lattice = read_lattice(tmp_path / "frames.nii")
    assert lattice.GetSize() == (5, 6, 7)
    assert_positions(lattice, AFFINE)
    write_stack(tmp_path / "series", np.zeros((3, 5, 6), np.uint8), [(0, 0, 2.0 * n) for n in range(3)])
    assert read_lattice(tmp_path / "series").GetSize() == (6, 5, 3)
    assert "2D" in refusal(read_lattice, flat(tmp_path))


def flat(folder):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(folder / "flat.mha"))
    return folder / "flat.mha"


def test_apply_resamples_anything_that_can_be_read_onto_any_lattice(tmp_path):
    thin = image_of(RANDOM.random((3, 5, 6)).astype(np.float32))
    sitk.WriteImage(thin, str(tmp_path / "thin.nrrd"))
    sitk.WriteImage(LATTICES["not a number"], str(tmp_path / "lattice.nrrd"))
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.5, 0.0)), str(tmp_path / "t.tfm"))
    arguments = {"--transform": "t.tfm", "--image": "thin.nrrd", "--reference": "lattice.nrrd", "--output": "o.nrrd"}
    assert main(["apply", *[part for name, file in arguments.items() for part in (name, str(tmp_path / file))]]) == 0
    lattice = LATTICES["empty"]
    expected = sitk.Resample(thin, lattice, sitk.TranslationTransform(3, (1.0, 0.5, 0.0)))
    found = sitk.ReadImage(str(tmp_path / "o.nrrd"))
    assert same_lattice(found, lattice)
    assert np.allclose(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))


@pytest.fixture
def head_in_meters(tmp_path, tiny_pair):
    """(fixed.nii.gz in meters, its folder), and moving.nii.gz in mm."""
    fixed, moving = tiny_pair
    sitk.WriteImage(moving, str(tmp_path / "moving.nii.gz"))
    sitk.WriteImage(fixed, str(tmp_path / "mm.nii.gz"))
    image = nibabel.load(tmp_path / "mm.nii.gz")
    scaled = nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine)
    scaled.header.set_xyzt_units("meter")
    nibabel.save(scaled, tmp_path / "fixed.nii.gz")
    return tmp_path


def test_remarks_reach_the_terminal_and_the_report(head_in_meters, capsys):
    folder = head_in_meters
    files = ["--fixed", folder / "fixed.nii.gz", "--moving", folder / "moving.nii.gz", "--transform", folder / "t.h5"]
    options = ["--report", folder / "r.json", "--spacing", "4", "--weights", "none", "--aligned"]
    assert main(["register", *map(str, [*files, *options])]) == 0
    printed = capsys.readouterr()
    remark = 'The fixed image "fixed.nii.gz" states its lengths in meters; they were converted to mm.'
    assert f"note: {remark}" in printed.err.splitlines()
    remark = remark.replace(' "fixed.nii.gz"', "")  # a report names no file
    assert f"note: {remark}" in printed.out.splitlines()
    report = json.loads((folder / "r.json").read_text())
    assert report["notes"][0] == remark
    assert report["warnings"] == []


def test_remarks_reach_the_report_of_the_python_api(head_in_meters):
    settings = wavemorph.Settings(spacing_mm=4.0, weights="none", affine=False)
    result = wavemorph.register(head_in_meters / "fixed.nii.gz", head_in_meters / "moving.nii.gz", settings)
    assert "converted to mm" in result.report["notes"][0]


@pytest.mark.parametrize(
    ("sentence", "named_nowhere"),
    [
        ('The fixed image "DOE JANE.nii" states no orientation.', "The fixed image states no orientation."),
        (
            'Of the moving image "disc", 2 "T1, x" (44 slices) was read; left out: 1 "loc" (2 slices).',
            "Of the moving image, 2 (44 slices) was read; left out: 1 (2 slices).",
        ),
        ('The mask "a" states its lengths in "cm"; done.', 'The mask states its lengths in "cm"; done.'),
    ],
)
def test_a_report_names_no_file_folder_or_series(sentence, named_nowhere):
    assert without_names(sentence) == named_nowhere


def test_a_file_whose_name_has_quotes_is_named_without_them(tmp_path):
    (path := tmp_path / 'Jane "JD" Doe.nrrd').write_bytes(b"x")
    _, called = existing(path, "fixed image")
    assert without_names(f"The {called} is read.") == "The fixed image is read."


def test_a_volume_that_has_changed_is_refused_and_one_that_has_not_is_not(tmp_path):
    (tmp_path / "series").mkdir()
    slice_ = tmp_path / "series" / "1.dcm"
    slice_.write_bytes(b"one")
    for path in (slice_, tmp_path / "series"):
        before = stamp(path)
        refuse_changed(path, before, "fixed image")
        slice_.write_bytes(b"longer" * len(path.parts))
        with pytest.raises(InputError, match="changed while it was read"):
            refuse_changed(path, before, "fixed image")
    before = stamp(tmp_path / "series")
    (tmp_path / "series" / "2.dcm").write_bytes(b"two")
    with pytest.raises(InputError, match="changed while it was read"):
        refuse_changed(tmp_path / "series", before, "fixed image")
