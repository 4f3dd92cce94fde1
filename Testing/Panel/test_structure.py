"""The folders of WaveMorphRegistrationLib: small, and without import cycles."""

from __future__ import annotations

import ast
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "WaveMorphRegistration" / "WaveMorphRegistrationLib"


def importedModules(path: Path) -> set[Path]:
    """The files of the library that a file imports."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
            imported |= {name for name in names if name.is_file()}
    return imported


def cycle(graph: dict) -> list:
    """What remains of a graph when everything without an edge into the remainder is removed again and again."""
    remaining = dict(graph)
    while free := [node for node in remaining if not (graph[node] & remaining.keys()) - {node}]:
        for node in free:
            del remaining[node]
    return sorted(map(str, remaining))


def test_no_file_imports_itself_through_others():
    files = {path: importedModules(path) for path in LIBRARY.rglob("*.py")}
    assert any(files.values())
    assert all(path not in imported for path, imported in files.items())
    assert cycle(files) == []


def test_no_folder_imports_itself_through_others():
    folders: dict[Path, set[Path]] = {}
    for path in LIBRARY.rglob("*.py"):
        if path.parent != LIBRARY:
            imported = {module.parent for module in importedModules(path)} - {LIBRARY}
            folders.setdefault(path.parent, set()).update(imported)
    assert len(folders) > 1
    assert cycle(folders) == []


def test_no_folder_has_more_than_ten_entries():
    for folder in (LIBRARY, *(path for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__")):
        assert len([path for path in folder.iterdir() if path.name != "__pycache__"]) <= 10, folder
