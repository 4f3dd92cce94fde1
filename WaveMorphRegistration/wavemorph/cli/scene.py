"""`wavemorph scene`: register, and write a Slicer scene (.mrb) and a picture."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from ..errors import InputError
from ..io.fields import make_inverse_field
from ..io.result import Registration
from ..settings import Settings
from .inputs import read_pair
from .options import add_outputs, add_pair, output_files, settings_of
from .progress import TerminalProgress
from .register import register_volumes
from .summary import summary


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("scene", help="register, and write a Slicer scene (.mrb) and a picture of the result")
    add_pair(parser)
    parser.add_argument("--output", required=True, metavar="CASE.mrb", help="the scene bundle, opens in Slicer")
    parser.add_argument("--picture", metavar="P.png", help="by default beside the bundle, as CASE.png")
    parser.add_argument("--with-inverse", action="store_true", help="a node for the inverse transform too")
    add_outputs(parser, transform_required=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Register, write the scene, and print the numbers."""
    registration, written = register_to_scene(options, settings_of(options), progress)
    print(summary(registration.report))
    print("\n".join(f"written: {path}" for path in written))


def register_to_scene(
    options: argparse.Namespace, settings: Settings, progress: TerminalProgress | None
) -> tuple[Registration, list[Path]]:
    """(registration, files written): `register` through the nodes of a MRML scene.

    Raises InputError where slicer-core is not installed.
    """
    try:
        from WaveMorphRegistrationLib.headless.sceneCommand import SceneCommand
    except ImportError as error:
        raise InputError(
            f"The scene needs the package slicer-core ({error}); install it with: pip install 'wavemorph[scene]'."
        ) from error
    bundle = Path(options.output)
    picture = options.picture or bundle.with_suffix(".png")
    with contextlib.closing(SceneCommand()) as command:
        files = output_files(options)
        files.add(bundle, lambda _, path: command.writeBundle(path, bundle.stem), (".mrb",), "scene")
        files.add(picture, lambda _, path: command.writePicture(path), (".png",), "picture")
        fixed, moving = read_pair(options)
        command.add(fixed.image, moving.image, (options.fixed, options.moving))
        registration = register_volumes(fixed, moving, options, settings, progress)
        if options.with_inverse:
            make_inverse_field(registration)
        command.show(registration, options.with_inverse)
        return registration, files.write(registration)
