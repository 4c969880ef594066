"""`batchtag evaluate`: how good a model is, or the tags that are in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchtag.errors import UsageError, printable

if TYPE_CHECKING:
    from batchtag.datasets import Dataset
    from batchtag.evaluation import Evaluation

_JOB_SUFFIXES = (".yaml", ".yml")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("evaluate")(evaluate)


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|MODEL|OUT", help="A checkpoint's folder, a published model, or a run's --out."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "--truth",
            help="Labelled pictures: a COCO .json, a folder (VOC, YOLO, one per class), a table, or a training job, "
            "which means what it holds out.",
        ),
    ],
    report: Annotated[str, typer.Option(help="Where evaluation.json and report.html go.")] = "evaluation",
    model: Annotated[str, typer.Option(help="Which model of an OUT that has several.")] = "",
    score_floor: Annotated[
        float, typer.Option(min=0, max=1, help="A detector's boxes below it do not count, as in a run.")
    ] = 0.05,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu or cuda.")] = "auto",
    store_thresholds: Annotated[
        bool, typer.Option("--store-thresholds", help="Write the thresholds found into the checkpoint, for readers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure a model on labelled pictures, or tags that are in tables; writes a JSON and an HTML page."""
    from batchtag.evaluation import write_evaluation
    from batchtag.progress import Figures, Progress

    with Progress(Console(stderr=True), quiet=quiet) as progress:

        def told(phase: str) -> None:
            progress.show(Figures(phase=phase))

        found = _evaluated(what, data, model=model, score_floor=score_floor, device=device, told=told)
        told("writing the report")
        written = write_evaluation(found, report)
    if store_thresholds:
        _store(what, found)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
    elif not quiet:
        _print(found)
        typer.echo(f"written: {', '.join(written)}", err=True)


def _evaluated(what: str, data: str, *, model: str, score_floor: float, device: str, told: Any) -> Evaluation:
    from batchtag.evaluate import checked_truth, evaluate_model, evaluate_out
    from batchtag.models.spec import CheckpointSpec, TorchvisionSpec

    if _is_out(what):
        return evaluate_out(what, _truth(data, told=told)[0], data=data, model=model)
    truth, is_checked = _truth(data, told=told)
    spec: CheckpointSpec | TorchvisionSpec
    if "/" in what or Path(what).is_dir():
        spec = CheckpointSpec(uri=what, score_floor=score_floor)
    else:
        builder, _, weights = what.partition("@")
        spec = TorchvisionSpec(builder=builder, weights=weights or "DEFAULT", score_floor=score_floor)
    if not is_checked:
        truth = checked_truth(truth, told=told)
    return evaluate_model(spec, truth, data=data, device=device, told=told)


def _is_out(what: str) -> bool:
    from batchtag.index import read_index
    from batchtag.layout import Layout
    from batchtag.storage import absolute_uri, open_store, scheme_of

    if "/" not in what and scheme_of(what) == "file" and not Path(what).is_dir():
        return False
    uri = absolute_uri(what).rstrip("/")
    return read_index(store=open_store(uri), layout=Layout(uri)) is not None


def _truth(data: str, *, told: Any) -> tuple[Dataset, bool]:
    """The labelled pictures, and whether each was opened already."""
    from batchtag.evaluate import held_out, open_truth
    from batchtag.jobfile import parse, read_job_file
    from batchtag.training.spec import TrainSpec, with_absolute_uris

    if data.endswith(_JOB_SUFFIXES) and "train" in (content := read_job_file(data)).get("data", {}):
        return held_out(with_absolute_uris(parse(TrainSpec, content, origin=data)).data, told=told), True
    return open_truth(data), False


def _store(what: str, found: Evaluation) -> None:
    from batchtag.models.checkpoint import note_results

    if _is_out(what) or ("/" not in what and not Path(what).is_dir()):
        raise UsageError("--store-thresholds writes into a checkpoint; name a checkpoint's folder")
    note_results(what, thresholds=found.score.metrics.thresholds())


def _print(found: Evaluation) -> None:
    from batchtag.evaluation import class_rows, headline_text

    names, rows = class_rows(found.score)
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)
    problems = ", ".join(f"{kind} {count:,}" for kind, count in found.num_problems.items())
    left_out = f" ({problems})" if problems else ""
    typer.echo(f"{found.model} on {found.score.num_images:,} pictures{left_out}: {headline_text(found.score)}")
    if found.score.num_unknown_tags:
        names_left = ", ".join(map(printable, found.score.unknown_tags[:5]))
        typer.echo(f"{found.score.num_unknown_tags:,} tags left out: the truth knows no {names_left}", err=True)
