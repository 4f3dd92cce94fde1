"""The commands and the example of the README work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import wavemorph
from wavemorph.cli.main import make_parser
from wavemorph.io.outputs import write_image

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M) if name == language]


def test_every_command_is_accepted_by_the_program():
    lines = "\n".join(blocks("")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("wavemorph ")]
    assert {command[0] for command in commands} == {
        *("register", "apply", "evaluate", "scene", "models"),
        *("cohort", "template", "longitudinal", "morphometry"),
        *("train", "protocol", "ablation"),
    }
    for command in commands:
        assert make_parser().parse_args(command).run


def test_the_python_example_runs(tmp_path, monkeypatch, tiny_pair):
    for name, image in zip(("patient", "atlas"), tiny_pair):
        write_image(image, tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    quick = wavemorph.Settings(spacing_mm=4.0, weights="none", affine=False)
    register = wavemorph.register
    monkeypatch.setattr(wavemorph, "register", lambda fixed, moving: register(fixed, moving, quick))
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} >= {"fixed_to_moving.h5", "registered.nii.gz"}


def test_every_file_that_is_linked_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_targets_of_make_that_are_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z]+)", "\n".join(blocks("")), re.M)) <= targets
