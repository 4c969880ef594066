"""`batchtag train`: train a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchtag.cli.options import TRAIN, AsJson, JoinAddress, Quiet, Verbose
from batchtag.cli.output import print_json, print_summary, stderr_console


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("train", rich_help_panel=TRAIN)(train)


def train(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A training job (.yaml), such as jobs/train-cells.yaml.")],
    out: Annotated[
        str, typer.Option(metavar="URI", help="Where the checkpoint goes, in place of the job's output.uri.")
    ] = "",
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of epochs, in place of the job's train.epochs.")
    ] = None,
    address: JoinAddress = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a detector or classifier on labelled images; run the same command again to resume."""
    from batchtag.config.loader import parse_spec, read_job_file, set_value
    from batchtag.config.training import TrainSpec, with_absolute_uris
    from batchtag.training.driver import train_job

    content = read_job_file(job)
    set_value(content, ["output", "uri"], out)
    set_value(content, ["train", "epochs"], epochs)
    set_value(content, ["compute", "address"], address)
    spec = with_absolute_uris(parse_spec(TrainSpec, content, origin=str(job)))
    report, _ = train_job(spec, console=stderr_console(), quiet=quiet, verbose=verbose)
    if as_json:
        print_json(report)
    elif not quiet:
        print_summary(report.summary())
