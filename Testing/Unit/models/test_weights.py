"""Models on disk: saved and loaded, cached, of earlier versions, and every way in which a file can be wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from wavemorph.cli.main import main
from wavemorph.errors import WeightsError
from wavemorph.models import weights
from wavemorph.network import NetworkConfig, SegmentationNetwork, WaveMorphNetwork

CONFIG = NetworkConfig(channels=(4, 8, 8), bottleneck_blocks=1, bottleneck_kernel=3)
SEGMENTATION = dataclasses.replace(CONFIG, output="segmentation", inputs="image")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty folder of user models, and no shipped ones."""
    monkeypatch.setenv("WAVEMORPH_MODELS", str(tmp_path))
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", tmp_path / "shipped")
    return tmp_path


def saved(folder, name="tiny", seed=0):
    torch.manual_seed(seed)
    network = WaveMorphNetwork(CONFIG)
    return network, weights.save_model(network, weights.ModelCard(name, "for tests", {}), folder)


def rewrite(path, tensors):
    """Other tensors, and their checksum in the card."""
    save_file(tensors, path)
    card = json.loads(path.with_suffix(".json").read_text())
    card.update(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), checksum="")
    path.with_suffix(".json").write_text(json.dumps(card))


def test_a_saved_model_predicts_the_same_after_loading(models):
    network, path = saved(models)
    pair = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    for asked in ("tiny", str(path), path):
        model = weights.resolve(asked, "cpu")
        assert model.network.config == CONFIG
        assert not model.network.training
        assert torch.equal(model.network.predict_symmetric(*pair), network.predict_symmetric(*pair))
        assert model.sha256 == model.card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_none_is_no_model_and_auto_is_the_default_model_or_an_error_where_it_is_missing(models):
    assert weights.resolve("none", "cpu") is None
    saved(models)
    with pytest.raises(WeightsError, match="default model is missing"):
        weights.resolve("auto", "cpu")
    saved(models, weights.DEFAULT_MODEL)
    assert weights.resolve("auto", "cpu").card.name == weights.DEFAULT_MODEL
    assert weights.resolve("none", "cpu") is None


def test_models_are_listed_with_the_shipped_one_before_a_users_of_the_same_name(models):
    saved(models, "other")
    saved(models, "tiny")
    saved(weights.SHIPPED_FOLDER, "tiny", seed=1)
    listed = weights.list_models()
    assert [model.name for model in listed] == ["other", "tiny"]
    assert listed[1].path.parent == weights.SHIPPED_FOLDER


def test_a_model_without_a_readable_card_is_not_listed(models):
    _, path = saved(models)
    path.with_suffix(".json").write_text("{")
    assert weights.list_models() == []


def test_the_command_lists_models_or_names_the_folder_for_them(models, capsys):
    assert main(["models"]) == 0
    assert str(models) in capsys.readouterr().out
    saved(models)
    assert main(["models"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_names_of_the_installed_models(models):
    saved(models)
    with pytest.raises(WeightsError, match=r'no model "huge"; installed: tiny'):
        weights.resolve("huge", "cpu")


def test_a_missing_file_is_named(models):
    with pytest.raises(WeightsError, match="do not exist"):
        weights.resolve(models / "absent.safetensors", "cpu")


def test_a_pickle_is_refused_without_being_opened(models):
    path = models / "model.pth"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(WeightsError, match=r"not a \.safetensors file"):
        weights.resolve(path, "cpu")


def test_weights_without_their_card_are_refused(models):
    _, path = saved(models)
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="without their card"):
        weights.resolve(path, "cpu")


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"name": 1, "description": "", "config": []}'])
def test_a_broken_card_is_refused(models, text):
    _, path = saved(models)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match="card"):
        weights.resolve(path, "cpu")


def test_a_card_whose_output_is_not_a_word_is_refused(models):
    _, path = saved(models)
    change_card(path, config={**CONFIG.to_dict(), "output": ["velocity"]})
    with pytest.raises(WeightsError, match="does not describe a network"):
        weights.resolve(path, "cpu")


def test_a_changed_file_is_refused_by_its_checksum(models):
    _, path = saved(models)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="do not match their card"):
        weights.resolve(path, "cpu")


def test_a_file_that_is_not_safetensors_is_refused_even_if_its_checksum_matches(models):
    _, path = saved(models)
    path.write_bytes(b"not a model at all")
    card = json.loads(path.with_suffix(".json").read_text())
    card.update(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), checksum="")
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="damaged"):
        weights.resolve(path, "cpu")


