"""The layers of ARCHITECTURE.md: which package imports which, which are free of torch, and the size of folders."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "WaveMorphRegistration"
ENGINE = MODULE / "wavemorph"
MAX_ENTRIES = 15
# the packages that a package may import when it is imported, besides itself and EVERYWHERE
EVERYWHERE = {"errors", "settings"}
LAYERS = {
    "errors": set(),
    "settings": set(),
    "system": set(),
    "io": {"system"},
    "evaluation": {"io"},
    "models": set(),
    "spatial": {"system"},
    "network": {"spatial"},
    "registration": {"io", "models", "network", "spatial", "system"},
    "training": {"io", "network", "registration", "spatial"},
    "cohort": {"evaluation", "io", "models", "registration", "spatial", "system", "training"},
    "cli": {"evaluation", "io", "models", "system"},
    "worker": {"system"},
}
TORCH_FREE = ("errors", "settings", "io", "evaluation", "models", "cli", "worker")


def imports(path: Path, whole: bool) -> set[str]:
    """The modules of the engine that a file names, "spatial.grid"; whole: also those imported within functions."""
    package = path.relative_to(ENGINE).with_suffix("").parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if whole else _at_import(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level] + tuple((node.module or "").split(".") if node.module else ())
            names = [(*base, alias.name) for alias in node.names]
            found |= {".".join(name) for name in names if _is_module(name)} or {".".join(base)}
    return {name for name in found if name}


def _at_import(tree: ast.Module):
    """The statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        stack.extend(ast.iter_child_nodes(node))


def _is_module(name: tuple[str, ...]) -> bool:
    path = ENGINE.joinpath(*name)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def graph(whole: bool) -> dict[str, set[str]]:
    modules = {}
    for path in ENGINE.rglob("*.py"):
        name = ".".join(path.relative_to(ENGINE).with_suffix("").parts).removesuffix(".__init__") or "__init__"
        modules[name] = imports(path, whole) - {name}
    return modules


def cycle_in(edges: dict[str, set[str]]) -> list[str]:
    """The names of one cycle, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


def test_no_module_of_the_engine_imports_itself_by_way_of_others():
    assert cycle_in(graph(whole=True)) == []


def test_the_search_for_cycles_finds_one():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_a_package_imports_only_those_below_it(package):
    named = {
        target.split(".")[0]
        for module, targets in graph(whole=False).items()
        if module.split(".")[0] == package
        for target in targets
    }
    assert named - {package} <= LAYERS[package] | EVERYWHERE


def test_every_room_has_its_layer():
    packages = {path.stem for path in ENGINE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert packages - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("package", TORCH_FREE)
def test_what_slicers_process_may_import_is_free_of_torch(package):
    modules = [name for name in graph(whole=False) if name.split(".")[0] == package]
    code = f"import sys; import {', '.join('wavemorph.' + name for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=MODULE, check=False).returncode == 0


def test_the_engine_imports_neither_slicer_nor_vtk_nor_qt():
    for path in ENGINE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & {"slicer", "vtk", "qt", "ctk"}, path


def test_the_slicer_side_never_imports_torch():
    for path in (MODULE / "WaveMorphRegistrationLib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert "torch" not in {name.split(".")[0] for name in names}, path


def test_no_folder_holds_more_than_a_reader_takes_in():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    entries: dict[Path, set[str]] = {}
    for name in tracked.splitlines():
        path = Path(name)
        if not (ROOT / path).exists():
            continue
        for parent in path.parents:
            entries.setdefault(parent, set()).add(path.relative_to(parent).parts[0])
    crowded = {
        str(folder): len(names)
        for folder, names in entries.items()
        if len([name for name in names if not name.startswith(".")]) > MAX_ENTRIES
    }
    assert crowded == {}


def test_the_architecture_page_shows_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = page[page.index("```") : page.index("## Data flow")]
    packages = [path for path in ENGINE.iterdir() if (path / "__init__.py").is_file()]
    packages += [path for path in (MODULE / "WaveMorphRegistrationLib").iterdir() if (path / "__init__.py").is_file()]
    missing = [package.name for package in packages if f"{package.name}/" not in tree]
    assert missing == []
