"""What torchvision publishes of its builders, as plain data: read from published.json, without importing torchvision.

A driver needs a model's labels, digest and file, and torchvision brings torch and torch's compiler for them: of the
eight seconds of a core that a run's driver took before its workers could begin, five were these imports. The table is
that of one torchvision, and holds for every process that has the same; elsewhere torchvision itself is asked
(`survey`, which also writes the table: `python -m batchtag.models.survey`). A test holds one against the other. Where a
file is to be fetched from is torchvision's to say. Importable without torch and without pydantic.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from batchtag.config.model import TorchvisionSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN, TABLE, Builder, Weights, installed
from batchtag.types import InputResolution

if TYPE_CHECKING:
    from batchtag.tasks import Task


_FLAG = {"detect": "--detector", "classify": "--classifier"}
_NOUN = {"detect": "detector", "classify": "classifier"}


def builder(name: str) -> Builder:
    """The facts of one builder. Raises UsageError if torchvision publishes none of that name, with the nearest."""
    task = task_of(name)
    if name == SMALL_FASTER_RCNN:
        raise UsageError(f"{name} has no published weights; it is there to be trained (`batchtag train`)")
    if _table() is not None:
        return _from_table(name, task)
    from batchtag.models.torchvision import build_zoo

    return build_zoo.builder(name, task)


def builders(task: Task) -> list[str]:
    """The names of torchvision's builders for a task, sorted. Quantised ones are the same networks, for CPUs only."""
    table = _table()
    if table is not None:
        return sorted(name for name, one in table["builders"].items() if one["task"] == task)
    from batchtag.models.torchvision import build_zoo

    return build_zoo.names(task)


def task_of(name: str, *, asked: str = "") -> Task:
    """What a builder's network does, our own included. `asked` is the task the user wants of it, "" for any.

    Raises UsageError, with the nearest names, if there is no such builder, and if it does the other task.
    """
    tasks: dict[str, Task] = {one: task for task in ("detect", "classify") for one in builders(task)}
    tasks[SMALL_FASTER_RCNN] = "detect"
    if name not in tasks:
        near = difflib.get_close_matches(name.lower(), tasks, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`batchtag models` lists all"
        raise UsageError(f"there is no detection or classification builder {name!r}; {advice}")
    task = tasks[name]
    if asked and asked != task:
        raise UsageError(
            f"{name} is a {_NOUN[task]}, and was asked for as a {_NOUN[asked]}; "
            f"give it with {_FLAG[task]} (task: {task}), or choose another with `batchtag models --task {asked}`"
        )
    return task


@cache
def _table() -> dict[str, Any] | None:
    """The content of published.json; None where it is another torchvision's."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table if table["torchvision"] == installed() else None


def _from_table(name: str, task: Task) -> Builder:
    table = _table()
    assert table is not None
    one = table["builders"][name]
    weights = {
        called: Weights(
            **facts
            | {
                "categories": tuple(table["categories"][facts["categories"]]),
                "input_resolution": InputResolution(**facts["input_resolution"]),
            }
        )
        for called, facts in one["weights"].items()
    }
    return Builder(name=name, task=task, default=one["default"], weights=weights)


def weights_name(spec: TorchvisionSpec) -> str:
    """The member of the builder's weight enum that the spec names, "" for "none".

    Raises ModelError with the names there are.
    """
    one, name = builder(spec.builder), spec.weights.upper()
    if name == "NONE":
        return ""
    if name == "DEFAULT":
        return one.default
    if name not in one.weights:
        known = ", ".join(["DEFAULT", *one.weights, "none"])
        raise ModelError(f"{spec.builder} has no weights {spec.weights!r}; it has {known}")
    return name


def described_by(spec: TorchvisionSpec, one: Builder) -> Weights:
    """The weights whose categories and preprocessing hold for this model, trained or not."""
    return one.weights[weights_name(spec) or one.default]
