"""The node of the whole map: inverted by Slicer's own classes, small in a scene, and read without a warning."""

from __future__ import annotations

import dataclasses
import re
import zipfile

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import vtk
from sceneVolumes import addVolume
from wavemorph.io.fields import make_inverse_field
from wavemorph.io.outputs import write_transform
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene
from WaveMorphRegistrationLib.results.resultView import ResultView
from WaveMorphRegistrationLib.results.transformExport import exportTransform
from WaveMorphRegistrationLib.scene.coordinates import vtkMatrix
from WaveMorphRegistrationLib.scene.transforms import interpolateLinearly, transformFromNode

FLIP = np.array([-1.0, -1.0, 1.0])


def positions(image, count=200):
    indices = np.random.default_rng(4).uniform(-0.5, np.array(image.GetSize()) - 0.5, (count, 3))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices])


def moved(transform, points):
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def movedByNode(vtkTransform, points):
    return np.array([vtkTransform.TransformPoint(point) for point in points * FLIP]) * FLIP


def rotatedPair(registration, degrees, shiftMm=(0.0, 0.0, 0.0)):
    """The registration after a rotation of the moving volume about the center of the fixed one, and its inverse."""
    center = phantoms.center_of(registration.fixed)
    turn = sitk.Euler3DTransform()
    turn.SetCenter(center.tolist())
    turn.SetRotation(0.0, 0.0, np.radians(degrees))
    turn.SetTranslation(shiftMm)
    matrix = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(registration.affine.GetMatrix(), (3, 3))
    start = turn.TransformPoint(registration.affine.TransformPoint((0.0, 0.0, 0.0)))
    affine = sitk.AffineTransform(matrix.ravel().tolist(), start)
    moving = sitk.Image(registration.moving)
    moving.SetOrigin(turn.TransformPoint(moving.GetOrigin()))
    moving.SetDirection(
        (np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(moving.GetDirection(), (3, 3))).ravel().tolist()
    )
    return dataclasses.replace(registration, affine=affine, moving=moving)


@pytest.fixture
def nodesOf(headless):
    def add(registration, outputs=("transform",)):
        fixedNode = addVolume(headless, registration.fixed, "F")
        movingNode = addVolume(headless, registration.moving, "M")
        return addRegistrationToScene(registration, fixedNode, movingNode, outputs)

    return add


@pytest.mark.parametrize("shiftMm", [(0.0, 0.0, 0.0), (20.0, -25.0, 15.0)])
@pytest.mark.parametrize("degrees", [0, 40, 90, 180])
def test_slicer_inverts_the_node_all_over_the_moving_volume(nodesOf, random_registration, capfd, degrees, shiftMm):
    """Beyond the fixed volume too, where the map goes on as the affine."""
    registration = rotatedPair(random_registration(2), degrees, shiftMm)
    node = nodesOf(registration).transform
    goals = positions(registration.moving)
    starts = movedByNode(node.GetTransformToParent(), goals)
    assert np.linalg.norm(moved(registration.transform, starts) - goals, axis=1).max() < 0.02
    assert np.linalg.norm(movedByNode(node.GetTransformFromParent(), starts) - goals, axis=1).max() < 0.01
    assert "no convergence" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("degrees", [0, 90])
def test_a_part_of_the_map_can_be_shown_whatever_the_node_holds(nodesOf, random_registration, degrees):
    registration = rotatedPair(random_registration(2), degrees)
    result = nodesOf(registration)
    node, view = result.transform, ResultView(result)
    view.setWarp(50)
    carrier = node.GetScene().GetFirstNodeByName("Warp")
    half = carrier.GetTransformFromParent()
    inside = np.random.default_rng(1).uniform(0.0, np.subtract(registration.fixed.GetSize(), 1), (100, 3))
    points = np.array([registration.fixed.TransformContinuousIndexToPhysicalPoint(i.tolist()) for i in inside])
    expected = (points + moved(registration.transform, points)) / 2
    assert np.linalg.norm(movedByNode(half, points) - expected, axis=1).max() < 0.2
    after = movedByNode(node.GetTransformFromParent(), points)
    assert np.linalg.norm(after - moved(registration.transform, points), axis=1).max() < 0.01
    view.close()


@pytest.mark.parametrize("degrees", [0, 90])
def test_a_node_that_was_stored_with_the_scene_holds_the_same_map(
    headless, nodesOf, random_registration, tmp_path, degrees
):
    registration = rotatedPair(random_registration(2), degrees)
    name = nodesOf(registration).transform.GetName()
    headless.saveBundle(tmp_path / "case.mrb")
    other = HeadlessScene()
    try:
        other.loadBundle(tmp_path / "case.mrb")
        node = other.scene.GetFirstNodeByName(name)
        assert node.GetClassName() == "vtkMRMLGridTransformNode"
        interpolateLinearly(node)
        points = positions(registration.fixed)
        after = movedByNode(node.GetTransformFromParent(), points)
        assert np.linalg.norm(after - moved(registration.transform, points), axis=1).max() < 0.01
    finally:
        other.close()


def withInverseField(registration):
    registration = dataclasses.replace(registration)
    make_inverse_field(registration)
    return registration


