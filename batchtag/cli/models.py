"""`batchtag models`: the published detectors and classifiers, as tables or as JSON from the same entries."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from batchtag.cli.options import TAG
from batchtag.cli.output import Column, print_json, print_line, print_table

if TYPE_CHECKING:
    from batchtag.models.torchvision.catalog import CatalogEntry

_TITLES = {
    "detect": "Detectors (% is box mAP on COCO-val2017)",
    "classify": "Classifiers (% is top-1 on ImageNet-1K)",
}
_COLUMNS = (
    Column(heading="model"),
    Column(heading="weights", folds=True),
    Column(heading="%", is_number=True),
    Column(heading="params", is_number=True),
    Column(heading="MB", is_number=True),
    Column(heading="GFLOPs", is_number=True),
    Column(heading="tags", is_number=True),
)
"""With default weights the tables have 80 columns at most. `params` is in millions, `MB` the size of the file."""


class TaskName(StrEnum):
    """A task whose models are listed."""

    DETECT = "detect"
    CLASSIFY = "classify"


class WeightsChoice(StrEnum):
    """Which of a builder's published weights are listed."""

    DEFAULT = "default"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("models", rich_help_panel=TAG)(models)


def models(
    task: Annotated[TaskName | None, typer.Option(help="List only detectors, or only classifiers.")] = None,
    weights: Annotated[
        WeightsChoice, typer.Option(help="List each builder's best weights, or all that are published.")
    ] = WeightsChoice.DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List the published detectors and classifiers with mAP or top-1 and size, the best first."""
    from batchtag.models.torchvision.catalog import list_catalog

    is_default_only = weights is WeightsChoice.DEFAULT
    entries = list_catalog(task=task.value if task else None, only_default=is_default_only)
    if as_json:
        print_json([entry.as_dict() for entry in entries])
        return
    for name, title in _TITLES.items():
        if rows := [_cells(entry, marks_default=not is_default_only) for entry in entries if entry.task == name]:
            print_table(_COLUMNS, rows, title=title)
            print_line("")
    mark = "" if is_default_only else "* is the builder's default. "
    print_line(f"{mark}Use: --detector NAME[@WEIGHTS], --classifier NAME[@WEIGHTS]")


def _cells(entry: CatalogEntry, *, marks_default: bool) -> list[str]:
    """Return the row of one entry."""
    return [
        entry.name,
        f"{entry.weights}*" if marks_default and entry.is_default else entry.weights,
        f"{entry.metric:.1f}",
        f"{entry.num_params / 1e6:.1f}",
        f"{entry.size_mb:.0f}",
        f"{entry.gflops:.1f}",
        str(entry.num_tags),
    ]
