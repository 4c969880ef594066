"""Nobody imports upwards. The floors are read off STYLE's floor plan; a new room must be given its floor here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "batchtag"

FLOORS: list[tuple[str, ...]] = [
    ("batchtag", "errors", "border", "formats", "processes"),
    ("records", "jobfile"),
    ("storage", "tables", "decode", "scenes", "promises", "metrics", "counterparts"),
    ("layout", "evalpage", "sources", "datasets", "models", "lease", "monitor", "fetch", "isolation", "tokens"),
    ("index", "outputs", "look", "database", "progress", "spec", "scoring"),
    ("ledger", "partfiles", "stream", "identity", "places", "placement"),
    ("openers", "nodes", "prometheus"),
    ("worker", "openactors", "record", "query", "predict"),
    ("pipeline", "session", "verify", "training"),
    ("tagging", "evaluation"),
    ("runs", "train", "evaluate", "cluster"),
    ("demo",),
    ("cli",),
    ("__main__",),
]
"""Lowest first. A family (a folder) is one room. Rooms of one floor do not know each other."""

LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str:
    """`batchtag.storage.local` is in the room `storage`; the package itself holds only the version."""
    steps = module.split(".")
    return steps[1] if len(steps) > 1 else steps[0]


def module_of(path: Path) -> str:
    steps = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(steps[:-1] if steps[-1] == "__init__" else steps)


def imports_of(path: Path, *, only_at_import: bool = False) -> Iterator[str]:
    """The modules of ours that a file imports, inside functions too unless told otherwise; not those for types."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types or (only_at_import and id(node) in later):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("batchtag"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchtag"):
            yield from _imported_from(node)


def _imported_from(node: ast.ImportFrom) -> Iterator[str]:
    assert node.module
    for name in node.names:
        folder = PACKAGE.parent.joinpath(*node.module.split("."))
        is_module = (folder / f"{name.name}.py").exists() or (folder / name.name).is_dir()
        yield f"{node.module}.{name.name}" if is_module else node.module


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module_of(path)) for path in FILES}
    assert rooms - set(LEVEL) == set()
    assert set(LEVEL) - rooms == set()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nobody_imports_upwards_or_sideways(path: Path) -> None:
    mine = room_of(module_of(path))
    others = {room_of(module) for module in imports_of(path)} - {mine}
    assert [f"{mine} imports {other}" for other in sorted(others) if LEVEL[other] >= LEVEL[mine]] == []


def test_no_two_modules_import_each_other() -> None:
    """Within a family too, where floors do not look."""
    graph = {module_of(path): set(imports_of(path, only_at_import=True)) for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_file_is_larger_than_a_room_should_be() -> None:
    assert [path.name for path in FILES if len(path.read_text().splitlines()) > 450] == []
