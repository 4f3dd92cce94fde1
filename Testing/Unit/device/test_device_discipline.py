"""Registration, training and the worker on a device that refuses to mix with the CPU; results as on the CPU."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from miniatures import TINY_SEGMENTATION, tiny_recipe
from segmentations import confident_structures, lattice, round_structures
from stand_in_device import DEVICE, stand_in_device
from wavemorph import Settings, register, worker
from wavemorph.models.weights import resolve_segmentation_model
from wavemorph.network import NetworkConfig
from wavemorph.registration import pipeline
from wavemorph.registration.deformable import stage as deformable
from wavemorph.registration.segmentation import inference, stage
from wavemorph.registration.segmentation.brain import BrainSegmentation
from wavemorph.registration.segmentation.inference import Search, SegmentationInput
from wavemorph.spatial.preprocessing import foreground
from wavemorph.system import strategy
from wavemorph.training.brain_atlas import Atlas
from wavemorph.training.datasets import DataPairs, IxiData
from wavemorph.training.loop import SegmentationTrainer, Trainer
from wavemorph.training.synthetic_heads import LabeledCrops

QUICK = {"spacing_mm": 4.0, "affine": False}
MOST_ITERATIONS = 3  # of a level: where tensors are does not depend on their number


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    def shortened(choose):
        def chosen(*arguments):
            schedule = choose(*arguments)
            levels = schedule.levels if schedule is not None else ()
            short = tuple(
                dataclasses.replace(each, iterations=min(each.iterations, MOST_ITERATIONS)) for each in levels
            )
            return schedule and dataclasses.replace(schedule, levels=short)

        return chosen

    for name in ("choose_schedule", "body_schedule"):
        monkeypatch.setattr(deformable, name, shortened(getattr(deformable, name)))
    # in float32, which the device and every CPU have
    changed = dataclasses.replace(strategy.ACCELERATOR, look_interval=2, halves_passes=False)
    monkeypatch.setattr(strategy, "ACCELERATOR", changed)


@pytest.fixture
def device(monkeypatch):
    """The log of the device that every registration runs on."""
    monkeypatch.setattr(pipeline, "choose_device", lambda name: DEVICE)
    with stand_in_device() as log:
        yield log


def field_of(registration) -> np.ndarray:
    return sitk.GetArrayFromImage(registration.displacement)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "Instant"},
        {"preset": "Balanced", "inverse": True},
        {"preset": "Precise"},
        {"weights": "none"},
        {"contrast": "different", "preset": "Precise"},
        {"similarity": "mi", "smoothness": "high"},
        {"similarity": "mind"},
        {"max_voxels": 6000},
        {"error_map": True},
    ],
    ids=str,
)
def test_every_kind_of_registration_stays_on_its_device(device, tiny_pair, settings):
    report = register(*tiny_pair, Settings(**{**QUICK, **settings})).report
    assert device.launches > 500
    assert report["device"]["type"] == DEVICE.type
    assert report["folding"]["strict_voxels"] == 0
    assert report["similarity"]["after"] > report["similarity"]["before"]


@pytest.mark.parametrize("transform_type", ["rigid", "affine"])
def test_a_linear_registration_is_measured_on_the_device(device, tiny_pair, transform_type):
    report = register(*tiny_pair, Settings(transform_type=transform_type, spacing_mm=4.0)).report
    assert device.launches > 100
    assert report["device"]["type"] == DEVICE.type
    assert report["similarity"]["after"] > report["similarity"]["before"] - 0.05


@pytest.mark.parametrize("settings", [{"preset": "Instant"}, {"preset": "Precise", "inverse": True}], ids=str)
def test_the_result_is_that_of_the_cpu_by_the_same_strategy(tiny_pair, settings, monkeypatch):
    settings = Settings(**{**QUICK, **settings})
    with monkeypatch.context() as on_cpu:
        on_cpu.setattr(strategy, "CPU", strategy.ACCELERATOR)
        expected = field_of(register(*tiny_pair, settings))
    monkeypatch.setattr(pipeline, "choose_device", lambda name: DEVICE)
    with stand_in_device():
        found = field_of(register(*tiny_pair, settings))
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_masks_and_a_non_linear_initial_transform_stay_on_the_device(device, tiny_pair):
    fixed, moving = tiny_pair
    masks = [foreground(each) for each in tiny_pair]
    grid = sitk.BSplineTransformInitializer(fixed, (3, 3, 3))
    grid.SetParameters((3 * np.random.default_rng(0).standard_normal(len(grid.GetParameters()))).tolist())
    result = register(
        fixed, moving, Settings(**QUICK), fixed_mask=masks[0], moving_mask=masks[1], initial_transform=grid
    )
    assert result.report["folding"]["strict_voxels"] == 0


def test_a_scan_that_cuts_the_subject_off_stays_on_the_device(device):
    """Also more nodes than the evidence fits a rigid motion to."""
    whole, cut = phantoms.regular((48, 48, 48), (2.0, 2.0, 2.0)), phantoms.regular((48, 48, 26), (2.0, 2.0, 2.0))
    result = register(phantoms.head(whole), phantoms.head(cut, (2.0, 0.0, 1.0)), Settings(spacing_mm=2.0, affine=False))
    assert result.report["folding"]["evaluated_voxels"] > 4000
    assert result.report["subject"]["unseen_percent"] > 0.1


@pytest.mark.parametrize(
    ("preset", "stripped"), [("Precise", (True, True)), ("Balanced", (False, True)), ("Balanced", (True, False))]
)
def test_segmented_brains_stay_on_the_device(device, tiny_pair, preset, stripped, monkeypatch):
    brain, _ = confident_structures(lattice())
    given = iter(stripped)

    def first_look(source):
        return Search(BrainSegmentation(brain.probabilities.to(DEVICE), brain.grid, next(given)), True, True)

    monkeypatch.setattr(stage, "first_look", first_look)
    monkeypatch.setattr(stage, "finish", lambda source, found, flip_tta: found)
    report = register(*tiny_pair, Settings(preset=preset, spacing_mm=4.0)).report
    assert report["segmentation"]["after"] > 0.5


def test_the_segmentation_of_a_volume_stays_on_the_device(device, tiny_pair, monkeypatch):
    monkeypatch.setattr(inference, "computes_in_bfloat16", lambda device: False)
    model = resolve_segmentation_model(DEVICE)
    source = SegmentationInput(model.network, tiny_pair[0], foreground(tiny_pair[0]), model.card.extra["atlas"])
    grid = source.grid_along(np.diag([-1.0, -1.0, 1.0]))
    expected = inference._segment_on_grid(source, grid)
    brain = inference.finish(source, expected, flip_tta=True)
    assert brain.probabilities.device == DEVICE
    reference = resolve_segmentation_model("cpu")
    on_cpu = SegmentationInput(reference.network, *(getattr(source, n) for n in ("image", "foreground", "atlas")))
    plain = inference.finish(on_cpu, inference._segment_on_grid(on_cpu, grid), flip_tta=True)
    assert torch.allclose(brain.probabilities.cpu(), plain.probabilities, atol=1e-4)


def test_training_on_a_data_set_stays_on_the_device_and_continues(device, ixi, tmp_path):
    losses = []
    for place in (DEVICE, torch.device("cpu")):
        folder = tmp_path / place.type
        Trainer(tiny_recipe(), DataPairs(IxiData(ixi), device=place), folder, place).run(until_pair=1)
        trainer = Trainer(tiny_recipe(), DataPairs(IxiData(ixi), device=place), folder, place)
        trainer.run(until_pair=2)
        assert next(trainer.network.parameters()).device == place
        losses.append([float(line.split(",")[2]) for line in (folder / "losses.csv").read_text().split()[1:]])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_training_of_the_segmentation_stays_on_the_device(device, tmp_path):
    brain = round_structures(lattice((40, 36, 44))).probabilities
    labels = brain.argmax(1, keepdim=True).float()
    image = (labels / 11).clamp(0, 1)
    atlas = Atlas(image, labels, torch.rand(1, 2, *labels.shape[2:]),
                  torch.rand(1, 1, 20, 18, 22), (0.0, 0.0, 0.0))  # fmt: skip
    recipe = tiny_recipe(network=NetworkConfig.from_dict(TINY_SEGMENTATION))
    trainer = SegmentationTrainer(recipe, LabeledCrops(atlas, device=DEVICE, size=(32, 40, 24)), tmp_path, DEVICE)
    trainer.run(until_pair=4)
    assert trainer.pair == 4


def test_a_job_of_the_worker_stays_on_the_device(device, tiny_pair, tmp_path):
    for name, image in zip(("fixed", "moving"), tiny_pair):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    events = io.StringIO()
    one = worker.Worker(io.StringIO(), events)
    one._do({"job": 1, "folder": str(tmp_path), "settings": QUICK, "outputs": ["warped", "jacobian", "field"]})
    last = json.loads(events.getvalue().splitlines()[-1])
    assert last["event"] == "result", last
    assert (tmp_path / "result" / "warped.nrrd").exists() or list((tmp_path / "result").iterdir())
    assert device.launches > 1000
