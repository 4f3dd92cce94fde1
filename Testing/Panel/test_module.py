"""The module as Slicer loads it: its sample data, its use from a script, its packages."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import slicer
from sceneVolumes import addVolume
from wavemorph.errors import InputError, WaveMorphError
from WaveMorphRegistrationLib.engine import dependencies
from WaveMorphRegistrationLib.samples import sampleData


def test_the_module_has_a_title_and_registers_its_sample_data_after_the_start(headless):
    import WaveMorphRegistration

    parent = types.SimpleNamespace()
    WaveMorphRegistration.WaveMorphRegistration(parent)
    assert parent.title == "WaveMorph Registration"
    assert parent.categories == ["Registration"]
    assert slicer.app.connected["startupCompleted()"] is WaveMorphRegistration.registerSampleData


def test_the_start_of_slicer_imports_neither_the_engine_nor_simpleitk_nor_numpy():
    """In a process of its own, with the names that the module needs of Slicer's Python layer at the start."""
    start = Path(__file__).resolve().parents[1] / "Benchmarks" / "extension" / "files_and_startup.py"
    finished = subprocess.run(
        [sys.executable, str(start), "start", "--json"], capture_output=True, text=True, check=True
    )
    measured = json.loads(finished.stdout)
    assert measured["registered"] == 4
    loaded = {name.split(".")[0] for name in measured["modules"]}
    assert "WaveMorphRegistration" in loaded and "WaveMorphRegistrationLib" in loaded
    assert not loaded & {"wavemorph", "SimpleITK", "numpy", "torch", "safetensors", "vtk", "vtkmodules", "qt"}


@pytest.mark.parametrize("hasCategories", [True, False], ids=["5.10", "5.8"])
def test_sample_data_are_registered_with_checksums_or_computed(headless, monkeypatch, hasCategories):
    import WaveMorphRegistration

    sources, categories = [], []

    class Logic:
        registerCustomSampleDataSource = staticmethod(lambda **source: sources.append(source))

    if hasCategories:
        Logic.registerCustomSampleDataCategory = staticmethod(lambda name, title: categories.append(name))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=Logic))
    WaveMorphRegistration.registerSampleData()
    assert categories == [sampleData.CATEGORY] * hasCategories
    assert {source["sampleName"] for source in sources} == {*sampleData.PAIRS, sampleData.SYNTHETIC}
    for source in sources:
        if "uris" in source:
            assert len(source["uris"]) == len(source["fileNames"]) == len(source["nodeNames"]) == 2
            for uri, checksum in zip(source["uris"], source["checksums"]):
                assert uri.endswith(checksum.split(":")[1])
    (local,) = [source for source in sources if "customDownloader" in source]
    nodes = local["customDownloader"](None)
    assert [node.GetClassName() for node in nodes] == ["vtkMRMLScalarVolumeNode"] * 2


def test_a_script_registers_without_a_panel(headless, fakeWorker, tiny_pair):
    import WaveMorphRegistration

    fixed, moving = (addVolume(headless, image, name) for image, name in zip(tiny_pair, "FM"))
    logic = WaveMorphRegistration.WaveMorphRegistrationLogic()
    try:
        outcome = logic.process(fixed, moving, outputs=("warped",), spacing_mm=4.0, threads=1)
        assert [node.GetName() for node in outcome.nodes.all()] == ["M registered"]
        with pytest.raises(InputError, match="must not be the same"):
            logic.process(fixed, fixed)
        with pytest.raises(WaveMorphError, match="Unknown output"):
            logic.process(fixed, moving, outputs=("everything",))
        with pytest.raises(WaveMorphError, match="Unknown setting"):
            logic.process(fixed, moving, speed="fast")
    finally:
        logic.close()


@pytest.fixture
def scriptLogic(headless, fakeWorker):
    import WaveMorphRegistration

    logic = WaveMorphRegistration.WaveMorphRegistrationLogic()
    yield logic
    logic.close()


