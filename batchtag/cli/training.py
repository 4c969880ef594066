"""`batchtag train`: a model of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("train")(train)


def train(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A training job: a YAML file, see jobs/train-cells.yaml.")],
    out: Annotated[str, typer.Option(help="Where the checkpoint goes; wins over output.uri of the job.")] = "",
    epochs: Annotated[int | None, typer.Option(min=1, help="Wins over train.epochs of the job.")] = None,
    address: Annotated[
        str, typer.Option(help="Join this Ray cluster; by default RAY_ADDRESS, else a private Ray on this machine.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what came out as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray says, too.")] = False,
) -> None:
    """Train a detector or a classifier on labelled images; run it again to go on where it stopped."""
    from batchtag.config.loader import parse, read_job_file, set_value
    from batchtag.config.training import TrainSpec, with_absolute_uris

    content = read_job_file(job)
    set_value(content, ["output", "uri"], out)
    set_value(content, ["train", "epochs"], epochs)
    set_value(content, ["compute", "address"], address)
    spec = with_absolute_uris(parse(TrainSpec, content, origin=str(job)))

    from rich.console import Console

    from batchtag.training.driver import train_job

    report, _ = train_job(spec, console=Console(stderr=True), quiet=quiet, verbose=verbose)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=1, ensure_ascii=False))
    elif not quiet:
        typer.echo(report.summary(), err=True)
