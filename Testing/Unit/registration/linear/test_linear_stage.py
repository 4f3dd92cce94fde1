"""The linear stage: whether structures or mutual information decide, and volumes that do not overlap."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import wavemorph
from segmentations import affine_of
from wavemorph.errors import InputError, SettingsError
from wavemorph.registration.linear import stage
from wavemorph.registration.linear.stage import align_linearly
from wavemorph.registration.segmentation import pair
from wavemorph.registration.segmentation.pair import PairSegmentation
from wavemorph.registration.state import Job, StageTimer
from wavemorph.spatial.preprocessing import Pair, foreground

BY_STRUCTURES = (30.0, 0.0, 0.0)
BY_INTENSITIES = (0.0, 0.0, 0.0)


def job_on(image: sitk.Image, mask: sitk.Image | None = None, **settings) -> Job:
    timer = StageTimer(lambda *_: None)
    return Job(Pair(image, image, mask), wavemorph.Settings(**settings), torch.device("cpu"), None, timer)


@pytest.fixture
def image(template):
    return sitk.Shrink(template, [4, 4, 4])


@pytest.mark.parametrize(
    ("dice", "dice_by_intensities", "masked", "expected"),
    [
        (0.8, 0.75, False, BY_STRUCTURES),
        (0.55, 0.5, False, BY_INTENSITIES),
        (0.6, 0.2, False, BY_STRUCTURES),
        (0.34, 0.2, False, BY_INTENSITIES),
        (0.8, 0.75, True, BY_INTENSITIES),
    ],
)
def test_structures_decide_the_affine_only_where_they_are_segmented_well(
    monkeypatch, image, dice, dice_by_intensities, masked, expected
):
    shifted = affine_of((0, 0, 0), (1, 1, 1), BY_STRUCTURES)
    monkeypatch.setattr(stage, "estimate_affine", lambda *_, **__: sitk.AffineTransform(3))
    monkeypatch.setattr(pair, "align_structures", lambda *_: (shifted, dice))
    monkeypatch.setattr(stage, "structure_dice", lambda *_: dice_by_intensities)
    alignment = align_linearly(job_on(image, image > 0 if masked else None), None, PairSegmentation(None, None, {}))
    assert alignment.affine.GetTranslation() == expected
    assert alignment.remainder is None


def test_a_pair_that_does_not_overlap_under_its_affine_is_refused(image):
    far = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not overlap"):
        align_linearly(job_on(image, affine=False), far, None)


@pytest.mark.parametrize(
    ("dice", "dice_by_intensities", "expected"),
    [(0.8, 0.75, "refined"), (0.55, 0.5, "from scratch"), (0.6, 0.2, "structures"), (0.34, 0.2, "from scratch")],
)
def test_a_rigid_transform_is_refined_from_structures_only_where_they_are_segmented_well(
    monkeypatch, image, dice, dice_by_intensities, expected
):
    by_structures = affine_of((0, 0, 0), (1.1, 1.1, 1.1), BY_STRUCTURES)
    rigid_structures = stage.rigid_part(by_structures, foreground(image)).GetTranslation()

    def estimate_rigid(*_, initial, **__):
        return initial if initial is not None else sitk.AffineTransform(3)

    monkeypatch.setattr(stage, "estimate_rigid", estimate_rigid)
    monkeypatch.setattr(pair, "align_structures", lambda *_: (by_structures, dice))
    at_structures = {True: dice, False: dice_by_intensities}
    monkeypatch.setattr(stage, "structure_dice", lambda _f, _m, t: at_structures[t.GetTranslation() != (0, 0, 0)])
    brain = SimpleNamespace(skull_stripped=True)
    alignment = align_linearly(job_on(image, transform_type="rigid"), None, PairSegmentation(brain, brain, {}))
    found = alignment.affine.GetTranslation()
    assert found == ((0.0, 0.0, 0.0) if expected == "from scratch" else rigid_structures)
    assert np.linalg.det(np.reshape(alignment.affine.GetMatrix(), (3, 3))) == pytest.approx(1.0)


@pytest.mark.parametrize("transform_type", ["rigid", "affine"])
def test_a_non_linear_initial_transform_is_refused_for_a_linear_result(transform_type, tiny_pair):
    field = sitk.DisplacementFieldTransform(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64))
    with pytest.raises(SettingsError, match=f"not linear, and the transform type is {transform_type}"):
        wavemorph.register(*tiny_pair, wavemorph.Settings(transform_type=transform_type), initial_transform=field)
