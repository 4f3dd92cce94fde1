"""`wavemorph train`, `wavemorph protocol` and `wavemorph ablation`. Torch is imported only when one of them runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, SettingsError, WeightsError

if TYPE_CHECKING:
    import torch


def add_commands(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train a network, in one run or several; continues from its checkpoint")
    train.add_argument(
        "--recipe",
        required=True,
        choices=("wavemorph", "wavemorph-bodies", "brain-segmentation", "ixi", "oasis"),
        help="what to train",
    )
    train.add_argument("--data", metavar="FOLDER", help="the data set, for ixi and oasis")
    train.add_argument("--output", required=True, metavar="FOLDER", help="for the checkpoint, losses.csv, the model")
    train.add_argument("--begin-with", metavar="FILE", help="the weights of a model of the same network to start from")
    train.add_argument(
        "--threads", type=int, metavar="N", help="of torch; crops are made in one more thread (brain-segmentation)"
    )
    train.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes; the same command continues")
    _add_training(train)
    train.add_argument("--name", help="of the model; by default the recipe's")
    train.set_defaults(run=_train)

    protocol = commands.add_parser("protocol", help="the paper's table over the test pairs of a data set")
    protocol.add_argument("--data-set", required=True, choices=("ixi", "oasis"))
    protocol.add_argument("--data", required=True, metavar="FOLDER")
    protocol.add_argument("--weights", nargs="*", default=[], metavar="W", help="models by name or file")
    protocol.add_argument("--device", default="auto")
    protocol.set_defaults(run=_protocol)

    ablation = commands.add_parser("ablation", help="the twelve combinations of the paper, each trained and scored")
    ablation.add_argument("--data-set", required=True, choices=("ixi", "oasis"))
    ablation.add_argument("--data", required=True, metavar="FOLDER")
    ablation.add_argument("--output", required=True, metavar="FOLDER", help="checkpoints and table.txt")
    _add_training(ablation)
    ablation.set_defaults(run=_ablation)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, metavar="N", help="number of training pairs")
    parser.add_argument("--config", metavar="FILE", help="JSON with other values of the recipe and of its network")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="auto")


def _train(options: argparse.Namespace, progress: object) -> None:
    import torch

    from ..models.weights import ModelCard, load, save_model
    from ..system.machine import freed_memory_kept
    from ..training.loop import PairSource, PrefetchedSource, SegmentationTrainer, Trainer

    if options.threads:
        torch.set_num_threads(options.threads)

    recipe = _recipe(options, options.recipe)
    device = _own_device(options.device)
    kind, facts = Trainer, {}
    source: PairSource
    if recipe.data == "synthetic-heads":
        from ..training.brain_atlas import load_atlas
        from ..training.synthetic_heads import LabeledCrops

        atlas = load_atlas()
        kind, facts = SegmentationTrainer, {"atlas": atlas.facts()}
        source = PrefetchedSource(LabeledCrops(atlas, recipe.seed, device))
    elif recipe.data == "synthetic":
        from ..training.synthetic_pairs import SyntheticPairs, load_template

        source = SyntheticPairs(load_template(), recipe.seed, device)
    elif recipe.data == "synthetic-bodies":
        from ..training.synthetic_bodies import SyntheticBodies

        source = SyntheticBodies(recipe.seed, device)
    else:
        from ..training.datasets import DataPairs

        source = DataPairs(_data(recipe.data, options.data), recipe.seed, device)
    network, initial_model = None, ""
    if options.begin_with:
        model = load(Path(options.begin_with), device)
        network, initial_model = model.network, f"; begun with {model.card.name}, {model.sha256[:12]}"
        if network.config != recipe.network:
            raise SettingsError(f'The model "{options.begin_with}" is another network than that of the recipe.')
    trainer = kind(recipe, source, Path(options.output), device, network)
    show = _progress() if progress is not None and trainer.is_main_process else (lambda *_: None)
    with freed_memory_kept():
        done = trainer.run(options.minutes, progress=show)
    trainer.close()
    if not trainer.is_main_process:
        return
    if not done:
        print(f"stopped at pair {trainer.pair} of {recipe.pairs}; the same command continues from there")
        return
    if recipe.model_passes_mm:
        trainer.network.config = dataclasses.replace(recipe.network, passes_mm=recipe.model_passes_mm)
    card = ModelCard(
        options.name or recipe.name,
        f"Trained by the recipe {recipe.name} on {recipe.pairs} pairs",
        {},
        training=f"wavemorph train --recipe {recipe.name}; seed {recipe.seed}{initial_model}; {_computed_by(device)}",
        extra={"recipe": recipe.to_dict(), **facts},
    )
    print(f"written: {save_model(trainer.network, card, options.output)}")


def _computed_by(device: torch.device) -> str:
    """On what the bits of the weights depend beside the recipe."""
    import torch

    return f"torch {torch.__version__} on {device.type}, threads: {torch.get_num_threads()}"


def _own_device(name: str) -> torch.device:
    """The device of that name; under torchrun, where GPUs are wanted, the one with the local rank of this process.

    The process then looks at no other GPU.
    """
    import torch

    from ..system.machine import choose_device

    rank = os.environ.get("LOCAL_RANK")
    if rank is None or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return choose_device(name)
    own = choose_device(f"cuda:{rank}")
    torch.cuda.set_device(own)
    return own


def _protocol(options: argparse.Namespace, progress: object) -> None:
    from ..models.weights import resolve
    from ..system.machine import choose_device
    from ..training.protocol import HEADER, evaluate

    device = choose_device(options.device)
    data = _data(options.data_set, options.data)
    models = [model for name in options.weights if (model := resolve(name, device)) is not None]
    if len(models) < len(options.weights):
        raise WeightsError("The weights none cannot be scored; give the name or the file of a model.")
    print(HEADER)
    print(evaluate(None, data, "before registration", device).row())
    for model in models:
        print(evaluate(model.network, data, model.card.name, device).row())


def _ablation(options: argparse.Namespace, progress: object) -> None:
    from ..system.machine import choose_device
    from ..training.protocol import ablation

    device = choose_device(options.device)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []

    def report_line(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    ablation(_recipe(options, options.data_set), _data(options.data_set, options.data), folder, device, report_line)
    (folder / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _recipe(options: argparse.Namespace, name: str):
    from ..training.recipe import RECIPES, Recipe

    values = RECIPES[name].to_dict()
    if options.config:
        try:
            changes = json.loads(Path(options.config).read_text(encoding="utf-8"))
            network = {**values["network"], **changes.pop("network", {})}
            values = {**values, **changes, "network": network}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(f'The configuration "{options.config}" cannot be read ({error}).') from error
    for field in ("pairs", "seed"):
        if getattr(options, field) is not None:
            values[field] = getattr(options, field)
    unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(Recipe)})
    if unknown:
        raise SettingsError(f'"{unknown[0]}" is not a field of a recipe; training/recipe.py lists them.')
    return Recipe.from_dict(values)


def _data(name: str, folder: str | None):
    from ..training.datasets import DATA_SETS

    if not folder:
        raise SettingsError(f"The data set {name} must be on this machine; give its folder as --data.")
    return DATA_SETS[name](Path(folder))


def _progress():
    """Progress of a training: one line that is redrawn on a terminal, a line every 50 pairs elsewhere."""
    began, first = time.monotonic(), None

    def show(pair: int, pairs: int, loss: float) -> None:
        nonlocal first
        first = pair - 1 if first is None else first
        left = (time.monotonic() - began) / (pair - first) * (pairs - pair)
        text = f"pair {pair} of {pairs}, loss {loss:.4f}, {left / 60:.0f} min left"
        if sys.stderr.isatty():
            print(f"\r{text}    ", end="" if pair < pairs else "\n", file=sys.stderr, flush=True)
        elif pair % 50 == 0 or pair == pairs:
            print(text, file=sys.stderr, flush=True)

    return show
