"""Nodes compared with the engine: all geometries, both directions, and a scene that is complete or unchanged."""

from __future__ import annotations

import os

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import slicer
import vtk
from sceneVolumes import addVolume
from vtk.util import numpy_support
from wavemorph.errors import InputError
from wavemorph.io.outputs import write_image
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.results import resultNodes
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene
from WaveMorphRegistrationLib.results.sceneResult import ALL_OUTPUTS, FIXED_ROLE, MOVING_ROLE, SceneResult
from WaveMorphRegistrationLib.scene.coordinates import vtkMatrix
from WaveMorphRegistrationLib.scene.transforms import interpolateLinearly
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode

SEEDS = range(20)


def pointsOf(image, count=1000, margin=0.0):
    size = np.array(image.GetSize())
    indices = np.random.default_rng(5).uniform(margin * size - 0.5, (1 - margin) * size - 0.5, (count, 3))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices])


def moved(transform, points):
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def movedByNode(vtkTransform, pointsLps):
    """LPS points through a transform of the scene, which is in RAS."""
    flip = np.array([-1.0, -1.0, 1.0])
    return np.array([vtkTransform.TransformPoint(point) for point in pointsLps * flip]) * flip


@pytest.mark.parametrize("seed", SEEDS)
def test_a_volume_returns_from_the_scene_with_its_voxels_and_its_position(headless, seed):
    image = phantoms.head(phantoms.random_geometry(seed, size=(18, 20, 22)))
    back = imageFromVolumeNode(addVolume(headless, image, "volume"))
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (17, 3, 20)):
        place = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(back.TransformIndexToPhysicalPoint(index), place, atol=1e-9)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_a_volume_read_by_slicer_has_the_position_that_simpleitk_reads(headless, tmp_path, seed, extension):
    """Slicer reverses an axis of some left-handed files; the anatomy must keep its position."""
    image = phantoms.head(phantoms.random_geometry(seed, size=(18, 20, 22)))
    write_image(image, tmp_path / f"v{extension}")
    read = imageFromVolumeNode(headless.loadVolume(tmp_path / f"v{extension}"))
    resampled = sitk.Resample(read, image, sitk.Transform(), sitk.sitkLinear)
    difference = np.abs(sitk.GetArrayFromImage(resampled) - sitk.GetArrayFromImage(image))[1:-1, 1:-1, 1:-1]
    assert difference.max() < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_transform_node_moves_points_as_the_engine_does(headless, random_registration, seed):
    registration = random_registration(seed)
    fixedNode, movingNode = (
        addVolume(headless, image, name) for image, name in ((registration.fixed, "F"), (registration.moving, "M"))
    )
    result = addRegistrationToScene(registration, fixedNode, movingNode, ALL_OUTPUTS)
    points = pointsOf(registration.fixed)
    forward = movedByNode(result.transform.GetTransformFromParent(), points)
    assert np.linalg.norm(forward - moved(registration.transform, points), axis=1).max() < 0.01
    affine = movedByNode(result.affine.GetTransformFromParent(), points)
    assert np.linalg.norm(affine - moved(registration.affine, points), axis=1).max() < 1e-6
    inMoving = moved(registration.transform, points)
    back = movedByNode(result.inverse.GetTransformFromParent(), inMoving)
    assert np.linalg.norm(back - moved(registration.inverse, inMoving), axis=1).max() < 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_file_read_by_the_scene_moves_points_as_the_engine_does(headless, random_registration, seed, tmp_path):
    from wavemorph.io.outputs import write_transform

    registration = random_registration(seed)
    points = pointsOf(registration.fixed)
    for extension in (".h5", ".nii.gz", ".nrrd"):
        write_transform(registration, tmp_path / f"t{extension}")
        node = headless.loadTransform(tmp_path / f"t{extension}")
        forward = movedByNode(node.GetTransformFromParent(), points)
        assert np.linalg.norm(forward - moved(registration.transform, points), axis=1).max() < 0.01


def test_hardening_the_transform_on_the_moving_volume_gives_the_warped_one(headless, registered):
    """As Slicer applies the node: the moving volume under it is aligned with the fixed one."""
    registration, result, _fixedNode, movingNode = registered
    node = addVolume(headless, registration.moving, "copy")
    node.SetAndObserveTransformNodeID(result.transform.GetID())
    toWorld = vtk.vtkGeneralTransform()
    result.transform.GetTransformToWorld(toWorld)
    point = np.array(phantoms.center_of(registration.fixed))
    inMoving = np.array(registration.transform.TransformPoint(point.tolist()))
    assert np.linalg.norm(movedByNode(toWorld, inMoving[None])[0] - point) < 0.1
    assert movingNode.GetParentTransformNode() is None


