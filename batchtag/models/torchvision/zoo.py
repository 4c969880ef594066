"""The builders and weights that torchvision publishes, as plain data from zoo.json, without importing torchvision.

A driver needs a model's labels, digest and file. torchvision brings torch and torch's compiler with it: of the 8 s of a
core that a run's driver took before its workers could start, 5 s were these imports. The table belongs to one version
of torchvision. With another version, torchvision itself is asked (`build_zoo`, which also writes the table: `python -m
batchtag.models.torchvision.build_zoo`). A test compares the two. The URL of a file is not in the table; only
torchvision knows it. Importable without torch and without pydantic.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from batchtag.errors import ModelError, UsageError
from batchtag.models.torchvision.zoo_table import (
    SMALL_FASTER_RCNN,
    TABLE,
    Builder,
    Weights,
    installed_torchvision,
)
from batchtag.tasks import TASKS, Task
from batchtag.types import InputResolution

if TYPE_CHECKING:
    from batchtag.config.model import TorchvisionSpec


def get_builder(name: str) -> Builder:
    """Return the facts of one builder.

    Raises UsageError, with the nearest names, if torchvision publishes none with this name.
    """
    task = resolve_task(name)
    if name == SMALL_FASTER_RCNN:
        raise UsageError(f"{name} has no published weights; train it with `batchtag train`")
    table = _read_table()
    if table is not None:
        return _parse_builder(table, name)
    from batchtag.models.torchvision import build_zoo

    return build_zoo.describe_builder(name, task)


def list_builders(task: Task) -> list[str]:
    """Return the names of torchvision's builders for a task, sorted.

    Quantized builders are left out: they are the same networks, for CPUs only.
    """
    table = _read_table()
    if table is not None:
        return sorted(name for name, facts in table["builders"].items() if facts["task"] == task)
    from batchtag.models.torchvision import build_zoo

    return build_zoo.list_builders(task)


def resolve_task(name: str, *, expected: Task | Literal[""] = "") -> Task:
    """Return the task of a builder's network, our own builder included. `expected` is the required task, "" for any.

    Raises UsageError, with the nearest names, if no such builder exists, or if it has another task.
    """
    tasks: dict[str, Task] = {builder: task for task in TASKS for builder in list_builders(task)}
    tasks[SMALL_FASTER_RCNN] = "detect"
    if name not in tasks:
        near = difflib.get_close_matches(name.lower(), tasks, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`batchtag models` lists all"
        raise UsageError(f"no detection or classification builder is called {name!r}; {advice}")
    task = tasks[name]
    if expected and expected != task:
        raise UsageError(
            f"{name} is a {TASKS[task].noun}, but the job asks for a {TASKS[expected].noun}; "
            f"pass it with {TASKS[task].flag} (task: {task}), or choose another: `batchtag models --task {expected}`"
        )
    return task


@cache
def _read_table() -> dict[str, Any] | None:
    """Return the content of zoo.json; None if it belongs to another version of torchvision."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table if table["torchvision"] == installed_torchvision() else None


def _parse_builder(table: dict[str, Any], name: str) -> Builder:
    row = table["builders"][name]
    weights = {
        weights_name: Weights(
            **facts
            | {
                "categories": tuple(table["categories"][facts["categories"]]),
                "input_resolution": InputResolution(**facts["input_resolution"]),
            }
        )
        for weights_name, facts in row["weights"].items()
    }
    return Builder(name=name, task=row["task"], default=row["default"], weights=weights)


def resolve_weights_name(spec: TorchvisionSpec) -> str:
    """Return the member of the builder's weights enum that the spec names; "" for "none".

    Raises ModelError, with the existing names, if no such member exists.
    """
    builder, name = get_builder(spec.builder), spec.weights.upper()
    if name == "NONE":
        return ""
    if name == "DEFAULT":
        return builder.default
    if name not in builder.weights:
        known = ", ".join(["DEFAULT", *builder.weights, "none"])
        raise ModelError(f"{spec.builder} has no weights {spec.weights!r}; choose one of {known}")
    return name


def find_reference_weights(spec: TorchvisionSpec) -> Weights:
    """Return the weights whose categories and preprocessing the model uses: its own, or the best if it is untrained."""
    builder = get_builder(spec.builder)
    return builder.weights[resolve_weights_name(spec) or builder.default]
