"""The result of a registration: other volumes warped with it, its inverse on demand, and its form on disk."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import wavemorph
from pointsets import brain_points, moved
from wavemorph.errors import InputError
from wavemorph.evaluation.metrics import folding
from wavemorph.io import result as io_result
from wavemorph.io import warping
from wavemorph.io.fields import make_inverse_field, rounded_whole_field
from wavemorph.io.images import same_lattice
from wavemorph.io.result import Registration
from wavemorph.io.warping import warp_image
from wavemorph.spatial import inversion

SETTINGS = wavemorph.Settings(spacing_mm=4.0, weights="none", affine=False)


@pytest.fixture(scope="module")
def result(tiny_pair):
    """Registered without the inverse."""
    return wavemorph.register(*tiny_pair, SETTINGS)


@pytest.fixture
def without_inverse(result, tmp_path):
    """The same result, as often as it is wanted without an inverse."""
    result_again = wavemorph.Registration(
        result.affine, result.displacement, None, None, result.working_jacobian, None, result.report
    )
    result_again.fixed, result_again.moving = result.fixed, result.moving
    return result_again


@pytest.fixture(scope="module")
def labels(tiny_pair):
    """Two halves of the moving head, 0 outside."""
    points = phantoms.physical_points(tiny_pair[1])
    inside = ((points / (22.0, 26.0, 20.0)) ** 2).sum(-1) < 1
    image = sitk.GetImageFromArray((inside * np.where(points[..., 0] > 0, 1, 2)).astype(np.uint8))
    image.CopyInformation(tiny_pair[1])
    return image


def as_volume(image: sitk.Image) -> wavemorph.Volume:
    direction = np.reshape(image.GetDirection(), (3, 3))
    return wavemorph.Volume(sitk.GetArrayFromImage(image), image.GetSpacing(), image.GetOrigin(), direction)


def test_without_asking_for_the_inverse_none_is_made(result):
    assert not result.report["settings"]["inverse"]
    assert result.report["inverse_consistency_mm"]["inverse"] == "iteration"


def test_the_inverse_on_demand_maps_points_back(without_inverse):
    points = brain_points()
    mapped = moved(without_inverse.transform, points)
    assert np.linalg.norm(mapped - points, axis=1).mean() > 2
    before = sitk.GetArrayFromImage(without_inverse.displacement)
    assert np.linalg.norm(moved(without_inverse.inverse, mapped) - points, axis=1).max() < 0.3
    assert np.array_equal(sitk.GetArrayFromImage(without_inverse.displacement), before)


def test_the_inverse_on_demand_is_made_once(without_inverse, monkeypatch):
    calls, invert = [], inversion.invert_displacement_image
    monkeypatch.setattr(inversion, "invert_displacement_image", lambda image: calls.append(1) or invert(image))
    first, second = without_inverse.inverse, without_inverse.inverse
    assert len(calls) == 1
    points = brain_points(20)
    assert np.array_equal(moved(first, points), moved(second, points))


def test_the_inverse_of_a_loaded_result_is_made_on_demand_too(without_inverse, tmp_path):
    without_inverse.save(tmp_path)
    loaded = wavemorph.Registration.load(tmp_path)
    assert loaded.inverse_displacement is None
    points = brain_points()
    assert np.linalg.norm(moved(loaded.inverse, moved(loaded.transform, points)) - points, axis=1).max() < 0.3


def rounded_resampling(image, lattice, transform, interpolator, outside=0.0):
    """The array of an integer image resampled as float64, rounded and limited to the range of its type."""
    real = sitk.Resample(sitk.Cast(image, sitk.sitkFloat64), lattice, transform, interpolator, outside)
    kind = sitk.GetArrayViewFromImage(image).dtype
    values = np.rint(sitk.GetArrayFromImage(real))
    limits = np.iinfo(kind)
    return np.clip(values, limits.min, limits.max).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("interpolator", [sitk.sitkLinear, sitk.sitkBSpline, sitk.sitkLanczosWindowedSinc])
def test_integers_are_rounded_and_limited_to_their_type_not_truncated(kind, interpolator):
    limits = np.iinfo(kind)
    random = np.random.default_rng(0)
    values = random.integers(limits.min, limits.max, (12, 13, 14), kind, endpoint=True)
    values[3:6] = limits.max  # beyond which cubic and sinc interpolation overshoot
    values[0] = limits.min
    image = sitk.GetImageFromArray(values)
    shift = sitk.TranslationTransform(3, (0.3, -0.45, 0.61))
    warped = warp_image(image, image, shift, interpolator)
    assert warped.GetPixelID() == image.GetPixelID()
    expected = rounded_resampling(image, image, shift, interpolator, float(values.min()))
    assert np.array_equal(sitk.GetArrayFromImage(warped), expected)


def test_integers_are_the_same_in_slabs(monkeypatch):
    image = sitk.Cast(phantoms.head(phantoms.random_geometry(2)), sitk.sitkInt16)
    lattice = phantoms.random_geometry(3)
    shift = sitk.TranslationTransform(3, (0.3, -0.45, 0.61))
    whole = sitk.GetArrayFromImage(warp_image(image, lattice, shift))
    monkeypatch.setattr(warping, "_SLAB_VOXELS", 5 * lattice.GetSize()[0] * lattice.GetSize()[1])
    in_slabs = sitk.GetArrayFromImage(warp_image(image, lattice, shift))
    assert np.ptp(whole) > 100
    assert np.array_equal(in_slabs, whole)


def test_a_binary_mask_keeps_its_volume_and_a_volume_its_mean_when_shifted():
    z, y, x = np.mgrid[:40, :40, :40]
    mask = sitk.GetImageFromArray((((x - 20) ** 2 + (y - 20) ** 2 + (z - 20) ** 2) < 15**2).astype(np.uint8))
    shift = sitk.TranslationTransform(3, (0.49, 0.49, 0.49))
    volume = sitk.GetArrayFromImage(mask).sum()
    assert sitk.GetArrayFromImage(warp_image(mask, mask, shift)).sum() == pytest.approx(volume, rel=0.01)
    noise = sitk.GetImageFromArray(np.random.default_rng(1).integers(0, 1000, (40, 40, 40)).astype(np.int16))
    exact = sitk.GetArrayFromImage(sitk.Resample(noise, noise, shift, sitk.sitkLinear, 0.0, sitk.sitkFloat64))
    assert abs((sitk.GetArrayFromImage(warp_image(noise, noise, shift)) - exact).mean()) < 0.01


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_the_largest_integers_of_64_bits_do_not_wrap_around(kind):
    values = np.full((8, 8, 8), np.iinfo(kind).max, kind)
    values[:4] = 0
    image = sitk.GetImageFromArray(values)
    warped = sitk.GetArrayFromImage(warp_image(image, image, sitk.TranslationTransform(3, (0.0, 0.0, 0.25))))
    assert np.allclose(warped[3].astype(float), 0.25 * float(np.iinfo(kind).max))
    assert np.allclose(warped[5:7].astype(float), float(np.iinfo(kind).max))


def test_warp_agrees_with_simpleitk(result, labels, tmp_path):
    image = sitk.Cast(result.moving * 0.5 + 3, sitk.sitkInt16)
    expected = rounded_resampling(image, result.fixed, result.transform, sitk.sitkLinear)
    expected_labels = sitk.Resample(labels, result.fixed, result.transform, sitk.sitkNearestNeighbor, 0)
    for number, form in enumerate((lambda image: image, as_volume, str)):
        given = []
        for name, each in (("image", image), ("labels", labels)):
            path = tmp_path / f"{name}-{number}.nrrd"
            sitk.WriteImage(each, str(path))
            given.append(str(path) if form is str else form(each))
        warped, warped_labels = result.warp(given[0]), result.warp(given[1], labels=True)
        assert np.array_equal(sitk.GetArrayFromImage(warped), expected)
        assert np.array_equal(sitk.GetArrayFromImage(warped_labels), sitk.GetArrayFromImage(expected_labels))
        assert warped.GetPixelID() == sitk.sitkInt16
        assert warped.GetOrigin() == result.fixed.GetOrigin()
    assert set(np.unique(sitk.GetArrayFromImage(expected_labels))) == {0, 1, 2}


def test_the_moving_image_warped_is_the_warped_image(result):
    assert np.array_equal(sitk.GetArrayFromImage(result.warp(result.moving)), sitk.GetArrayFromImage(result.warped))


def test_air_of_a_ct_is_continued_outside_the_moving_volume(result):
    ct = sitk.Cast(result.moving - 1000, sitk.sitkInt16)
    ct.SetOrigin(np.add(ct.GetOrigin(), (40.0, 0.0, 0.0)).tolist())
    warped = sitk.GetArrayFromImage(result.warp(ct))
    assert warped.min() == sitk.GetArrayFromImage(ct).min()
    assert (warped[:, :, :5] == warped.min()).all()


def test_what_cannot_be_warped_is_refused(result, labels, tmp_path):
    with pytest.raises(InputError, match="ndarray"):
        result.warp(sitk.GetArrayFromImage(result.moving))
    with pytest.raises(InputError, match="does not exist"):
        result.warp(tmp_path / "absent.nrrd")
    with pytest.raises(InputError, match="label map"):
        result.warp(result.moving / 3, labels=True)
    result.save(tmp_path)
    loaded = wavemorph.Registration.load(tmp_path)
    with pytest.raises(InputError, match="does not hold the fixed image"):
        loaded.warp(labels, labels=True)
    loaded.fixed = result.fixed
    expected = sitk.GetArrayFromImage(result.warp(labels, labels=True))
    assert np.array_equal(sitk.GetArrayFromImage(loaded.warp(labels, labels=True)), expected)


def test_saving_makes_the_folder(result, tmp_path):
    result.save(tmp_path / "new" / "folder")
    loaded = wavemorph.Registration.load(tmp_path / "new" / "folder")
    assert loaded.report == result.report
    points = brain_points()
    assert np.allclose(moved(loaded.transform, points), moved(result.transform, points), atol=1e-5)


def test_a_report_of_an_earlier_version_has_the_keys_of_today_after_loading(result, tmp_path):
    result.save(tmp_path)
    report = {**result.report, "anatomy": {"before": 0.7, "after": 0.75, "turned_degrees": {"fixed": 4, "moving": 35}}}
    del report["segmentation"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    loaded = wavemorph.Registration.load(tmp_path).report
    assert "anatomy" not in loaded
    assert loaded["segmentation"] == {"before": 0.7, "after": 0.75, "rotation_deg": {"fixed": 4, "moving": 35}}
    assert {**loaded, "segmentation": None} == result.report


@pytest.fixture(scope="module")
def finer(tiny_pair):
    """Registered on the fixed voxels of 1.8 mm, with the inverse."""
    return wavemorph.register(
        *tiny_pair, wavemorph.Settings(spacing_mm=2.0, weights="none", affine=False, inverse=True)
    )


@pytest.mark.parametrize(("spacing_mm", "step"), [(4.0, 2), (5.5, 3)])
def test_stored_at_a_coarser_spacing_it_says_how_far_points_are_off(finer, spacing_mm, step):
    stored = finer.stored_at(spacing_mm)
    assert np.allclose(stored.displacement.GetSpacing(), np.array(finer.displacement.GetSpacing()) * step)
    assert stored.report["stored"]["spacing_mm"] == pytest.approx(1.8 * step)
    edges = [np.array(image.GetPixel(0, 0, 0)) for image in (stored.displacement, stored.inverse_displacement)]
    assert not np.any(edges)
    points = brain_points()
    off = np.linalg.norm(moved(stored.transform, points) - moved(finer.transform, points), axis=1)
    said = stored.report["stored"]["error_mm"]
    assert 0 < said["mean"] < said["p99"] <= said["max"] < 2.0
    assert off.mean() < 2 * said["mean"] + 0.02 and off.max() < said["max"] + 0.1
    back = moved(stored.inverse, moved(stored.transform, points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.1 * 1.8 * step
    assert folding(stored.displacement)["strict_voxels"] == 0
    assert "stored" not in finer.report


def test_the_inverse_as_one_field_is_saved_and_is_not_that_of_a_coarser_map(finer, tmp_path):
    registration = dataclasses.replace(finer)
    make_inverse_field(registration)
    registration.save(tmp_path)
    loaded = Registration.load(tmp_path).inverse_field
    assert np.array_equal(loaded.vectors, registration.inverse_field.vectors)
    assert same_lattice(loaded.lattice, registration.inverse_field.lattice)
    assert registration.stored_at(4.0).inverse_field is None


def test_stored_at_a_spacing_it_has_already_nothing_changes(finer):
    assert finer.stored_at(2.0) is finer
    assert finer.stored_at(1.0) is finer
    with pytest.raises(wavemorph.WaveMorphError, match="above 0 mm, not -1 mm"):
        finer.stored_at(-1)


def on_nodes(displacement, axes, signs, start, size):
    """A lattice whose voxels are nodes of the displacement, or lie where its nodes would go on, along other axes."""
    lattice = sitk.Image(list(size), sitk.sitkUInt8)
    lattice.SetOrigin(displacement.TransformContinuousIndexToPhysicalPoint([float(index) for index in start]))
    lattice.SetSpacing(np.array(displacement.GetSpacing())[list(axes)].tolist())
    direction = np.reshape(displacement.GetDirection(), (3, 3))[:, list(axes)] * signs
    lattice.SetDirection(direction.ravel().tolist())
    return lattice


@pytest.mark.parametrize("kind", [sitk.sitkFloat32, sitk.sitkInt16])
@pytest.mark.parametrize(
    ("axes", "signs", "start", "size"),
    [
        ((0, 1, 2), (1, 1, 1), (0, 0, 0), (20, 21, 22)),
        ((2, 0, 1), (1, -1, 1), (30, 3, -4), (18, 40, 50)),  # other axes, reaching beyond the displacement
        ((1, 0, 2), (-1, -1, -1), (25, 70, 20), (35, 30, 25)),  # begins outside of it
        ((0, 1, 2), (1, 1, 1), (90, 0, 0), (20, 21, 22)),  # all outside
        ((0, 1, 2), (1, 1, 1), (0.3, 0, 0), (20, 21, 22)),  # between the nodes
    ],
)
def test_where_voxels_are_nodes_a_volume_is_warped_as_simpleitk_does(
    random_registration, kind, axes, signs, start, size
):
    shared = random_registration(3)  # with other tests
    result = dataclasses.replace(shared, fixed=on_nodes(shared.displacement, axes, signs, start, size))
    image = sitk.Cast(result.moving, kind)
    found = sitk.GetArrayFromImage(result.warp(image))
    if kind == sitk.sitkInt16:
        expected = rounded_resampling(image, result.fixed, result.transform, sitk.sitkLinear)
    else:
        expected = sitk.GetArrayFromImage(sitk.Resample(image, result.fixed, result.transform, sitk.sitkLinear, 0.0))
    assert found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= 1e-6 * sitk.GetArrayViewFromImage(image).max()


@pytest.mark.parametrize(
    ("axes", "signs", "start", "size"),
    [
        ((0, 1, 2), (1, 1, 1), (1, 1, 1), (20, 21, 22)),
        ((2, 0, 1), (1, -1, 1), (5, 3, -4), (18, 40, 50)),  # other axes, reaching beyond the working grid
        ((0, 1, 2), (1, 1, 1), (1.3, 1, 1), (20, 21, 22)),  # between its nodes
    ],
)
def test_the_jacobian_is_that_of_the_working_grid_and_beyond_it_that_of_the_affine(finer, axes, signs, start, size):
    fixed = on_nodes(finer.displacement, axes, signs, start, size)
    result = dataclasses.replace(finer, affine=sitk.AffineTransform(np.diag([1.1, 1.2, 1.3]).ravel(), (0, 0, 0)))
    result.fixed = fixed
    found = sitk.GetArrayFromImage(result.jacobian)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(finer.working_jacobian, fixed, sitk.Transform(), sitk.sitkLinear, 1.1 * 1.2 * 1.3)
    )
    assert np.ptp(expected) > 0.1
    assert np.allclose(found, expected, rtol=5e-4, atol=1e-7)
    assert result.jacobian.GetDirection() == fixed.GetDirection()


def test_voxels_that_are_nodes_are_not_resampled_through_a_composite(finer, monkeypatch):
    monkeypatch.setattr(io_result, "warp_image", None)
    image = on_nodes(finer.displacement, (0, 1, 2), (1, 1, 1), (2, 2, 2), (20, 20, 20))
    wavemorph.Registration(finer.affine, finer.displacement, None, None, None, fixed=image).warp(finer.moving)


def test_a_large_volume_of_integers_is_not_copied_as_float64(finer, monkeypatch):
    image = on_nodes(finer.displacement, (0, 1, 2), (1, 1, 1), (2, 2, 2), (20, 20, 20))
    part = wavemorph.Registration(finer.affine, finer.displacement, None, None, None, fixed=image)
    moving = sitk.Cast(finer.moving, sitk.sitkInt16)
    expected = sitk.GetArrayFromImage(part.warp(moving))
    monkeypatch.setattr(warping, "_SLAB_VOXELS", moving.GetNumberOfPixels() // 3)
    monkeypatch.setattr(warping, "_at_voxels", None)
    assert np.array_equal(sitk.GetArrayFromImage(part.warp(moving)), expected)


def test_a_result_that_was_saved_in_part_says_so_when_more_is_needed(result, tmp_path):
    result.save(tmp_path, ["warped"], [])
    loaded = wavemorph.Registration.load(tmp_path)
    loaded.fixed = result.fixed
    assert not loaded.is_linear
    assert np.array_equal(sitk.GetArrayFromImage(loaded.warped), sitk.GetArrayFromImage(result.warped))
    for needed in (
        lambda: loaded.transform,
        lambda: loaded.inverse,
        lambda: loaded.jacobian,
        lambda: loaded.warp(result.moving),
        lambda: rounded_whole_field(loaded),
    ):
        with pytest.raises(InputError, match=r"saved in part, .* save the whole result"):
            needed()


def test_only_the_volumes_that_are_asked_for_are_saved(finer, tmp_path):
    finer.save(tmp_path, ["jacobian"])
    assert (tmp_path / "jacobian.nrrd").exists() and not (tmp_path / "warped.nrrd").exists()


def test_jacobians_are_rounded_but_their_signs_and_small_values_stay(finer):
    raw = sitk.GetArrayFromImage(
        sitk.Resample(finer.working_jacobian, finer.fixed, sitk.Transform(), sitk.sitkLinear, 1.0)
    )
    rounded = sitk.GetArrayFromImage(finer.jacobian)
    assert np.all(np.abs(rounded - raw) <= 5e-4 * np.abs(raw))
    assert not np.array_equal(rounded, raw)
    assert np.array_equal(np.sign(rounded), np.sign(raw))