def test_the_volumes_have_the_fixed_geometry_and_the_voxels_of_the_engine(registered):
    registration, result, _fixedNode, _movingNode = registered
    for node, image in (
        (result.warped, registration.warped),
        (result.jacobian, registration.jacobian),
        (result.expectedError, registration.expected_error),
    ):
        back = imageFromVolumeNode(node)
        assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
        assert np.allclose(back.GetOrigin(), registration.fixed.GetOrigin())
        assert np.allclose(back.GetDirection(), registration.fixed.GetDirection())
    assert result.folding.IsA("vtkMRMLLabelMapVolumeNode")
    assert not sitk.GetArrayFromImage(imageFromVolumeNode(result.folding)).any()


def test_every_node_refers_to_its_volumes_and_is_stored_from_parent(registered):
    _registration, result, fixedNode, movingNode = registered
    assert len(result.all()) == len(ALL_OUTPUTS)
    for node in result.all():
        assert node.GetNodeReference(FIXED_ROLE) is fixedNode
        assert node.GetNodeReference(MOVING_ROLE) is movingNode
        assert "Atlas" in node.GetName()
    assert result.transform.IsA("vtkMRMLGridTransformNode")
    stored, derived = result.transform.GetTransformFromParent(), result.transform.GetTransformToParent()
    derived.Update()
    assert (stored.GetInverseFlag(), derived.GetInverseFlag()) == (0, 1)


def test_the_nodes_are_in_the_folder_of_the_fixed_volume(headless, random_registration):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(headless.scene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    registration = random_registration(1)
    fixedNode = addVolume(headless, registration.fixed, "F")
    movingNode = addVolume(headless, registration.moving, "M")
    hierarchy.CreateItem(study, fixedNode)
    result = addRegistrationToScene(registration, fixedNode, movingNode, ALL_OUTPUTS)
    for node in result.all():
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_registration_that_has_not_estimated_its_error_has_no_map_of_it(headless, random_registration):
    registration = random_registration(1)
    fixedNode = addVolume(headless, registration.fixed, "F")
    result = addRegistrationToScene(registration, fixedNode, fixedNode, ALL_OUTPUTS)
    assert len(result.all()) == len(ALL_OUTPUTS) - 1
    assert result.expectedError is None


def test_only_requested_outputs_are_created(headless, random_registration):
    registration = random_registration(1)
    fixedNode = addVolume(headless, registration.fixed, "F")
    result = addRegistrationToScene(registration, fixedNode, fixedNode, ("warped",))
    assert result.all() == [result.warped]
    assert headless.scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0


def test_given_nodes_are_filled_again(headless, random_registration, registered):
    _registration, first, fixedNode, movingNode = registered
    again = random_registration(3)
    count = headless.scene.GetNumberOfNodes()
    into = {"transform": first.transform, "warped": first.warped}
    second = addRegistrationToScene(again, fixedNode, movingNode, ("transform", "warped"), into)
    assert (second.transform, second.warped) == (into["transform"], into["warped"])
    assert (first.transform, first.warped) == (None, None)  # the first result has kept what is of its own map
    assert [result.all() for result in SceneResult.allIn(headless.scene)] == [first.all(), second.all()]
    assert first.jacobian is not None and second.jacobian is None
    assert headless.scene.GetNumberOfNodes() == count + 1  # the node that holds the second result together
    points = pointsOf(again.fixed, 100)
    forward = movedByNode(second.transform.GetTransformFromParent(), points)
    assert np.linalg.norm(forward - moved(again.transform, points), axis=1).max() < 0.01
    held = sitk.GetArrayFromImage(imageFromVolumeNode(second.warped))
    assert np.array_equal(held, sitk.GetArrayFromImage(again.warped))


def test_the_inputs_are_not_changed(headless, random_registration):
    registration = random_registration(2)
    inputs = [addVolume(headless, image, "v") for image in (registration.fixed, registration.moving)]
    before = [imageFromVolumeNode(node) for node in inputs]
    addRegistrationToScene(registration, *inputs, ALL_OUTPUTS)
    for node, image in zip(inputs, before):
        after = imageFromVolumeNode(node)
        assert np.array_equal(sitk.GetArrayFromImage(after), sitk.GetArrayFromImage(image))
        assert after.GetOrigin() == image.GetOrigin()
        assert node.GetParentTransformNode() is None


@pytest.mark.parametrize("step", ["inverse", "updateVolumeNodeFromImage", "placeInFolderOf"])
def test_a_failure_midway_leaves_the_scene_unchanged(headless, random_registration, monkeypatch, step):
    registration = random_registration(1)
    fixedNode = addVolume(headless, registration.fixed, "F")
    scene = headless.scene
    before = sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes()))

    def fail(*_):
        raise RuntimeError("midway")

    if step in resultNodes._CONTENTS:
        monkeypatch.setitem(resultNodes._CONTENTS, step, fail)
    else:
        monkeypatch.setattr(resultNodes, step, fail)
    with pytest.raises(RuntimeError, match="midway"):
        addRegistrationToScene(registration, fixedNode, fixedNode, ALL_OUTPUTS)
    assert sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())) == before


