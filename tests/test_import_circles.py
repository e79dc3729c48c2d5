"""No module of the two packages imports itself in a circle, and rooms know each other in one direction.

What counts: every import that may run, at the top level or inside a function. What only a type checker reads does not
count, nor that importing a module runs the `__init__.py` of the packages it lies in. A room is a folder right below
one of the packages.
"""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.children import ROOT

Graph = Mapping[str, set[str]]
BOTH_WAYS = {
    (
        "segpipe.runtime",
        "segpipe.tasks",
    ): "a segmenter looks its task up, which is written with the runtime's parts",
    ("stages.config", "stages.data"): "the synthetic set names its classes itself, and a config is held to them",
}
"""Imports that would close a circle of rooms. No module lies on one."""


def module_name(path: Path, root: Path) -> str:
    """`segpipe.draw` for segpipe/draw.py, `segpipe` for segpipe/__init__.py."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str, modules: set[str]) -> set[str]:
    """Those of `modules` that code imports."""
    tree = ast.parse(source)
    unread = {id(node) for check in ast.walk(tree) if _is_for_types(check) for node in ast.walk(check)}
    named: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= full if full <= modules else full | {node.module}
    return named & modules


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def graph_of(root: Path) -> Graph:
    """Module -> the modules it imports, of both packages."""
    paths = {
        module_name(path, root): path for package in ("segpipe", "stages") for path in (root / package).rglob("*.py")
    }
    return {name: imports(path.read_text(), set(paths)) - {name} for name, path in paths.items()}


def rooms(graph: Graph) -> Graph:
    """The same between the folders right below the two packages."""
    found: dict[str, set[str]] = {_room(name): set() for name in graph if name.count(".") > 1}
    for name, others in graph.items():
        if (room := _room(name)) in found:
            found[room] |= {_room(other) for other in others} & found.keys() - {room}
    return found


def _room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def circle(graph: Graph) -> list[str]:
    """One circle, first and last the same; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert circle(graph_of(ROOT)) == []


def test_rooms_import_each_other_in_one_direction_but_for_those_named() -> None:
    found = rooms(graph_of(ROOT))
    opened = {room: {other for other in others if (room, other) not in BOTH_WAYS} for room, others in found.items()}

    assert circle(opened) == []
    for room, other in BOTH_WAYS:
        assert circle({**opened, room: opened[room] | {other}}), f"{room} may import {other}: strike it from the list"


def test_an_import_inside_a_function_closes_a_circle_and_one_for_types_does_not(tmp_path: Path) -> None:
    for package in ("segpipe", "stages"):
        (tmp_path / package).mkdir()
    (tmp_path / "segpipe/first.py").write_text("import segpipe.second\n")
    (tmp_path / "segpipe/second.py").write_text("def there():\n    import segpipe.first\n    return segpipe.first\n")
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import segpipe.second\n"

    assert set(circle(graph_of(tmp_path))) == {"segpipe.first", "segpipe.second"}
    (tmp_path / "segpipe/first.py").write_text(typed)
    assert circle(graph_of(tmp_path)) == []
