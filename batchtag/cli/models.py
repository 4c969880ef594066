"""`batchtag models`: what there is to choose from, as a table or as JSON from the same entries."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from batchtag.models.torchvision.catalog import CatalogEntry

_WIDTH = 100
_TITLE = {"detect": "Detectors (% is box mAP on COCO-val2017)", "classify": "Classifiers (% is top-1 on ImageNet-1K)"}


class TaskName(StrEnum):
    DETECT = "detect"
    CLASSIFY = "classify"


class WeightsChoice(StrEnum):
    DEFAULT = "default"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Adds the command to the front door."""
    app.command("models")(models)


def models(
    task: Annotated[TaskName | None, typer.Option(help="Only detectors, or only classifiers.")] = None,
    weights: Annotated[
        WeightsChoice, typer.Option(help="Each builder's best weights, or all that are published.")
    ] = WeightsChoice.DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List every detector and classifier with its published mAP or top-1 and its size, the best first."""
    from batchtag.models.torchvision.catalog import catalog

    entries = catalog(
        task=task.value if task else None,
        only_default=weights is WeightsChoice.DEFAULT,
    )
    if as_json:
        typer.echo(json.dumps([entry.as_dict() for entry in entries], indent=2))
    else:
        _print(entries)


def _print(entries: list[CatalogEntry]) -> None:
    console = Console()
    # A name that is cut short cannot be copied, so rows stay whole where the terminal or the pipe is narrower.
    console.width = max(console.width, _WIDTH)
    for task in dict.fromkeys(entry.task for entry in entries):
        console.print(_table([entry for entry in entries if entry.task == task], title=_TITLE[task]), "")
    console.print("* the DEFAULT weights. Use: --detector NAME[@WEIGHTS], --classifier NAME[@WEIGHTS]", markup=False)


def _table(entries: list[CatalogEntry], *, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for column in ("%", "params M", "file MB", "GFLOPs", "tags"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(
            entry.name,
            f"{entry.weights}*" if entry.is_default else entry.weights,
            f"{entry.metric:.1f}",
            f"{entry.num_params / 1e6:.1f}",
            f"{entry.size_mb:.0f}",
            f"{entry.gflops:.1f}",
            str(entry.num_tags),
        )
    return table