def test_a_linear_parent_transform_is_included(headless):
    image = phantoms.head(phantoms.random_geometry(4, size=(18, 20, 22)))
    node = addVolume(headless, image, "volume")
    parent = headless.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "parent")
    matrix = np.eye(4)
    matrix[:3, :3] = phantoms.rotation((10, 20, 30))
    matrix[:3, 3] = (5, 6, 7)
    parent.SetMatrixTransformToParent(vtkMatrix(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())
    moved_ = imageFromVolumeNode(node)
    flip = np.array([-1.0, -1.0, 1.0])
    place = np.array(image.TransformIndexToPhysicalPoint((3, 4, 5))) * flip
    expected = (matrix[:3, :3] @ place + matrix[:3, 3]) * flip
    assert np.allclose(moved_.TransformIndexToPhysicalPoint((3, 4, 5)), expected, atol=1e-6)


def test_a_shearing_or_deforming_parent_transform_is_refused(headless, random_registration):
    registration = random_registration(1)
    node = addVolume(headless, registration.fixed, "F")
    result = addRegistrationToScene(registration, node, node, ("transform",))
    node.SetAndObserveTransformNodeID(result.transform.GetID())
    with pytest.raises(InputError, match="non-linear transform"):
        imageFromVolumeNode(node, "fixed volume")
    shear = headless.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shear")
    matrix = np.eye(4)
    matrix[0, 1] = 0.3
    shear.SetMatrixTransformToParent(vtkMatrix(matrix))
    node.SetAndObserveTransformNodeID(shear.GetID())
    with pytest.raises(InputError, match="sheared"):
        imageFromVolumeNode(node, "fixed volume")


def test_volumes_without_voxels_or_with_color_are_refused(headless):
    empty = headless.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    for node in (None, empty):
        with pytest.raises(InputError, match="fixed volume has no voxels"):
            imageFromVolumeNode(node, "fixed volume")
    color = vtk.vtkImageData()
    color.SetDimensions(4, 4, 4)
    color.GetPointData().SetScalars(numpy_support.numpy_to_vtk(np.zeros((64, 3)), deep=True))
    empty.SetAndObserveImageData(color)
    with pytest.raises(InputError, match="3 values per voxel"):
        imageFromVolumeNode(empty)


def test_a_bundle_read_again_contains_the_whole_result(headless, registered, tmp_path):
    registration, result, _fixedNode, _movingNode = registered
    names = [node.GetName() for node in result.all()]
    headless.saveBundle(tmp_path / "case.mrb")
    points = pointsOf(registration.fixed, 300)
    expected = moved(registration.transform, points)

    other = HeadlessScene()
    try:
        other.loadBundle(tmp_path / "case.mrb")
        assert all(other.scene.GetFirstNodeByName(name) is not None for name in names)
        transform = other.scene.GetFirstNodeByClass("vtkMRMLGridTransformNode")
        assert transform.GetNodeReference(FIXED_ROLE).GetName() == "Patient"
        assert transform.GetNodeReference(MOVING_ROLE).GetName() == "Atlas"
        interpolateLinearly(transform)
        errors = np.linalg.norm(movedByNode(transform.GetTransformFromParent(), points) - expected, axis=1)
        assert errors.max() < 0.01
        jacobian = other.scene.GetFirstNodeByName("Atlas to Patient Jacobian")
        assert jacobian.GetDisplayNode().GetColorNode().GetName() == "WaveMorph Jacobian"
        expected = other.scene.GetFirstNodeByName("Atlas to Patient expected error")
        shown = expected.GetDisplayNode()
        assert shown.GetColorNode().GetName() == "WaveMorph expected error"
        assert (shown.GetWindowLevelMin(), shown.GetWindowLevelMax()) == (0.0, 2.0)  # of a head of 70 mm
        assert shown.GetApplyThreshold() and 0 < shown.GetLowerThreshold() < 1e-3
        read = sitk.GetArrayFromImage(imageFromVolumeNode(expected))
        assert np.allclose(
            np.sort(read.ravel()), np.sort(sitk.GetArrayViewFromImage(registration.expected_error).ravel())
        )
    finally:
        other.close()


def test_files_that_are_not_a_volume_transform_or_scene_are_refused(headless, tmp_path, capfd):
    folder = os.getcwd()
    (tmp_path / "bad.nrrd").write_text("nothing")
    (tmp_path / "bad.h5").write_text("nothing")
    (tmp_path / "bad.mrb").write_text("nothing")
    for load, name in (
        (headless.loadVolume, "bad.nrrd"), (headless.loadTransform, "bad.h5"), (headless.loadBundle, "bad.mrb"),
    ):  # fmt: skip
        with pytest.raises(InputError, match="cannot be read"):
            load(tmp_path / name)
    assert os.getcwd() == folder
