"""Metrics against scipy, brute force and maps whose metrics are known."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from wavemorph.errors import InputError
from wavemorph.evaluation.metrics import (
    dice,
    expected_error_by_structure,
    folding,
    format_table,
    hausdorff95_mm,
    label_report,
    target_registration_error_mm,
    volume_change,
    warp_labels,
)
from wavemorph.io.labels import LabelMap, Structure

RANDOM = np.random.default_rng(0)
SPACING = (0.8, 1.1, 2.3)
OBLIQUE = np.reshape(sitk.VersorTransform((0.2, 0.3, 0.9), 0.7).GetMatrix(), (3, 3)) * [1, -1, -1]


def image_of(array, spacing=SPACING, direction=OBLIQUE, vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(spacing)
    image.SetOrigin((-11.0, 7.0, 3.0))
    image.SetDirection(np.ravel(direction).tolist())
    return image


def blobs(seed, shape=(24, 26, 28), labels=3):
    """Smooth random structures; some touch the end of the volume."""
    noise = np.random.default_rng(seed).normal(size=(labels + 1, *shape))
    return np.argmax([ndimage.gaussian_filter(channel, 3) for channel in noise], axis=0).astype(np.int16)


def field_of(function, shape=(9, 8, 7)):
    """A field of LPS mm from x -> map(x), on an oblique lattice of unequal spacing."""
    lattice = image_of(np.zeros((*shape, 3)), vector=True)
    vectors = np.empty((*shape, 3))
    for k, j, i in np.ndindex(shape):
        point = np.array(lattice.TransformIndexToPhysicalPoint((i, j, k)))
        vectors[k, j, i] = function(point) - point
    return image_of(vectors, vector=True)


def brute_force_folding(field):
    """(central determinants, whether strictly folded), voxel by voxel, in millimeters."""
    u = sitk.GetArrayFromImage(field).astype(float)
    axes = np.reshape(field.GetDirection(), (3, 3)) * field.GetSpacing()
    shape = u.shape[:3]
    central, strict = np.empty(shape), np.zeros(shape, bool)

    def jacobian(node, steps):
        columns = []
        for axis in (2, 1, 0):  # i, j, k
            low, high = list(node), list(node)
            low[axis] = max(node[axis] + steps[axis][0], 0)
            high[axis] = min(node[axis] + steps[axis][1], shape[axis] - 1)
            if low[axis] == high[axis]:  # beyond the end: the difference on the other side
                low[axis], high[axis] = (0, 1) if node[axis] == 0 else (shape[axis] - 2, shape[axis] - 1)
            columns.append((u[tuple(high)] - u[tuple(low)]) / (high[axis] - low[axis]))
        return np.linalg.det(np.eye(3) + np.stack(columns, axis=1) @ np.linalg.inv(axes))

    for node in np.ndindex(shape):
        central[node] = jacobian(node, [(-1, 1)] * 3)
        strict[node] = any(jacobian(node, steps) <= 0 for steps in itertools.product([(-1, 0), (0, 1)], repeat=3))
    return central, strict


def scipy_hausdorff95(a, b, spacing_kji):
    borders = [mask & ~ndimage.binary_erosion(mask, border_value=1) for mask in (a, b)]
    distances = [ndimage.distance_transform_edt(~border, sampling=spacing_kji) for border in borders]
    return max(np.percentile(distances[0][borders[1]], 95), np.percentile(distances[1][borders[0]], 95))


def test_dice_is_twice_the_intersection_over_the_sum():
    a, b = blobs(1), blobs(2)
    measured = dice(a, b, [1, 2, 3, 77])
    for label in (1, 2, 3):
        expected = 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())
        assert measured[label] == pytest.approx(expected)
    assert math.isnan(measured[77])
    assert dice(a, a, [1]) == {1: 1.0}
    assert dice(np.array([[[1, 0]]]), np.array([[[0, 1]]]), [1]) == {1: 0.0}


def test_maps_of_different_shapes_are_refused():
    a, b = np.zeros((3, 4, 5)), np.zeros((5, 4, 3))
    for measure in (lambda: dice(a, b, [1]), lambda: hausdorff95_mm(a, b, 1, SPACING)):
        with pytest.raises(InputError, match=r"\(3, 4, 5\) and \(5, 4, 3\)"):
            measure()


@pytest.mark.parametrize("label", [1, 2, 3])
def test_hausdorff_distances_agree_with_scipy_on_unequal_spacing(label):
    a, b = blobs(1), blobs(2)
    expected = scipy_hausdorff95(a == label, b == label, SPACING[::-1])
    assert hausdorff95_mm(a, b, label, SPACING) == pytest.approx(expected, abs=1e-4)


def test_hausdorff_distances_agree_with_scipy_for_structures_inside_the_volume():
    a, b = np.zeros((2, 30, 30, 30), bool)
    a[10:13, 12:14, 9:20] = True
    b[10:20, 12:20, 9:20] = True  # touches three faces of a: a border omitted at these faces would change the result
    for first, second in ((a, b), (a[::-1, ::-1, ::-1], b[::-1, ::-1, ::-1])):
        expected = scipy_hausdorff95(first, second, SPACING[::-1])
        assert hausdorff95_mm(first, second, True, SPACING) == pytest.approx(expected, abs=1e-4)


def test_hausdorff_distance_of_a_moved_box_is_the_shift_in_mm():
    a, b = np.zeros((2, 30, 30, 30), np.uint8)
    a[10:15, 10:15, 10:15] = 1
    b[10:15, 10:15, 13:18] = 1  # three voxels along i
    assert hausdorff95_mm(a, b, 1, SPACING) == pytest.approx(3 * SPACING[0], abs=1e-5)
    assert hausdorff95_mm(a, a, 1, SPACING) == pytest.approx(0, abs=1e-5)


def test_hausdorff_distance_of_an_absent_structure_is_not_a_number():
    assert math.isnan(hausdorff95_mm(blobs(1), blobs(2), 9, SPACING))


def test_target_registration_error_maps_fixed_points_to_moving_points():
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((1.1, 0.1, 0, 0, 0.9, 0, 0.2, 0, 1))
    transform.SetTranslation((5, -3, 2))
    fixed = RANDOM.normal(size=(20, 3)) * 30
    moving = np.array([transform.TransformPoint(point) for point in fixed.tolist()])
    assert np.allclose(target_registration_error_mm(transform, fixed, moving), 0, atol=1e-9)
    off = target_registration_error_mm(transform, fixed, moving + np.array([3, 0, 4]))
    assert np.allclose(off, 5)
    with pytest.raises(InputError, match="20 fixed and 19 moving"):
        target_registration_error_mm(transform, fixed, moving[1:])


def test_labels_are_sampled_in_the_moving_image():
    array = np.zeros((12, 12, 12), np.int16)
    array[5, 6, 7] = 42
    moving = image_of(array, spacing=(1, 1, 1), direction=np.eye(3))
    warped = warp_labels(moving, moving, sitk.TranslationTransform(3, (2.2, 0.0, 0.0)))
    found = np.argwhere(sitk.GetArrayFromImage(warped) == 42)
    assert found.tolist() == [[5, 6, 5]]  # fixed point 5 is mapped to moving point 7
    assert warped.GetPixelID() == moving.GetPixelID()


def test_folding_of_an_affine_map_is_its_determinant():
    matrix = np.array([[1.2, 0.3, 0.0], [-0.1, 0.8, 0.2], [0.0, 0.1, 1.1]])
    report = folding(field_of(lambda x: matrix @ x + [1, 2, 3]))
    assert report["min"] == pytest.approx(np.linalg.det(matrix), rel=1e-5)
    assert report["sd_log"] == pytest.approx(0, abs=1e-5)
    assert report["central_voxels"] == report["strict_voxels"] == 0
    assert report["evaluated_voxels"] == 9 * 8 * 7


def test_a_mirror_image_is_folded_everywhere():
    report = folding(field_of(lambda x: x * [-1, 1, 1]))
    assert report["central_percent"] == report["strict_percent"] == 100
    assert report["min"] == pytest.approx(-1)


@pytest.mark.parametrize("shape", [(9, 8, 7), (35, 4, 5), (33, 3, 2)])
def test_folding_agrees_with_brute_force_also_across_slabs(shape):
    vectors = (0.9 * RANDOM.normal(size=(*shape, 3))).astype(np.float32)
    field = image_of(vectors, vector=True)
    central, strict = brute_force_folding(field)
    mask = RANDOM.random(shape) > 0.4
    report = folding(field, image_of(mask.astype(np.uint8)))
    assert 0 < report["central_voxels"] == (central[mask] <= 0).sum()
    assert report["central_voxels"] < report["strict_voxels"] == strict[mask].sum() < mask.sum()
    assert report["evaluated_voxels"] == mask.sum()
    assert report["central_percent"] == pytest.approx(100 * (central[mask] <= 0).mean())
    assert report["strict_percent"] == pytest.approx(100 * strict[mask].mean())
    assert report["min"] == pytest.approx(central[mask].min(), rel=1e-4)
    assert report["sd_log"] == pytest.approx(np.log(np.clip(central[mask], 1e-3, 1e3)).std(), rel=1e-4)


def test_folding_refuses_what_is_not_a_displacement_field():
    field = field_of(lambda x: x, (4, 4, 4))
    with pytest.raises(InputError, match="1 component"):
        folding(image_of(np.zeros((4, 4, 4), np.float32)))
    with pytest.raises(InputError, match="does not lie on the lattice"):
        folding(field, image_of(np.ones((4, 4, 5), np.uint8)))
    with pytest.raises(InputError, match="empty"):
        folding(field, image_of(np.zeros((4, 4, 4), np.uint8)))


def test_volume_change_is_the_mean_jacobian_of_each_structure():
    labels = blobs(3)
    jacobian = RANDOM.random(labels.shape).astype(np.float32) + 0.5
    change = volume_change(image_of(jacobian), image_of(labels))
    assert sorted(change) == [1, 2, 3]
    for label, mean in change.items():
        assert mean == pytest.approx(jacobian[labels == label].mean(), rel=1e-5)
    with pytest.raises(InputError, match="same lattice"):
        volume_change(image_of(jacobian), image_of(labels, spacing=(1, 1, 1)))


def expected_errors(shape, seed=0):
    """mm; unknown, 0, in some places and in one corner."""
    random = np.random.default_rng(seed)
    errors = random.gamma(2.0, 0.6, shape) * (random.random(shape) > 0.2)
    errors[: shape[0] // 2, : shape[1] // 2, : shape[2] // 2] = 0
    return errors.astype(np.float32)


def known_median(errors, inside):
    known = sorted(value for value in errors[inside].tolist() if value > 0)
    if not known:
        return None
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


def test_the_expected_error_of_a_structure_is_the_median_of_its_known_voxels():
    labels = blobs(3)
    labels[:4, :4, :4] = 9  # where nothing is known
    errors = expected_errors(labels.shape)
    found = expected_error_by_structure(image_of(errors), image_of(labels))
    assert [each.label for each in found] == [1, 2, 3, 9]
    for each, median in found.items():
        expected = known_median(errors, labels == each.label)
        assert median == (None if each.label == 9 else pytest.approx(expected))


def test_the_expected_error_is_that_of_the_nearest_voxel_on_another_lattice():
    """Labels on voxels of a third of the size, one row and column of them beyond the map."""
    errors = expected_errors((6, 7, 8))
    image = image_of(errors, spacing=(3, 3, 3), direction=np.eye(3))
    fine = np.random.default_rng(1).integers(0, 3, (18, 22, 25)).astype(np.uint8)
    labels = image_of(fine, spacing=(1, 1, 1), direction=np.eye(3))
    labels.SetOrigin((-12.0, 6.0, 2.0))  # one voxel before the center of the first voxel of the map
    repeated = np.pad(errors.repeat(3, 0).repeat(3, 1).repeat(3, 2), ((0, 0), (0, 1), (0, 1)))
    found = expected_error_by_structure(image, labels)
    assert {each.label for each in found} == {1, 2}
    for each, median in found.items():
        assert median == pytest.approx(known_median(repeated, fine == each.label))


def test_structures_that_overlap_have_the_error_of_all_their_voxels():
    inner, outer = np.zeros((2, 10, 10, 10), np.uint8)
    inner[3:6, 3:6, 3:6], outer[2:8, 2:8, 2:8] = 1, 1
    layers = tuple(image_of(array) for array in (outer, inner))
    structures = (Structure("PTV", 1, 0), Structure("GTV", 1, 1))
    errors = expected_errors(inner.shape)
    found = expected_error_by_structure(image_of(errors), LabelMap(layers, structures))
    assert found[structures[0]] == pytest.approx(known_median(errors, outer == 1))
    assert found[structures[1]] == pytest.approx(known_median(errors, inner == 1))
    assert found[structures[0]] != found[structures[1]]


def test_a_label_report_has_the_expected_error_where_there_is_one_and_its_table_a_column():
    fixed, moving = blobs(3), blobs(3)
    moving[moving == 2] = 5
    errors = expected_errors(fixed.shape)
    maps = image_of(fixed), image_of(moving), sitk.Transform()
    report = label_report(*maps, distances=False, expected_error=image_of(errors))
    for label in (1, 2, 3):
        expected = pytest.approx(known_median(errors, fixed == label))
        assert report["labels"][label]["expected_error_mm"] == expected
    assert report["labels"][5]["expected_error_mm"] is None  # in the moving map only
    assert json.loads(json.dumps(report, allow_nan=False))["labels"]["5"]["expected_error_mm"] is None
    lines = format_table(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].endswith("expected error mm")
    assert float(lines[1].split()[-1]) == pytest.approx(report["labels"][1]["expected_error_mm"], abs=0.005)
    assert all(line.split()[-1] == "-" for line in lines[4:])  # the structure without one, and the means
    without = label_report(*maps, distances=False)
    assert "expected error" not in format_table(without)
    assert "expected_error_mm" not in without["labels"][1]


def test_the_report_is_perfect_for_the_true_transform_and_ready_for_json():
    moving = image_of(blobs(4), spacing=(1, 1, 1), direction=np.eye(3))
    fixed = sitk.Resample(moving, moving, sitk.TranslationTransform(3, (3.0, 0.0, 0.0)), sitk.sitkNearestNeighbor, 0)
    report = label_report(fixed, moving, sitk.TranslationTransform(3, (3.0, 0.0, 0.0)))
    for measure in report["labels"].values():
        assert measure["dice_after"] == 1 > measure["dice_before"]
        assert measure["hd95_after_mm"] == 0 < measure["hd95_before_mm"]
    before = [measure["dice_before"] for measure in report["labels"].values()]
    assert report["mean"]["dice_before"] == pytest.approx(np.mean(before))
    worse = label_report(fixed, moving, sitk.TranslationTransform(3, (-3.0, 0.0, 0.0)))
    assert worse["mean"]["dice_after"] < report["mean"]["dice_before"]
    assert json.loads(json.dumps(report, allow_nan=False))["labels"]["1"]["dice_after"] == 1


def test_a_structure_that_leaves_the_volume_has_no_distance():
    array = np.zeros((20, 20, 20), np.uint8)
    array[3:6, 3:6, 3:6], array[12:16, 8:12, 8:12] = 1, 2
    labels = image_of(array, spacing=(1, 1, 1), direction=np.eye(3))
    report = label_report(labels, labels, sitk.TranslationTransform(3, (0.0, 0.0, 8.0)))
    assert report["labels"][1]["dice_after"] == 0
    assert report["labels"][1]["hd95_after_mm"] == pytest.approx(scipy_distance_after_shift(array, 1, 8))
    report = label_report(labels, labels, sitk.TranslationTransform(3, (0.0, 0.0, 50.0)))
    assert report["labels"][1]["hd95_after_mm"] is None
    assert report["mean"]["hd95_after_mm"] is None
    assert "-" in format_table(report).splitlines()[-1]


def scipy_distance_after_shift(array, label, shift):
    moved = np.zeros_like(array)
    moved[:-shift] = array[shift:]
    if not (moved == label).any():
        return None
    return scipy_hausdorff95(array == label, moved == label, (1, 1, 1))


def test_distances_can_be_left_out():
    labels = image_of(blobs(5))
    report = label_report(labels, labels, sitk.Transform(), distances=False)
    assert report["mean"] == {"dice_before": 1, "dice_after": 1, "hd95_before_mm": None, "hd95_after_mm": None}


def test_the_columns_of_the_table_are_aligned_and_labels_have_names():
    values = {"dice_before": 0.5, "dice_after": 0.875, "hd95_before_mm": 12.34, "hd95_after_mm": None}
    report = {"labels": {4: values, 17: values}, "mean": values}
    lines = format_table(report, {17: "Left-Hippocampus"}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["4", "0.500", "0.875", "12.34", "-"]
    assert lines[2].startswith("17 Left-Hippocampus  ")
    assert lines[3].startswith("mean")
