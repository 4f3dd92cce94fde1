"""A registration that does not reach its end: canceled, crashed, or without its scene, its nodes or its panel."""

from __future__ import annotations

from WaveMorphRegistrationLib.engine import job
from WaveMorphRegistrationLib.engine.job import JobState


def startAndPause(opened):
    """Start a registration whose worker stops sending events in the affine stage."""
    opened.ui.registerButton.click()
    opened.until(lambda: opened.job.stage == "Affine")


def test_canceling_leaves_the_scene_unchanged_and_the_panel_ready(opened, fakeWorker, tiny_pair):
    fakeWorker["holdAt"] = "Affine"
    opened.choose(*tiny_pair)
    before = opened.nodeIds()
    startAndPause(opened)
    assert opened.ui.registerButton.text == "Cancel"
    opened.ui.registerButton.click()
    assert opened.job.state is JobState.Canceling
    assert not opened.ui.registerButton.enabled
    opened.until(lambda: not opened.job.active)
    assert not opened.worker.killed
    assert opened.nodeIds() == before
    assert opened.ui.statusLabel.text == "Canceled; the scene was not changed."
    opened.worker.resume()
    opened.register()
    assert opened.logic.outcome is not None
    assert opened.dialogs == []


def test_a_worker_that_does_not_answer_a_cancel_message_is_killed(opened, fakeWorker, tiny_pair, monkeypatch):
    monkeypatch.setattr(job, "CANCEL_GRACE_SECONDS", 0.05)
    fakeWorker.update(holdAt="Affine", answersCancel=False)
    opened.choose(*tiny_pair)
    startAndPause(opened)
    worker = opened.worker
    opened.ui.registerButton.click()
    assert not worker.killed
    opened.until(lambda: not opened.job.active)
    assert worker.killed
    assert opened.ui.statusLabel.text == "Canceled; the scene was not changed."


def test_a_worker_that_dies_is_reported_and_replaced(opened, fakeWorker, tiny_pair):
    fakeWorker["holdAt"] = "Affine"
    opened.choose(*tiny_pair)
    before = opened.nodeIds()
    startAndPause(opened)
    first = opened.job.workerProcessId
    opened.worker.crash("Segmentation fault")
    opened.until(lambda: not opened.job.active)
    assert opened.job.state is JobState.Failed
    assert len(opened.dialogs) == 1
    assert "ended unexpectedly (stage: Affine)" in opened.dialogs[0]
    assert "Segmentation fault" in opened.ui.logText.plainText
    assert opened.nodeIds() == before
    fakeWorker.clear()
    opened.register()
    assert opened.logic.outcome is not None
    assert opened.job.workerProcessId != first


def test_a_scene_that_closes_cancels_the_job(opened, fakeWorker, tiny_pair):
    fakeWorker["holdAt"] = "Affine"
    opened.choose(*tiny_pair)
    startAndPause(opened)
    opened.scene.Clear(0)
    opened.until(lambda: not opened.job.active)
    opened.processEvents()
    assert opened.dialogs == []
    assert opened.ui.registerButton.text == "Select fixed and moving volumes"
    assert opened.scene.GetNumberOfNodesByClass("vtkMRMLGridTransformNode") == 0
    opened.worker.resume()
    opened.choose(*tiny_pair)
    opened.register()
    assert opened.logic.outcome is not None


def test_a_volume_deleted_during_the_registration_ends_the_job_with_a_message(opened, fakeWorker, tiny_pair):
    fakeWorker["holdAt"] = "Affine"
    _fixed, moving = opened.choose(*tiny_pair)
    startAndPause(opened)
    opened.scene.RemoveNode(moving)
    opened.worker.resume()
    opened.until(lambda: not opened.job.active)
    assert opened.dialogs == [
        "The result could not be imported into the scene: the moving volume was deleted during the registration, so "
        "its result was discarded"
    ]
    assert opened.scene.GetNumberOfNodesByClass("vtkMRMLGridTransformNode") == 0


def test_no_worker_runs_after_the_panel_is_closed(opened, fakeWorker, tiny_pair):
    fakeWorker["holdAt"] = "Affine"
    opened.choose(*tiny_pair)
    startAndPause(opened)
    worker = opened.worker
    opened.panel.close()
    assert worker.killed and not worker.running
    assert not opened.job.active


def test_a_reloaded_module_shows_the_choices_of_the_former_one(opened, tiny_pair):
    """Reload: the former widget is cleaned up and its worker closed."""
    fixed, moving = opened.choose(*tiny_pair)
    opened.register()
    worker = opened.worker
    opened.widget.cleanup()
    assert not worker.running
    reloaded = type(opened.widget)()
    reloaded.setup()
    opened.processEvents()
    assert (reloaded.panel.parameters.fixedVolume, reloaded.panel.parameters.movingVolume) == (fixed, moving)
    assert reloaded.ui.registerButton.enabled
    reloaded.cleanup()
    reloaded.parent.setMRMLScene(None)


def test_the_worker_starts_when_two_volumes_are_chosen(opened, fakeWorker, tiny_pair):
    assert opened.worker is None
    opened.choose(*tiny_pair)
    assert opened.worker.running and opened.worker.messages == []
    assert not opened.job.active
    assert opened.ui.registerButton.text == "Register"
    prepared = opened.job.workerProcessId
    opened.register()
    assert opened.job.workerProcessId == prepared
