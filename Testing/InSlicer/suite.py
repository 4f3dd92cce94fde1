"""What must hold in a running Slicer: the parts of the suite, for the application and for its stand-ins alike.

A part takes a bench (see `runSuite.py`, and `Testing/Panel/results` for the stand-ins), begins with an empty scene, and
raises `AssertionError` where something does not hold. It may return numbers, which are reported.
"""

import contextlib
import os
import time

import numpy as np
import SimpleITK as sitk
import slicer
from steps import (
    addPoints,
    choose,
    click,
    differing,
    nestedSegments,
    nodeIds,
    places,
    press,
    register,
    require,
    showEveryMode,
    showPossibleModes,
    sizeOfScene,
    startAndWait,
    tableRows,
)
from wavemorph.errors import WaveMorphError
from WaveMorphRegistrationLib.results.qualityTable import finish, overlapTable, volumeTable
from WaveMorphRegistrationLib.results.sceneResult import SceneResult
from WaveMorphRegistrationLib.results.transformApplication import applyTransform
from WaveMorphRegistrationLib.results.transformExport import exportTransform
from WaveMorphRegistrationLib.samples.sampleData import addSyntheticPair
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode

LONGEST_PIECE_SECONDS = 1.0  # of a measure: the application stands still for as long


def twoPatientsOfTheSameNames(bench):
    """A1. The nodes of one patient are neither moved nor filled by the result of another of the same names."""
    results, targets, drawn = [], [], []
    for images in (bench.pair, bench.pair[::-1]):
        results.append(register(bench, *images))
        targets.append(addPoints(bench, results[-1].fixedNode))
        drawn.append(places(targets[-1]))
    require(results[0].name == results[1].name, "the patients are not called alike")
    require(results[0].table("report") is not results[1].table("report"), "one report for two patients")
    applyTransform(results[1].transformForFixedNodes(), [targets[1]])
    require(np.allclose(places(targets[0]), drawn[0]), "patient 1 was moved by the transform of patient 2")
    applyTransform(results[0].transformForFixedNodes(), [targets[0]])
    for result, points, before in zip(results, targets, drawn):
        forward = result.transform.GetTransformFromParent()
        expected = [forward.TransformPoint(point) for point in before]
        require(np.abs(places(points) - expected).max() < 0.05, "a target is not where its own transform puts it")


def outputsAreNotInputs(bench):
    """A2. No output overwrites an input or the transform that an input is under, in a script or in the panel."""
    fixed, moving = choose(bench, *bench.pair)
    alignment = bench.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Alignment")
    moving.SetAndObserveTransformNodeID(alignment.GetID())
    before = sitk.GetArrayFromImage(imageFromVolumeNode(moving))
    for into in ({"warped": moving}, {"warped": fixed}, {"transform": alignment}):
        try:
            bench.scriptLogic.process(fixed, moving, into=into)
        except WaveMorphError as error:
            require("choose Create new" in str(error), f"unclear: {error}")
        else:
            require(False, f"{list(into)} overwrote an input")
    after = sitk.GetArrayFromImage(imageFromVolumeNode(moving))
    require(np.array_equal(after, before), "the moving volume was changed")
    require(moving.GetParentTransformNode() is alignment, "the alignment of the user is lost")
    bench.ui.outputWarpedSelector.setCurrentNode(moving)
    require(bench.ui.outputWarpedSelector.currentNode() is not moving, "the moving volume is offered as an output")


