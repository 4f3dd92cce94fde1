"""Reading of transform files: which are read, and how the others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
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


def test_a_list_of_transforms_without_a_composite_is_refused(tmp_path):
    first, second = tmp_path / "first.tfm", tmp_path / "second.tfm"
    for path in (first, second):
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(path))
    rest = second.read_text().split("\n", 1)[1].replace("#Transform 0", "#Transform 1")
    (tmp_path / "list.tfm").write_text(first.read_text() + rest)
    assert "lists 2 transforms" in refusal(tmp_path / "list.tfm")
