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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchtag.errors import UsageError
from batchtag.records import InputNeed

if TYPE_CHECKING:
    from batchtag.models.spec import Task

SMALL_FASTER_RCNN = "fasterrcnn_small_fpn"
"""Our own small detector, which has no published weights and is there to be trained (`small`)."""
SMALL_SIZES = {"min_size": 320, "max_size": 640}
"""What it resizes pictures to, unless told otherwise."""
TABLE = Path(__file__).with_name("published.json")
_FLAG = {"detect": "--detector", "classify": "--classifier"}
_NOUN = {"detect": "detector", "classify": "classifier"}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of weights: its name, what it says, the pixels that it wants, and its publisher's figures.

    `preprocessing` has the fields of `classifier.Preprocessing`, or what `architectures.detector_need` says of a
    detector. `metric` is in percent: box mAP on COCO-val2017, or top-1 on ImageNet-1K.
    """

    file: str
    categories: tuple[str, ...]
    need: InputNeed
    preprocessing: Mapping[str, Any]
    gflops: float
    num_params: int
    size_mb: float
    metric: float


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A builder, and its weights by name, less those that tell no categories. `default` is the name of the best."""

    name: str
    task: Task
    default: str
    weights: Mapping[str, Weights]


def builder(name: str) -> Builder:
    """The facts of one builder. Raises UsageError if torchvision publishes none of that name, with the nearest."""
    task = task_of(name)
    if name == SMALL_FASTER_RCNN:
        raise UsageError(f"{name} has no published weights; it is there to be trained (`batchtag train`)")
    if _table() is not None:
        return _from_table(name, task)
    from batchtag.models import survey

    return survey.builder(name, task)


def builders(task: Task) -> list[str]:
    """The names of torchvision's builders for a task, sorted. Quantised ones are the same networks, for CPUs only."""
    table = _table()
    if table is not None:
        return sorted(name for name, one in table["builders"].items() if one["task"] == task)
    from batchtag.models import survey

    return survey.names(task)


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


def installed() -> str:
    """The version of torchvision that is here, without the name of its build; "" if none is known."""
    try:
        return version("torchvision").partition("+")[0]
    except PackageNotFoundError:
        return ""


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
            | {"categories": tuple(table["categories"][facts["categories"]]), "need": InputNeed(**facts["need"])}
        )
        for called, facts in one["weights"].items()
    }
    return Builder(name=name, task=task, default=one["default"], weights=weights)
