"""Conventions that are easy to forget: exceptions pickle, commands are documented, shipped jobs can run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import typer

from batchtag import errors
from batchtag.cluster.machines import Machine
from batchtag.config.job import load_spec
from batchtag.errors import BatchtagError, Code
from batchtag.runs.placement import place_run
from batchtag.runs.preflight import check_output_and_source

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "batchtag").rglob("*.py"))
EXCEPTIONS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BatchtagError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_every_exception_pickles_with_its_facts(kind: type[BatchtagError]) -> None:
    twin = pickle.loads(pickle.dumps(kind("what happened", code=Code.DENIED, attempts=3)))
    assert type(twin) is kind
    assert (str(twin), twin.message) == ("what happened", "what happened")
    assert (vars(twin)["code"], vars(twin)["attempts"]) == (Code.DENIED, 3)


def test_every_exception_is_in_the_drawing_of_the_tree() -> None:
    assert [kind.__name__ for kind in EXCEPTIONS if kind.__name__ not in (errors.__doc__ or "")] == []


def commands() -> dict[str, str]:
    """Return the help of each command."""
    from batchtag.cli import app

    group = typer.main.get_command(app)
    return {name: command.help or "" for name, command in getattr(group, "commands", {}).items()}


def test_every_command_has_help() -> None:
    assert commands()
    assert [name for name, text in commands().items() if not text] == []


def test_every_command_is_in_the_readme_or_in_the_documentation() -> None:
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert [name for name in commands() if not re.search(rf"batchtag {name}\b", text)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("[!t]*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("machines", [[Machine(cpus=2, gpus=0)], [Machine(cpus=64, gpus=8)]], ids=["laptop", "server"])
def test_every_shipped_job_can_be_placed(path: Path, machines: list[Machine]) -> None:
    spec = load_spec(path)
    check_output_and_source(spec)
    assert place_run(spec.compute, machines).actors >= 1


def test_no_unfinished_work_is_marked_in_the_code() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [str(path.relative_to(ROOT)) for path in FILES if words.search(path.read_text())] == []


def test_links_of_the_readme_into_the_repository_exist() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
