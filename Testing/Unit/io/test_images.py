"""Reading and checking of volumes, masks, label maps and transforms; files are made by nibabel or by hand."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.io.images import (
    read_image,
    read_labels,
    read_mask,
    read_transform,
    same_lattice,
    shared_labels,
    validate_image,
    validate_labels,
    validate_mask,
)

RANDOM = np.random.default_rng(0)
OBLIQUE = sitk.VersorTransform((0.2, 0.3, 0.9), 0.5).GetMatrix()


def volume(array=None, spacing=(1.0, 1.5, 2.0), origin=(-10.0, 20.0, 5.0), direction=OBLIQUE):
    image = sitk.GetImageFromArray(RANDOM.random((18, 20, 22), np.float32) if array is None else array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_a_nifti_volume_is_read_with_its_geometry_in_lps(tmp_path):
    array = RANDOM.random((20, 22, 18)).astype(np.float32)
    affine = np.array([[-1.2, 0, 0, 40], [0, 1.0, 0, -30], [0, 0, 2.0, 7], [0, 0, 0, 1]])
    image = read_image(nifti(tmp_path / "brain.nii.gz", array, affine))
    point = image.TransformIndexToPhysicalPoint((3, 4, 5))
    assert np.allclose(np.array(point) * [-1, -1, 1], (affine @ [3, 4, 5, 1])[:3], atol=1e-5)
    assert image[3, 4, 5] == array[3, 4, 5]


def test_paths_with_spaces_and_other_scripts_are_read(tmp_path):
    folder = tmp_path / "Ärzte und 患者"
    folder.mkdir()
    path = folder / "головной мозг é.nrrd"
    image = volume()
    sitk.WriteImage(image, str(path))
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), sitk.GetArrayFromImage(image))


def test_a_missing_file_is_named(tmp_path):
    assert "nowhere.nii.gz" in refusal(read_image, tmp_path / "nowhere.nii.gz", "fixed image")


def test_an_empty_and_an_unreadable_file_are_refused(tmp_path):
    (tmp_path / "empty.nrrd").touch()
    (tmp_path / "text.nii.gz").write_text("hello")
    assert "0 bytes" in refusal(read_image, tmp_path / "empty.nrrd")
    assert "text.nii.gz" in refusal(read_image, tmp_path / "text.nii.gz")


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, extension):
    whole, cut = tmp_path / f"whole{extension}", tmp_path / f"cut{extension}"
    sitk.WriteImage(volume(), str(whole), True)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cut" in refusal(read_image, cut)
    assert read_image(whole).GetSize() == (22, 20, 18)


def test_a_compressed_nifti_whose_content_is_short_is_refused(tmp_path):
    whole, cut = tmp_path / "whole.nii", tmp_path / "cut.nii.gz"
    sitk.WriteImage(volume(), str(whole))
    cut.write_bytes(gzip.compress(whole.read_bytes()[:-4000]))
    assert "cut short" in refusal(read_image, cut)


def test_a_4d_nifti_is_refused_with_its_number_of_frames(tmp_path):
    path = nifti(tmp_path / "fmri.nii.gz", RANDOM.random((17, 18, 19, 5)).astype(np.float32))
    sentence = refusal(read_image, path, "moving image")
    assert "5 frames" in sentence
    assert "17 x 18 x 19" in sentence


def test_a_4d_file_of_one_frame_is_a_volume(tmp_path):
    frames = sitk.JoinSeries([volume(direction=np.eye(3).ravel())])
    sitk.WriteImage(frames, str(tmp_path / "one.nrrd"))
    assert read_image(tmp_path / "one.nrrd").GetSize() == (22, 20, 18)


def test_2d_and_color_images_are_refused(tmp_path):
    assert "2D (20 x 22)" in refusal(read_image, nifti(tmp_path / "flat.nii.gz", np.ones((20, 22), np.float32)))
    colors = sitk.GetImageFromArray(np.zeros((18, 18, 18, 3), np.uint8), isVector=True)
    assert "3 components" in refusal(validate_image, colors)
    assert "complex" in refusal(validate_image, sitk.Image((18, 18, 18), sitk.sitkComplexFloat32))
    assert "ndarray" in refusal(validate_image, np.zeros((18, 18, 18)))


def test_a_sheared_nifti_is_refused_as_sheared(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.2
    image = nibabel.Nifti1Image(RANDOM.random((18, 18, 18)).astype(np.float32), affine)
    image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "gantry.nii.gz")
    assert "sheared" in refusal(read_image, tmp_path / "gantry.nii.gz")


def test_sheared_axes_in_memory_are_refused():
    assert "sheared" in refusal(validate_image, volume(direction=(1, 0.1, 0, 0, 1, 0, 0, 0, 1)))


def test_flipped_and_oblique_axes_are_accepted():
    validate_image(volume())
    validate_image(volume(direction=(-1, 0, 0, 0, 0, 1, 0, 1, 0)))


def test_voxels_that_are_not_finite_are_counted():
    array = RANDOM.random((18, 18, 18)).astype(np.float32)
    array[0, 0, :3] = np.nan
    array[1, 1, 1] = np.inf
    assert "4 values" in refusal(validate_image, volume(array), "fixed image")


def test_constant_and_thin_images_are_refused():
    assert "constant: every voxel is 7" in refusal(validate_image, volume(np.full((18, 18, 18), 7, np.int16)))
    thin = volume(RANDOM.random((15, 18, 18)).astype(np.float32))
    assert "18 x 18 x 15" in refusal(validate_image, thin)


def write_slices(folder, depths, series="1.2.3.4"):
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    array = RANDOM.integers(0, 1000, (len(depths), 20, 24)).astype(np.int16)
    for number, depth in enumerate(depths):
        piece = sitk.GetImageFromArray(array[number : number + 1])
        piece.SetSpacing((1.0, 1.0, 2.0))
        tags = {
            "0008|0060": "MR",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0008|0018": f"{series}.{number + 1}",
            "0020|0013": str(number + 1),
            "0020|0032": f"-12\\-10\\{depth}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{number:03d}.dcm"))
        writer.Execute(piece)
    return array


def test_a_folder_of_one_dicom_series_is_read(tmp_path):
    array = write_slices(tmp_path, [5 + 2 * n for n in range(18)])
    image = read_image(tmp_path, "fixed image")
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert image.GetSpacing()[2] == pytest.approx(2)
    assert image.GetOrigin() == pytest.approx((-12, -10, 5))


def test_a_dicom_series_with_a_missing_slice_is_refused(tmp_path):
    write_slices(tmp_path, [2 * n for n in range(20) if n != 7])
    assert "2.00 to 4.00 mm" in refusal(read_image, tmp_path)


def test_folders_without_one_dicom_series_are_refused(tmp_path):
    (tmp_path / "none").mkdir()
    assert "without DICOM" in refusal(read_image, tmp_path / "none")
    (tmp_path / "two").mkdir()
    for series in ("1.2.3.4", "1.2.3.5"):
        write_slices(tmp_path / "two", [0, 2], series)
    assert "2 DICOM series" in refusal(read_image, tmp_path / "two")


def test_a_mask_on_the_same_lattice_becomes_zeros_and_ones():
    image = volume()
    array = np.zeros((18, 20, 22), np.float32)
    array[3:6, 4:9, 5:12] = -2.5
    mask = validate_mask(volume(array), image)
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(mask), (array != 0).astype(np.uint8))
    assert same_lattice(mask, image)


def test_a_mask_of_another_geometry_is_resampled_in_physical_space():
    image = volume(np.zeros((18, 20, 22), np.uint8))
    array = np.zeros((30, 30, 30), np.uint8)
    array[5:20, 8:25, 4:21] = 3
    mask = volume(array, spacing=(1.3, 1.3, 1.3), origin=(-12.0, 15.0, 2.0), direction=np.eye(3).ravel())
    resampled = validate_mask(mask, image)
    assert same_lattice(resampled, image)
    for index in RANDOM.integers((0, 0, 0), (22, 20, 18), (200, 3)).tolist():
        nearest = np.rint(mask.TransformPhysicalPointToContinuousIndex(image.TransformIndexToPhysicalPoint(index)))
        inside = np.all(nearest >= 0) and np.all(nearest < 30)
        assert resampled[index] == (mask[nearest.astype(int).tolist()] > 0 if inside else 0)
    assert 0 < sitk.GetArrayFromImage(resampled).mean() < 1


def test_empty_and_distant_masks_are_refused():
    image = volume()
    empty = np.zeros((18, 20, 22), np.uint8)
    assert "empty" in refusal(validate_mask, volume(empty), image)
    far = volume(empty + 1, origin=(1000.0, 0.0, 0.0))
    assert "7920 voxels, but none" in refusal(validate_mask, far, image)
    assert "4D" in refusal(validate_mask, sitk.Image((18, 18, 18, 2), sitk.sitkUInt8), image)


def test_a_mask_that_marks_everything_can_be_read(tmp_path):
    image = volume()
    sitk.WriteImage(volume(np.ones((18, 20, 22), np.uint8)), str(tmp_path / "all.nrrd"))
    assert sitk.GetArrayFromImage(read_mask(tmp_path / "all.nrrd", image)).all()


def test_label_maps_stored_as_floats_become_integers(tmp_path):
    array = np.zeros((18, 18, 18), np.float32)
    array[2:5] = 1001
    labels = read_labels(nifti(tmp_path / "aseg.nii.gz", array))
    assert labels.GetPixelID() == sitk.sitkInt32
    assert np.array_equal(sitk.GetArrayFromImage(labels), array.T)


def test_label_maps_of_broken_numbers_or_nothing_are_refused():
    blurred = np.zeros((18, 18, 18), np.float32)
    blurred[3, 3, 3] = 0.25
    assert "0.25" in refusal(validate_labels, volume(blurred))
    assert "empty" in refusal(validate_labels, volume(np.zeros((18, 18, 18), np.uint8)))


def test_shared_labels_leave_the_background_out():
    fixed, moving = np.zeros((2, 18, 18, 18), np.int16)
    fixed[:3] = np.array([0, 4, 9])[:, None, None]
    moving[:4] = np.array([0, 9, 4, 17])[:, None, None]
    assert shared_labels(volume(fixed), volume(moving)) == [4, 9]


def test_label_maps_without_a_common_label_are_refused():
    fixed = np.arange(18**3, dtype=np.int16).reshape(18, 18, 18) % 12
    moving = np.full((18, 18, 18), 101, np.int16)
    sentence = refusal(shared_labels, volume(fixed), volume(moving))
    assert "1, 2, 3, 4, 5, 6, 7, 8, ... (11 in all)" in sentence
    assert "101" in sentence


def test_lattices_are_compared_by_the_positions_of_their_voxels():
    image = volume()
    assert same_lattice(image, volume(origin=(-10.0, 20.0 + 1e-6, 5.0)))
    assert not same_lattice(image, volume(origin=(-10.0, 20.1, 5.0)))
    assert not same_lattice(image, volume(spacing=(1.0, 1.5, 2.01)))
    assert not same_lattice(image, volume(direction=np.eye(3).ravel()))


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_a_displacement_field_is_read_as_a_transform(tmp_path, extension):
    vectors = RANDOM.normal(size=(6, 7, 8, 3)).astype(np.float32)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.SetSpacing((2.0, 3.0, 4.0))
    field.SetOrigin((1.0, -2.0, 3.0))
    field.SetDirection(OBLIQUE)
    sitk.WriteImage(field, str(tmp_path / f"field{extension}"))
    transform = read_transform(tmp_path / f"field{extension}")
    point = field.TransformIndexToPhysicalPoint((3, 4, 2))
    assert np.subtract(transform.TransformPoint(point), point) == pytest.approx(vectors[2, 4, 3], abs=1e-5)


def test_a_displacement_field_that_was_cut_short_is_refused(tmp_path):
    field = sitk.GetImageFromArray(RANDOM.normal(size=(6, 7, 8, 3)).astype(np.float32), isVector=True)
    sitk.WriteImage(field, str(tmp_path / "field.nii"))
    (tmp_path / "field.nii").write_bytes((tmp_path / "field.nii").read_bytes()[:-400])
    assert "cut short" in refusal(read_transform, tmp_path / "field.nii")


def test_a_transform_file_is_read(tmp_path):
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.0, 2.0, 3.0))
    for extension in (".tfm", ".h5", ".mat"):
        sitk.WriteTransform(affine, str(tmp_path / f"map{extension}"))
        assert read_transform(tmp_path / f"map{extension}").TransformPoint((1.0, 1.0, 1.0)) == (2, 3, 4)


def test_files_that_are_not_transforms_are_refused(tmp_path):
    (tmp_path / "bad.tfm").write_text("hello")
    assert "bad.tfm" in refusal(read_transform, tmp_path / "bad.tfm", "initial transform")
    sitk.WriteImage(volume(), str(tmp_path / "brain.nrrd"))
    assert "1 component" in refusal(read_transform, tmp_path / "brain.nrrd")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    assert "2D" in refusal(read_transform, tmp_path / "flat.tfm")
    assert "folder" in refusal(read_transform, tmp_path)
    assert "not exist" in refusal(read_transform, tmp_path / "nowhere.h5")


def test_a_list_of_transforms_without_a_composite_is_refused(tmp_path):
    first, second = tmp_path / "first.tfm", tmp_path / "second.tfm"
    for path in (first, second):
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(path))
    rest = second.read_text().split("\n", 1)[1].replace("#Transform 0", "#Transform 1")
    (tmp_path / "list.tfm").write_text(first.read_text() + rest)
    assert "lists 2 transforms" in refusal(read_transform, tmp_path / "list.tfm")


def test_warnings_of_itk_stay_off_the_terminal_and_the_setting_is_restored(tmp_path, capfd):
    write_slices(tmp_path, [2 * n + 0.02 * (n % 2) for n in range(18)])  # ITK warns of slices not quite evenly spaced
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    read_image(tmp_path)
    assert "WARNING" not in capfd.readouterr().err
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    assert "WARNING" in capfd.readouterr().err
