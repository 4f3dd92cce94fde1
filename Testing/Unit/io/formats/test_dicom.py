"""DICOM series, plain and as scanners and archives leave them, written by pydicom, and held to what it reads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import AXIAL, SAGITTAL, write_enhanced, write_slice, write_stack
from scipy.ndimage import binary_erosion
from wavemorph.errors import InputError
from wavemorph.io.reading import read_volume

ROWS, COLUMNS, COUNT, STEP = 20, 24, 18, 3.0
SPACING = (1.5, 1.25)  # mm along (i, j)
OBLIQUE = tuple(np.reshape(sitk.VersorTransform((0.2, 0.3, 0.9), 0.5).GetMatrix(), (3, 3)).T[:2].ravel())
ORIGIN = np.array([-20.0, 11.0, 35.0])
RANDOM = np.random.default_rng(0)
PLANES = RANDOM.integers(0, 2000, (COUNT, ROWS, COLUMNS)).astype(np.uint16)


def positions(orientation=AXIAL, tilt=(0.0, 0.0), jitter=0.0) -> np.ndarray:
    """(COUNT, 3): along the normal, shifted by `tilt` mm along (i, j) for each mm of depth; odd ones by `jitter`."""
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    depth = STEP * np.arange(COUNT)[:, None] + jitter * (np.arange(COUNT)[:, None] % 2)
    return ORIGIN + depth * (normal + tilt[0] * row + tilt[1] * column)


def ramp(points: np.ndarray) -> np.ndarray:
    """A linear function of the position, which linear interpolation reproduces."""
    return 5000 + points @ np.array([31.0, 17.0, -23.0])


def ramp_planes(places: np.ndarray, orientation) -> np.ndarray:
    """The ramp in the planes of slices at `places`, as stored integers."""
    row, column = np.reshape(orientation, (2, 3))
    j, i = np.mgrid[:ROWS, :COLUMNS]
    inside = i[..., None] * SPACING[0] * row + j[..., None] * SPACING[1] * column
    return np.rint(ramp(places[:, None, None] + inside)).astype(np.uint16)


def refusal(path: Path, **choice) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path, "fixed image", **choice)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and "ERROR" not in sentence
    return sentence


def assert_where_its_headers_say(image: sitk.Image, files) -> None:
    """Every slice's voxels are in the image, at the positions and with the values that pydicom reads."""
    for file in files:
        data = pydicom.dcmread(file)
        values = data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        row, column = np.reshape(np.array(data.ImageOrientationPatient, float), (2, 3))
        for j, i in ((0, 0), (3, 7), (data.Rows - 1, data.Columns - 1)):
            point = np.array(data.ImagePositionPatient, float)
            point = point + i * data.PixelSpacing[1] * row + j * data.PixelSpacing[0] * column
            index = np.array(image.TransformPhysicalPointToContinuousIndex(point.tolist()))
            assert np.abs(index - np.rint(index)).max() < 0.02
            assert image[np.rint(index).astype(int).tolist()] == pytest.approx(values[j, i], rel=1e-12)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_a_series_lies_where_its_headers_say_in_any_order_of_its_files(tmp_path, orientation):
    order = RANDOM.permutation(COUNT)
    files = write_stack(tmp_path, PLANES[order], positions(orientation)[order], orientation, SPACING)
    volume = read_volume(tmp_path, "fixed image")
    assert volume.image.GetSize() == (COLUMNS, ROWS, COUNT)
    assert volume.image.GetSpacing() == pytest.approx((*SPACING, STEP))
    assert_where_its_headers_say(volume.image, files)
    assert volume.remarks == ()


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
@pytest.mark.parametrize("tilt", [(0.0, np.tan(np.radians(20))), (0.0, -0.2), (0.15, 0.25)])
def test_a_tilted_series_lies_where_its_slices_say(tmp_path, orientation, tilt):
    places = positions(orientation, tilt)
    write_stack(tmp_path, ramp_planes(places, orientation), places, orientation, SPACING, Modality="CT")
    volume = read_volume(tmp_path, "fixed image")
    array = sitk.GetArrayFromImage(volume.image)
    k, j, i = np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij")
    matrix = np.reshape(volume.image.GetDirection(), (3, 3)) * volume.image.GetSpacing()
    expected = ramp(np.stack([i, j, k], -1) @ matrix.T + volume.image.GetOrigin())
    scanned = array != array.min()
    assert scanned.sum() > 0.9 * PLANES.size
    inner = binary_erosion(scanned, np.ones((1, 3, 3)))  # at an edge a voxel may be beyond the last pixel
    assert inner.sum() > 0.7 * PLANES.size
    assert np.abs(array - expected)[inner].max() <= 1.01  # rounding of what is stored and of what is read
    (remark,) = volume.remarks
    angle = np.degrees(np.arctan(np.linalg.norm(tilt)))
    assert f"tilted by {angle:.1f} degrees" in remark