def test_a_script_that_does_not_wait_gets_the_outcome_from_the_event_loop(headless, scriptLogic, tiny_pair):
    fixed, moving = (addVolume(headless, image, name) for image, name in zip(tiny_pair, "FM"))
    finished = []
    scriptLogic.registration.onFinished = finished.append
    arguments = {"outputs": "warped", "spacing_mm": 4.0, "threads": 1}
    assert scriptLogic.process(fixed, moving, waitForCompletion=False, **arguments) is None
    deadline = time.monotonic() + 60
    while not finished and time.monotonic() < deadline:
        slicer.app.processEvents()
    (outcome,) = finished
    assert [node.GetName() for node in outcome.nodes.all()] == ["M registered"]
    assert not scriptLogic.registration.job.active
    assert scriptLogic.registration._timer is None


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("fixedVolume", "MRHead", "fixed volume must be a volume node, not str .MRHead"),
        ("movingVolume", 7, "moving volume must be a volume node, not int .7"),
        ("movingVolume", "vtkMRMLModelNode", "moving volume must be a volume node, not it .vtkMRMLModelNode"),
        ("fixedMask", "vtkMRMLScalarVolumeNode", "fixed mask must be a segmentation or label map node, not it"),
        ("movingMask", [1, 2], "moving mask must be a segmentation or label map node, not list"),
        ("initialTransform", "vtkMRMLModelNode", "initial transform must be a transform node, not it"),
        ("initialTransform", "a.h5", "initial transform must be a transform node, not str"),
        ("storeSpacingMm", -2, "stored at a spacing above 0 mm, not -2 mm"),
        ("storeSpacingMm", "fine", "stored at a spacing above 0 mm, not fine mm"),
    ],
)
def test_a_script_that_passes_something_else_gets_a_sentence(headless, scriptLogic, tiny_pair, argument, value, words):
    arguments = {
        name: addVolume(headless, image, name) for image, name in zip(tiny_pair, ("fixedVolume", "movingVolume"))
    }
    isClass = str(value).startswith("vtkMRML")
    arguments[argument] = headless.scene.AddNewNodeByClass(value, "it") if isClass else value
    with pytest.raises(WaveMorphError, match=words):
        scriptLogic.process(**arguments)
    assert not scriptLogic.registration.job.active


class PyTorchUtils(types.ModuleType):
    """The part of the PyTorch extension that the module calls; `answer` is what installing does."""

    def __init__(self, answer):
        super().__init__("PyTorchUtils")
        self.calls = []

        def installTorch(logic, **arguments):
            self.calls.append(arguments)
            return answer()

        self.PyTorchUtilsLogic = type("PyTorchUtilsLogic", (), {"installTorch": installTorch})


def fail():
    raise RuntimeError("[WinError 206] The filename or extension is too long")


@pytest.mark.parametrize(
    ("answer", "words"),
    [(fail, "could not be installed .*WinError 206"), (lambda: None, "WaveMorph needs PyTorch; press Register")],
)
def test_torch_is_installed_by_its_extension_and_a_refusal_is_a_message(monkeypatch, answer, words):
    utils = PyTorchUtils(answer)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
    monkeypatch.setattr(dependencies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dependencies.DependencyError, match=words):
        dependencies.ensureDependencies()
    assert utils.calls == [{"askConfirmation": True, "torchVersionRequirement": ">=2.1"}]


@pytest.mark.parametrize(
    ("version", "words"), [(None, "only partly installed"), ("1.13.1", "1.13.1 is too old; .* 2.1 or later")]
)
def test_an_unsuitable_torch_is_reported(monkeypatch, version, words):
    real = importlib.metadata.version
    monkeypatch.setattr(
        dependencies.importlib.metadata, "version", lambda name: version if name == "torch" else real(name)
    )
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(dependencies.DependencyError, match=words):
        dependencies.ensureDependencies()


def test_missing_packages_are_installed_after_a_question_and_a_refusal_is_a_message(monkeypatch):
    installed = []
    monkeypatch.setattr(dependencies, "_readRequirements", lambda path: ["surely-not-installed>=3"])
    monkeypatch.setattr(slicer.util, "pip_install", installed.append, raising=False)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: False, raising=False)
    with pytest.raises(dependencies.DependencyError, match="surely-not-installed>=3, which was not installed"):
        dependencies.ensureDependencies()
    assert installed == []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: True)
    with pytest.raises(dependencies.DependencyError, match="was not installed"):
        dependencies.ensureDependencies()
    assert installed == [["surely-not-installed>=3"]]


def test_nothing_is_asked_where_nothing_is_missing():
    dependencies.ensureDependencies()
