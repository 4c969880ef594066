"""`batchtag evaluate`: how good a model is, or the tags that are in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchtag.console import printable
from batchtag.errors import Code, StorageError, UsageError

if TYPE_CHECKING:
    from batchtag.config.model import CheckpointSpec, TorchvisionSpec
    from batchtag.datasets import Dataset
    from batchtag.evaluation.evaluate import Told
    from batchtag.evaluation.result import Evaluation

Subject = Literal["out", "checkpoint", "published"]

_JOB_SUFFIXES = (".yaml", ".yml")
_PROBLEMS_SHOWN = 3
"""Of each kind on a terminal; the page and the JSON count them."""


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
            help="Labelled images: a COCO .json, a folder (VOC, YOLO, one per class), a table, or a training job, "
            "which means what it holds out.",
        ),
    ],
    report: Annotated[str, typer.Option(help="Where evaluation.json and report.html go.")] = "evaluation",
    model: Annotated[str, typer.Option(help="Which model of an OUT that has several.")] = "",
    score_floor: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="A detector's boxes below it do not count; 0.05, as in a run."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu or cuda.")] = "auto",
    store_thresholds: Annotated[
        bool, typer.Option("--store-thresholds", help="Write the thresholds found into the checkpoint, for readers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure a model on labelled images, or tags that are in tables; writes a JSON and an HTML page."""
    from batchtag.evaluation.result import write_evaluation
    from batchtag.runs.progress import Progress, RunProgress

    subject = _subject(what)
    _check_options(what, subject, model=model, score_floor=score_floor, store_thresholds=store_thresholds)
    with Progress(Console(stderr=True), quiet=quiet) as progress:

        def told(phase: str) -> None:
            progress.show(RunProgress(phase=phase))

        if subject == "out":
            found = _of_tables(what, data, model=model, told=told)
        else:
            spec = _spec(what, subject, score_floor=0.05 if score_floor is None else score_floor)
            found = _of_model(spec, data, device=device, told=told)
        told("writing the report")
        written = write_evaluation(found, report)
    if store_thresholds:
        _store(what, found, quiet=quiet)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        _print(found)
        typer.echo(f"written: {', '.join(written)}", err=True)


def _subject(what: str) -> Subject:
    """What the first word of the command line names. Raises UsageError if it is nothing that can be measured."""
    from batchtag.storage import absolute_uri, join_uri, scheme_of

    is_local = scheme_of(what) == "file"
    if is_local and "/" not in what and not Path(what).exists():
        return "published"
    if _is_out(what):
        return "out"
    uri = absolute_uri(what)
    if _is_there(join_uri(uri, "model.json")):
        return "checkpoint"
    advice = "name a checkpoint's folder, the --out of a run, or a published model as `batchtag models` lists it"
    if is_local and not Path(uri).exists():
        raise UsageError(f"{what}: nothing lies there; {advice}")
    if _is_there(join_uri(uri, "training.json")):
        raise UsageError(
            f"{what}: is no checkpoint yet, as its training has not ended; the same `batchtag train` goes on"
        )
    raise UsageError(
        f"{what}: is no checkpoint (no model.json) and holds no tables (no _batchtag/index.json); {advice}"
    )


def _is_out(what: str) -> bool:
    from batchtag.output.index import read_index
    from batchtag.output.layout import Layout
    from batchtag.storage import absolute_uri, open_store

    uri = absolute_uri(what).rstrip("/")
    return read_index(store=open_store(uri), layout=Layout(uri)) is not None


def _is_there(uri: str) -> bool:
    from batchtag.storage import open_store

    try:
        open_store(uri).stat(uri)
    except StorageError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return False
    return True


def _check_options(
    what: str, subject: Subject, *, model: str, score_floor: float | None, store_thresholds: bool
) -> None:
    """An option that would be ignored is a mistake, told before anything is measured; all of them at once."""
    mistakes = []
    if model and subject != "out":
        mistakes.append(f"--model chooses among the models of an OUT, and {what} is one model; leave it out")
    if score_floor is not None and subject == "out":
        mistakes.append(
            f"--score-floor is for a model that looks now; the tags in {what} have their run's; leave it out"
        )
    if store_thresholds and subject != "checkpoint":
        mistakes.append(f"--store-thresholds writes into a checkpoint, and {what} is none; name a checkpoint's folder")
    if mistakes:
        raise UsageError("\n".join(mistakes))


