"""The page ARCHITECTURE.md is true: modules import from the floors below them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nnlab"


def floors() -> dict[str, int]:
    """Return the floor of each module and package that the page lists."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", page, flags=re.MULTILINE)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`([\w.]+)`", names)}


def modules() -> dict[str, Path]:
    """Return the files of the package by their dotted names."""
    paths = {path: path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py")}
    return {".".join(p for p in parts if p != "__init__"): path for path, parts in paths.items()}


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports of nnlab, at its top or anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nnlab":
            for each in node.names:
                yield f"{node.module}.{each.name}".partition(".")[2]
        elif isinstance(node, ast.Import):
            for each in node.names:
                if each.name.startswith("nnlab."):
                    yield each.name.partition(".")[2]


def room(name: str) -> str:
    """Return the entry of the page that a module belongs to."""
    package = name.partition(".")[0]
    return "analysis.evaluations" if package == "analysis" and "." in name else package


def test_every_module_is_on_the_page() -> None:
    rooms = {room(name) for name in modules() if name}
    assert rooms == set(floors())


def test_imports_only_go_down() -> None:
    known, listed = modules(), floors()
    up = []
    for name, path in modules().items():
        if not name:  # nnlab/__init__.py has the names of all floors
            continue
        for imported in imports(path):
            while imported and imported not in known:
                imported = imported.rpartition(".")[0]  # a name in a module
            if not imported or room(imported) == room(name):
                continue
            if listed[room(imported)] >= listed[room(name)]:
                up.append(f"{name} imports {imported}")
    assert up == []