def test_the_labels_of_a_tilted_series_keep_their_numbers(tmp_path):
    numbers = np.array([0, 7, 300], np.uint16)[RANDOM.integers(0, 3, PLANES.shape)]
    write_stack(tmp_path, numbers, positions(tilt=(0.0, 0.3)), spacing=SPACING)
    volume = read_volume(tmp_path, "label map", labels=True)
    assert set(np.unique(sitk.GetArrayFromImage(volume.image))) == {0, 7, 300}


def test_slices_shifted_farther_than_any_gantry_tilts_are_refused(tmp_path):
    write_stack(tmp_path, PLANES, positions(tilt=(0.0, 2.0)))
    assert "63 degrees" in refusal(tmp_path)


def test_a_jitter_of_the_table_below_rounding_is_read_as_it_is(tmp_path):
    files = write_stack(tmp_path, PLANES, positions(jitter=0.05), spacing=SPACING)
    volume = read_volume(tmp_path)
    assert volume.remarks == ()
    assert_where_its_headers_say(volume.image, files)


def test_a_larger_jitter_is_interpolated_at_even_distances_and_said(tmp_path):
    places = positions(jitter=0.3)
    write_stack(tmp_path, ramp_planes(places, AXIAL), places, spacing=SPACING)
    volume = read_volume(tmp_path, "fixed image")
    (remark,) = volume.remarks
    assert "2.70 to 3.30 mm apart" in remark
    for k in range(COUNT):
        point = np.array(volume.image.TransformIndexToPhysicalPoint((5, 6, k)))
        assert abs(volume.image[5, 6, k] - ramp(point)) <= 1.5
    numbers = np.array([0, 9], np.uint16)[RANDOM.integers(0, 2, PLANES.shape)]
    write_stack(tmp_path / "labels", numbers, places, spacing=SPACING)
    labels = read_volume(tmp_path / "labels", labels=True).image
    assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 9}


def test_slices_without_positions_are_refused(tmp_path):
    write_stack(tmp_path / "all", PLANES, [None] * COUNT)
    assert "18 DICOM slices, of which 18 do not say where they lie" in refusal(tmp_path / "all")
    write_stack(tmp_path / "one", PLANES, [*positions()[:-1], None])
    sentence = refusal(tmp_path / "one")
    assert "of which 1 do not say" in sentence and "IM0017.dcm" in sentence
    write_stack(tmp_path / "axes", PLANES, positions(), orientation=None)
    assert "ImageOrientationPatient" in refusal(tmp_path / "axes")