def _spec(what: str, subject: Subject, *, score_floor: float) -> CheckpointSpec | TorchvisionSpec:
    from batchtag.config.model import CheckpointSpec, TorchvisionSpec

    if subject == "checkpoint":
        return CheckpointSpec(uri=what, score_floor=score_floor)
    builder, _, weights = what.partition("@")
    return TorchvisionSpec(builder=builder, weights=weights or "DEFAULT", score_floor=score_floor)


def _of_tables(out: str, data: str, *, model: str, told: Told) -> Evaluation:
    from batchtag.evaluation.evaluate import evaluate_out

    ground_truth = _job_ground_truth(data, told=told) or _ground_truth(data)
    return evaluate_out(out, ground_truth, data=data, model=model)


def _of_model(spec: CheckpointSpec | TorchvisionSpec, data: str, *, device: str, told: Told) -> Evaluation:
    """The model is looked for before the images are opened: a slip of the pen costs no minutes."""
    from batchtag.evaluation.evaluate import checked_device, checked_ground_truth, evaluate_model, prepared

    device = checked_device(device)
    ground_truth = _job_ground_truth(data, told=told)
    if ground_truth is None:
        opened = _ground_truth(data)
        prepared(spec, task=opened.task)
        ground_truth = checked_ground_truth(opened, told=told)
    return evaluate_model(spec, ground_truth, data=data, device=device, told=told)


def _job_ground_truth(data: str, *, told: Told) -> Dataset | None:
    """What a training job holds out, each image opened; None if `data` is no job."""
    from batchtag.config.loader import parse, read_job_file
    from batchtag.config.training import TrainSpec, with_absolute_uris
    from batchtag.evaluation.evaluate import held_out
    from batchtag.storage import scheme_of

    if not data.endswith(_JOB_SUFFIXES) or scheme_of(data) != "file":
        return None
    content = read_job_file(data)
    if not isinstance(content.get("data"), dict) or "train" not in content["data"]:
        return None
    return held_out(with_absolute_uris(parse(TrainSpec, content, origin=data)).data, told=told)


def _ground_truth(data: str) -> Dataset:
    """The labelled images as they are described; none is opened yet."""
    from batchtag.evaluation.evaluate import open_ground_truth
    from batchtag.storage import absolute_uri

    if not Path(data).suffix and _is_out(data):
        raise UsageError(f"{data}: holds the tables of a run, which are no truth; --data takes labelled images")
    try:
        return open_ground_truth(data)
    except StorageError as error:
        if error.code is Code.NOT_FOUND and error.message.startswith(f"{absolute_uri(data)}:"):
            raise UsageError(f"{data}: nothing lies there; --data takes labelled images") from error
        raise


def _store(checkpoint: str, found: Evaluation, *, quiet: bool) -> None:
    from batchtag.models.checkpoint.model import note_results

    thresholds = found.score.metrics.thresholds()
    note_results(checkpoint, thresholds=thresholds)
    if not quiet:
        typer.echo(
            f"{len(thresholds)} thresholds stored in {checkpoint}; the next run brings them to its tables", err=True
        )


def _print(found: Evaluation) -> None:
    from batchtag.datasets.validate import problem_lines
    from batchtag.evaluation.evaluate import ON_PROBLEM
    from batchtag.evaluation.result import class_rows, headline_text

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
    num = found.score.num_images
    typer.echo(f"{found.model} on {num:,} image{'' if num == 1 else 's'}: {headline_text(found.score)}")
    for line in problem_lines(found.ground_truth.problems, on_problem=ON_PROBLEM, per_kind=_PROBLEMS_SHOWN):
        typer.echo(printable(line), err=True)
    if found.score.num_unknown_tags:
        names_left = ", ".join(map(printable, found.score.unknown_tags[:5]))
        more = f" and {len(found.score.unknown_tags) - 5:,} more" if len(found.score.unknown_tags) > 5 else ""
        typer.echo(f"{found.score.num_unknown_tags:,} tags left out: the truth knows no {names_left}{more}", err=True)
    if found.note:
        typer.echo(found.note, err=True)
