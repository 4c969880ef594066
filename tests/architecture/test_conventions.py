"""Promises that people forget: every exception pickles, every door has a docstring, the README names every command."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from batchtag import errors
from batchtag.cluster.machines import Machine
from batchtag.config.job import load_spec
from batchtag.errors import BatchtagError, Code
from batchtag.runs.placement import place
from batchtag.runs.preflight import check_places

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "batchtag").rglob("*.py"))
KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BatchtagError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exception_pickles_with_its_facts(kind: type[BatchtagError]) -> None:
    twin = pickle.loads(pickle.dumps(kind("what happened", code=Code.DENIED, attempts=3)))
    assert type(twin) is kind
    assert (str(twin), twin.message) == ("what happened", "what happened")
    assert (vars(twin)["code"], vars(twin)["attempts"]) == (Code.DENIED, 3)


def test_every_exception_stands_in_the_drawing() -> None:
    assert [kind.__name__ for kind in KINDS if kind.__name__ not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_room_and_every_public_function_in_it_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    nameless = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    assert nameless + [node.name for node in _public(tree) if not ast.get_docstring(node)] == []


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Public functions of a module. Methods that only keep a protocol's promise need no words."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def commands() -> list[str]:
    from batchtag.cli import app

    group = typer.main.get_command(app)
    return sorted(getattr(group, "commands", {}))


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert commands()
    assert [name for name in commands() if not re.search(rf"batchtag {name}\b", readme)] == []


def test_every_command_has_help_that_begins_with_what_one_gets() -> None:
    from batchtag.cli import app

    group = typer.main.get_command(app)
    assert [name for name, command in getattr(group, "commands", {}).items() if not command.help] == []


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("[!t]*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("machines", [[Machine(cpus=2, gpus=0)], [Machine(cpus=64, gpus=8)]], ids=["laptop", "server"])
def test_every_job_we_ship_can_be_placed(path: Path, machines: list[Machine]) -> None:
    spec = load_spec(path)
    check_places(spec)
    assert place(spec.compute, machines).actors >= 1


def test_nothing_unfinished_is_left_lying_about() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [str(path.relative_to(ROOT)) for path in FILES if words.search(path.read_text())] == []


def test_every_link_of_the_readme_that_points_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
