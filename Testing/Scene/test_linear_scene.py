"""The nodes of rigid and affine results: linear transforms that put the moving volume onto the fixed one."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import vtk
import wavemorph
from PIL import Image
from sceneVolumes import addVolume
from wavemorph.cli.main import main
from wavemorph.io.outputs import write_image
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.results.reportTable import reportRows
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene
from WaveMorphRegistrationLib.results.sceneResult import ALL_OUTPUTS
from WaveMorphRegistrationLib.results.transformExport import exportTransform

FLIP = np.array([-1.0, -1.0, 1.0])  # RAS <-> LPS


@pytest.fixture
def linearRegistration(tiny_pair):
    """A known rotation about the center of the fixed volume, with a shift."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(phantoms.rotation((3.0, -7.0, 11.0)).ravel().tolist())
    affine.SetTranslation((4.0, 1.0, -2.0))
    jacobian = sitk.Image([8, 8, 8], sitk.sitkFloat32) + 1.0
    verdict = {"level": "good", "reasons": [], "probability_wrong": 0.01}
    report = {"transform_type": "rigid", "warnings": [], "verdict": verdict}
    return wavemorph.Registration(affine, None, None, None, jacobian, None, report, *tiny_pair)


@pytest.fixture
def pair(headless, linearRegistration):
    return [
        addVolume(headless, image, name)
        for image, name in ((linearRegistration.fixed, "Patient"), (linearRegistration.moving, "Atlas"))
    ]


def throughNode(transform, pointLps) -> np.ndarray:
    return np.array(transform.TransformPoint(np.array(pointLps) * FLIP)) * FLIP


def test_the_results_are_linear_transform_nodes_that_move_points_as_simpleitk_does(linearRegistration, pair):
    nodes = addRegistrationToScene(linearRegistration, *pair, ALL_OUTPUTS)
    assert [node.GetName() for node in nodes.all()] == [
        "Atlas to Patient rigid",
        "Patient to Atlas rigid",
        "Atlas registered",
        "Atlas to Patient Jacobian",
    ]
    assert nodes.affine is None
    assert nodes.folding is None
    assert nodes.grid is None
    assert nodes.transform.IsA("vtkMRMLLinearTransformNode")
    assert nodes.inverse.IsA("vtkMRMLLinearTransformNode")
    for point in np.random.default_rng(0).uniform(-40, 40, (20, 3)).tolist():
        expected = linearRegistration.affine.TransformPoint(point)
        assert np.allclose(throughNode(nodes.transform.GetTransformFromParent(), point), expected, atol=1e-9)
        assert np.allclose(throughNode(nodes.inverse.GetTransformFromParent(), expected), point, atol=1e-9)


def test_under_the_node_a_moving_point_lies_on_its_fixed_point(linearRegistration, pair):
    """As Slicer applies the node to the moving volume: from it to the world."""
    nodes = addRegistrationToScene(linearRegistration, *pair, ("transform",))
    pair[1].SetAndObserveTransformNodeID(nodes.transform.GetID())
    toWorld = vtk.vtkGeneralTransform()
    pair[1].GetParentTransformNode().GetTransformToWorld(toWorld)
    for fixedRas in ((10.0, -4.0, 7.0), (-20.0, 15.0, 3.0)):
        moving = np.array(linearRegistration.affine.TransformPoint((np.array(fixedRas) * FLIP).tolist())) * FLIP
        assert np.allclose(toWorld.TransformPoint(moving), fixedRas, atol=1e-9)


def test_a_node_of_the_other_class_is_left_alone_and_one_of_its_own_is_filled(
    headless, linearRegistration, pair, random_registration
):
    deformable = addRegistrationToScene(random_registration(1), *pair, ("transform",))
    grid = deformable.transform
    linear = addRegistrationToScene(linearRegistration, *pair, ("transform",), {"transform": grid})
    assert linear.transform is not grid
    assert not grid.IsLinear()
    again = addRegistrationToScene(linearRegistration, *pair, ("transform",), {"transform": linear.transform})
    assert again.transform is linear.transform
    back = addRegistrationToScene(random_registration(1), *pair, ("transform",), {"transform": linear.transform})
    assert back.transform.IsA("vtkMRMLGridTransformNode")


def test_a_linear_transform_file_is_read_by_the_scene_as_a_linear_transform(headless, linearRegistration, tmp_path):
    for extension in (".tfm", ".h5"):
        path = tmp_path / f"t{extension}"
        wavemorph.io.outputs.write_transform(linearRegistration, path)
        node = headless.loadTransform(path)
        assert node.IsLinear()
        point = (12.0, -5.0, 9.0)
        expected = linearRegistration.affine.TransformPoint(point)
        assert np.allclose(throughNode(node.GetTransformFromParent(), point), expected, atol=1e-6)


def test_a_linear_node_is_exported_as_a_file_and_as_a_field(linearRegistration, pair, tmp_path):
    node = addRegistrationToScene(linearRegistration, *pair, ("transform",)).transform
    exportTransform(node, tmp_path / "t.tfm", pair[0])
    exportTransform(node, tmp_path / "t.nrrd", pair[0])
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "t.nrrd"), sitk.sitkVectorFloat64))
    for point in ((0.0, 0.0, 0.0), (12.0, -5.0, 9.0)):
        expected = linearRegistration.affine.TransformPoint(point)
        assert np.allclose(sitk.ReadTransform(str(tmp_path / "t.tfm")).TransformPoint(point), expected, atol=1e-6)
        assert np.allclose(field.TransformPoint(point), expected, atol=1e-3)


@pytest.mark.parametrize("transform_type", ["rigid", "affine"])
def test_the_scene_command_writes_a_linear_node_and_a_picture_without_jacobian_and_grid(
    tmp_path, tiny_pair, transform_type
):
    for name, image in zip(("fixed", "moving"), tiny_pair):
        write_image(image, tmp_path / f"{name}.nii.gz")
    arguments = ["scene", "--fixed", tmp_path / "fixed.nii.gz", "--moving", tmp_path / "moving.nii.gz"]
    arguments += ["--output", tmp_path / "case.mrb", "--report", tmp_path / "report.json", "--spacing", "4"]
    arguments += ["--transform-type", transform_type, "--weights", "none", "--quiet"]
    assert main([str(argument) for argument in arguments]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["transform_type"] == transform_type
    rows = {row[0]: row[1] for row in reportRows(report)}
    assert rows["Transform"] == transform_type
    assert "Folded voxels" not in rows
    width, height = Image.open(tmp_path / "case.png").size
    assert width > height
    scene = HeadlessScene()
    try:
        scene.loadBundle(tmp_path / "case.mrb")
        count = scene.scene.GetNumberOfNodesByClass
        assert count("vtkMRMLScalarVolumeNode") == 3  # fixed, moving, registered
        assert count("vtkMRMLTransformNode") == count("vtkMRMLLinearTransformNode") == 1
        node = scene.scene.GetFirstNodeByClass("vtkMRMLLinearTransformNode")
        assert np.linalg.norm(throughNode(node.GetTransformFromParent(), (5.0, 4.0, -3.0)) - (9.0, 4.0, 0.0)) < 1.0
    finally:
        scene.close()
