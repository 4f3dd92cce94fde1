"""Seconds of what the panel does with a result of brain size: the grid in 3D, and measuring twelve segments.

    .venv/bin/python Testing/Benchmarks/extension/scene_results.py

The volume is the MNI template (1 mm) under a smooth random displacement; nothing is registered.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "WaveMorphRegistration"), str(ROOT / "Testing" / "Support")]

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
import wavemorph
from sceneVolumes import addVolume
from wavemorph.cli.demo import template_path
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.results.display import gridRegion, showGrid
from WaveMorphRegistrationLib.results.qualityTable import overlapTable, volumeTable
from WaveMorphRegistrationLib.results.resultNodes import addRegistrationToScene

SEGMENTS = 12


def displacement(fixed: sitk.Image) -> sitk.Image:
    """A smooth random displacement of some millimeters over an image, zero at its border."""
    coarse = np.random.default_rng(0).normal(0, 12, (38, 44, 36, 3)).astype(np.float32)
    for axis in range(3):
        np.moveaxis(coarse, axis, 0)[[0, -1]] = 0
    field = sitk.GetImageFromArray(coarse, isVector=True)
    extent = (np.array(fixed.GetSize()) - 1) * fixed.GetSpacing()
    field.SetSpacing((extent / (np.array(field.GetSize()) - 1)).tolist())
    field.SetOrigin(fixed.GetOrigin())
    field.SetDirection(fixed.GetDirection())
    return sitk.Resample(sitk.SmoothingRecursiveGaussian(field, 8.0), fixed)


def segmentation(headless, image: sitk.Image):
    """Overlapping balls of 14 to 25 mm radius."""
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Balls")
    indices = np.indices(image.GetSize()[::-1])
    for number in range(SEGMENTS):
        center = np.array(image.GetSize()[::-1]) / 2 + np.random.default_rng(number).uniform(-30, 30, 3)
        inside = ((indices - center[:, None, None, None]) ** 2).sum(0) < (14 + number) ** 2
        mask = sitk.GetImageFromArray(inside.astype(np.uint8))
        mask.CopyInformation(image)
        labels = addVolume(headless, mask, f"ball {number}", "vtkMRMLLabelMapVolumeNode")
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        node.GetSegmentation().GetNthSegment(number).SetName(f"ball {number}")
        headless.scene.RemoveNode(labels)
    return node


def main() -> None:
    headless = HeadlessScene()
    image = sitk.ReadImage(str(template_path()), sitk.sitkFloat32)
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((3.0, 2.0, -1.0))
    report = {"transform_type": "deformable", "warnings": [], "verdict": {"level": "good", "reasons": []}}
    jacobian = sitk.Image(image.GetSize(), sitk.sitkFloat32) + 1.0
    jacobian.CopyInformation(image)
    registration = wavemorph.Registration(affine, displacement(image), None, None, jacobian, None, report, image, image)
    pair = [addVolume(headless, image, name) for name in ("fixed", "moving")]
    result = addRegistrationToScene(registration, *pair, ("transform", "warped", "jacobian"))
    region = headless.scene.AddNode(gridRegion(pair[0]))
    for name, regionNode, spacingMm, resolutionMm in (
        ("10 mm around the subject, as the panel draws it", region, 10.0, 5.0),
        ("10 mm over the volume", pair[0], 10.0, 2.0),
        ("5 mm over the volume", pair[0], 5.0, 1.0),
    ):
        showGrid(result.transform, regionNode, spacingMm, True, True)
        display = result.transform.GetDisplayNode()
        display.SetGridSpacingMm(spacingMm)
        display.SetGridResolutionMm(resolutionMm)
        startTime = time.perf_counter()
        slicer.vtkSlicerTransformLogic.GetVisualization3d(vtk.vtkPolyData(), display, regionNode)
        print(f"grid in 3D, {name}: {time.perf_counter() - startTime:.2f} s")
    balls = [segmentation(headless, image) for _ in range(2)]
    for name, pieces in (("volumes", volumeTable(result, balls[0])), ("overlap", overlapTable(result, *balls))):
        seconds, startTime = [], time.perf_counter()
        for _ in pieces:
            seconds.append(time.perf_counter() - startTime)
            startTime = time.perf_counter()
        print(f"{name} of {SEGMENTS} segments: {sum(seconds):.1f} s, longest piece {max(seconds):.2f} s")
    headless.close()


if __name__ == "__main__":
    main()
