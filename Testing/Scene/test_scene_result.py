"""A result is found again by node references, whatever its nodes are called, and follows what becomes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import slicer
import vtk
from sceneVolumes import addVolume
from wavemorph.errors import InputError
from WaveMorphRegistrationLib.results.qualityTable import finish, landmarkTable, overlapTable, volumeTable
from WaveMorphRegistrationLib.results.reportTable import addReportTable
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene
from WaveMorphRegistrationLib.results.sceneResult import ALL_OUTPUTS, FIXED_ROLE, MOVING_ROLE, SceneResult
from WaveMorphRegistrationLib.results.transformApplication import applyTransform
from WaveMorphRegistrationLib.scene.coordinates import ijkToWorld, vtkMatrix
from WaveMorphRegistrationLib.scene.segmentations import maskFromNode
from WaveMorphRegistrationLib.scene.volumes import updateVolumeNodeFromImage

FLIP = np.array([-1.0, -1.0, 1.0])  # RAS <-> LPS


def rowsOf(tableNode):
    table = tableNode.GetTable()
    columns = range(table.GetNumberOfColumns())
    return [[table.GetValue(row, column).ToString() for column in columns] for row in range(table.GetNumberOfRows())]


def addPatient(headless, registration, folder: str):
    """A patient of the names that DICOM gives every patient, with a folder of his own."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(headless.scene)
    item = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), folder)
    fixed, moving = (
        addVolume(headless, image, name)
        for image, name in ((registration.fixed, "3: T1"), (registration.moving, "5: T1"))
    )
    for node in (fixed, moving):
        hierarchy.CreateItem(item, node)
    result = addRegistrationToScene(registration, fixed, moving, ALL_OUTPUTS)
    addReportTable(result)
    return result


@pytest.fixture
def patients(headless, random_registration):
    registrations = [phantoms.with_expected_error(random_registration(seed)) for seed in (1, 2)]
    return [addPatient(headless, made, f"Patient {seed}") for seed, made in zip((1, 2), registrations)]


def folderOf(node) -> str:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    return hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)))


