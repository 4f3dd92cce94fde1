"""The built and installed files are those of the repository."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import tomllib
from wavemorph.system.version import __version__

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "WaveMorphRegistration"


def listed(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", MODULE.name)
    return set(re.search(rf"set\({name}\n(.*?)\n  \)", text, re.S).group(1).split())


def present(folder: Path, *suffixes: str) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(MODULE).as_posix() for path in files if path.name.endswith(suffixes)}


def test_cmake_lists_every_script_and_every_resource():
    assert listed("MODULE_PYTHON_SCRIPTS") == present(MODULE, ".py")
    of_engine = present(MODULE / "wavemorph", ".safetensors", ".json", ".typed")
    assert listed("MODULE_PYTHON_RESOURCES") == present(MODULE / "Resources", "") | of_engine


def test_the_extension_describes_itself_the_same_way_everywhere():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    entry = json.loads((ROOT / "WaveMorph.json").read_text())
    lines = (ROOT / "WaveMorph.s4ext").read_text().splitlines()
    classic = dict(line.split(" ", 1) for line in lines if " " in line and line[0] != "#")
    assert re.search(r"project\((\w+)\)", cmake).group(1) == "WaveMorph"
    assert entry["scm_url"] == classic["scmurl"]
    assert entry["category"] == classic["category"] == "Registration"
    assert entry["build_dependencies"] == classic["depends"].split() == ["PyTorch"]
    for key, variable in (("iconurl", "ICONURL"), ("screenshoturls", "SCREENSHOTURLS"), ("homepage", "HOMEPAGE")):
        assert f'set(EXTENSION_{variable} "{classic[key]}")' in cmake
    for url in (classic["iconurl"], classic["screenshoturls"]):
        assert (ROOT / url.split("/main/")[1]).is_file()


def test_the_version_is_the_same_everywhere():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M).group(1).strip('"') == __version__


def test_the_icon_is_a_png_of_the_size_that_slicer_shows():
    header = (ROOT / "Resources" / "Icons" / "WaveMorph.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (128, 128)
