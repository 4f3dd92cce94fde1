"""From volumes to a map of lost tissue: registrations of two groups, one of which has a known loss at a known place."""

from __future__ import annotations

from dataclasses import replace

import atrophy
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import studies
from wavemorph import Settings, register
from wavemorph.cohort.morphometry import analyze
from wavemorph.cohort.population import SUBJECT

ALIGNED = replace(
    SUBJECT,
    deformation_mm=1.0,
    rotation=0.0,
    translation_mm=0.0,
    scale=0.0,
    spacing_mm=(4.0, 4.0, 4.0),
    obliqueness=0.0,
)
LOSS = atrophy.Loss(ratio=0.5, radius_mm=18.0, reach_mm=36.0)


@pytest.fixture(scope="module")
def coarse(template):
    """The template with voxels of 4 mm."""
    lattice = sitk.Image([(n + 3) // 4 for n in template.GetSize()], sitk.sitkFloat32)
    lattice.SetSpacing((4.0, 4.0, 4.0))
    lattice.SetDirection(template.GetDirection())
    lattice.SetOrigin(template.GetOrigin())
    return sitk.Resample(sitk.SmoothingRecursiveGaussian(template, 1.5), lattice)


@pytest.fixture(scope="module")
def effect(coarse, tmp_path_factory):
    """The difference of the mean log-Jacobians of three patients and three controls, and the true one."""
    folder = tmp_path_factory.mktemp("study")
    rows, design = [], ["subject\tpatient"]
    for name, group, volume in atrophy.groups(coarse, 6, ALIGNED, LOSS):
        made = register(coarse, volume, Settings(spacing_mm=4.0, weights="none", affine=False))
        volumes = {
            key: sitk.GetArrayFromImage(image) for key, image in (("warped", made.warped), ("jacobian", made.jacobian))
        }
        rows.append(studies.done(folder, name, coarse, **volumes))
        design.append(f"{name}\t{group}")
    studies.write_table(folder, rows)
    (folder / "design.tsv").write_text("\n".join(design) + "\n")
    result = analyze(folder, folder / "design.tsv", "patient", smoothing_mm=6.0, permutations=100)
    return result.maps.image(result.statistics.effect), result.maps.mask


def test_lost_tissue_is_found_where_it_is(effect, coarse):
    image, mask = effect
    found, inside = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask) > 0
    distance = np.linalg.norm(phantoms.physical_points(image) - np.array(LOSS.center), axis=-1)
    core, far = inside & (distance < 12), inside & (distance > 45)
    true = LOSS.log_jacobian(image)
    assert true[core].mean() == pytest.approx(np.log(0.5), abs=1e-3)
    assert -0.69 < found[core].mean() < -0.3  # a registration on 4 mm recovers a part
    assert abs(found[far].mean()) < 0.05
    assert np.corrcoef(found[inside], true[inside])[0, 1] > 0.6


def test_the_known_loss_is_the_jacobian_of_its_map(coarse):
    """The command's truth against volumes that are counted: a ball shrinks to half of its volume."""
    ball = sitk.GetImageFromArray(
        (np.linalg.norm(phantoms.physical_points(coarse) - np.array(LOSS.center), axis=-1) < 16).astype(np.float32)
    )
    ball.CopyInformation(coarse)
    before, after = (sitk.GetArrayFromImage(image).sum() for image in (ball, LOSS.applied(ball)))
    assert after / before == pytest.approx(0.5, abs=0.05)
