"""The panel and the module's self-test with the real worker process."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import SimpleITK as sitk
from processes import isRunning
from wavemorph.cli import demo
from wavemorph.io.images import same_lattice
from wavemorph.training.known_deformation import Difference, make_pair
from WaveMorphRegistrationLib.engine.job import JobState
from WaveMorphRegistrationLib.scene.transforms import transformFromNode
from WaveMorphRegistrationLib.scene.volumes import imageFromVolumeNode


def startAndWait(opened):
    """Start a registration and wait for its affine stage; returns the process ID of the worker."""
    opened.ui.registerButton.click()
    opened.until(lambda: opened.job.stage == "Affine")
    return opened.job.workerProcessId


def test_the_self_test_of_the_module_passes(headless):
    import WaveMorphRegistration

    test = WaveMorphRegistration.WaveMorphRegistrationTest()
    test.runTest()
    assert test.messages[-1] == "All parts passed."
    assert len(test.messages) == 5


def test_a_second_click_fills_the_same_nodes_with_the_same_worker(opened, tiny_pair):
    opened.choose(*tiny_pair)
    opened.ui.wantExpectedErrorCheckBox.checked = True
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    error = imageFromVolumeNode(opened.logic.outcome.nodes.expectedError)
    assert same_lattice(error, tiny_pair[0])
    known = sitk.GetArrayFromImage(error)
    assert np.median(known[known > 0]) > 0 == known[0, 0, 0]
    assert opened.logic.outcome.report["expected_error"]["probability_percent"] == 90
    first, worker, before = opened.logic.outcome, opened.job.workerProcessId, opened.nodeIds()
    point = np.array(first.nodes.transform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0)))
    assert np.linalg.norm(point - (-4.0, 0.0, 3.0)) < 1.0  # RAS of 4 mm to the left and 3 mm up
    opened.register()
    assert opened.job.workerProcessId == worker
    assert opened.nodeIds() == before
    assert opened.logic.outcome.nodes.transform is first.nodes.transform


def test_a_real_brain_is_registered_to_within_a_voxel_of_the_truth(opened):
    """The MNI template on voxels of 3 mm, deformed, rotated and with another contrast."""
    template = sitk.ReadImage(str(demo.template_path()), sitk.sitkFloat32)
    coarse = sitk.Resample(
        sitk.SmoothingRecursiveGaussian(template, 1.2),
        [n // 3 for n in template.GetSize()],
        sitk.Transform(),
        sitk.sitkLinear,
        template.GetOrigin(),
        [3.0] * 3,
        template.GetDirection(),
    )
    pair = make_pair(coarse, Difference(spacing_mm=(3.0, 3.0, 3.0)))
    opened.choose(pair.fixed, pair.moving)
    opened.register()
    assert opened.dialogs == []
    assert opened.logic.outcome.report["folding"]["strict_voxels"] == 0
    transform = transformFromNode(opened.logic.outcome.nodes.transform, pair.fixed)
    assert pair.error_mm(transform).mean() < 3.0 < 0.4 * pair.error_mm(sitk.Transform()).mean()


def test_canceling_takes_less_than_two_seconds_and_leaves_the_scene_unchanged(opened, tiny_pair):
    opened.choose(*tiny_pair)
    before = opened.nodeIds()
    startAndWait(opened)
    startTime = time.monotonic()
    opened.ui.registerButton.click()
    opened.until(lambda: not opened.job.active)
    assert time.monotonic() - startTime < 2.0
    assert opened.nodeIds() == before
    assert opened.ui.statusLabel.text == "Canceled; the scene was not changed."
    opened.register()
    assert opened.logic.outcome is not None
    assert opened.dialogs == []


def test_a_worker_that_does_not_answer_a_cancel_message_is_killed(opened, tiny_pair):
    opened.choose(*tiny_pair)
    worker = startAndWait(opened)
    os.kill(worker, signal.SIGSTOP)  # does not respond, like a process whose GPU driver hangs
    startTime = time.monotonic()
    opened.ui.registerButton.click()
    opened.until(lambda: not opened.job.active)
    assert time.monotonic() - startTime < 2.0
    assert not isRunning(worker)


def test_a_worker_that_dies_is_reported_and_replaced(opened, tiny_pair):
    opened.choose(*tiny_pair)
    before = opened.nodeIds()
    os.kill(startAndWait(opened), signal.SIGKILL)
    opened.until(lambda: not opened.job.active)
    assert opened.job.state is JobState.Failed
    assert len(opened.dialogs) == 1
    assert "ended unexpectedly" in opened.dialogs[0]
    assert opened.nodeIds() == before
    opened.register()
    assert opened.logic.outcome is not None


def test_a_scene_that_closes_cancels_the_job(opened, tiny_pair):
    opened.choose(*tiny_pair)
    startAndWait(opened)
    opened.scene.Clear(0)
    opened.until(lambda: not opened.job.active)
    opened.processEvents()
    assert opened.dialogs == []
    assert opened.scene.GetNumberOfNodesByClass("vtkMRMLGridTransformNode") == 0


def test_no_worker_runs_after_the_panel_is_closed(opened, tiny_pair):
    opened.choose(*tiny_pair)
    worker = startAndWait(opened)
    opened.panel.close()
    assert not isRunning(worker)
    assert not opened.job.active