def test_a_slice_of_another_orientation_within_the_stack_is_refused(tmp_path):
    files = write_stack(tmp_path, PLANES, positions())
    write_slice(files[7], PLANES[7], positions()[7], (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    sentence = refusal(tmp_path)
    assert "another orientation" in sentence and "IM0007.dcm" in sentence


def test_a_localizer_in_the_series_is_left_out_and_said(tmp_path):
    files = write_stack(tmp_path, PLANES, positions())
    write_slice(tmp_path / "LOC.dcm", PLANES[0], ORIGIN, SAGITTAL)
    volume = read_volume(tmp_path)
    assert_where_its_headers_say(volume.image, files)
    assert len(volume.remarks) == 1 and "LOC.dcm" in volume.remarks[0]


def test_slopes_that_differ_from_slice_to_slice_are_kept(tmp_path):
    slopes = ["1", *(f"{1 + 0.1 * n:.1f}" for n in range(1, COUNT))]
    files = write_stack(tmp_path, PLANES, positions(), RescaleSlope=slopes, RescaleIntercept="-3")
    image = read_volume(tmp_path).image
    assert_where_its_headers_say(image, files)
    assert image[2, 2, 5] == pytest.approx(PLANES[5, 2, 2] * 1.5 - 3)


def test_intercepts_that_need_a_wider_type_in_some_slices_are_kept(tmp_path):
    intercepts = ["0", *["-60000"] * (COUNT - 1)]
    files = write_stack(tmp_path, PLANES, positions(), RescaleSlope="1", RescaleIntercept=intercepts)
    assert_where_its_headers_say(read_volume(tmp_path).image, files)


def test_missing_and_doubled_slices_are_refused(tmp_path):
    without = np.arange(COUNT) != 7
    write_stack(tmp_path / "missing", PLANES[without], positions()[without])
    assert "3.00 to 6.00 mm apart" in refusal(tmp_path / "missing")
    write_stack(tmp_path / "doubled", PLANES, positions())
    write_slice(tmp_path / "doubled" / "again.dcm", PLANES[3], positions()[3])
    assert "1 are at the position of another one" in refusal(tmp_path / "doubled")


def test_copies_of_a_file_and_what_is_no_image_are_passed_over(tmp_path):
    files = write_stack(tmp_path, PLANES, positions())
    (tmp_path / "copy of 3").write_bytes(files[3].read_bytes())
    (tmp_path / "README.TXT").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "report.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\x00\x60\x00CS\x02\x00SR")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    volume = read_volume(tmp_path)
    assert_where_its_headers_say(volume.image, files)
    assert volume.remarks == ()


@pytest.mark.parametrize("length", [0, 100, 400, -300])
def test_a_slice_that_was_cut_short_is_refused_by_name(tmp_path, length):
    files = write_stack(tmp_path, PLANES, positions())
    files[-1].write_bytes(files[-1].read_bytes()[:length])
    assert "IM0017.dcm" in refusal(tmp_path)


def test_stacks_of_their_own_angles_in_one_series_are_numbered(tmp_path):
    for number, angle in enumerate((0.0, 0.2, 0.4)):
        axes = np.reshape(sitk.VersorTransform((1.0, 0.0, 0.0), angle).GetMatrix(), (3, 3)).T[:2].ravel()
        write_stack(tmp_path, PLANES[:6], positions(axes)[:6], axes, prefix=f"disc{number}")
    sentence = refusal(tmp_path)
    assert "3 images" in sentence and "stack 2" in sentence
    assert read_volume(tmp_path, series="stack 2").image.GetSize() == (COLUMNS, ROWS, 6)


def test_files_without_extension_or_preamble_are_read(tmp_path):
    files = write_stack(tmp_path, PLANES, positions())
    for file in files:
        file.rename(file.with_suffix(""))
    bare = files[0].with_suffix("")
    bare.write_bytes(bare.read_bytes()[132:])
    assert read_volume(tmp_path).image.GetSize() == (COLUMNS, ROWS, COUNT)


def test_a_single_slice_asks_for_its_folder(tmp_path):
    files = write_stack(tmp_path / "SE1", PLANES, positions())
    sentence = refusal(files[4])
    assert "single slice" in sentence and str(tmp_path / "SE1") in sentence
    write_stack(tmp_path / "one", PLANES[:1], positions()[:1])
    assert "one DICOM slice only" in refusal(tmp_path / "one")


def test_the_echoes_of_one_series_are_named_and_one_is_chosen(tmp_path):
    description = {"SeriesDescription": "T2 two echoes", "SeriesNumber": 5}
    write_stack(tmp_path, PLANES, positions(), prefix="A", EchoTime="20", **description)
    late = write_stack(tmp_path, PLANES[::-1], positions(), prefix="B", EchoTime="80", **description)
    sentence = refusal(tmp_path)
    assert "2 images" in sentence and '5 "T2 two echoes, echo time 20 ms" (18 slices)' in sentence
    assert "--series" in sentence
    for choice in ("T2 two echoes, echo time 80 ms", "echo time 80"):
        assert_where_its_headers_say(read_volume(tmp_path, series=choice).image, late)
    assert "2 images that" in refusal(tmp_path, series="5")


def test_magnitude_and_phase_of_two_echoes_are_four_images(tmp_path):
    for echo in ("20", "80"):
        for kind in ("M", "P"):
            tags = {"EchoTime": echo, "ImageType": ["ORIGINAL", "PRIMARY", kind]}
            files = write_stack(
                tmp_path, PLANES, positions(), prefix=echo + kind, **{k: [v] * COUNT for k, v in tags.items()}
            )
    assert "4 images" in refusal(tmp_path)
    chosen = read_volume(tmp_path, series="no description, echo time 80 ms, type ORIGINAL/PRIMARY/P")
    assert_where_its_headers_say(chosen.image, files)


def test_acquisitions_that_only_their_study_tells_apart_are_named(tmp_path):
    write_stack(tmp_path, PLANES, positions(), prefix="A", StudyInstanceUID="1.2.7")
    second = write_stack(tmp_path, PLANES[::-1], positions(), prefix="B", StudyInstanceUID="1.2.8")
    assert "study 1 of 2" in refusal(tmp_path)
    assert_where_its_headers_say(read_volume(tmp_path, series="study 2 of 2").image, second)


def test_images_that_only_the_order_of_their_slices_tells_apart_are_numbered(tmp_path):
    numbers = [str(2 * n + 1) for n in range(COUNT)], [str(2 * n + 2) for n in range(COUNT)]
    write_stack(tmp_path, PLANES, positions(), prefix="A", InstanceNumber=numbers[0])
    second = write_stack(tmp_path, PLANES[::-1], positions(), prefix="B", InstanceNumber=numbers[1])
    assert "image 1 of 2" in refusal(tmp_path)
    assert_where_its_headers_say(read_volume(tmp_path, series="image 2 of 2").image, second)


def test_a_series_exported_twice_is_read_once(tmp_path):
    files = write_stack(tmp_path / "SE1", PLANES, positions())
    (tmp_path / "SE2").mkdir()
    for file in files:
        data = pydicom.dcmread(file)
        data.InstitutionName = "another archive"
        data.save_as(tmp_path / "SE2" / file.name)
    volume = read_volume(tmp_path)
    assert_where_its_headers_say(volume.image, files)
    assert volume.remarks == ()


def test_one_series_in_two_folders_of_a_disc_is_one_volume(tmp_path):
    files = write_stack(tmp_path / "0001", PLANES[:9], positions()[:9])
    files += write_stack(tmp_path / "0002", PLANES[9:], positions()[9:])
    assert_where_its_headers_say(read_volume(tmp_path).image, files)


def test_two_versions_of_a_series_in_two_folders_are_named_by_their_folders(tmp_path):
    write_stack(tmp_path / "original", PLANES, positions())
    filtered = write_stack(tmp_path / "filtered", PLANES[::-1], positions())
    assert "folder original" in refusal(tmp_path)
    assert_where_its_headers_say(read_volume(tmp_path, series="folder filtered").image, filtered)


def test_axes_that_a_header_rounds_to_two_decimals_are_taken(tmp_path):
    turned = (0.71, 0.71, 0.0, -0.71, 0.71, 0.0)
    write_stack(tmp_path, PLANES, positions(), turned)
    volume = read_volume(tmp_path)
    axes = np.reshape(volume.image.GetDirection(), (3, 3))
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert volume.remarks == ()


def test_a_dicom_segmentation_is_refused_as_one(tmp_path):
    files = write_stack(tmp_path, PLANES[:1], positions()[:1])
    data = pydicom.dcmread(files[0])
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    data.save_as(files[0])
    for path in (tmp_path, files[0]):
        assert "DICOM segmentation" in refusal(path)


def test_the_one_series_of_a_disc_is_read_from_the_folders_below(tmp_path):
    files = write_stack(tmp_path / "PAT1" / "ST1" / "SE1", PLANES, positions())
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "report.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\x00\x60\x00CS\x02\x00SR")
    volume = read_volume(tmp_path)
    assert_where_its_headers_say(volume.image, files)
    assert volume.remarks == ()


