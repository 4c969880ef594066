"""The front door: commands, exit codes, one line on stderr for whatever goes wrong.

Commands import what they need when they are called, so that `--help` answers in a fraction of a second.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from batchtag import __version__
from batchtag.cli import cluster, demo, evaluation, models, run, tables, training
from batchtag.console import printable
from batchtag.errors import BatchtagError, UsageError

app = typer.Typer(
    name="batchtag",
    help="Tag every image under a prefix with detectors and classifiers, into Parquet: resumable, and provable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or job file, 3 more failures than allowed, 130 interrupted.",
)
for group in (run, cluster, tables, models, training, evaluation, demo):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tag every image under a prefix with detectors and classifiers, into Parquet: resumable, and provable."""


def main() -> None:
    """Run a command; every error of ours becomes its line on stderr and its exit code."""
    try:
        app()
    except BatchtagError as error:
        _say(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("batchtag: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:  # a fault of ours: one line all the same, and how to see more
        if os.environ.get("BATCHTAG_TRACEBACK"):
            raise
        text = printable(" ".join(str(error).split()))
        print(
            f"batchtag: unexpected {type(error).__name__}: {text} (BATCHTAG_TRACEBACK=1 shows where)", file=sys.stderr
        )
        sys.exit(1)


def _say(error: BatchtagError) -> None:
    if os.environ.get("BATCHTAG_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    report = getattr(error, "report", None)
    if report is not None and not isinstance(error, UsageError) and report.num_done:
        print(report.summary(), file=sys.stderr)
    for line in error.message.split("\n"):
        print(f"batchtag: {printable(line)}", file=sys.stderr)
