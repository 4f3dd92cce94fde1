"""Whether a segmentation is that of a brain, and how that brain is oriented."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from segmentations import RAS, affine_of, confident_structures, lattice, structure_centers
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.registration.segmentation.brain import BrainSegmentation
from wavemorph.registration.segmentation.plausibility import (
    angle_between_deg,
    head_axes,
    is_plausible_brain,
    passes_confidence,
    rotation_in_lattice_deg,
)


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, 25, -30), (-40, 5, 60)])
def test_the_axes_of_a_brain_are_found_from_the_centroids_of_its_structures(angles):
    truth = affine_of(angles, (1.2, 0.9, 1.05), (14.0, -10.0, 7.0))
    centers = structure_centers()
    centers[:, 0] = 0.0  # of both halves together
    grid = lattice(size=(40, 42, 44))
    probabilities = torch.zeros(1, len(STRUCTURES), *grid.shape)
    for code, center in enumerate(centers.tolist(), 1):
        i, j, k = np.round(np.linalg.inv(grid.matrix) @ [*truth.TransformPoint(center), 1])[:3].astype(int)
        probabilities[0, code, k, j, i] = 1.0
    atlas = {name: [*center, 1.0] for name, center in zip(STRUCTURES[1:], centers.tolist())}
    segmentation = BrainSegmentation(probabilities, grid, skull_stripped=True)
    found = head_axes(segmentation, atlas)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)
    assert np.linalg.det(found) == pytest.approx(1)
    expected = np.reshape(affine_of(angles, (1, 1, 1), (0, 0, 0)).GetMatrix(), (3, 3)) @ RAS
    assert angle_between_deg(found, expected) < 3.0
    assert rotation_in_lattice_deg(segmentation, atlas) == pytest.approx(angle_between_deg(grid.direction, found))


def test_a_segmentation_like_the_template_is_a_plausible_brain_and_one_of_another_size_or_shape_is_not():
    found, atlas = confident_structures(lattice())
    assert is_plausible_brain(found, atlas)
    small = {name: [x, y, z, 5 * ml] for name, (x, y, z, ml) in atlas.items()}
    assert not is_plausible_brain(found, small)  # all structures together are too small
    swapped = dict(zip(atlas, [list(atlas.values())[n] for n in (5, 4, 3, 2, 1, 0, *range(6, 11))]))
    assert not is_plausible_brain(found, swapped)  # the structures are in the wrong places
    one_missing = found.probabilities.clone()
    one_missing[:, 0] += one_missing[:, 7]
    one_missing[:, 7] = 0
    assert not is_plausible_brain(dataclasses.replace(found, probabilities=one_missing), atlas)


def test_a_segmentation_without_confidence_is_not_a_plausible_brain():
    found, atlas = confident_structures(lattice())
    even = torch.full_like(found.probabilities, 1 / found.probabilities.shape[1])
    doubtful = dataclasses.replace(found, probabilities=torch.lerp(found.probabilities, even, 0.6))
    assert passes_confidence(found, atlas)
    assert not passes_confidence(doubtful, atlas)
    assert not is_plausible_brain(doubtful, atlas)
    nothing = torch.zeros_like(found.probabilities)
    nothing[:, 0] = 1
    assert not passes_confidence(dataclasses.replace(found, probabilities=nothing), atlas)


def test_a_structure_that_the_scan_does_not_show_may_be_missing_and_one_that_it_should_show_may_not():
    found, atlas = confident_structures(lattice())
    lowest = int(np.argmin([z for _, _, z, _ in atlas.values()])) + 1
    without = found.probabilities.clone()
    without[:, 0] += without[:, lowest]
    without[:, lowest] = 0
    missing = dataclasses.replace(found, probabilities=without)
    assert not is_plausible_brain(missing, atlas)
    below = round((atlas[STRUCTURES[lowest]][2] - found.grid.origin[2]) / found.grid.spacing[2])
    cut = dataclasses.replace(
        missing,
        probabilities=without[:, :, below:],
        grid=found.grid.slab(below, found.grid.size[2] - below),
    )
    assert is_plausible_brain(cut, atlas)
    assert rotation_in_lattice_deg(cut, atlas) == pytest.approx(rotation_in_lattice_deg(missing, atlas), abs=10)