def test_the_series_of_a_disc_are_listed_and_one_is_chosen(tmp_path):
    first = write_stack(tmp_path / "SE1", PLANES, positions(), series="1.9.1", SeriesNumber=3, SeriesDescription="T1")
    second = write_stack(tmp_path / "SE2", PLANES, positions(), series="1.9.2", SeriesNumber=12, SeriesDescription="T2")
    sentence = refusal(tmp_path)
    assert '2 DICOM series: 3 "T1" (18 slices), 12 "T2" (18 slices)' in sentence and "--series" in sentence
    for choice, files in (("3", first), ("t1", first), ("12", second), ("T2", second), ("1.9.2", second)):
        assert_where_its_headers_say(read_volume(tmp_path, series=choice).image, files)
    assert 'no image "PD"; it holds 3 "T1"' in refusal(tmp_path, series="PD")
    assert "2 images that" in refusal(tmp_path, series="T")


def test_scouts_beside_the_only_volume_of_a_disc_are_left_out_and_said(tmp_path):
    files = write_stack(tmp_path / "SE2", PLANES, positions(), series="1.9.2", SeriesDescription="T1")
    scout = {"series": "1.9.1", "SeriesDescription": "Scout"}
    write_stack(tmp_path / "SE1", PLANES[:3], positions()[:3], **scout)
    volume = read_volume(tmp_path)
    assert_where_its_headers_say(volume.image, files)
    assert len(volume.remarks) == 1 and '"Scout" (3 slices)' in volume.remarks[0]


