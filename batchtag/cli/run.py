"""`batchtag run`: tag images, from a job file or from flags that build the same job."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from batchtag.cli.options import JOB_SUFFIXES, MODELS, OUTPUT, RUN, SOURCE, TAG, AsJson, JoinAddress, Quiet, Verbose
from batchtag.cli.output import print_json, print_summary, stderr_console
from batchtag.errors import BatchtagError, UsageError

DEFAULT_DETECTOR = "fasterrcnn_resnet50_fpn_v2"


class Device(StrEnum):
    """Where models run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("run", rich_help_panel=TAG)(run)


def run(
    what: Annotated[
        list[str], typer.Argument(metavar="JOB|URI...", help="A job file (.yaml), or folders and prefixes.")
    ],
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Take only matching names; repeatable.", rich_help_panel=SOURCE),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave matching names out; repeatable.", rich_help_panel=SOURCE),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Take only the first N images.", rich_help_panel=SOURCE)
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help=f"Torchvision detector or checkpoint folder; repeatable (default: {DEFAULT_DETECTOR}).",
            rich_help_panel=MODELS,
        ),
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Torchvision classifier or checkpoint folder; repeatable.", rich_help_panel=MODELS
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Weights of all models: a name, or 'none' for untrained.", rich_help_panel=MODELS
        ),
    ] = "",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of untrained weights (default: 0).", rich_help_panel=MODELS)
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(metavar="DEVICE", help="auto, cpu or cuda (default: auto).", rich_help_panel=RUN),
    ] = None,
    max_failure_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Stop if a larger share fails (default: 0.05).", rich_help_panel=RUN
        ),
    ] = None,
    address: JoinAddress = "",
    run_id: Annotated[str, typer.Option(hidden=True, help="The id of the run; for cluster/entrypoint.")] = "",
    out: Annotated[
        str, typer.Option(metavar="URI", help="Where the tables go: a folder or URI.", rich_help_panel=OUTPUT)
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tag images; run the same command again to resume."""
    from batchtag.config.job import make_spec
    from batchtag.config.loader import set_value
    from batchtag.runs.driver import run_job

    given_flags = {
        "detector": detector,
        "classifier": classifier,
        "weights": weights,
        "seed": seed,
        "include": include,
        "exclude": exclude,
    }
    content, origin = _read_job(
        what, {name: value for name, value in given_flags.items() if value not in (None, "", [])}
    )
    if origin == "run" and not out:
        raise UsageError("--out is missing: name the folder or URI for the tables")
    set_value(content, ["output", "uri"], out)
    set_value(content, ["source", "limit"], limit)
    set_value(content, ["max_failure_rate"], max_failure_rate)
    set_value(content, ["compute", "device"], device.value if device else None)
    set_value(content, ["compute", "address"], address)
    spec = make_spec(content, origin=origin)
    try:
        report = run_job(spec, console=stderr_console(), quiet=quiet, verbose=verbose, run_id=run_id)
    except BatchtagError as error:
        if as_json and hasattr(error, "report"):
            print_json(error.report)
        raise
    if as_json:
        print_json(report)
    elif not quiet:
        print_summary(report.summary())


def _read_job(what: list[str], flags: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the job as plain data, from a file or from URIs and flags, and its name in error messages."""
    if any(name.endswith(JOB_SUFFIXES) for name in what):
        if len(what) > 1:
            raise UsageError(f"run takes one job file, or folders and prefixes; it got {', '.join(what)}")
        if flags:
            names = ", ".join(f"--{name}" for name in flags)
            raise UsageError(f"{names} cannot be combined with a job file; write it into {what[0]}")

        from batchtag.config.loader import read_job_file

        return read_job_file(Path(what[0])), what[0]
    return _build_job(what, flags), "run"


def _build_job(uris: list[str], flags: dict[str, Any]) -> dict[str, Any]:
    """Return the job that the flags describe, as a job file would."""
    from batchtag.config.job import parse_model_flag

    detectors, classifiers = flags.get("detector") or [], flags.get("classifier") or []
    if not detectors and not classifiers:
        detectors = [DEFAULT_DETECTOR]
    common = {"weights": flags.get("weights", ""), "seed": flags.get("seed", 0)}
    models = [parse_model_flag(text, task="detect", **common) for text in detectors]
    models += [parse_model_flag(text, task="classify", **common) for text in classifiers]
    source = {"kind": "prefix", "uris": uris, "include": flags.get("include", []), "exclude": flags.get("exclude", [])}
    return {"version": 1, "source": source, "models": models, "output": {}}
