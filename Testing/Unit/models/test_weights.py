"""Models on disk: the whole road there and back, and every way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from wavemorph.cli.main import main
from wavemorph.errors import WeightsError
from wavemorph.models import weights
from wavemorph.network import NetworkConfig, WaveMorphNetwork

CONFIG = NetworkConfig(channels=(4, 8, 8), bottleneck_blocks=1, bottleneck_kernel=3)


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
    """Other tensors under a card that vouches for them."""
    save_file(tensors, path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))


def test_a_saved_model_gives_the_same_answer_after_loading(models):
    network, path = saved(models)
    pair = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    for asked in ("tiny", str(path), path):
        model = weights.resolve(asked, "cpu")
        assert model.network.config == CONFIG
        assert not model.network.training
        assert torch.equal(model.network.predict_symmetric(*pair), network.predict_symmetric(*pair))
        assert model.sha256 == model.card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_none_means_none_and_auto_takes_the_default_model_once_it_is_there(models):
    assert weights.resolve("none", "cpu") is None
    saved(models)
    assert weights.resolve("auto", "cpu") is None
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


def test_the_command_lists_models_and_says_where_to_put_them(models, capsys):
    assert main(["models"]) == 0
    assert str(models) in capsys.readouterr().out
    saved(models)
    assert main(["models"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_names_there_are(models):
    saved(models)
    with pytest.raises(WeightsError, match=r'no model "huge"; installed: tiny'):
        weights.resolve("huge", "cpu")


def test_a_missing_file_is_named(models):
    with pytest.raises(WeightsError, match="do not exist"):
        weights.resolve(models / "absent.safetensors", "cpu")


def test_a_pickle_is_refused_unopened(models):
    path = models / "model.pth"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(WeightsError, match=r"no \.safetensors file"):
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


def test_a_changed_file_is_refused_by_its_checksum(models):
    _, path = saved(models)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="do not match their card"):
        weights.resolve(path, "cpu")


def test_a_file_that_is_no_safetensors_is_refused_even_if_its_card_vouches_for_it(models):
    _, path = saved(models)
    path.write_bytes(b"not a model at all")
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
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
    card["config"]["upsampling"] = "magic"
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="magic"):
        weights.resolve(path, "cpu")