def test_series_that_look_alike_are_told_apart_by_their_folders_and_uids(tmp_path):
    for number in (1, 2):
        write_stack(tmp_path / f"SE{number}", PLANES, positions(), series=f"1.9.{number}")
    sentence = refusal(tmp_path)
    assert "SE1" in sentence and "1.9.2" in sentence


def test_color_slices_are_refused(tmp_path):
    colors = RANDOM.integers(0, 255, (COUNT, ROWS, COLUMNS, 3)).astype(np.uint8)
    write_stack(tmp_path, colors, positions())
    assert "color" in refusal(tmp_path)


def test_a_folder_of_other_dicom_objects_says_so(tmp_path):
    (tmp_path / "report.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\x00\x60\x00CS\x02\x00SR")
    assert "none of which is an image" in refusal(tmp_path)
    assert "without an image" in refusal(tmp_path / "report.dcm")


@pytest.mark.parametrize("give", ["file", "folder"])
def test_an_enhanced_file_is_read_from_its_file_and_its_folder(tmp_path, give):
    order = RANDOM.permutation(COUNT)
    places = positions(OBLIQUE)
    path = tmp_path / "enhanced.dcm"
    write_enhanced(path, PLANES[order], places[order], OBLIQUE, SPACING)
    volume = read_volume(path if give == "file" else tmp_path)
    assert volume.image.GetSize() == (COLUMNS, ROWS, COUNT)
    assert volume.remarks == ()
    row, column = np.reshape(OBLIQUE, (2, 3))
    for frame in (0, 5, COUNT - 1):
        point = places[frame] + 4 * SPACING[0] * row + 9 * SPACING[1] * column
        index = np.array(volume.image.TransformPhysicalPointToContinuousIndex(point.tolist()))
        assert np.abs(index - np.rint(index)).max() < 1e-3
        assert volume.image[np.rint(index).astype(int).tolist()] == PLANES[frame, 9, 4]


def test_the_frames_of_an_enhanced_file_keep_their_own_slopes(tmp_path):
    rescale = [(1 + 0.5 * (n % 3), -7.0) for n in range(COUNT)]
    write_enhanced(tmp_path / "e.dcm", PLANES, positions(), rescale=rescale)
    array = sitk.GetArrayFromImage(read_volume(tmp_path / "e.dcm").image)
    expected = [plane * slope + intercept for plane, (slope, intercept) in zip(PLANES, rescale)]
    assert np.array_equal(array, expected)


def twice(first: dict, second: dict, sequence: str) -> dict:
    return {sequence: [first] * COUNT + [second] * COUNT}


