"""Registrations, volumes and data sets that several tests share, each made once."""

from __future__ import annotations

import functools
import json

import miniatures
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from wavemorph import Settings, register
from wavemorph.cli.demo import template_path

torch.set_num_threads(1)
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
QUICK = Settings(spacing_mm=4.0, weights="none", affine=False, inverse=True)


def known_affine(seed: int) -> sitk.AffineTransform:
    """A small rotation, shear and shift, LPS mm."""
    generator = np.random.default_rng(seed)
    affine = sitk.AffineTransform(3)
    matrix = phantoms.rotation(generator.uniform(-4, 4, 3)) + generator.uniform(-0.02, 0.02, (3, 3))
    affine.SetMatrix(matrix.ravel().tolist())
    affine.SetTranslation(generator.uniform(-3, 3, 3).tolist())
    return affine


@functools.cache
def registered_at_random(seed: int):
    """One head on two unrelated oblique lattices, registered from a known affine, with the inverse."""
    fixed_lattice = phantoms.random_geometry(seed)
    moving_lattice = phantoms.random_geometry(seed + 1000, size=(38, 33, 42), extent_mm=95.0)
    affine = known_affine(seed)
    center = phantoms.center_of(fixed_lattice)
    target = np.array(affine.TransformPoint(center.tolist()))
    origin = np.array(moving_lattice.GetOrigin()) + target - phantoms.center_of(moving_lattice)
    moving_lattice.SetOrigin(origin.tolist())
    fixed = phantoms.head(fixed_lattice, center)
    moving = phantoms.head(moving_lattice, np.add(target, phantoms.OFFSET), noise=0.01, seed=seed)
    return register(fixed, moving, QUICK, initial_transform=affine)


@pytest.fixture
def random_registration():
    return registered_at_random


@pytest.fixture(scope="session")
def tiny_pair():
    """(fixed, moving): axis-aligned heads, the moving one 4 mm to the left (LPS +x) and 3 mm up (+z)."""
    fixed_lattice, moving_lattice = phantoms.regular(), phantoms.regular((50, 46, 48), (1.7, 2.0, 1.8))
    return (
        phantoms.head(fixed_lattice, (0.0, 0.0, 0.0)),
        phantoms.head(moving_lattice, (4.0, 0.0, 3.0), noise=0.01, seed=1),
    )


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory, tiny_pair):
    """A folder with `tiny_pair` as fixed.nii.gz and moving.nii.gz, their label maps (halves of the head) and masks."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, image, shift in zip(("fixed", "moving"), tiny_pair, (np.zeros(3), np.array([4.0, 0.0, 3.0]))):
        sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(folder / f"{name}.nii.gz"))
        points = phantoms.physical_points(image) - shift
        inside = ((points / (22.0, 26.0, 20.0)) ** 2).sum(-1) < 1
        labels = sitk.GetImageFromArray((inside * np.where(points[..., 0] > 0, 1, 2)).astype(np.uint8))
        labels.CopyInformation(image)
        sitk.WriteImage(labels, str(folder / f"{name}_labels.nii.gz"))
        sitk.WriteImage(labels != 0, str(folder / f"{name}_mask.nii.gz"))
    return folder


@pytest.fixture(scope="session")
def template():
    """The MNI ICBM152 T1 template, skull-stripped, voxels of 1 mm, float32."""
    return sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)


@pytest.fixture(scope="session")
def ixi(tmp_path_factory):
    return miniatures.write_ixi(tmp_path_factory.mktemp("ixi"))


@pytest.fixture(scope="session")
def oasis(tmp_path_factory):
    return miniatures.write_oasis(tmp_path_factory.mktemp("oasis"))


@pytest.fixture
def tiny_config(tmp_path):
    """A file that makes the network of a recipe tiny."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"network": miniatures.TINY, "learning_rate": 2e-3, "smoothness": 0.1}))
    return path
