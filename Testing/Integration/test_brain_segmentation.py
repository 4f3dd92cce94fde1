"""The shipped segmentation network: the structures of the template in any orientation, and no brain in noise."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
import wavemorph
from segmentations import RAS, affine_of
from wavemorph.models import weights
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.registration.linear.structures import align_structures, structure_dice
from wavemorph.registration.segmentation import inference
from wavemorph.registration.segmentation.brain import BrainSegmentation, mean_soft_dice
from wavemorph.registration.segmentation.inference import SegmentationInput, first_look, segment
from wavemorph.registration.segmentation.plausibility import angle_between_deg
from wavemorph.spatial.grid import make_working_grid
from wavemorph.spatial.preprocessing import bounding_box, foreground


@pytest.fixture(scope="module")
def model():
    return weights.resolve_segmentation_model("cpu")


def input_of(model, image: sitk.Image, on_forward=lambda: None) -> SegmentationInput:
    return SegmentationInput(model.network, image, foreground(image), model.card.extra["atlas"], on_forward)


@pytest.fixture(scope="module")
def segmented(model, template):
    """The segmentation of the template."""
    return segment(input_of(model, template))


@pytest.fixture
def passes(monkeypatch) -> list:
    """(segmentation, grid, further arguments) of each pass of the network from now on."""
    recorded, segment_on_grid = [], inference._segment_on_grid

    def record(source, grid, **options):
        recorded.append((segment_on_grid(source, grid, **options), grid, options))
        return recorded[-1][0]

    monkeypatch.setattr(inference, "_segment_on_grid", record)
    return recorded


def errors_mm(found: sitk.Transform, truth: sitk.Transform, segmentation: BrainSegmentation) -> list[float]:
    """Distances at the centroids of the structures."""
    points = segmentation.centroids()[1:].tolist()
    return [np.linalg.norm(np.subtract(found.TransformPoint(p), truth.TransformPoint(p))) for p in points]


def test_the_segmentation_in_bfloat16_agrees_with_that_in_float32(model, template, monkeypatch):
    """On a part of the head: a processor without bfloat16 takes minutes for the whole one."""
    middle = sitk.Image(template[66:130, 86:150, 58:122])
    grid = make_working_grid(middle, bounding_box(middle > -1), 1.0, 0.0).resized((64, 64, 64))
    source, found = input_of(model, middle), []
    for in_bfloat16 in (False, True):
        monkeypatch.setattr(inference, "computes_in_bfloat16", lambda device, answer=in_bfloat16: answer)
        found.append(inference._segment_on_grid(source, grid).probabilities)
    in_float32, other = found
    assert other.dtype == in_float32.dtype == torch.float32
    assert not torch.equal(other, in_float32)
    assert float((other - in_float32).abs().mean()) < 0.005
    assert mean_soft_dice(other[0], in_float32[0]) > 0.97


def test_the_structures_of_the_template_are_found_with_their_volumes(model, segmented):
    usual = np.array([model.card.extra["atlas"][name][3] for name in STRUCTURES[1:]])
    ratio = segmented.volumes_ml()[1:] / usual
    assert np.all((ratio > 0.5) & (ratio < 2.6)), dict(zip(STRUCTURES[1:], ratio.round(2)))
    assert segmented.skull_stripped


def test_structures_are_found_in_a_reversed_contrast_and_in_a_rotated_head(model, template, segmented):
    reversed_contrast = sitk.Mask(300 - template, template > 0)
    rotation = affine_of((10, -6, 8), (1, 1, 1), (0, 0, 0))
    rotated = sitk.Resample(reversed_contrast, template, rotation, sitk.sitkLinear, 0.0)
    found, dice = align_structures(segmented, segment(input_of(model, rotated)))
    # a point of the template is in the rotated image where the inverse rotation maps it
    assert np.mean(errors_mm(found, rotation.GetInverse(), segmented)) < 3.0
    assert dice > 0.65


def test_a_rotated_brain_is_segmented_better_along_its_own_axes(model, template, segmented, passes):
    rotation = affine_of((-25, 15, 20), (1, 1, 1), (0, 0, 0))
    rotated = sitk.Resample(template, template, rotation, sitk.sitkLinear, 0.0)
    best = segment(input_of(model, rotated))
    first = passes[0][0]
    axes = np.reshape(rotation.GetInverse().GetMatrix(), (3, 3)) @ RAS
    assert angle_between_deg(best.grid.direction, axes) < 6.0
    assert angle_between_deg(first.grid.direction, axes) > 6.0
    dices = [structure_dice(segmented, each, rotation.GetInverse()) for each in (best, first)]
    assert dices[0] > dices[1] + 0.02
    assert dices[0] > 0.85


@pytest.mark.parametrize("angles", [(75, 0, 0), (0, 0, 180)])
def test_a_brain_is_found_in_any_orientation(model, template, segmented, angles):
    rotation = sitk.Euler3DTransform()
    rotation.SetCenter(segmented.centroids()[1:].mean(0).tolist())
    rotation.SetRotation(*np.radians(angles))
    # the rotated head in a cube, so that no part of it is cut off
    empty = sitk.Image([230] * 3, sitk.sitkFloat32)
    empty.SetDirection(RAS.ravel().tolist())
    empty.SetOrigin((np.array(rotation.GetCenter()) - RAS @ np.full(3, 114.5)).tolist())
    rotated = sitk.Resample(template, empty, rotation, sitk.sitkLinear, 0.0)
    other = segment(input_of(model, rotated))
    found, dice = align_structures(segmented, other)
    assert dice > 0.85
    whole = np.degrees(np.arccos((np.trace(np.reshape(rotation.GetMatrix(), (3, 3))) - 1) / 2))
    assert other.rotation_deg == pytest.approx(whole, abs=10)
    assert segmented.rotation_deg < 10
    assert np.mean(errors_mm(found, rotation.GetInverse(), segmented)) < 2.0


def test_a_brain_cut_off_by_few_thick_slices_is_found_at_the_first_look(model, template, segmented, passes):
    values = sitk.GetArrayFromImage(template).astype(np.float32)
    first, thick, count = len(values) // 4, 5, 16
    slices = np.stack([values[first + n * thick : first + (n + 1) * thick].mean(0) for n in range(count)])
    slab = sitk.GetImageFromArray(slices)
    slab.SetSpacing((*template.GetSpacing()[:2], thick * template.GetSpacing()[2]))
    slab.SetDirection(template.GetDirection())
    slab.SetOrigin(template.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, first + (thick - 1) / 2)))
    found = first_look(input_of(model, slab))
    assert found.converged and len(passes) == 1
    shown = found.best.volumes_ml()[1:] > 0.7 * segmented.volumes_ml()[1:]
    assert 6 <= shown.sum() < len(shown)  # the cerebellum is beyond the scan
    apart = found.best.centroids()[1:][shown] - segmented.centroids()[1:][shown]
    assert np.linalg.norm(apart, axis=1).max() < 8


def test_a_head_with_a_long_neck_is_found_in_its_upper_part(model, template, segmented, passes):
    values = sitk.GetArrayFromImage(template).astype(np.float32)
    below = 130  # slices of 1 mm
    neck = np.zeros((below, *values.shape[1:]), np.float32)
    j, i = np.indices(values.shape[1:]) - np.array(values.shape[1:]).reshape(2, 1, 1) / 2
    tissue = np.random.default_rng(0).normal(0.5, 0.05, neck.shape) * np.percentile(values, 99)
    neck[:, np.hypot(i, j) < 55] = tissue[:, np.hypot(i, j) < 55]
    long = sitk.GetImageFromArray(np.concatenate([neck, values]))
    long.SetSpacing(template.GetSpacing())
    long.SetDirection(template.GetDirection())
    long.SetOrigin(template.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, -float(below))))
    found = first_look(input_of(model, long))
    assert found.converged and len(passes) <= 3
    apart = found.best.centroids()[1:] - segmented.centroids()[1:]
    assert np.linalg.norm(apart, axis=1).max() < 8


def test_flip_test_time_augmentation_gives_the_mean_of_both_passes(model, template, segmented, passes):
    calls = []
    found = segment(input_of(model, template, lambda: calls.append(1)), flip_tta=True)
    (first, _, _), (flipped, grid, options) = passes
    fine = segmented.grid.resized(tuple(2 * n for n in segmented.grid.shape))
    assert (grid.shape, grid.origin, grid.spacing) == (fine.shape, fine.origin, fine.spacing)
    assert options == {"flip": True, "pad_shift": inference._FLIP_TTA_SHIFT_VOXELS}
    assert torch.allclose(first.probabilities, segmented.probabilities, atol=1e-5)
    mean = (segmented.probabilities + flipped.probabilities) / 2
    assert torch.allclose(found.probabilities, mean, atol=1e-5)
    assert float((found.probabilities.sum(1) - 1).abs().max()) < 1e-5
    assert 0.9 < mean_soft_dice(segmented.probabilities[0], flipped.probabilities[0]) < 0.999
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["noise", "phantom", "small"])
def test_where_there_is_no_brain_there_is_no_segmentation(model, kind):
    if kind == "phantom":
        image = phantoms.head(phantoms.regular((64, 64, 64), (2.0, 2.0, 2.0)), noise=5.0)
    else:
        side = 96 if kind == "noise" else 24
        image = sitk.GetImageFromArray(np.random.default_rng(0).random((side,) * 3, np.float32) + 1)
        image.SetSpacing((1.5,) * 3)
    assert segment(input_of(model, image)) is None


def test_a_whole_head_is_registered_to_a_skull_stripped_brain_by_its_brain(template):
    """Fluid, skull and scalp surround the moving brain only: they must not be deformed onto the fixed one."""
    brain = template > 0
    distance = sitk.SignedMaurerDistanceMap(brain, squaredDistance=False, useImageSpacing=True)
    around = {mm: distance <= mm for mm in (3, 9, 15)}
    head = template + sitk.Cast(around[15] - around[9], sitk.sitkFloat32) * 200
    head = head + sitk.Cast(around[3] - brain, sitk.sitkFloat32) * 30
    head = sitk.AdditiveGaussianNoise(head, 3.0, 0.0, 1)
    shift = sitk.TranslationTransform(3, (6.0, -9.0, 4.0))
    head = sitk.Resample(head, template, shift, sitk.sitkLinear, 0.0)
    result = wavemorph.register(template, head, wavemorph.Settings(spacing_mm=2.0))
    assert result.report["segmentation"]["compared"] == "the brain"
    inside = np.argwhere(sitk.GetArrayViewFromImage(brain)[::12, ::12, ::12])[:, ::-1] * 12
    truth, errors = shift.GetInverse(), []
    for index in inside.tolist():
        point = template.TransformIndexToPhysicalPoint(index)
        errors.append(np.linalg.norm(np.subtract(result.transform.TransformPoint(point), truth.TransformPoint(point))))
    assert np.mean(errors) < 1.0
    assert np.percentile(errors, 99) < 4.0