def pointsIn(scene, image: sitk.Image, name: str):
    """A list of two points near the center of an image."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for offset in ((0.0, 0.0, 0.0), (6.0, -4.0, 5.0)):
        node.AddControlPointWorld(*((phantoms.center_of(image) + offset) * FLIP))
    return node


def placesOf(pointsNode) -> np.ndarray:
    places = np.zeros((pointsNode.GetNumberOfControlPoints(), 3))
    for index in range(len(places)):
        pointsNode.GetNthControlPointPositionWorld(index, places[index])
    return places


def test_two_patients_of_the_same_names_keep_their_own_report_and_folder(patients, random_registration):
    tables = [result.table("report") for result in patients]
    assert tables[0] is not tables[1]
    for seed, result, table in zip((1, 2), patients, tables):
        similarity = random_registration(seed).report["similarity"]
        expected = f"{similarity['before']:.3f} -> {similarity['after']:.3f}"
        assert ["Similarity", expected] in [row[:2] for row in rowsOf(table)]
        assert folderOf(table) == f"Patient {seed}"
        assert table.GetNodeReference(FIXED_ROLE) is result.fixedNode


def test_targets_of_one_patient_do_not_move_when_the_transform_of_another_is_applied(
    headless, patients, random_registration
):
    targets = [pointsIn(headless.scene, random_registration(seed).fixed, f"Targets {seed}") for seed in (1, 2)]
    drawn = [placesOf(points) for points in targets]
    for seed, result, points, before in zip((1, 2), patients, targets, drawn):
        applyTransform(result.transformForFixedNodes(), [points])
        for registered, other, place in zip((1, 2), targets, drawn):
            if registered <= seed:
                transform = random_registration(registered).transform
                place = [np.array(transform.TransformPoint((point * FLIP).tolist())) * FLIP for point in place]
            assert np.abs(placesOf(other) - place).max() < 0.01
        assert np.abs(placesOf(points) - before).max() > 1.0


@pytest.mark.parametrize("measure", ["landmarks", "overlap", "volumes"])
def test_a_measure_of_one_patient_does_not_fill_the_table_of_another(headless, patients, random_registration, measure):
    tables = []
    for seed, result in zip((1, 2), patients):
        registration = random_registration(seed)
        if measure == "landmarks":
            pieces = landmarkTable(
                result, *(pointsIn(headless.scene, registration.fixed, name) for name in ("fixed", "moving"))
            )
        else:
            images = (registration.fixed, registration.moving)
            labels = [addVolume(headless, image > 300, "L", "vtkMRMLLabelMapVolumeNode") for image in images]
            pieces = overlapTable(result, *labels) if measure == "overlap" else volumeTable(result, labels[0])
        tables.append((finish(pieces), folderOf(result.fixedNode)))
    contents = [rowsOf(table) for table, _folder in tables]
    assert tables[0][0] is not tables[1][0]
    assert contents[0] != contents[1]
    assert rowsOf(patients[0].table(measure)) == contents[0]
    assert [folderOf(table) for table, _folder in tables] == ["Patient 1", "Patient 2"]


def test_nodes_in_the_fixed_space_follow_a_registration_into_the_same_outputs(headless, patients, random_registration):
    first = patients[0]
    points = pointsIn(headless.scene, random_registration(1).fixed, "Targets")
    drawn = placesOf(points)
    applyTransform(first.transformForFixedNodes(), [points])
    into = {output: first.output(output) for output in ALL_OUTPUTS}
    again = random_registration(3)
    second = addRegistrationToScene(again, first.fixedNode, first.movingNode, ALL_OUTPUTS, into)
    assert second.transform is into["transform"]
    expected = [np.array(again.transform.TransformPoint((point * FLIP).tolist())) * FLIP for point in drawn]
    assert np.abs(placesOf(points) - expected).max() < 0.01
    assert second.transformForFixedNodes() is points.GetParentTransformNode()


def test_a_clone_of_the_transform_does_not_move_what_follows_the_original(
    headless, patients, random_registration, tmp_path
):
    first, second = patients
    points = pointsIn(headless.scene, random_registration(1).fixed, "Targets")
    applyTransform(first.transformForFixedNodes(), [points])
    placed = placesOf(points)
    clone = headless.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Clone")
    clone.CopyReferences(first.transform)
    into = {"transform": clone}
    other = addRegistrationToScene(random_registration(2), second.fixedNode, second.movingNode, ("transform",), into)
    assert np.allclose(placesOf(points), placed)
    assert other.transformForFixedNodes() is not points.GetParentTransformNode()
    assert np.allclose(placesOf(points), placed)
    headless.saveBundle(tmp_path / "case.mrb")
    headless.scene.Clear(0)
    headless.loadBundle(tmp_path / "case.mrb")
    points = headless.scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
    assert SceneResult.allIn(headless.scene)[0].transformForFixedNodes() is points.GetParentTransformNode()


def test_a_result_that_fills_all_nodes_again_replaces_the_earlier_one(headless, patients, random_registration):
    first = patients[0]
    into = {output: first.output(output) for output in ALL_OUTPUTS}
    report = first.table("report")
    labels = addVolume(headless, random_registration(1).fixed > 300, "L", "vtkMRMLLabelMapVolumeNode")
    finish(volumeTable(first, labels))
    count = headless.scene.GetNumberOfNodes()
    again = phantoms.with_expected_error(random_registration(3))
    second = addRegistrationToScene(again, first.fixedNode, first.movingNode, ALL_OUTPUTS, into)
    addReportTable(second)
    assert headless.scene.GetNumberOfNodes() == count
    assert len(SceneResult.allIn(headless.scene)) == 2
    assert second.table("report") is report
    assert second.report == again.report
    assert second.table("volumes") is None  # the table of the former map is not one of this result


def test_results_are_found_in_a_scene_that_is_read_again_and_added_to_itself(headless, patients, tmp_path):
    headless.saveBundle(tmp_path / "case.mrb")
    reports = [result.report for result in patients]
    headless.scene.Clear(0)
    assert SceneResult.allIn(headless.scene) == []
    headless.loadBundle(tmp_path / "case.mrb")
    headless.scene.ReadFromMRB(str(tmp_path / "case.mrb"))  # beside the nodes that are there: these get other IDs
    results = SceneResult.allIn(headless.scene)
    assert [result.report for result in results] == reports * 2
    seen = [node for result in results for node in (*result.all(), result.fixedNode, result.table("report"))]
    assert len({node.GetID() for node in seen}) == len(seen) == 4 * (len(ALL_OUTPUTS) + 2)
    for result in results:
        assert result.volumeAsRegistered(FIXED_ROLE) is result.fixedNode
        assert result.volumeAsRegistered(MOVING_ROLE) is result.movingNode
        assert result.transform.GetNodeReference(MOVING_ROLE) is result.movingNode


def test_the_verdict_is_on_the_transform_and_on_the_result_after_reopening(headless, random_registration, tmp_path):
    registration = random_registration(1)
    reason = "The outlines of the two subjects overlap by only 0.41 (Dice)."
    verdict = {"level": "do not trust", "reasons": [reason], "probability_wrong": 0.93}
    doubtful = dataclasses.replace(registration, report={**registration.report, "verdict": verdict})
    addPatient(headless, doubtful, "Patient")
    headless.saveBundle(tmp_path / "case.mrb")
    headless.scene.Clear(0)
    headless.loadBundle(tmp_path / "case.mrb")
    (result,) = SceneResult.allIn(headless.scene)
    assert result.node.GetAttribute("WaveMorph.Verdict") == "do not trust"
    assert result.transform.GetAttribute("WaveMorph.Verdict") == "do not trust"
    assert rowsOf(result.table("report"))[0] == ["Verdict", "Do not trust", reason]
    into = {"transform": result.transform}
    judged = dataclasses.replace(registration, report={**registration.report, "verdict": {**verdict, "level": "good"}})
    again = addRegistrationToScene(judged, result.fixedNode, result.movingNode, ("transform",), into)
    assert again.transform.GetAttribute("WaveMorph.Verdict") == "good"


def test_the_name_of_the_transform_finds_the_transform(headless, patients):
    """Scripts look nodes up by name; the hidden node that holds a result together must not be found instead."""
    scene = headless.scene
    called = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    called = [node for node in called if node.GetName() == patients[0].name]
    assert [node.GetID() for node in called] == [result.transform.GetID() for result in patients]


def test_a_result_without_outputs_is_none_and_one_with_deleted_nodes_has_the_rest(headless, patients):
    first, second = patients
    headless.scene.RemoveNode(first.warped)
    headless.scene.RemoveNode(first.fixedNode)
    assert (first.warped, first.fixedNode) == (None, None)
    assert first.transform in first.all()
    assert SceneResult.ofOutput(first.transform).node is first.node
    for node in first.all():
        headless.scene.RemoveNode(node)
    assert [result.node for result in SceneResult.allIn(headless.scene)] == [second.node]


def test_the_moving_volume_is_shown_where_it_was_registered_although_it_is_under_the_transform(headless, patients):
    result = patients[0]
    before = ijkToWorld(result.movingNode)
    result.movingNode.SetAndObserveTransformNodeID(result.transform.GetID())
    copy = result.volumeAsRegistered(MOVING_ROLE)
    assert copy is not result.movingNode
    assert copy.GetScene() is None and copy.GetParentTransformNode() is None
    assert np.allclose(ijkToWorld(copy), before)
    assert copy.GetImageData() is result.movingNode.GetImageData()
    result.movingNode.HardenTransform()
    assert result.volumeAsRegistered(MOVING_ROLE) is None


def test_a_fixed_volume_that_was_filtered_in_its_place_is_still_the_fixed_volume(headless, patients):
    result = patients[0]
    for node in (result.fixedNode, result.movingNode):
        slicer.util.arrayFromVolume(node)[:] *= 2
        slicer.util.arrayFromVolumeModified(node)
    assert result.volumeAsRegistered(FIXED_ROLE) is result.fixedNode
    assert result.volumeAsRegistered(MOVING_ROLE) is None  # it may have been hardened in its place
    shift = headless.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = (3.0, 0.0, 0.0)
    shift.SetMatrixTransformToParent(vtkMatrix(matrix))
    second = patients[1]
    for node in (second.fixedNode, second.movingNode):
        before = ijkToWorld(node)
        node.SetAndObserveTransformNodeID(shift.GetID())
        role = FIXED_ROLE if node is second.fixedNode else MOVING_ROLE
        assert np.allclose(ijkToWorld(second.volumeAsRegistered(role)), before)
        node.HardenTransform()
        assert np.allclose(ijkToWorld(second.volumeAsRegistered(role)), before)


def test_a_structure_under_the_transform_is_not_measured_as_if_it_were_drawn_there(headless, patients):
    result = patients[0]
    points = [headless.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("F", "M")]
    for node in points:
        node.AddControlPointWorld(1.0, 2.0, 3.0)
    points[1].SetAndObserveTransformNodeID(result.transform.GetID())
    with pytest.raises(InputError, match=r"M is under the transform .* which has already moved it"):
        finish(landmarkTable(result, *points))
    points[1].SetAndObserveTransformNodeID(None)
    points[0].SetAndObserveTransformNodeID(result.transformForFixedNodes().GetID())
    with pytest.raises(InputError, match="F is under the transform"):
        finish(landmarkTable(result, *points))


def nestedSegments(headless, image: sitk.Image, name: str, center=(0.0, 0.0, 0.0)):
    """GTV in CTV in PTV: balls of 8, 12 and 16 mm radius about a point, LPS mm, the largest first; and their masks."""
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    distance = np.linalg.norm(phantoms.physical_points(image) - np.array(center), axis=-1)
    masks = {}
    for structure, radius in (("PTV", 16.0), ("CTV", 12.0), ("GTV", 8.0)):
        mask = sitk.GetImageFromArray((distance < radius).astype(np.uint8))
        mask.CopyInformation(image)
        labels = addVolume(headless, mask, structure, "vtkMRMLLabelMapVolumeNode")
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        node.GetSegmentation().GetNthSegment(node.GetSegmentation().GetNumberOfSegments() - 1).SetName(structure)
        headless.scene.RemoveNode(labels)
        masks[structure] = sitk.GetArrayFromImage(mask) != 0
    return node, masks


@pytest.fixture
def shifted(headless, tiny_pair):
    """The result of a registration that found the shift of the tiny pair exactly: 4 mm in x and 3 mm in z, LPS."""
    import wavemorph

    affine = sitk.AffineTransform(3)
    affine.SetTranslation((4.0, 0.0, 3.0))
    verdict = {"level": "good", "reasons": [], "probability_wrong": 0.01}
    report = {"transform_type": "affine", "warnings": [], "verdict": verdict}
    jacobian = sitk.Image([8, 8, 8], sitk.sitkFloat32) + 1.0
    registration = wavemorph.Registration(affine, None, None, None, jacobian, None, report, *tiny_pair)
    pair = [addVolume(headless, image, name) for image, name in zip(tiny_pair, ("F", "M"))]
    return addRegistrationToScene(registration, *pair, ("transform", "warped", "jacobian"))


def test_overlapping_segments_have_their_whole_volume_each(headless, shifted, tiny_pair):
    node, masks = nestedSegments(headless, tiny_pair[0], "Targets")
    rows = rowsOf(finish(volumeTable(shifted, node)))
    assert [row[0] for row in rows] == ["PTV", "CTV", "GTV"]
    voxelMl = np.prod(tiny_pair[0].GetSpacing()) / 1000
    for name, fixed, *_rest in rows:
        assert float(fixed) == pytest.approx(masks[name].sum() * voxelMl, abs=0.006)


@pytest.fixture
def withExpectedError(shifted, tiny_pair):
    """`shifted` with an expected error, 0 on the patient's left half, where nothing is known; and its array."""
    error = phantoms.expected_error(tiny_pair[0])
    known = sitk.GetArrayFromImage(error) * (phantoms.physical_points(tiny_pair[0])[..., 0] < 0)
    image = sitk.GetImageFromArray(known.astype(np.float32))
    image.CopyInformation(error)
    node = shifted.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "E")
    updateVolumeNodeFromImage(image, node)
    shifted.expectedError = node
    return shifted, known


