"""What was taken for the subject; and warnings: a result that should not be trusted has one, a good one has none."""

from __future__ import annotations

import re

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph.registration.report import describe_subject, quality_warnings
from wavemorph.spatial.grid import WorkingGrid
from wavemorph.spatial.preprocessing import Pair

GOOD = {
    "transform_type": "deformable",
    "similarity": {"before": 0.3, "after": 0.6},
    "jacobian": {"max": 2.5},
    "folding": {"strict_voxels": 0},
    "displacement_mm": {"max": 12.0},
    "subject": {"unseen_percent": 12.0, "rotation_deg": 20},
    "segmentation": {"before": 0.7, "after": 0.75, "rotation_deg": {"fixed": 4, "moving": 35}},
}


def test_a_good_result_has_no_warning():
    assert quality_warnings(GOOD) == []
    assert quality_warnings({**GOOD, "segmentation": None}) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"similarity": {"before": 0.3, "after": 0.3}},
            "The deformation did not increase the similarity of the volumes",
        ),
        (
            {"similarity": {"before": 0.3, "after": 0.28}, "transform_type": "rigid"},
            "The alignment did not increase the similarity of the volumes",
        ),
        (
            {"similarity": {"before": 0.05, "after": 0.08}},
            r"similarity after registration is low \(local correlation 0.08\)",
        ),
        ({"folding": {"strict_voxels": 7}}, "7 voxels are folded"),
        ({"jacobian": {"max": 31.0}}, "31 times as large"),
        ({"displacement_mm": {"max": 55.0}}, "55 mm, which is implausible"),
        (
            {"subject": {"unseen_percent": 47.4, "rotation_deg": 0}},
            "47 % of the fixed subject is not in the moving volume",
        ),
        (
            {"segmentation": None, "subject": {"unseen_percent": 0.0, "rotation_deg": 178}},
            r"moving volume is rotated by 178 degrees against the fixed one; .* left and right may be",
        ),
        ({"segmentation": {**GOOD["segmentation"], "after": 0.21}}, r"structures of the brain overlap by only 0.21"),
        (
            {"segmentation": {**GOOD["segmentation"], "rotation_deg": {"fixed": 4, "moving": 92}}},
            r"brain in the moving volume is rotated by 92 degrees; .* left and right may be exchanged",
        ),
    ],
)
def test_each_warning_names_the_value_that_is_wrong(change, expected):
    sentences = quality_warnings({**GOOD, **change})
    assert any(re.search(expected, sentence) for sentence in sentences)


def test_a_pair_that_lies_aligned_need_not_gain_by_a_linear_map():
    assert quality_warnings({**GOOD, "similarity": {"before": 0.3, "after": 0.3}, "transform_type": "rigid"}) == []


def test_a_pair_that_is_similar_from_the_start_has_no_warning_for_gaining_nothing():
    assert quality_warnings({**GOOD, "similarity": {"before": 0.95, "after": 0.95}}) == []


@pytest.mark.parametrize(("max_mm", "length_scale", "implausible"), [(55.0, 1.5, False), (3.0, 0.05, True)])
def test_which_displacement_is_implausible_depends_on_the_size_of_the_subject(max_mm, length_scale, implausible):
    sentences = quality_warnings({**GOOD, "displacement_mm": {"max": max_mm}}, length_scale)
    assert [f"{max_mm:.3g} mm" in sentence for sentence in sentences] == [True] * implausible


def body(moving: sitk.Image) -> tuple[Pair, WorkingGrid, torch.Tensor]:
    """(a pair of the torso and `moving`, a grid over it, 1 in the torso)."""
    fixed = phantoms.torso(phantoms.regular((50, 40, 56), (3.6, 3.4, 3.6)), noise=10)
    size, spacing = (40, 32, 44), 4.0
    origin = [-side * (n - 1) * spacing / 2 for side, n in zip((-1, -1, 1), size)]
    grid = WorkingGrid(size, (spacing,) * 3, tuple(origin), np.diag([-1.0, -1.0, 1.0]))
    k, j, i = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    points = np.stack([i, j, k], -1) @ grid.matrix[:3, :3].T + grid.origin
    inside = torch.tensor(phantoms.in_torso(points))[None, None]
    return Pair(fixed, moving).as_body(), grid, inside


def upper_half(above_mm: float) -> sitk.Image:
    """The part of the torso above a height in mm."""
    moving = phantoms.torso(phantoms.regular((50, 42, 64), (3.5, 3.5, 3.0)), noise=10, seed=1)
    return moving[:, :, round(above_mm / 3.0 + 31.5) :]


def test_the_subject_of_a_report_has_the_kind_and_the_sides_of_what_was_found_and_how_much_of_it_was_not_scanned():
    pair, grid, inside = body(upper_half(0.0))
    displacement = torch.zeros(1, 3, *grid.shape)
    entry = describe_subject(pair, grid, sitk.AffineTransform(3), displacement, inside)
    assert entry["kind"] == "body"
    assert np.allclose(entry["extent_mm"], np.multiply(2, phantoms.TORSO_RADII), rtol=0.05)
    assert entry["working_spacing_mm"] == [4.0, 4.0, 4.0]
    assert entry["unseen_percent"] == pytest.approx(50, abs=3)
    displacement[:, 0] = 10.0  # voxels of 4 mm, upwards: half of the radius
    entry = describe_subject(pair, grid, sitk.AffineTransform(3), displacement, inside)
    below = (2 - 3 * 0.5 + 0.5**3) / 4  # fraction of an ellipsoid below minus half of its radius
    assert entry["unseen_percent"] == pytest.approx(100 * below, abs=3)
    assert entry["rotation_deg"] == 0
    up = sitk.AffineTransform(3)
    up.SetTranslation((0.0, 0.0, 40.0))
    again = describe_subject(pair, grid, up, torch.zeros_like(displacement), inside)
    assert again["unseen_percent"] == pytest.approx(entry["unseen_percent"], abs=1)


def test_the_sides_of_the_subject_follow_the_body_and_not_the_order_of_the_axes_in_the_file():
    whole, grid, inside = body(upper_half(0.0))
    reoriented = sitk.PermuteAxes(whole.fixed, (2, 0, 1))
    pair = Pair(reoriented, whole.moving).as_body()
    entry = describe_subject(pair, grid, sitk.AffineTransform(3), torch.zeros(1, 3, *grid.shape), inside)
    assert np.allclose(entry["extent_mm"], np.multiply(2, phantoms.TORSO_RADII), rtol=0.05)


def test_a_brain_and_a_body_that_is_cut_off_nowhere_are_wholly_in_the_moving_volume():
    moving = phantoms.torso(phantoms.regular((50, 42, 64), (3.5, 3.5, 3.0)), noise=10, seed=1)
    pair, grid, inside = body(moving)
    far = torch.full((1, 3, *grid.shape), 30.0)
    for each, kind in ((pair, "body"), (Pair(pair.fixed, moving), "brain")):
        entry = describe_subject(each, grid, sitk.AffineTransform(3), far, inside)
        assert (entry["kind"], entry["unseen_percent"]) == (kind, 0)
