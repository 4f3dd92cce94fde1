"""Segmentations that Slicer writes, read and resampled here, and read by Slicer again."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from sceneVolumes import addVolume
from vtk.util import numpy_support
from wavemorph.evaluation.metrics import label_report
from wavemorph.io.labels import read_label_map, warp_label_map
from wavemorph.io.outputs import write_label_map

BOXES = {"Müller": np.s_[3:9, 3:9, 3:9], "Big": np.s_[2:12, 2:12, 2:12], "Other": np.s_[14:18, 14:18, 14:18]}
TERMINOLOGY = "Categories~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Codes~^^~^^"


def boxImage(box):
    array = np.zeros((20, 22, 24), np.uint8)
    array[box] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((5.0, 6.0, 7.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


@pytest.fixture
def writtenBySlicer(headless, tmp_path):
    """A segmentation of which two segments overlap; Slicer crops the file to them."""
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    for number, (name, box) in enumerate(BOXES.items()):
        labels = addVolume(headless, boxImage(box), name, "vtkMRMLLabelMapVolumeNode")
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        segment = node.GetSegmentation().GetNthSegment(number)
        segment.SetName(name)
        segment.SetColor(0.25 * number, 0.5, 0.75)
        segment.SetTag("TerminologyEntry", TERMINOLOGY)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "organs.seg.nrrd"))
    assert storage.WriteData(node)
    return tmp_path / "organs.seg.nrrd"


def voxelsByName(labels):
    """Name -> positions of its voxels, LPS mm, as a sorted array."""
    positions = {}
    for each in labels.structures:
        layer = labels.layers[each.layer]
        indices = np.argwhere(sitk.GetArrayFromImage(layer) == each.label)[:, ::-1]
        positions[each.name] = positionsOf(indices, layer)
    return positions


def positionsOf(indices, image):
    return np.array(sorted(image.TransformIndexToPhysicalPoint(index.tolist()) for index in indices))


def test_overlapping_segments_of_slicer_are_read_where_they_are(writtenBySlicer):
    read = voxelsByName(read_label_map(writtenBySlicer))
    assert list(read) == list(BOXES)
    for name, box in BOXES.items():
        image = boxImage(box)
        expected = positionsOf(np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1], image)
        assert np.allclose(read[name], expected)


def test_a_resampled_segmentation_is_read_by_slicer_with_all_segments(headless, writtenBySlicer, tmp_path):
    lattice = sitk.Image([40, 30, 25], sitk.sitkUInt8)
    lattice.SetOrigin((-25.0, -30.0, 5.0))
    lattice.SetSpacing((1.0, 1.5, 2.0))
    warped = warp_label_map(read_label_map(writtenBySlicer), lattice, sitk.TranslationTransform(3, (3.0, 0.0, -2.0)))
    write_label_map(warped, tmp_path / "warped.seg.nrrd")
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Warped")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "warped.seg.nrrd"))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    expected = voxelsByName(warped)
    for number, name in enumerate(BOXES):
        segment = segmentation.GetNthSegment(number)
        assert segment.GetName() == name
        assert segment.GetColor() == (0.25 * number, 0.5, 0.75)
        terminology = vtk.reference("")
        assert segment.GetTag("TerminologyEntry", terminology)
        assert str(terminology) == TERMINOLOGY
        voxels = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(number), voxels)
        array = numpy_support.vtk_to_numpy(voxels.GetPointData().GetScalars())
        assert np.count_nonzero(array) == len(expected[name]) > 50


def test_a_segmentation_of_slicer_agrees_with_itself(writtenBySlicer):
    labels = read_label_map(writtenBySlicer)
    report = label_report(labels, labels, sitk.Transform())
    assert {each["name"]: each["dice_after"] for each in report["labels"].values()} == dict.fromkeys(BOXES, 1.0)