def medianIn(known, mask) -> float:
    return float(np.median([value for value in known[mask].tolist() if value > 0]))


def headerOf(tableNode) -> list[str]:
    table = tableNode.GetTable()
    return [table.GetColumnName(column) for column in range(table.GetNumberOfColumns())]


def test_the_expected_error_of_each_structure_is_the_median_of_what_is_known_in_it(
    headless, withExpectedError, tiny_pair
):
    result, known = withExpectedError
    fixedNode, masks = nestedSegments(headless, tiny_pair[0], "Fixed targets")
    movingNode, _masks = nestedSegments(headless, tiny_pair[1], "Moving targets", (4.0, 0.0, 3.0))
    movingNode.GetSegmentation().RemoveSegment(movingNode.GetSegmentation().GetNthSegmentID(1))
    for pieces, count in ((overlapTable(result, fixedNode, movingNode), 6), (volumeTable(result, fixedNode), 5)):
        table = finish(pieces)
        assert len(headerOf(table)) == count
        assert headerOf(table)[-1] == "Expected error, mm"
        rows = {row[0]: row[-1] for row in rowsOf(table)}
        for name, mask in masks.items():
            assert float(rows[name]) == pytest.approx(medianIn(known, mask), abs=0.051), name
    rows = rowsOf(finish(overlapTable(result, fixedNode, movingNode)))
    assert [row[-1] for row in rows[-3:]] == ["", "-", "-"]  # what is missing, and two means


