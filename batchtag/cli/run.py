"""`batchtag run`: a job file, or flags that build the same job."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchtag.errors import BatchtagError, UsageError

if TYPE_CHECKING:
    from batchtag.runs.report import RunReport

DEFAULT_DETECTOR = "fasterrcnn_resnet50_fpn_v2"
_JOB_SUFFIXES = (".yaml", ".yml")


class Device(StrEnum):
    """Where models run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("run")(run)


def run(
    what: Annotated[
        list[str], typer.Argument(metavar="JOB|URI...", help="A job file (.yaml), or folders and prefixes of images.")
    ],
    out: Annotated[str, typer.Option(help="Where the tables go: a folder or any fsspec URI.")] = "",
    detector: Annotated[
        list[str] | None,
        typer.Option(help=f"A torchvision detector or a checkpoint folder; repeatable. (default: {DEFAULT_DETECTOR})"),
    ] = None,
    classifier: Annotated[
        list[str] | None, typer.Option(help="A torchvision classifier or a checkpoint folder; repeatable.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Weights for all of them: a member of the builder's enum, or 'none' for untrained ones.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of untrained weights. (default: 0)")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only names that match this glob; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No names that match this glob; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images of the listing.")] = None,
    max_failure_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop when a larger share of the images fails. (default: 0.05)")
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where models run. (default: auto)")] = None,
    address: Annotated[
        str, typer.Option(help="Join this Ray cluster; by default RAY_ADDRESS, else a private Ray on this machine.")
    ] = "",
    run_id: Annotated[str, typer.Option(hidden=True, help="What the run is to be called.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray says, too.")] = False,
) -> None:
    """Tag images; run it again to go on where it stopped."""
    given = {
        "detector": detector,
        "classifier": classifier,
        "weights": weights,
        "seed": seed,
        "include": include,
        "exclude": exclude,
    }
    spec_flags = {name: value for name, value in given.items() if value not in (None, "", [])}
    content, origin = _job(what, spec_flags)
    if origin == "run" and not out:
        raise UsageError("--out is missing: name the folder or URI for the tables")
    from batchtag.config.job import make_spec
    from batchtag.config.loader import set_value

    set_value(content, ["output", "uri"], out)
    set_value(content, ["source", "limit"], limit)
    set_value(content, ["max_failure_rate"], max_failure_rate)
    set_value(content, ["compute", "device"], device.value if device else None)
    set_value(content, ["compute", "address"], address)

    spec = make_spec(content, origin=origin)

    from rich.console import Console

    from batchtag.runs.driver import run_job

    try:
        report = run_job(spec, console=Console(stderr=True), quiet=quiet, verbose=verbose, run_id=run_id)
    except BatchtagError as error:
        if as_json and hasattr(error, "report"):
            _print_json(error.report)
        raise
    if as_json:
        _print_json(report)
    elif not quiet:
        typer.echo(report.summary(), err=True)


def _print_json(report: RunReport) -> None:
    typer.echo(json.dumps(asdict(report), indent=1, ensure_ascii=False))


def _job(what: list[str], flags: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The job as plain data, from a file or from URIs and flags, and what to call it in errors."""
    if any(name.endswith(_JOB_SUFFIXES) for name in what):
        if len(what) > 1:
            raise UsageError(f"run takes one job file, or folders and prefixes; it got {', '.join(what)}")
        if flags:
            names = ", ".join(f"--{name}" for name in flags)
            raise UsageError(f"{names} cannot be combined with a job file; write it into {what[0]}")

        from batchtag.config.loader import read_job_file

        return read_job_file(Path(what[0])), what[0]
    return _job_of_flags(what, flags), "run"


def _job_of_flags(uris: list[str], flags: dict[str, Any]) -> dict[str, Any]:
    from batchtag.config.job import parse_model

    detectors, classifiers = flags.get("detector") or [], flags.get("classifier") or []
    if not detectors and not classifiers:
        detectors = [DEFAULT_DETECTOR]
    common = {"weights": flags.get("weights", ""), "seed": flags.get("seed", 0)}
    models = [parse_model(text, task="detect", **common) for text in detectors]
    models += [parse_model(text, task="classify", **common) for text in classifiers]
    source = {"kind": "prefix", "uris": uris, "include": flags.get("include", []), "exclude": flags.get("exclude", [])}
    return {"version": 1, "source": source, "models": models, "output": {}}
