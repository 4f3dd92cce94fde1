"""The forms of a volume in the Python API: each gives the same image, and what is none is refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import wavemorph
from wavemorph.errors import InputError
from wavemorph.io.volumes import Volume, as_image, as_label_map, as_mask, as_transform

SPACING, ORIGIN = (1.0, 1.5, 2.0), (-10.0, 20.0, 5.0)
DIRECTION = np.reshape(sitk.VersorTransform((0.2, 0.3, 0.9), 0.5).GetMatrix(), (3, 3))
ARRAY = np.random.default_rng(0).random((18, 20, 22)).astype(np.float32)
LABELS = (ARRAY * 4).astype(np.int16)


def image_of(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel().tolist())
    return image


def volume_of(array: np.ndarray) -> Volume:
    return Volume(array, SPACING, ORIGIN, DIRECTION)


@pytest.fixture(params=["text", "path", "image", "volume"])
def form(request, tmp_path):
    """From an array to the same volume in one of the forms that the API takes."""

    def make(array: np.ndarray):
        if request.param == "image":
            return image_of(array)
        if request.param == "volume":
            return volume_of(array)
        path = tmp_path / f"volume-{len(list(tmp_path.iterdir()))}.nrrd"
        sitk.WriteImage(image_of(array), str(path))
        return str(path) if request.param == "text" else path

    return make


def assert_same(found: sitk.Image, expected: sitk.Image) -> None:
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, geometry)(), getattr(expected, geometry)(), atol=1e-9)


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_each_form_of_a_volume_gives_the_same_image(form):
    found = as_image(form(ARRAY), "fixed image")
    assert found.GetPixelID() == sitk.sitkFloat32
    assert_same(found, image_of(ARRAY))


def test_each_form_of_a_label_map_gives_the_same_integers(form):
    assert_same(as_label_map(form(LABELS), "label map").image(), image_of(LABELS))
    found = as_label_map(form(LABELS.astype(np.float32)), "label map").image()
    assert_same(sitk.Cast(found, sitk.sitkInt16), image_of(LABELS))


def test_each_form_of_a_mask_gives_zeros_and_ones_on_the_lattice_of_its_image(form):
    found = as_mask(form(LABELS), image_of(ARRAY), "fixed mask")
    assert found.GetPixelID() == sitk.sitkUInt8
    assert_same(found, image_of((LABELS != 0).astype(np.uint8)))


def test_a_mask_of_truth_values_is_a_mask():
    assert_same(as_mask(volume_of(LABELS > 1), image_of(ARRAY), "mask"), image_of((LABELS > 1).astype(np.uint8)))


def test_a_transform_is_taken_from_a_path_and_from_memory(tmp_path):
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(shift, str(tmp_path / "shift.tfm"))
    for form in (shift, tmp_path / "shift.tfm", str(tmp_path / "shift.tfm")):
        assert as_transform(form, "initial transform").TransformPoint((1.0, 1.0, 1.0)) == (2.0, 3.0, 4.0)


def test_a_volume_without_geometry_lies_at_the_origin_along_the_lps_axes():
    image = Volume(ARRAY, (2.0, 2.0, 2.0)).to_image()
    assert image.GetOrigin() == (0.0, 0.0, 0.0)
    assert image.GetDirection() == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert image.TransformIndexToPhysicalPoint((1, 2, 3)) == (2.0, 4.0, 6.0)
    assert image[1, 2, 3] == ARRAY[3, 2, 1]


def test_the_image_of_a_volume_does_not_share_its_memory():
    array = ARRAY.copy()
    image = Volume(array, SPACING).to_image()
    array[0, 0, 0] = 7
    assert image[0, 0, 0] == ARRAY[0, 0, 0]


@pytest.mark.parametrize("pixel", [np.int16, np.uint8, np.float32, np.float64, ">i2"])
def test_every_real_pixel_type_is_taken(pixel):
    image = volume_of(LABELS.astype(pixel)).to_image()
    assert np.array_equal(sitk.GetArrayFromImage(image), LABELS)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (Volume(ARRAY[0], SPACING), r"not an array (20, 22)"),
        (Volume(ARRAY[..., None], SPACING), r"not an array (18, 20, 22, 1)"),
        (Volume(ARRAY, (1.0, 1.0)), "spacing (1.0, 1.0)"),
        (Volume(ARRAY, (1.0, 0.0, 1.0)), "three positive spacings"),
        (Volume(ARRAY, SPACING, (0.0, 0.0)), "an origin (2,)"),
        (Volume(ARRAY, SPACING, ORIGIN, np.eye(2)), "a direction (2, 2)"),
        (Volume(ARRAY.astype(np.complex64), SPACING), "complex64"),
        (Volume(ARRAY.astype(np.float16), SPACING), "float16"),
        (Volume(ARRAY.astype(object), SPACING), "object"),
    ],
)
def test_an_array_or_a_geometry_of_another_shape_or_type_is_refused(volume, expected):
    sentence = refusal(as_image, volume, "fixed image")
    assert expected in sentence
    assert "fixed image" in sentence


def test_the_checks_of_images_hold_for_volumes_too():
    assert "constant" in refusal(as_image, Volume(np.zeros((18, 18, 18), np.int16), SPACING), "moving image")
    spoiled = ARRAY.copy()
    spoiled[0, 0, 0] = np.nan
    assert "1 value" in refusal(as_image, Volume(spoiled, SPACING), "moving image")
    assert "0.25" in refusal(as_label_map, Volume(np.full((18, 18, 18), 0.25, np.float32), SPACING), "label map")
    assert "empty" in refusal(as_mask, volume_of(np.zeros_like(LABELS)), image_of(ARRAY), "fixed mask")


def test_an_array_without_its_spacing_is_refused_with_the_form_to_give():
    for function, more in ((as_image, ()), (as_label_map, ()), (as_mask, (image_of(ARRAY),))):
        sentence = refusal(function, ARRAY, *more, "fixed image")
        assert "ndarray" in sentence
        assert "wavemorph.Volume(array, spacing=(x, y, z))" in sentence


def test_anything_else_is_refused_with_its_type():
    for wrong in (7, None, [1, 2, 3]):
        assert type(wrong).__name__ in refusal(as_image, wrong, "fixed image")
        assert type(wrong).__name__ in refusal(as_transform, wrong, "initial transform")
    assert "Image" in refusal(as_transform, image_of(ARRAY), "initial transform")


def test_register_takes_every_form(tiny_pair, tmp_path):
    settings = wavemorph.Settings(spacing_mm=4.0, weights="none", affine=False)
    fixed, moving = tiny_pair
    mask = sitk.Cast(fixed > 100, sitk.sitkUInt8)
    shift = sitk.TranslationTransform(3, (1.0, 0.0, 0.0))
    paths = {name: tmp_path / f"{name}.nrrd" for name in ("fixed", "moving", "mask")}
    for name, image in (("fixed", fixed), ("moving", moving), ("mask", mask)):
        sitk.WriteImage(image, str(paths[name]))
    sitk.WriteTransform(shift, str(tmp_path / "shift.tfm"))

    def volume(image: sitk.Image) -> wavemorph.Volume:
        direction = np.reshape(image.GetDirection(), (3, 3))
        return wavemorph.Volume(sitk.GetArrayFromImage(image), image.GetSpacing(), image.GetOrigin(), direction)

    expected = wavemorph.register(fixed, moving, settings, fixed_mask=mask, initial_transform=shift)
    assert np.abs(sitk.GetArrayViewFromImage(expected.displacement)).max() > 1
    for forms in (
        (str(paths["fixed"]), paths["moving"], paths["mask"], tmp_path / "shift.tfm"),
        (volume(fixed), volume(moving), volume(mask), shift),
    ):
        found = wavemorph.register(*forms[:2], settings, fixed_mask=forms[2], initial_transform=forms[3])
        assert found.report["inputs"] == expected.report["inputs"]
        fields = [sitk.GetArrayViewFromImage(each.displacement) for each in (found, expected)]
        assert np.abs(fields[0] - fields[1]).max() < 1e-3
    with pytest.raises(InputError, match="fixed image is a ndarray"):
        wavemorph.register(sitk.GetArrayFromImage(fixed), moving, settings)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="has no floats longer than float64")
def test_floats_longer_than_float64_are_refused():
    sentence = refusal(as_image, Volume(ARRAY.astype(np.longdouble), SPACING), "fixed image")
    assert np.dtype(np.longdouble).name in sentence