def scriptsAndPanelAreSeparate(bench):
    """A3. The panel neither adopts what a script makes nor reports its errors."""
    own = register(bench, *bench.pair)
    fixed, moving = own.fixedNode, own.movingNode
    before = np.array(own.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    scripted = bench.scriptLogic.process(moving, fixed, **bench.quick).nodes
    bench.processEvents(0.3)
    require(bench.panel.parameters.outputTransform is own.transform, "the panel adopted the transform of a script")
    with contextlib.suppress(WaveMorphError):
        bench.scriptLogic.process(fixed, fixed)
    require(bench.dialogs == [], f"a failing script opened a dialog: {bench.dialogs}")
    again = click(bench)
    after = np.array(again.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    require(np.linalg.norm(after - before) < 1.0, "the next click wrote another map into the node")
    require(scripted.transform is not again.transform, "script and panel share a node")


def fixedSpaceNodesFollow(bench):
    """A4. Nodes in the fixed space follow when the pair is registered again into the same outputs."""
    result = register(bench, *bench.pair)
    points = addPoints(bench, result.fixedNode)
    drawn = places(points)
    applyTransform(result.transformForFixedNodes(), [points])
    bench.panel.parameters.smoothness = type(bench.panel.parameters.smoothness).High
    again = click(bench)
    bench.panel.parameters.smoothness = type(bench.panel.parameters.smoothness).Medium
    require(len(SceneResult.allIn(bench.scene)) == 1, "a second set of outputs was made")
    forward = again.transform.GetTransformFromParent()
    require(np.abs(places(points) - [forward.TransformPoint(p) for p in drawn]).max() < 0.05, "the former map is kept")


def overlappingSegments(bench):
    """A5. Nested segments have their whole volume and their own overlap."""
    result = register(bench, *bench.pair)
    node = nestedSegments(bench, result.fixedNode)
    rows = tableRows(finish(volumeTable(result, node)))
    volumes = [float(row[1]) for row in rows]
    expected = [4 / 3 * np.pi * radius**3 / 1000 for radius in (16.0, 12.0, 8.0)]
    require(np.allclose(volumes, expected, rtol=0.15), f"volumes {volumes} ml, not {expected}")
    rows = tableRows(finish(overlapTable(result, node, nestedSegments(bench, result.movingNode))))
    require([row[0] for row in rows[:-1]] == ["PTV", "CTV", "GTV"], f"structures {rows}")
    return {"overlap": rows}


def layersStay(bench):
    """A6. What a mode shows stays when something is loaded after the result."""
    result = register(bench, *bench.pair)
    for mode in ("After", "Before", "Jacobian"):
        press(bench, mode)
        shown = bench.layers()
        bench.loadLabels(imageFromVolumeNode(result.fixedNode) > 0, os.path.join(bench.folder, "labels.nrrd"))
        bench.processEvents(0.3)
        require(bench.layers() == shown, f"{mode}: the layers became {bench.layers()} instead of {shown}")


def impossibleSizes(bench, factors=(10.0, 40.0)):
    """A7. A spacing that is wrong by this factor is said before the work, and again where it is clicked anyway."""
    said = {}
    for factor in factors:
        bench.clear()
        image = sitk.Image(bench.pair[1])
        image.SetSpacing([factor * side for side in image.GetSpacing()])
        choose(bench, bench.pair[0], image)
        require("mm" in bench.ui.statusLabel.text, f"before the work only {bench.ui.statusLabel.text!r} was said")
        bench.ui.registerButton.click()
        bench.until(lambda: not bench.job.active)
        outcome = bench.panel.logic.outcome
        messages = list(bench.dialogs) or (outcome.report["warnings"] if outcome is not None else [])
        require(messages, f"a spacing wrong by {factor:g} was registered without a word")
        said[f"{factor:g}"] = messages[0]
        bench.dialogs.clear()
    return said


def reopening(bench):
    """B8. A case that is saved, closed and read again can be viewed, measured and applied."""
    bench.request("Transform", "Warped", "Jacobian", "ExpectedError")
    register(bench, *bench.pair)
    path = os.path.join(bench.folder, "case.mrb")
    bench.saveScene(path)
    bench.clear()
    require(not bench.ui.resultSection.enabled, "a result without a scene")
    bench.loadScene(path)
    bench.processEvents(0.5)
    (result,) = SceneResult.allIn(bench.scene)
    require(bench.ui.resultSection.enabled, "the result of the reopened case is off")
    showEveryMode(bench, "reopened")
    points = addPoints(bench, result.fixedNode)
    drawn = places(points)
    applyTransform(result.transformForFixedNodes(), [points])
    require(np.abs(places(points) - drawn).max() > 0.1, "the transform of the reopened case moves nothing")
    return {"case.mrb, MB": os.path.getsize(path) / 1e6}


def modes(bench):
    """B2, B4, B5. Each mode is drawn, differs from the plain overlay, and leaves nothing behind."""
    bench.request("Transform", "Warped", "Jacobian", "ExpectedError")
    result = register(bench, *bench.pair)
    require(not bench.ui.gridCheckBox.checked, "the grid hides the anatomy")
    press(bench, "After")
    before, plain = nodeIds(bench.scene), bench.sliceImage()
    pictures = showEveryMode(bench, "mode")
    for mode, picture in pictures.items():
        if mode not in ("After", "Flicker"):
            require(differing(picture, plain) > 50, f"{mode} looks like After")
    legends = set()
    for mode, node in (("Jacobian", result.jacobian), ("ExpectedError", result.expectedError)):
        press(bench, mode)
        legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(node)
        legends.add(legend.GetID())
        withLegend = bench.sliceImage()
        legend.SetVisibility(False)
        require(differing(withLegend, bench.sliceImage()) > 50, f"{mode}: the legend is not drawn")
        legend.SetVisibility(True)
    press(bench, "After")
    require(differing(bench.sliceImage(), plain) < 50, "a mode has left a trace in the views")
    left = nodeIds(bench.scene) - before
    require(left <= legends, f"nodes left behind: {left}")
    bench.ui.gridCheckBox.checked = True
    require(differing(bench.sliceImage(), plain) > 50, "the grid is not drawn")
    bench.screenshot("grid")


def grid3D(bench):
    """B7. The grid in 3D is drawn within seconds, and is off again for the next result."""
    result = register(bench, *bench.pair)
    bench.ui.gridSpacingSlider.value = 3.0
    bench.ui.gridCheckBox.checked = True
    startTime = time.perf_counter()
    bench.ui.grid3DCheckBox.checked = True
    bench.processEvents(0.1)
    seconds = time.perf_counter() - startTime
    require(result.transform.GetDisplayNode().GetGridSpacingMm() >= 10, "finer than 10 mm in 3D")
    require(seconds < 10, f"the grid in 3D took {seconds:.1f} s")
    bench.screenshot("grid-3d")
    register(bench, *bench.pair[::-1])
    require(not result.transform.GetDisplayNode().GetVisibility(), "the grid of the former result is still on")
    return {"grid in 3D, s": seconds}


def otherModule(bench):
    """B6. In another module nothing flickers, and a result that arrives there leaves its views alone."""
    result = register(bench, *bench.pair)
    press(bench, "Flicker")
    bench.leaveModule()
    require(not bench.panel.result.view.flickers, "the flicker goes on in another module")
    require(not any(node.GetHideFromEditors() for node in bench.layers() if node is not None), "a hidden node is shown")
    bench.enterModule()
    bench.holdWorker()
    bench.ui.registerButton.click()
    bench.leaveModule()
    bench.showAlone(result.movingNode)
    shown, place = bench.layers(), bench.slicePlace()
    bench.resumeWorker()
    bench.until(lambda: not bench.job.active)
    bench.processEvents(0.3)
    require((bench.layers(), bench.slicePlace()) == (shown, place), "a result took over the views of another module")
    bench.enterModule()
    bench.processEvents(0.3)
    (again,) = SceneResult.allIn(bench.scene)
    require(bench.layers() == [again.fixedNode, again.warped], "the result that arrived meanwhile is not shown")
    require(bench.slicePlace() == place, "the slice was moved")


def everyCombination(bench):
    """B9. Whatever is requested or deleted: a mode works, or is off with a reason; no dialog."""
    for wanted in (("Transform",), ("Jacobian",), ("Warped",), ("ExpectedError",)):
        bench.clear()
        bench.request(*wanted)
        register(bench, *bench.pair)
        showPossibleModes(bench)
    bench.request("Transform", "Warped", "Jacobian", "ExpectedError")
    for deleted in ("movingNode", "warped", "transform", "expectedError", "fixedNode"):
        bench.clear()
        result = register(bench, *bench.pair)
        press(bench, "Warp")
        bench.scene.RemoveNode(getattr(result, deleted))
        bench.processEvents(0.3)
        showPossibleModes(bench)
    bench.clear()
    result = register(bench, *bench.pair)
    applyTransform(result.transform, [result.movingNode])
    showPossibleModes(bench)
    press(bench, "Before")
    before = bench.sliceImage()
    press(bench, "After")
    require(differing(before, bench.sliceImage()) > 50, "under its transform, Before equals After")


def measuring(bench):
    """B10. Measuring does not stop the application, and every table can be chosen."""
    result = register(bench, *bench.pair)
    ui = bench.ui
    ui.measureBox.collapsed = False
    ui.fixedSegmentationSelector.setCurrentNode(nestedSegments(bench, result.fixedNode))
    ui.movingSegmentationSelector.setCurrentNode(nestedSegments(bench, result.movingNode))
    ui.measureButton.click()
    require(ui.measureButton.text != "Measure", "measuring did not start")
    longest = 0.0
    while ui.measureButton.text != "Measure":
        startTime = time.perf_counter()
        bench.processEvents()
        longest = max(longest, time.perf_counter() - startTime)
    require(bench.dialogs == [], f"dialogs: {bench.dialogs}")
    require(longest < LONGEST_PIECE_SECONDS, f"measuring stopped the application for {longest:.2f} s")
    require(ui.tableSelector.count == 3, f"{ui.tableSelector.count} tables can be chosen")
    return {"longest piece, s": longest}


def sampleData(bench):
    """B1. The pairs of the module Sample Data are registered, and the one that is computed can be loaded."""
    require(len(bench.sampleNames()) == 4, f"sample data: {bench.sampleNames()}")
    nodes = addSyntheticPair()
    require(all(node.GetImageData() is not None for node in nodes), "the synthetic pair has no voxels")


def scriptsThatDoNotWait(bench):
    """B19. The outcome arrives while the application runs; nodes of a wrong type are refused in a sentence."""
    fixed, moving = choose(bench, *bench.pair)
    registration = bench.scriptLogic.registration
    require(bench.scriptLogic.process(fixed, moving, waitForCompletion=False, **bench.quick) is None, "it waited")
    bench.until(lambda: not registration.job.active)
    require(registration.outcome is not None, f"no outcome: {registration.job.error}")
    require(registration.outcome.nodes.isOf(fixed, moving), "the outcome is of another pair")
    for wrong in ("3: T1", addPoints(bench, fixed)):
        try:
            bench.scriptLogic.process(fixed, wrong)
        except WaveMorphError as error:
            require("must be a volume node" in str(error), f"unclear: {error}")
        else:
            require(False, f"{wrong} was registered")


def workerFaults(bench):
    """A killed worker, a cancel and a closed scene leave the scene as it was, and the next registration runs."""
    choose(bench, *bench.pair)
    before = nodeIds(bench.scene)
    startAndWait(bench)
    bench.killWorker()
    bench.until(lambda: not bench.job.active)
    require(len(bench.dialogs) == 1 and "ended unexpectedly" in bench.dialogs[0], f"dialogs: {bench.dialogs}")
    bench.dialogs.clear()
    require(nodeIds(bench.scene) == before, "a killed worker changed the scene")
    startAndWait(bench)
    startTime = time.perf_counter()
    bench.ui.registerButton.click()
    bench.until(lambda: not bench.job.active)
    seconds = time.perf_counter() - startTime
    require(seconds < 2, f"canceling took {seconds:.1f} s")
    require(nodeIds(bench.scene) == before, "a canceled registration changed the scene")
    startAndWait(bench)
    bench.clear()
    bench.until(lambda: not bench.job.active)
    bench.resumeWorker()
    require(bench.dialogs == [], f"closing the scene opened {bench.dialogs}")
    register(bench, *bench.pair)
    return {"cancel, s": seconds}


def panelFits(bench):
    """B3, B17. On a small screen Register is in view, and nothing makes the panel wider than it is."""
    result = register(bench, *bench.pair)
    result.movingNode.SetName("a volume with the long name that a scanner gives it, series 5, sagittal, after contrast")
    bench.ui.applyBox.collapsed = bench.ui.measureBox.collapsed = False
    bench.processEvents(0.2)
    for width in (420, 560):
        bench.panelScreenshot(f"panel-{width}", width, 700)
        top, bottom, height = bench.placeOfRegister()
        require(top >= 0 and bottom <= height, f"at {width} x 700 Register is at {top} to {bottom} of {height}")
    needed = bench.neededWidth()
    require(needed <= 400, f"the panel needs {needed} pixels")
    return {"needed width, pixels": needed}


def sizesAndSeconds(bench):
    """B12, B14. The seconds from a click to the nodes, and the sizes of files and scenes, as they are and at 2 mm."""
    numbers = {}
    choose(bench, *bench.pair)
    for attempt in ("first", "second"):
        startTime = time.perf_counter()
        result = click(bench)
        numbers[f"{attempt} click, s"] = time.perf_counter() - startTime
        numbers[f"{attempt} click, of which engine, s"] = result.report["seconds"]["total"]
    for name in ("transform.h5", "transform.nii.gz", "transform.nrrd"):
        path = os.path.join(bench.folder, name)
        exportTransform(result.transform, path, result.fixedNode)
        numbers[f"{name}, MB"] = os.path.getsize(path) / 1e6
    numbers["scene, MB"] = sizeOfScene(bench, "scene")
    bench.request("Transform", "Warped", "Jacobian", "Inverse")
    click(bench)
    numbers["scene with inverse, MB"] = sizeOfScene(bench, "scene-inverse")
    bench.ui.storeCoarselyCheckBox.checked = True
    stored = click(bench).report.get("stored")
    bench.ui.storeCoarselyCheckBox.checked = False
    if stored is not None:  # the voxels are not as coarse themselves
        require(f"{stored['error_mm']['max']:.2f} mm" in bench.ui.statusLabel.text, "the error of storing is not said")
        numbers["stored at 2 mm, error, mm"] = stored["error_mm"]
        numbers["scene with inverse, stored at 2 mm, MB"] = sizeOfScene(bench, "scene-inverse-2mm")
    return numbers


PARTS = (
    sampleData,
    sizesAndSeconds,
    twoPatientsOfTheSameNames,
    outputsAreNotInputs,
    scriptsAndPanelAreSeparate,
    fixedSpaceNodesFollow,
    overlappingSegments,
    layersStay,
    impossibleSizes,
    reopening,
    modes,
    grid3D,
    otherModule,
    everyCombination,
    measuring,
    scriptsThatDoNotWait,
    workerFaults,
    panelFits,
)
