"""`wavemorph models`: list the installed models, or the complexity of the network."""

from __future__ import annotations

import argparse

from ..models.weights import list_models, user_folder
from .progress import TerminalProgress


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("models", help="list the models that are installed")
    parser.add_argument("--complexity", action="store_true", help="parameters and multiply-adds of the network instead")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Print the list, or the table of the twelve variants of the paper."""
    if options.complexity:
        from ..network.complexity import main as report_complexity  # imports torch

        report_complexity()
        return
    found = list_models()
    for model in found:
        print(f"{model.name:24} {model.path}\n    {model.description}")
    if not found:
        print(
            f"No model is installed; install WaveMorph again, or put one (.safetensors and .json) into {user_folder()}."
        )
        print("With --weights none, the presets Balanced and Precise register without a network.")
