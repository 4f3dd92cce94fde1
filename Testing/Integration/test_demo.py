"""The command `wavemorph demo`, from files to files."""

from __future__ import annotations

import numpy as np
import phantoms
import SimpleITK as sitk
from wavemorph import Settings, register
from wavemorph.cli import demo
from wavemorph.cli.main import main
from wavemorph.io.outputs import write_image
from wavemorph.training.known_deformation import Difference, make_pair

COARSE = 4  # mm


def test_the_demo_prints_its_true_error_and_writes_everything(tmp_path, monkeypatch, capsys):
    """The demo on a small head, in place of the template."""

    def small_pair():
        return make_pair(phantoms.head(phantoms.regular(), (0.0, 0.0, 0.0)), Difference(deformation_mm=2.0))

    monkeypatch.setattr(demo, "built_in_pair", small_pair)
    assert main(["demo", "--output", str(tmp_path / "out"), "--spacing", "2", "--quiet"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"fixed.nii.gz", "moving.nii.gz", "scene.mrb", *demo._FILES.values()} == names
    expected = sitk.ReadImage(str(tmp_path / "out" / "expected_error.nii.gz"))
    assert 0 == sitk.GetArrayViewFromImage(expected).min() < sitk.GetArrayViewFromImage(expected).max()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("  before", "  after"))]
    means = [float(row[-3]) for row in rows]
    assert len(means) == 3
    assert means[2] < means[1] < means[0]


def test_the_demo_runs_on_a_pair_of_the_user(tmp_path, tiny_pair, capsys):
    for name, image in zip(("fixed", "moving"), tiny_pair):
        write_image(image, tmp_path / f"{name}.nii.gz")
    pair = ["--fixed", str(tmp_path / "fixed.nii.gz"), "--moving", str(tmp_path / "moving.nii.gz")]
    linear = ["--transform-type", "rigid"]
    assert main(["demo", *pair, "--output", str(tmp_path / "own"), "--spacing", "4", "--quiet", *linear]) == 0
    assert (tmp_path / "own" / "picture.png").is_file()
    for name in ("fixed.nii.gz", "expected_error.nii.gz"):
        assert not (tmp_path / "own" / name).exists()
    assert "true error" not in capsys.readouterr().out


def test_a_pair_of_the_kind_of_the_demo_has_the_verdict_good():
    """A symmetric template, coarser than that of the demo, and a copy with a known deformation."""
    template = sitk.Cast(sitk.ReadImage(str(demo.template_path())), sitk.sitkFloat32)
    size = [length // COARSE for length in template.GetSize()]
    smoothed = sitk.SmoothingRecursiveGaussian(template, COARSE / 2.355)
    lattice = template.GetOrigin(), (float(COARSE),) * 3, template.GetDirection()
    coarse = sitk.Resample(smoothed, size, sitk.Transform(), sitk.sitkLinear, *lattice)
    pair = make_pair(coarse, Difference(spacing_mm=tuple(COARSE * mm for mm in demo._MOVING_SPACING_MM)))
    found = register(pair.fixed, pair.moving, Settings(spacing_mm=COARSE, threads=1))
    assert found.report["verdict"]["level"] == "good", found.report["verdict"]["reasons"]
    assert pair.error_mm(found.transform).mean() < COARSE / 2


def test_the_template_of_the_demo_is_a_brain_at_one_millimeter():
    template = sitk.ReadImage(str(demo.template_path()))
    assert np.allclose(template.GetSpacing(), 1.0)
    brain = sitk.GetArrayViewFromImage(template) > 0
    assert 1.5e6 < brain.sum() < 2.5e6
