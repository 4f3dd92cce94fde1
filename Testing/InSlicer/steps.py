"""What the parts of the suite do and look at: register, press, draw, place points and segments, read tables."""

import os

import numpy as np
import SimpleITK as sitk
import slicer
from WaveMorphRegistrationLib.results.resultView import ViewMode
from WaveMorphRegistrationLib.scene.segmentations import segments
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode, updateVolumeNodeFromImage

MODES = [mode.name for mode in ViewMode]


def require(condition, failure):
    if not condition:
        raise AssertionError(failure)


def choose(bench, fixed, moving):
    """The images as new volume nodes, selected in the panel; the fixed one is shown."""
    nodes = []
    for image, name, selector in ((fixed, "3: T1", bench.ui.fixedSelector), (moving, "5: T1", bench.ui.movingSelector)):
        node = bench.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        updateVolumeNodeFromImage(image, node)
        node.CreateDefaultDisplayNodes()
        selector.setCurrentNode(node)
        nodes.append(node)
    bench.processEvents(0.1)
    bench.showAlone(nodes[0])
    return nodes


def click(bench):
    """Press Register and wait; the result."""
    bench.ui.registerButton.click()
    bench.until(lambda: not bench.job.active)
    bench.processEvents(0.2)
    require(bench.dialogs == [], f"dialogs: {bench.dialogs}")
    return bench.panel.logic.outcome.nodes


def register(bench, fixed, moving):
    """Choose, press Register and wait; the result."""
    choose(bench, fixed, moving)
    return click(bench)


def sizeOfScene(bench, name) -> float:
    """MB of the scene as the application saves it."""
    path = os.path.join(bench.folder, f"{name}.mrb")
    bench.saveScene(path)
    return os.path.getsize(path) / 1e6


def startAndWait(bench):
    bench.holdWorker()
    bench.ui.registerButton.click()
    bench.until(lambda: bench.job.fraction > 0.02 or not bench.job.active)
    require(bench.job.active, f"the registration ended at once: {bench.dialogs}")


def press(bench, mode):
    getattr(bench.ui, f"view{mode}Button").click()
    bench.processEvents(0.1)


def showEveryMode(bench, name) -> dict:
    """The picture of a slice view in each mode."""
    pictures = {}
    for mode in MODES:
        if mode == "Warp":
            bench.ui.warpSlider.value = 40.0
        press(bench, mode)
        require(bench.dialogs == [], f"{mode}: {bench.dialogs}")
        require([m for m in MODES if getattr(bench.ui, f"view{m}Button").checked] == [mode], f"{mode} is not exclusive")
        pictures[mode] = bench.sliceImage()
        bench.screenshot(f"{name}-{mode}")
    return pictures


def showPossibleModes(bench):
    for mode in MODES:
        button = getattr(bench.ui, f"view{mode}Button")
        if button.enabled:
            press(bench, mode)
        else:
            require(len(button.toolTip) > 10, f"{mode} is off without a reason")
    require(bench.dialogs == [], f"dialogs: {bench.dialogs}")


def centerOf(volumeNode):
    """RAS mm."""
    bounds = np.zeros(6)
    volumeNode.GetRASBounds(bounds)
    return (bounds[::2] + bounds[1::2]) / 2


def addPoints(bench, volumeNode):
    node = bench.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Targets")
    for offset in ((0.0, 0.0, 0.0), (6.0, -4.0, 5.0)):
        node.AddControlPointWorld(*(centerOf(volumeNode) + offset))
    return node


def places(pointsNode):
    found = np.zeros((pointsNode.GetNumberOfControlPoints(), 3))
    for index in range(len(found)):
        pointsNode.GetNthControlPointPositionWorld(index, found[index])
    return found


def nestedSegments(bench, volumeNode):
    """GTV in CTV in PTV: balls of 8, 12 and 16 mm radius at the center of the volume."""
    image = imageFromVolumeNode(volumeNode)
    k, j, i = np.meshgrid(*[np.arange(n) for n in image.GetSize()[::-1]], indexing="ij")
    axes = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    points = np.stack([i, j, k], -1) @ axes.T + np.array(image.GetOrigin())
    distance = np.linalg.norm(points - centerOf(volumeNode) * (-1, -1, 1), axis=-1)
    node = bench.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Targets")
    node.CreateDefaultDisplayNodes()
    for name, radius in (("PTV", 16.0), ("CTV", 12.0), ("GTV", 8.0)):
        mask = sitk.GetImageFromArray((distance < radius).astype(np.uint8))
        mask.CopyInformation(image)
        labels = bench.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
        updateVolumeNodeFromImage(mask, labels)
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
        bench.scene.RemoveNode(labels)
        node.GetSegmentation().GetSegment(segments(node)[-1][0]).SetName(name)
    return node


def tableRows(tableNode):
    table = tableNode.GetTable()
    columns = range(table.GetNumberOfColumns())
    return [[table.GetValue(row, column).ToString() for column in columns] for row in range(table.GetNumberOfRows())]


def nodeIds(scene):
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def differing(a, b) -> int:
    """The number of pixels in which two pictures differ."""
    return int(np.count_nonzero(np.abs(a.astype(int) - b.astype(int)).max(axis=2) > 2))