@pytest.mark.parametrize(
    ("groups", "choice"),
    [
        (twice({"EffectiveEchoTime": 20.0}, {"EffectiveEchoTime": 80.0}, "MREchoSequence"), "echo time 80"),
        (
            twice({"FrameType": ["ORIGINAL", "M"]}, {"FrameType": ["ORIGINAL", "P"]}, "MRImageFrameTypeSequence"),
            "ORIGINAL/P",
        ),
        (twice({"StackID": "1"}, {"StackID": "2"}, "FrameContentSequence"), "stack 2"),
        (
            {"FrameContentSequence": [{"DimensionIndexValues": [n // COUNT + 1, n % COUNT + 1]} for n in range(36)]},
            "dimension 1 2",
        ),
        ({}, "image 2 of 2"),
    ],
)
def test_two_images_in_one_enhanced_file_are_named_and_one_is_chosen(tmp_path, groups, choice):
    planes, places = np.concatenate([PLANES, PLANES[::-1]]), np.concatenate([positions()] * 2)
    write_enhanced(tmp_path / "two.dcm", planes, places, **groups)
    sentence = refusal(tmp_path / "two.dcm")
    assert "2 images" in sentence and choice.split()[0] in sentence
    chosen = sitk.GetArrayFromImage(read_volume(tmp_path / "two.dcm", series=choice).image)
    assert np.array_equal(chosen, PLANES[::-1])


def test_an_enhanced_file_needs_pydicom_and_says_so(tmp_path, monkeypatch):
    write_enhanced(tmp_path / "e.dcm", PLANES, positions())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'wavemorph[dicom]'" in refusal(tmp_path / "e.dcm")


def test_a_compressed_enhanced_file_is_read(tmp_path):
    """JPEG Lossless, which pydicom alone cannot decode: the frames that GDCM compressed, in an enhanced file."""
    rescale = [(1.0 + n % 2, -5.0) for n in range(COUNT)]
    write_enhanced(tmp_path / "e.dcm", PLANES, positions(), rescale=rescale)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    writer.Execute(sitk.GetImageFromArray(PLANES))
    data, packed = pydicom.dcmread(tmp_path / "e.dcm"), pydicom.dcmread(tmp_path / "packed.dcm")
    (tmp_path / "packed.dcm").unlink()
    data.PixelData = packed.PixelData
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    for name in ("BitsAllocated", "BitsStored", "HighBit"):
        setattr(data, name, packed[name].value)
    data.save_as(tmp_path / "e.dcm")
    expected = [plane * slope + intercept for plane, (slope, intercept) in zip(PLANES, rescale)]
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path).image), expected)


def test_an_enhanced_file_that_was_cut_short_is_refused(tmp_path):
    path = tmp_path / "e.dcm"
    write_enhanced(path, PLANES, positions())
    path.write_bytes(path.read_bytes()[:-1000])
    assert "e.dcm" in refusal(path)


def test_the_frames_of_a_dose_grid_lie_at_their_offsets(tmp_path):
    write_slice(tmp_path / "dose.dcm", PLANES[0], ORIGIN, OBLIQUE, SPACING)
    data = pydicom.dcmread(tmp_path / "dose.dcm")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    data.Modality, data.NumberOfFrames, data.PixelData = "RTDOSE", COUNT, PLANES.tobytes()
    data.GridFrameOffsetVector = [STEP * n for n in range(COUNT)]
    data.FrameIncrementPointer, data.DoseGridScaling = 0x3004000C, "0.001"
    data.save_as(tmp_path / "dose.dcm")
    image = read_volume(tmp_path / "dose.dcm").image
    assert image.GetSize() == (COLUMNS, ROWS, COUNT)
    assert np.allclose(image.TransformIndexToPhysicalPoint((0, 0, COUNT - 1)), positions(OBLIQUE)[-1], atol=1e-6)
    assert np.allclose(sitk.GetArrayFromImage(image), PLANES * 0.001, rtol=1e-6)


def test_frames_without_positions_are_refused(tmp_path):
    write_slice(tmp_path / "cine.dcm", PLANES[0], None, None)
    data = pydicom.dcmread(tmp_path / "cine.dcm")
    data.NumberOfFrames, data.PixelData = COUNT, PLANES.tobytes()
    data.save_as(tmp_path / "cine.dcm")
    assert "do not say where they lie" in refusal(tmp_path / "cine.dcm")


def test_reading_leaves_the_files_and_the_terminal_alone(tmp_path, capfd):
    files = write_stack(tmp_path, PLANES, positions(tilt=(0.0, 0.3)))
    before = [file.read_bytes() for file in files]
    read_volume(tmp_path)
    assert [file.read_bytes() for file in files] == before
    assert sorted(tmp_path.iterdir()) == files
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