def test_volumes_need_no_jacobian_where_the_error_is_expected_and_unknown_structures_say_so(
    headless, withExpectedError, tiny_pair
):
    result, _known = withExpectedError
    headless.scene.RemoveNode(result.jacobian)
    left, _masks = nestedSegments(headless, tiny_pair[0], "Left targets", (20.0, 0.0, 0.0))
    table = finish(volumeTable(result, left))
    assert headerOf(table) == ["Structure", "Fixed, ml", "Expected error, mm"]
    assert {row[0]: row[2] for row in rowsOf(table)} == {"PTV": "-", "CTV": "-", "GTV": "-"}


@pytest.fixture
def surfaceConverter():
    """The rule that Slicer registers, by which surfaces become label maps."""
    factory, rule = (
        slicer.vtkSegmentationConverterFactory.GetInstance(),
        slicer.vtkClosedSurfaceToBinaryLabelmapConversionRule(),
    )
    factory.RegisterConverterRule(rule)
    yield
    factory.UnregisterConverterRule(rule)


def nestedSurfaces(headless):
    """Spheres of 16 and 12 mm radius about the origin, as a structure set has them: surfaces without label maps."""
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Structure set")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    for name, radius in (("PTV", 16.0), ("CTV", 12.0)):
        sphere = vtk.vtkSphereSource()
        sphere.SetRadius(radius)
        sphere.SetThetaResolution(60)
        sphere.SetPhiResolution(60)
        sphere.Update()
        node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), name, [1, 0, 0])
    return node


