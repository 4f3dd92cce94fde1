"""Reading of transform files: which are read, and how the others are refused."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError, OutOfMemoryError
from wavemorph.io.files import one_sentence, short_reason
from wavemorph.io.transforms import read_transform

RANDOM = np.random.default_rng(0)
OBLIQUE = sitk.VersorTransform((0.2, 0.3, 0.9), 0.5).GetMatrix()


def refusal(path, name="transform"):
    with pytest.raises(InputError) as caught:
        read_transform(path, name)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


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
    assert "cut short" in refusal(tmp_path / "field.nii")


def test_a_compressed_field_has_its_own_vectors_beside_an_uncompressed_one_of_the_same_name(tmp_path):
    for extension, shift in ((".nii", 5.0), (".nii.gz", 1.0)):
        vectors = np.full((6, 7, 8, 3), shift, np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / f"field{extension}"))
    assert read_transform(tmp_path / "field.nii.gz").TransformPoint((1.0, 2.0, 3.0)) == (2, 3, 4)


def test_a_transform_file_is_read(tmp_path):
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.0, 2.0, 3.0))
    for extension in (".tfm", ".h5", ".mat"):
        sitk.WriteTransform(affine, str(tmp_path / f"map{extension}"))
        assert read_transform(tmp_path / f"map{extension}").TransformPoint((1.0, 1.0, 1.0)) == (2, 3, 4)


def test_files_that_are_not_transforms_are_refused(tmp_path):
    (tmp_path / "bad.tfm").write_text("hello")
    assert "bad.tfm" in refusal(tmp_path / "bad.tfm", "initial transform")
    sitk.WriteImage(sitk.GetImageFromArray(RANDOM.random((6, 7, 8))), str(tmp_path / "brain.nrrd"))
    assert "1 component" in refusal(tmp_path / "brain.nrrd")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    assert "2D" in refusal(tmp_path / "flat.tfm")
    assert "folder" in refusal(tmp_path)
    assert "not exist" in refusal(tmp_path / "nowhere.h5")


def nifti_field(path, vectors=None, shape=(6, 7, 8, 1, 3), intent=1007, name="", parameter=0, extension=None):
    """A NIfTI file of vectors on voxels of 2 mm, written by nibabel."""
    image = nibabel.Nifti1Image(np.zeros(shape, np.float32) if vectors is None else vectors, np.diag([2, 2, 2, 1.0]))
    header = image.header.structarr
    header["intent_code"], header["intent_name"], header["intent_p1"] = intent, name.encode(), parameter
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(extension, b"<AFNI_attributes/>"))
    nibabel.save(image, path)
    return path


RAS_POSITIONS = np.stack(np.meshgrid(*[2.0 * np.arange(n) for n in (6, 7, 8)], indexing="ij"), -1)[..., None, :]
RAS_POSITIONS = (RAS_POSITIONS + RANDOM.normal(size=RAS_POSITIONS.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"name": "NREG_TRANS", "parameter": 2, "vectors": RAS_POSITIONS}, "NiftyReg cubic spline control grid"),
        ({"name": "NREG_TRANS", "parameter": 0, "vectors": RAS_POSITIONS}, "reg_transform -disp"),
        ({"name": "NREG_TRANS", "parameter": 1}, "NiftyReg displacement field in RAS mm"),
        ({"name": "Mapping", "vectors": RAS_POSITIONS}, "SPM"),
        ({"shape": (6, 7, 8, 3), "intent": 2007}, "cubic spline coefficients of FSL"),
        ({"shape": (6, 7, 8, 3), "intent": 2009}, "quadratic spline coefficients of FSL"),
        ({"shape": (6, 7, 8, 3), "intent": 2006}, "FSL FNIRT displacement field"),
        ({"shape": (6, 7, 8, 3), "intent": 0}, "convert a field of FSL"),
        ({"extension": 4}, "AFNI"),
        ({"vectors": RAS_POSITIONS}, "RAS position"),
        ({"vectors": RAS_POSITIONS * np.array([-1, -1, 1], np.float32)}, "LPS position"),
    ],
)
@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_fields_of_other_programs_are_refused_by_name(tmp_path, made, words, extension):
    assert words in refusal(nifti_field(tmp_path / f"warp{extension}", **made))


def test_a_field_with_a_comment_in_its_header_is_read(tmp_path):
    vectors = np.full((6, 7, 8, 1, 3), 1.5, np.float32)
    path = nifti_field(tmp_path / "warp.nii.gz", vectors, extension=6)
    assert read_transform(path).TransformPoint((-4.0, -4.0, 4.0)) == (-2.5, -2.5, 5.5)


def test_a_field_that_doubles_or_mirrors_the_subject_is_no_list_of_positions(tmp_path):
    lattice = sitk.Image([9, 9, 9], sitk.sitkUInt8)
    lattice.SetOrigin((-8.0, -8.0, -8.0))
    lattice.SetSpacing((2.0, 2.0, 2.0))
    for scale in ((1.5, 1.5, 1.5), (-1.0, -1.0, 1.0), (-1.0, 1.0, 1.0)):
        affine = sitk.ScaleTransform(3, scale)
        field = sitk.TransformToDisplacementField(affine, sitk.sitkVectorFloat64, [9, 9, 9], (-8.0,) * 3, (2.0,) * 3)
        sitk.WriteImage(field, str(tmp_path / "field.nrrd"))
        assert read_transform(tmp_path / "field.nrrd").TransformPoint((1.0, 2.0, 3.0)) == pytest.approx(
            np.multiply(scale, (1.0, 2.0, 3.0))
        )


MATRIX = "0.99 0.1 0 10\n-0.1 0.99 0 -5\n0 0 1 2\n0 0 0 1\n"
LTA = "type      = 1 # LINEAR_RAS_TO_RAS\nnxforms   = 1\nmean      = 0 0 0\nsigma     = 10000\n1 4 4\n" + MATRIX
ELASTIX = '// elastix\n(Transform "EulerTransform")\n(NumberOfParameters 6)\n(TransformParameters 0.1 0 0 1 2 3)\n'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("flirt.mat", MATRIX, "c3d_affine_tool -ref FIXED -src MOVING flirt.mat -fsl2ras"),
        ("affine.txt", "# comment\n" + MATRIX.replace(" ", "  \t"), "bare matrix"),
        ("brain.lta", LTA, "lta_convert --inlta brain.lta"),
        ("TransformParameters.0.txt", ELASTIX, "transformix -def all"),
        ("a.aff12.1D", "# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n 1 0 0 4 0 1 0 5 0 0 1 6\n", "AFNI"),
        ("affine.1D", "1 0 0 4\n0 1 0 5\n0 0 1 6\n", "AFNI"),
        ("warp+tlrc.HEAD", "type = string-attribute\n", "AFNI"),
        ("warp.x5", b"\x89HDF\r\n\x1a\n", "X5 file of nitransforms"),
        ("talairach.m3z", b"\x00\x01", "mri_warp_convert"),
        ("register.dat", "bert\n1\n1\n0.15\n" + MATRIX + "round\n", "register.dat of FreeSurfer"),
        ("seg8.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(100), "MATLAB"),
        ("talairach.xfm", "MNI Transform File\n% tkregister2\n\nTransform_Type = Linear;\n", "lta_convert --inmni"),
        ("unknown.json", "{}", "its format is not known"),
        ("cut.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "complete ITK transform"),
    ],
)
def test_transforms_of_other_programs_are_refused_by_name_with_what_to_do(tmp_path, capfd, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refusal(tmp_path / name, "initial transform")
    assert words in sentence
    assert str(tmp_path) not in sentence
    assert capfd.readouterr().err == ""


def test_reasons_are_not_cut_within_a_word():
    reason = short_reason(RuntimeError("ERROR: " + "transformation " * 30))
    assert len(reason) <= 160
    assert set(reason.split()) == {"transformation"}


def test_a_list_of_transforms_without_a_composite_is_refused(tmp_path):
    first, second = tmp_path / "first.tfm", tmp_path / "second.tfm"
    for path in (first, second):
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(path))
    rest = second.read_text().split("\n", 1)[1].replace("#Transform 0", "#Transform 1")
    (tmp_path / "list.tfm").write_text(first.read_text() + rest)
    assert "lists 2 transforms" in refusal(tmp_path / "list.tfm")


def test_a_lack_of_memory_while_reading_is_not_called_a_damaged_file(tmp_path, monkeypatch):
    def exhausted(*_):
        raise RuntimeError("Exception thrown in SimpleITK ReadTransform: std::bad_alloc")

    sitk.WriteTransform(sitk.Euler3DTransform(), str(tmp_path / "a.tfm"))
    monkeypatch.setattr(sitk, "ReadTransform", exhausted)
    with pytest.raises(OutOfMemoryError, match=r'Memory ran out while the transform "a\.tfm" was read'):
        read_transform(tmp_path / "a.tfm")
    with pytest.raises(OutOfMemoryError), one_sentence("The voxels cannot be read"):
        exhausted()


def test_reading_a_transform_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    sitk.WriteTransform(sitk.Euler3DTransform(), str(tmp_path / "a.tfm"))
    seen = []
    read = sitk.ReadTransform
    monkeypatch.setattr(sitk, "ReadTransform", lambda path: (seen.append(path), read(path))[1])
    read_transform(tmp_path / "a.tfm")
    (path,) = seen
    assert "/.wavemorph-" in path  # as a command that follows one that was killed finds and removes it
    assert not list((tmp_path / "temporary").iterdir())
