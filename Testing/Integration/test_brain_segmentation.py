"""What the shipped network sees in real brains: the structures of the template, however it lies; noise unseen."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
import wavemorph
from wavemorph.cli.demo import template_path
from wavemorph.models import weights
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.registration.linear.structures import align_structures
from wavemorph.registration.segmentation import inference as anatomy
from wavemorph.registration.segmentation.inference import mean_dice, overlap, segment
from wavemorph.spatial.preprocessing import foreground

RAS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def model():
    return weights.resolve_segmentation_model("cpu")


@pytest.fixture(scope="module")
def template():
    return sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)


@pytest.fixture(scope="module")
def seen(model, template):
    return segment(model.network, template, foreground(template), model.card.extra["atlas"])


def phantom(size, spacing) -> sitk.Image:
    empty = sitk.Image(list(size), sitk.sitkUInt8)
    empty.SetSpacing(spacing)
    return phantoms.head(empty, noise=5.0)


def affine_of(angles, scales, shift) -> sitk.AffineTransform:
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.radians(angles))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag(scales)).ravel().tolist())
    affine.SetTranslation(shift)
    return affine


def remembered(monkeypatch) -> list:
    """(what is seen, the grid it is seen on, how) of each look from now on."""
    looks, look = [], anatomy._look

    def remember(network, image, foreground, grid, **how):
        looks.append((look(network, image, foreground, grid, **how), grid, how))
        return looks[-1][0]

    monkeypatch.setattr(anatomy, "_look", remember)
    return looks


def test_what_is_seen_in_bfloat16_is_what_is_seen_in_float32(model, template, seen, monkeypatch):
    usual = anatomy.computes_in_bfloat16(torch.device("cpu"))  # what `seen` was seen in
    monkeypatch.setattr(anatomy, "computes_in_bfloat16", lambda device: not usual)
    other = segment(model.network, template, foreground(template), model.card.extra["atlas"])
    assert other.shares.dtype == seen.shares.dtype == torch.float32
    assert not torch.equal(other.shares, seen.shares)
    assert float((other.shares - seen.shares).abs().mean()) < 0.005
    assert mean_dice(other.shares[0], seen.shares[0]) > 0.98


def test_the_structures_of_the_template_are_found_with_their_volumes(model, seen):
    usual = np.array([model.card.extra["atlas"][name][3] for name in STRUCTURES[1:]])
    ratio = seen.volumes_ml()[1:] / usual
    assert np.all((ratio > 0.5) & (ratio < 2.6)), dict(zip(STRUCTURES[1:], ratio.round(2)))
    assert seen.bare


def test_they_lie_where_they_lie_in_any_contrast_and_in_a_turned_head(model, template, seen):
    reversed_contrast = sitk.Mask(300 - template, template > 0)
    turn = affine_of((10, -6, 8), (1, 1, 1), (0, 0, 0))
    turned = sitk.Resample(reversed_contrast, template, turn, sitk.sitkLinear, 0.0)
    other = segment(model.network, turned, foreground(turned), model.card.extra["atlas"])
    found, reached = align_structures(seen, other)
    back = turn.GetInverse()  # a point of the template is seen in the turned image where the turn leads back to
    points = np.array(seen.centers()[1:])
    off = [np.linalg.norm(np.subtract(found.TransformPoint(p), back.TransformPoint(p))) for p in points.tolist()]
    assert np.mean(off) < 3.0
    assert reached > 0.65


def test_a_turned_brain_is_looked_at_along_its_own_axes_and_seen_better(model, template, seen, monkeypatch):
    turn = affine_of((-25, 15, 20), (1, 1, 1), (0, 0, 0))
    turned = sitk.Resample(template, template, turn, sitk.sitkLinear, 0.0)
    looks = remembered(monkeypatch)
    surest = segment(model.network, turned, foreground(turned), model.card.extra["atlas"])
    as_it_lies = looks[0][0]
    axes = np.reshape(turn.GetInverse().GetMatrix(), (3, 3)) @ RAS
    assert anatomy._degrees_between(surest.grid.direction, axes) < 6.0
    assert anatomy._degrees_between(as_it_lies.grid.direction, axes) > 6.0
    overlaps = [overlap(seen, look, turn.GetInverse()) for look in (surest, as_it_lies)]
    assert overlaps[0] > overlaps[1] + 0.02
    assert overlaps[0] > 0.85


@pytest.mark.parametrize("angles", [(75, 0, 0), (0, 0, 180)])
def test_a_brain_is_found_however_it_lies(model, template, seen, angles):
    turn = sitk.Euler3DTransform()
    turn.SetCenter(seen.centers()[1:].mean(0).tolist())
    turn.SetRotation(*np.radians(angles))
    # the turned head in a cube, so that nothing of it is cut off
    empty = sitk.Image([230] * 3, sitk.sitkFloat32)
    empty.SetDirection(RAS.ravel().tolist())
    empty.SetOrigin((np.array(turn.GetCenter()) - RAS @ np.full(3, 114.5)).tolist())
    turned = sitk.Resample(template, empty, turn, sitk.sitkLinear, 0.0)
    other = segment(model.network, turned, foreground(turned), model.card.extra["atlas"])
    found, reached = align_structures(seen, other)
    assert reached > 0.85
    whole = np.degrees(np.arccos((np.trace(np.reshape(turn.GetMatrix(), (3, 3))) - 1) / 2))
    assert other.turned == pytest.approx(whole, abs=10)
    assert seen.turned < 10
    off = [
        np.linalg.norm(np.subtract(found.TransformPoint(p), turn.GetInverse().TransformPoint(p)))
        for p in seen.centers()[1:].tolist()
    ]
    assert np.mean(off) < 2.0


def test_looking_twice_gives_the_mean_of_both_looks(model, template, seen, monkeypatch):
    atlas, pauses, looks = model.card.extra["atlas"], [], remembered(monkeypatch)
    found = segment(model.network, template, foreground(template), atlas, lambda: pauses.append(1), twice=True)
    (first, _, _), (again, grid, how) = looks
    fine = seen.grid.resized(tuple(2 * n for n in seen.grid.shape))
    assert (grid.shape, grid.origin, grid.spacing) == (fine.shape, fine.origin, fine.spacing)
    assert how == {"mirrored": True, "ahead": anatomy._AHEAD}
    assert torch.allclose(first.shares, seen.shares, atol=1e-5)
    assert torch.allclose(found.shares, (seen.shares + again.shares) / 2, atol=1e-5)
    assert float((found.shares.sum(1) - 1).abs().max()) < 1e-5
    assert 0.9 < mean_dice(seen.shares[0], again.shares[0]) < 0.999
    assert len(pauses) == 2


@pytest.mark.parametrize("kind", ["noise", "phantom", "small"])
def test_where_there_is_no_brain_nothing_is_seen(model, kind):
    if kind == "phantom":
        image = phantom(size=(64, 64, 64), spacing=(2.0, 2.0, 2.0))
    else:
        side = 96 if kind == "noise" else 24
        image = sitk.GetImageFromArray(np.random.default_rng(0).random((side,) * 3, np.float32) + 1)
        image.SetSpacing((1.5,) * 3)
    assert segment(model.network, image, foreground(image), model.card.extra["atlas"]) is None


def test_a_whole_head_is_laid_on_a_bare_brain_by_its_brain(template, model):
    """Fluid, skull and scalp around one of the two: they stay where they are, and the brain within is found."""
    brain = template > 0
    away = sitk.SignedMaurerDistanceMap(brain, squaredDistance=False, useImageSpacing=True)
    around = {mm: away <= mm for mm in (3, 9, 15)}
    head = template + sitk.Cast(around[15] - around[9], sitk.sitkFloat32) * 200
    head = head + sitk.Cast(around[3] - brain, sitk.sitkFloat32) * 30
    head = sitk.AdditiveGaussianNoise(head, 3.0, 0.0, 1)
    shift = sitk.TranslationTransform(3, (6.0, -9.0, 4.0))
    head = sitk.Resample(head, template, shift, sitk.sitkLinear, 0.0)
    settings = wavemorph.Settings(inverse=False, spacing_mm=2.0)
    result = wavemorph.register(template, head, settings)
    assert result.report["anatomy"]["compared"] == "the brain"
    inside = np.argwhere(sitk.GetArrayViewFromImage(brain)[::12, ::12, ::12])[:, ::-1] * 12
    back = shift.GetInverse()
    off = []
    for index in inside.tolist():
        point = template.TransformIndexToPhysicalPoint(index)
        off.append(np.linalg.norm(np.subtract(result.transform.TransformPoint(point), back.TransformPoint(point))))
    assert np.mean(off) < 1.0
    assert np.percentile(off, 99) < 4.0