def test_segments_that_are_surfaces_are_measured_and_masks_without_changing_them(headless, shifted, surfaceConverter):
    node = nestedSurfaces(headless)
    rows = rowsOf(finish(volumeTable(shifted, node)))
    for (name, fixed, *_rest), radius in zip(rows, (16.0, 12.0)):
        assert float(fixed) == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.08), name
    ctv = node.GetSegmentation().GetNthSegmentID(1)
    union, one = (maskFromNode(node, shifted.fixedNode, segmentId=segment) for segment in ("", ctv))
    assert sitk.GetArrayFromImage(union).sum() > 2 * sitk.GetArrayFromImage(one).sum() > 0
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_segments_that_cannot_be_converted_are_refused_with_what_to_do(headless, shifted):
    with pytest.raises(InputError, match=r"not label maps \(Closed surface\) .* in the module Segmentations"):
        finish(volumeTable(shifted, nestedSurfaces(headless)))


def test_overlapping_segments_are_compared_each_with_its_own(headless, shifted, tiny_pair):
    fixedNode, fixed = nestedSegments(headless, tiny_pair[0], "Fixed targets")
    movingNode, moving = nestedSegments(headless, tiny_pair[1], "Moving targets", (4.0, 0.0, 3.0))
    rows = rowsOf(finish(overlapTable(shifted, fixedNode, movingNode)))
    assert [row[0] for row in rows] == ["PTV", "CTV", "GTV", "mean"]
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((4.0, 0.0, 3.0))
    for name, before, after, *_distances in rows[:-1]:
        mask = sitk.GetImageFromArray(moving[name].astype(np.uint8))
        mask.CopyInformation(tiny_pair[1])
        for shown, transform in ((before, sitk.Transform()), (after, affine)):
            warped = sitk.Resample(mask, tiny_pair[0], transform, sitk.sitkNearestNeighbor)
            filter_ = sitk.LabelOverlapMeasuresImageFilter()
            truth = sitk.GetImageFromArray(fixed[name].astype(np.uint8))
            truth.CopyInformation(tiny_pair[0])
            filter_.Execute(truth, warped)
            assert float(shown) == pytest.approx(filter_.GetDiceCoefficient(), abs=0.0006)
        assert float(after) > 0.9


