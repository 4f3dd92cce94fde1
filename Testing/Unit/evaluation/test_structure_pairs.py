"""Which structures of two label maps are compared, and what counts for the means."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.evaluation.metrics import format_table, label_report
from wavemorph.evaluation.structures import pair_structures
from wavemorph.io.labels import LabelMap, Structure, label_map_of

BOXES = {"A": np.s_[2:8, 2:8, 2:8], "B": np.s_[10:16, 10:16, 10:16], "C": np.s_[5:11, 2:8, 12:18]}
BOXES["D"] = np.s_[4:10, 4:10, 4:10]  # overlaps A


def image_of(numbers, shape=(20, 20, 20)):
    """number -> name of a box: the label map of these boxes."""
    array = np.zeros(shape, np.int16)
    for number, name in numbers.items():
        array[BOXES[name]] = number
    return sitk.GetImageFromArray(array)


def named(numbers):
    return label_map_of(image_of(numbers), names=dict(numbers))


def layered(*layers):
    """Each layer as number -> name, as a segmentation of Slicer holds them."""
    structures = [Structure(name, number, layer) for layer, each in enumerate(layers) for number, name in each.items()]
    return LabelMap(tuple(image_of(each) for each in layers), tuple(structures), {"Segment0_ID": "S"})


def dice_by_name(report):
    return {measure["name"]: measure["dice_after"] for measure in report["labels"].values()}


def test_structures_of_the_same_name_are_compared_whatever_their_labels():
    report = label_report(named({1: "A", 2: "B", 3: "C"}), named({3: "A", 1: "B", 700: "C"}), sitk.Transform())
    assert dice_by_name(report) == {"A": 1, "B": 1, "C": 1}
    assert report["paired_by"] == "name"
    assert report["labels"][1]["moving_label"] == 3
    assert report["remarks"] == []


def test_overlapping_structures_are_compared_in_any_layers():
    fixed, moving = layered({1: "A", 2: "B"}, {1: "D"}), layered({1: "B", 2: "D"}, {1: "C", 2: "A"})
    report = label_report(fixed, moving, sitk.Transform())
    assert dice_by_name(report) == {"A": 1, "B": 1, "D": 1, "C": 0}
    one_voxel = label_report(fixed, moving, sitk.TranslationTransform(3, (1.0, 0.0, 0.0)))
    assert dice_by_name(one_voxel) == pytest.approx({"A": 5 / 6, "B": 5 / 6, "D": 5 / 6, "C": 0})
    assert {measure["hd95_after_mm"] for measure in one_voxel["labels"].values()} == {1.0, None}


def test_structures_of_one_map_only_are_listed_and_count_as_zero_in_the_mean():
    report = label_report(image_of({1: "A", 2: "B", 3: "C"}), image_of({1: "A", 9: "B"}), sitk.Transform())
    assert report["mean"]["dice_after"] == pytest.approx(1 / 4)
    assert report["mean_common"]["dice_after"] == 1
    assert report["mean"]["hd95_after_mm"] == report["mean_common"]["hd95_after_mm"] == 0
    found = {label: (each["fixed_label"], each["moving_label"]) for label, each in report["labels"].items()}
    assert found == {1: (1, 1), 2: (2, None), 3: (3, None), 9: (None, 9)}
    assert report["remarks"] == [
        "2 structures are in the fixed label map only: 2, 3.",
        "1 structure is in the moving label map only: 9.",
    ]
    lines = format_table(report, {2: "Caudate"}).splitlines()
    assert lines[2].startswith("2 Caudate (fixed only)  ")
    assert lines[4].startswith("9 (moving only)  ")
    assert lines[5].startswith("mean, 0 where missing  ")
    assert "0.250" in lines[5]
    assert lines[6].startswith("mean over common  ")
    json.dumps(report, allow_nan=False)


def test_a_number_of_both_maps_with_two_meanings_gets_two_rows():
    report = label_report(named({1: "A", 2: "B"}), named({1: "C", 2: "A"}), sitk.Transform())
    assert dice_by_name(report) == {"A": 1, "B": 0, "C": 0}
    assert len(report["labels"]) == 3


@pytest.mark.parametrize(
    ("fixed", "moving", "words"),
    [
        ({1: "A", 2: "B"}, None, ""),
        (None, {1: "A", 2: "B"}, ""),
        ({1: "A", 2: "B"}, {1: "Leber", 2: "Milz"}, "no name in common (A, B in the fixed one, Leber, Milz)"),
        ({1: "A", 2: "A"}, {1: "A", 2: "B"}, 'the fixed label map has 2 structures of the name "A"'),
    ],
)
def test_without_common_unique_names_structures_are_paired_by_label_with_the_reason(fixed, moving, words):
    image = image_of({1: "A", 2: "B"})
    pairs = pair_structures(label_map_of(image, names=fixed), label_map_of(image, names=moving))
    assert pairs.paired_by == "label"
    assert pairs.common == [1, 2]
    assert [words in remark for remark in pairs.remarks] == ([True] if words else [])


def test_maps_without_a_common_structure_are_refused():
    with pytest.raises(InputError, match=r"no label in common: the fixed one holds 1, 2, the moving one 7;"):
        label_report(image_of({1: "A", 2: "B"}), image_of({7: "A"}), sitk.Transform())
    with pytest.raises(InputError, match="2 overlapping structures of the label 1"):
        pair_structures(layered({1: "A"}, {1: "B"}), label_map_of(image_of({1: "A"})))


def test_a_cropped_segmentation_is_compared_beyond_its_crop_and_a_plain_label_map_is_not():
    """Slicer crops the file of a segmentation to its segments; what the moving one has beyond is no overlap."""
    shift = sitk.TranslationTransform(3, (-3.0, 0.0, 0.0))
    whole = named({1: "A", 2: "B"})
    expected = label_report(whole, whole, shift)
    crop = sitk.RegionOfInterest(image_of({1: "A", 2: "B"}), (14, 14, 14), (2, 2, 2))
    structures = (Structure("A", 1), Structure("B", 2))
    cropped = label_report(LabelMap((crop,), structures, {"Segment0_ID": "S"}), whole, shift)
    assert dice_by_name(cropped) == pytest.approx(dice_by_name(expected))
    assert cropped["mean"] == pytest.approx(expected["mean"])
    plain = label_report(label_map_of(crop), whole, shift)
    assert plain["mean"]["dice_after"] > expected["mean"]["dice_after"]
