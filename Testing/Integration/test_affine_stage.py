"""The affine by mutual information against known transforms."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from wavemorph.cli.demo import template_path
from wavemorph.registration.linear.mutual_information import estimate_affine, linear_part
from wavemorph.spatial.preprocessing import foreground
from wavemorph.training.known_deformation import Difference, make_pair


def estimate(fixed, moving, **options):
    return estimate_affine(fixed, moving, foreground(fixed), foreground(moving), **options)


def error_mm(affine, truth) -> float:
    points = np.random.default_rng(0).uniform(-22, 22, (200, 3)).tolist()
    differences = [np.subtract(affine.TransformPoint(point), truth.TransformPoint(point)) for point in points]
    return np.linalg.norm(differences, axis=1).mean()


def moved_head(truth: sitk.Transform, lattice: sitk.Image) -> sitk.Image:
    """The head at the origin, moved by `truth` (fixed points -> moving points)."""
    return sitk.Resample(phantoms.head(phantoms.regular((60, 60, 60))), lattice, truth.GetInverse())


@pytest.mark.parametrize("seed", [0, 1])
def test_rotation_scale_and_shift_of_a_real_brain_are_found(seed):
    template = sitk.BinShrink(sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32), [2, 2, 2])
    difference = Difference(deformation_mm=0.5, rotation=15.0, translation_mm=30.0, scale=0.08, spacing_mm=(2, 2, 3))
    pair = make_pair(template, difference, seed)
    assert pair.error_mm(sitk.Transform()).mean() > 15
    assert pair.error_mm(estimate(pair.fixed, pair.moving)).mean() < 1.5


def test_an_initial_transform_is_improved():
    truth = sitk.TranslationTransform(3, (25.0, -15.0, 8.0))
    lattice = phantoms.regular((70, 70, 70))
    fixed, moving = phantoms.head(lattice), moved_head(truth, lattice)
    start = linear_part(sitk.TranslationTransform(3, (20.0, -12.0, 5.0)))
    assert error_mm(estimate(fixed, moving, initial=start), truth) < 0.4


def test_a_reversed_contrast_does_not_matter():
    truth = sitk.TranslationTransform(3, (6.0, 4.0, -5.0))
    fixed = phantoms.head(phantoms.regular((60, 60, 60)))
    values = sitk.GetArrayFromImage(moved_head(truth, fixed))
    moving = sitk.GetImageFromArray(np.where(values > 100, 1200 - values, values).astype(np.float32))
    moving.CopyInformation(fixed)
    assert error_mm(estimate(fixed, moving), truth) < 0.7


def test_progress_reaches_one_and_never_falls():
    head, reported = phantoms.head(phantoms.regular()), []
    estimate(head, head, initial=sitk.AffineTransform(3), progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 1.0
