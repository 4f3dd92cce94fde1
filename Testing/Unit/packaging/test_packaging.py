"""What is built and installed is what lies in the tree."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "WaveMorphRegistration"
# what Slicer's own process imports: it may never bring torch with it
TORCH_FREE = ("errors", "settings", "result", "images", "outputs", "points", "evaluation", "weights", "progress")


def listed(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", MODULE.name)
    return set(re.search(rf"set\({name}\n(.*?)\n  \)", text, re.S).group(1).split())


def present(folder: Path, pattern: str) -> set[str]:
    files = (path for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(MODULE).as_posix() for path in files}


def test_cmake_lists_every_script_and_every_resource():
    assert listed("MODULE_PYTHON_SCRIPTS") == present(MODULE, "*.py")
    assert listed("MODULE_PYTHON_RESOURCES") == present(MODULE / "Resources", "*")


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


def test_the_icon_is_a_png_of_the_size_that_slicer_shows():
    header = (ROOT / "Resources" / "Icons" / "WaveMorph.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (128, 128)


def test_what_slicer_imports_of_the_engine_is_free_of_torch():
    modules = ", ".join(f"wavemorph.{name}" for name in TORCH_FREE)
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=MODULE, check=False).returncode == 0


def test_the_engine_knows_neither_slicer_nor_vtk_nor_qt():
    for path in (MODULE / "wavemorph").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (slicer|vtk|qt|ctk)\b", path.read_text(encoding="utf-8"), re.M), path


def test_the_slicer_side_never_imports_torch():
    for path in (MODULE / "WaveMorphRegistrationLib").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) torch\b", path.read_text(encoding="utf-8"), re.M), path