@pytest.mark.parametrize("degrees", [0, 40, 90])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_node_of_the_inverse_returns_points_also_after_slicer_has_stored_it(
    headless, nodesOf, random_registration, tmp_path, degrees, seed
):
    """Where its one field can be continued beyond its lattice it is a single grid, which Slicer stores as .nii.gz."""
    registration = withInverseField(rotatedPair(random_registration(seed), degrees))
    node = nodesOf(registration, ("inverse",)).inverse
    isGrid = bool(node.GetTransformFromParent().IsA("vtkOrientedGridTransform"))
    assert isGrid == (degrees < 90)
    points = positions(registration.fixed)
    ends = moved(registration.transform, points)
    back = movedByNode(node.GetTransformFromParent(), ends)
    assert np.linalg.norm(back - points, axis=1).mean() < 0.03
    assert np.linalg.norm(back - points, axis=1).max() < 0.4  # the grid has voxels of 4 mm
    headless.scene.WriteToMRB(str(tmp_path / "case.mrb"))
    with zipfile.ZipFile(tmp_path / "case.mrb") as archive:
        assert any(name.endswith("F to M.nii.gz" if isGrid else "F to M.h5") for name in archive.namelist())
    other = HeadlessScene()
    try:
        other.loadBundle(tmp_path / "case.mrb")
        stored = other.scene.GetFirstNodeByName("F to M")
        interpolateLinearly(stored)
        assert np.linalg.norm(movedByNode(stored.GetTransformFromParent(), ends) - back, axis=1).max() < 1e-3
    finally:
        other.close()


def test_slicer_inverts_the_node_of_the_inverse_all_over_the_fixed_volume(nodesOf, random_registration, capfd):
    registration = withInverseField(random_registration(2))
    node = nodesOf(registration, ("inverse",)).inverse
    goals = positions(registration.fixed)
    starts = movedByNode(node.GetTransformToParent(), goals)
    assert np.linalg.norm(movedByNode(node.GetTransformFromParent(), starts) - goals, axis=1).max() < 0.01
    assert "no convergence" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("inverseIsField", [True, False])
def test_the_transforms_of_a_scene_are_compressed(headless, nodesOf, random_registration, tmp_path, inverseIsField):
    """Slicer compresses neither .h5 nor the archive that holds it."""
    registration = withInverseField(random_registration(2)) if inverseIsField else random_registration(2)
    nodesOf(registration, ("transform", "inverse"))
    headless.saveBundle(tmp_path / "case.mrb")
    fields = 24 * np.prod(registration.displacement.GetSize())
    with zipfile.ZipFile(tmp_path / "case.mrb") as archive:
        sizes = {entry.filename.rsplit("/", 1)[1]: entry.compress_size for entry in archive.infolist()}
        assert archive.testzip() is None
    assert sizes["M to F.nii.gz"] < 0.5 * fields
    if inverseIsField:
        assert sizes["F to M.nii.gz"] < 0.5 * 12 * np.prod(registration.inverse_field.lattice.GetSize())
    else:
        assert sizes["F to M.h5"] < 0.4 * 2 * fields


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd", ".h5"])
def test_slicer_reads_a_transform_file_without_a_warning(headless, random_registration, tmp_path, capfd, extension):
    registration = random_registration(1)
    write_transform(registration, tmp_path / f"map{extension}")
    capfd.readouterr()
    node = headless.loadTransform(tmp_path / f"map{extension}")
    printed = "".join(capfd.readouterr())
    assert not re.search("warn|error|ERR", printed, re.IGNORECASE), printed
    points = positions(registration.fixed)
    after = movedByNode(node.GetTransformFromParent(), points)
    assert np.linalg.norm(after - moved(registration.transform, points), axis=1).max() < 0.01


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("degrees", [0, 90])
def test_an_exported_field_can_be_inverted_all_over_the_moving_volume(
    headless, random_registration, tmp_path, degrees, extension
):
    registration = rotatedPair(random_registration(2), degrees, (20.0, -25.0, 15.0))
    fixedNode, movingNode = (addVolume(headless, image, "v") for image in (registration.fixed, registration.moving))
    node = addRegistrationToScene(registration, fixedNode, movingNode, ("transform",)).transform
    exportTransform(node, tmp_path / f"map{extension}", fixedNode)
    field = sitk.ReadImage(str(tmp_path / f"map{extension}"), sitk.sitkVectorFloat64)
    goals = positions(registration.moving)
    starts = moved(registration.inverse, goals)
    ends = moved(sitk.DisplacementFieldTransform(field), starts)
    assert np.linalg.norm(ends - moved(registration.transform, starts), axis=1).max() < (0.02 if degrees == 0 else 0.5)


@pytest.mark.parametrize("degrees", [0, 90])
@pytest.mark.parametrize("output", ["transform", "inverse"])
def test_a_node_becomes_the_same_map_in_itk_also_beyond_the_image(nodesOf, random_registration, output, degrees):
    """As an initial transform; under a linear transform of its own too."""
    registration = rotatedPair(random_registration(2), degrees)
    node = getattr(nodesOf(registration, (output,)), output)
    parent = node.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", "parent")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = phantoms.rotation((5, 10, 15)), (3, 4, 5)
    parent.SetMatrixTransformToParent(vtkMatrix(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())
    points = positions(registration.fixed) * (1.0 if degrees == 0 and output == "transform" else 2.0)
    fromWorld = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(fromWorld)
    expected = movedByNode(fromWorld, points)
    converted = moved(transformFromNode(node, registration.fixed), points)
    assert np.median(np.linalg.norm(converted - expected, axis=1)) < 1e-3
    if output == "inverse" or degrees == 90:  # the edge of one grid is continued by VTK only
        assert np.linalg.norm(converted - expected, axis=1).max() < 1e-3
