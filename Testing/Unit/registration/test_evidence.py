"""The evidence of a registration's success, on phantoms that are aligned, misaligned, stretched or cut off."""

from __future__ import annotations

import math
import weakref

import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph.registration import evidence as module
from wavemorph.registration.evidence import _rigid_part, evidence
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.preprocessing import Pair, bounding_box, prepare

SPACING_MM = 2.5


def evidence_of(fixed: sitk.Image, moving: sitk.Image, affine: sitk.Transform, displacement=None, scale=1.0) -> dict:
    pair = Pair(fixed, moving).with_subjects()
    grid = make_working_grid(pair.fixed, bounding_box(pair.fixed_foreground), SPACING_MM * scale, 10.0 * scale)
    working = prepare(pair, grid, affine, torch.device("cpu"))
    if displacement is not None:
        displacement = torch.full((1, 3, *grid.shape), displacement / SPACING_MM)
    return evidence(working, affine, displacement, max(grid.spacing), scale)


def shift(mm: float) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((mm, 0.0, 0.0))
    return affine


@pytest.fixture(scope="module")
def pair() -> tuple[sitk.Image, sitk.Image]:
    lattice = phantoms.regular((60, 64, 56), (1.5, 1.5, 1.5))
    return phantoms.head(lattice, noise=0.02), phantoms.head(lattice, noise=0.02, seed=1)


@pytest.fixture(scope="module")
def aligned(pair) -> dict:
    return evidence_of(*pair, shift(0.0))


def test_an_aligned_pair_agrees_far_more_than_its_misaligned_copies(aligned):
    assert aligned["similarity"] > 0.6 > 0.3 > aligned["similarity_shifted"]
    assert aligned["information"] > 3 * aligned["information_shifted"]
    assert aligned["outlines"] > 0.97
    assert aligned["correlation"] > 0.9
    assert aligned["stretch"] == aligned["displacement"] == 0


def test_a_misaligned_pair_agrees_no_more_than_its_misaligned_copies(pair, aligned):
    found = evidence_of(*pair, shift(14.0))
    assert found["similarity"] < found["similarity_shifted"] + 0.1
    assert found["outlines"] < 0.9
    assert found["similarity_shifted"] > aligned["similarity_shifted"]  # shifted back, the copies agree better


def test_misaligned_copies_are_held_one_at_a_time(pair, monkeypatch):
    held, most = weakref.WeakSet(), []
    original = module._shifted

    def watched(*arguments):
        for warped, weight in original(*arguments):
            held.add(warped)
            most.append(len(held))
            yield warped, weight
            del warped, weight

    monkeypatch.setattr(module, "_shifted", watched)
    evidence_of(*pair, shift(0.0))
    assert len(most) > 3
    assert max(most) <= 2  # the one before is let go when the next is there


def test_the_contrast_may_be_reversed(pair, aligned):
    fixed, moving = pair
    reversed_values = sitk.Mask(1000 - moving, moving > 150)
    found = evidence_of(fixed, reversed_values, shift(0.0))
    assert found["similarity"] > 2 * found["similarity_shifted"]
    assert found["information"] > 2 * found["information_shifted"]


def test_the_largest_factor_of_an_affine_is_its_stretch(pair):
    affine = sitk.AffineTransform(3)
    affine.Scale((1.0, 0.8, 1.1))
    assert evidence_of(*pair, affine)["stretch"] == pytest.approx(-math.log(0.8))


def test_a_displacement_is_told_in_mm_of_a_head(pair):
    found = evidence_of(*pair, shift(0.0), displacement=4.0)
    assert found["displacement"] == pytest.approx(4.0 * math.sqrt(3), rel=1e-3)
    assert found["rigid_part"] == pytest.approx(found["displacement"], rel=1e-3)


def test_the_rigid_part_of_a_displacement_is_that_of_its_nearest_rigid_motion():
    k, j, i = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (30, 34, 32)), indexing="ij")
    turn = torch.tensor(phantoms.rotation((5.0, -8.0, 10.0)), dtype=torch.float32)
    points = torch.stack([k, j, i])
    moved = torch.einsum("ab,bkji->akji", turn, points)
    displacement = (moved - points)[None] + torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1)
    everywhere = torch.ones(1, 1, 30, 34, 32)
    expected = float(displacement.square().sum(1).mean().sqrt())
    assert _rigid_part(displacement, everywhere) == pytest.approx(expected, rel=0.04)
    stretch = (0.1 * points)[None]
    assert _rigid_part(stretch, everywhere) < 0.05 * float(stretch.square().sum(1).mean().sqrt())


@pytest.mark.parametrize("factor", [0.05, 3.0])
def test_the_evidence_is_the_same_at_any_size(pair, aligned, factor):
    found = evidence_of(*(phantoms.scaled(image, factor) for image in pair), shift(0.0), scale=factor)
    assert found == pytest.approx(aligned, abs=0.02)


def test_what_was_not_scanned_does_not_count_against_the_outlines(pair):
    fixed, moving = pair
    found = evidence_of(fixed, moving[:, :, 30:], shift(0.0))
    assert found["outlines"] > 0.95
    assert found["similarity"] > 0.6