def test_weights_of_another_network_are_refused_with_the_first_tensor_that_differs(models):
    _, path = saved(models)
    tensors = load_file(path)
    tensors["flow.bias"] = torch.zeros(4)
    rewrite(path, tensors)
    with pytest.raises(WeightsError, match=r"flow\.bias has the shape \(4,\), not \(3,\)"):
        weights.resolve(path, "cpu")


def test_weights_that_are_not_finite_are_refused(models):
    _, path = saved(models)
    tensors = load_file(path)
    tensors["flow.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    rewrite(path, tensors)
    with pytest.raises(WeightsError, match="NaN"):
        weights.resolve(path, "cpu")


def test_a_card_of_an_impossible_network_is_refused(models):
    _, path = saved(models)
    card = json.loads(path.with_suffix(".json").read_text())
    card["config"]["upsampling"], card["checksum"] = "magic", ""
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="magic"):
        weights.resolve(path, "cpu")


def rename_keys(path, **names):
    """The card of an earlier version, without its own checksum: new name of an entry by old one."""
    card = json.loads(path.with_suffix(".json").read_text())
    del card["checksum"]
    path.with_suffix(".json").write_text(json.dumps({names.get(key, key): value for key, value in card.items()}))


def change_card(path, **values):
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "checksum": "", **values}))


def test_a_model_is_loaded_once_and_again_after_its_file_has_changed(models):
    network, path = saved(models)
    first = weights.resolve("tiny", "cpu")
    assert weights.resolve("tiny", "cpu") is first
    assert weights.resolve(path, "cpu") is first
    other, _ = saved(models, seed=1)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))  # some file systems count in seconds
    second = weights.resolve("tiny", "cpu")
    assert second is not first
    pair = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(second.network.predict_symmetric(*pair), other.predict_symmetric(*pair))
    assert torch.equal(first.network.predict_symmetric(*pair), network.predict_symmetric(*pair))


def test_a_file_that_is_damaged_after_it_was_loaded_is_refused(models):
    _, path = saved(models)
    weights.resolve("tiny", "cpu")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    with pytest.raises(WeightsError, match="do not match their card"):
        weights.resolve("tiny", "cpu")


def test_the_segmentation_model_is_loaded_once():
    assert weights.resolve_segmentation_model("cpu") is weights.resolve_segmentation_model("cpu")


def test_a_registration_model_of_an_earlier_version_is_read(models):
    network, path = saved(models)
    old_names = {"depthwise": "reach", "shortcut": "carry"}
    tensors = {
        ".".join(old_names.get(part, part) if name.startswith("down") else part for part in name.split(".")): tensor
        for name, tensor in load_file(path).items()
    }
    assert any("reach" in name for name in tensors) and any("carry" in name for name in tensors)
    rewrite(path, tensors)
    change_card(path, license="Apache-2.0")
    rename_keys(path, license="licence")
    model = weights.resolve("tiny", "cpu")
    pair = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(model.network.predict_symmetric(*pair), network.predict_symmetric(*pair))
    assert model.card.license == "Apache-2.0"


def test_a_segmentation_model_of_an_earlier_version_is_read_and_not_offered_for_registration(models):
    network = SegmentationNetwork(SEGMENTATION)
    path = weights.save_model(network, weights.ModelCard("old", "for tests", {}), models)
    change_card(path, config={**SEGMENTATION.to_dict(), "output": "anatomy"})
    model = weights.load(path, "cpu")
    assert isinstance(model.network, SegmentationNetwork)
    assert model.network.config == SEGMENTATION
    image = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(model.network(image), network(image))
    assert weights.list_models() == []
    with pytest.raises(WeightsError, match="for segmentation, not for registration"):
        weights.resolve(path, "cpu")


def test_the_shipped_segmentation_model_is_not_offered_for_registration(monkeypatch, tmp_path):
    assert weights.SEGMENTATION_MODEL not in [model.name for model in weights.list_models()]
    path = weights.SHIPPED_FOLDER / f"{weights.SEGMENTATION_MODEL}.safetensors"
    with pytest.raises(WeightsError, match="for segmentation, not for registration"):
        weights.resolve(path, "cpu")
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="do not exist"):
        weights.resolve_segmentation_model("cpu")
    shutil.copy(path, tmp_path)
    with pytest.raises(WeightsError, match="without their card"):
        weights.resolve_segmentation_model("cpu")
