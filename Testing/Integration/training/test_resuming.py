"""Training that was stopped or killed continues with the same losses."""

from __future__ import annotations

import pytest
import torch
from miniatures import losses_of, tiny_recipe
from wavemorph.cli.main import main
from wavemorph.training.datasets import DataPairs, IxiData
from wavemorph.training.loop import Trainer


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_training_that_was_stopped_continues_with_the_same_losses_and_ends_in_the_same_weights(ixi, tmp_path, stop):
    recipe, source = tiny_recipe(), DataPairs(IxiData(ixi))
    whole = Trainer(recipe, source, tmp_path / "whole")
    assert whole.run()
    assert not Trainer(recipe, source, tmp_path / "halves").run(until_pair=stop)
    rest = Trainer(recipe, source, tmp_path / "halves")
    assert rest.pair == stop
    assert rest.run()
    assert losses_of(tmp_path / "halves") == losses_of(tmp_path / "whole")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, rest.network.state_dict()[name]), name


def test_training_that_was_killed_between_checkpoints_repeats_the_lost_pairs_exactly(ixi, tmp_path, monkeypatch):
    recipe, source = tiny_recipe(), DataPairs(IxiData(ixi))
    Trainer(recipe, source, tmp_path / "whole").run()
    Trainer(recipe, source, tmp_path / "killed").run(until_pair=2)

    class Killed(BaseException):
        pass

    def die(pair, pairs, loss):
        if pair == 5:
            raise Killed

    with pytest.raises(Killed):
        Trainer(recipe, source, tmp_path / "killed").run(progress=die)
    again = Trainer(recipe, source, tmp_path / "killed")
    assert again.pair == 2
    again.run()
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")


def test_training_in_parts_from_the_command_line_continues_and_reports_it(ixi, tmp_path, tiny_config, capsys):
    command = ["train", "--recipe", "ixi", "--data", str(ixi), "--output", str(tmp_path), "--config", str(tiny_config)]
    assert main([*command, "--pairs", "4", "--minutes", "0"]) == 0
    assert "stopped at pair 0 of 4" in capsys.readouterr().out
    assert main([*command, "--pairs", "4"]) == 0
    assert "written" in capsys.readouterr().out