def test_a_structure_of_one_segmentation_only_counts_as_missing_as_on_the_command_line(headless, shifted, tiny_pair):
    fixedNode, _masks = nestedSegments(headless, tiny_pair[0], "Fixed targets")
    movingNode, _masks = nestedSegments(headless, tiny_pair[1], "Moving targets", (4.0, 0.0, 3.0))
    movingNode.GetSegmentation().RemoveSegment(movingNode.GetSegmentation().GetNthSegmentID(1))
    rows = rowsOf(finish(overlapTable(shifted, fixedNode, movingNode)))
    assert [row[0] for row in rows] == [
        "PTV",
        "CTV",
        "GTV",
        "1 structure is in the fixed label map only: CTV.",
        "mean, 0 where missing",
        "mean over common",
    ]
    assert rows[1][1:] == ["0.000", "0.000", "-", "-"]
    common = [float(row[2]) for row in (rows[0], rows[2])]
    assert float(rows[-2][2]) == pytest.approx(sum(common) / 3, abs=0.001)
    assert float(rows[-1][2]) == pytest.approx(sum(common) / 2, abs=0.001)


def test_two_segments_of_one_name_are_both_compared_and_nothing_in_common_is_said(headless, shifted, tiny_pair):
    fixedNode, _masks = nestedSegments(headless, tiny_pair[0], "Fixed targets")
    movingNode, _masks = nestedSegments(headless, tiny_pair[1], "Moving targets", (4.0, 0.0, 3.0))
    for node in (fixedNode, movingNode):
        node.GetSegmentation().GetNthSegment(1).SetName("PTV")
    rows = rowsOf(finish(overlapTable(shifted, fixedNode, movingNode)))
    assert [row[0] for row in rows[:3]] == ["PTV", "PTV", "GTV"]
    assert "paired by label" in rows[3][0] and '2 structures of the name "PTV"' in rows[3][0]
    assert all(float(row[2]) > 0.9 for row in (*rows[:3], rows[-1]))
    for index in range(3):
        fixedNode.GetSegmentation().GetNthSegment(index).SetName(f"one {index}")
        movingNode.GetSegmentation().GetNthSegment(index).SetName(f"other {index}")
    byOrder = rowsOf(finish(overlapTable(shifted, fixedNode, movingNode)))
    assert "no name in common" in byOrder[3][0]
    assert all(float(row[2]) > 0.9 for row in (*byOrder[:3], byOrder[-1]))
    empty = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    with pytest.raises(InputError, match="Empty has no segments"):
        finish(overlapTable(shifted, fixedNode, empty))
