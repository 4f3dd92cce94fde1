"""A wheel, built and installed in an environment of its own, registers with the shipped models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("wavemorph", "brain-segmentation")


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter in which the wheel is installed; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = run(interpreter, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stderr
    packages = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip()
    Path(packages, "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return interpreter


def test_a_wheel_holds_the_models_with_their_cards_and_its_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"wavemorph/models/{name}.{kind}" for name in MODELS for kind in ("safetensors", "json")}
    assert expected | {"wavemorph/py.typed"} <= names


def test_an_installed_wheel_registers_with_its_network(python, tiny_pair, tmp_path):
    for name, image in zip(("fixed", "moving"), tiny_pair):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    code = (
        "import json, wavemorph; "
        "result = wavemorph.register('fixed.nrrd', 'moving.nrrd', wavemorph.Settings(spacing_mm=4.0, affine=False)); "
        "print(json.dumps({'file': wavemorph.__file__, 'weights': result.report['weights']}))"
    )
    done = run(python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    installed = json.loads(done.stdout)
    assert Path(installed["file"]).is_relative_to(python.parents[1])
    assert installed["weights"]["name"] == "wavemorph"


def test_a_missing_model_is_said(python, tiny_pair, tmp_path):
    for name, image in zip(("fixed", "moving"), tiny_pair):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    code = (
        "import pathlib, wavemorph, wavemorph.models.weights as weights; "
        "weights.SHIPPED_FOLDER = pathlib.Path('nowhere'); "
        "wavemorph.register('fixed.nrrd', 'moving.nrrd')"
    )
    done = run(python, "-c", code, cwd=tmp_path)
    assert done.returncode != 0
    assert "The default model is missing" in done.stderr
