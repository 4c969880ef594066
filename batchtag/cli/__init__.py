"""The command line: all commands, the exit codes, and one line on stderr for every error.

Commands import what they use when they are called, so `--help` answers in a fraction of a second.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated

import typer

from batchtag import __version__
from batchtag.cli import cluster, demo, evaluation, models, read, run, submit, training
from batchtag.console import escape_unprintable
from batchtag.errors import BatchtagError, UsageError

_HELP = "Tag every image under a prefix with detectors and classifiers, into Parquet: resumable, and provable."

_MIN_PANEL_WIDTH = 60
"""Columns below which `--help` is plain text: in Typer's panels, the names of flags would be cut off."""
_width = shutil.get_terminal_size().columns
_is_narrow = _width < _MIN_PANEL_WIDTH

app = typer.Typer(
    name="batchtag",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if _is_narrow else "rich",
    context_settings={"help_option_names": ["-h", "--help"], "terminal_width": _width if _is_narrow else None},
    epilog=(
        "Exit codes: 0 done, 1 failed, 2 wrong usage or job file, 3 too many failures, 130 interrupted. "
        "Shell completion: run `batchtag --install-completion` once, then open a new shell."
    ),
)
for _commands in (run, models, demo, read, training, evaluation, submit, cluster):
    _commands.register(app)
demo.register_scenes(app)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(help=_HELP)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every error becomes one line on stderr and an exit code."""
    try:
        app()
    except BatchtagError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("batchtag: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:  # a bug of ours: still one line, and how to see more
        if os.environ.get("BATCHTAG_TRACEBACK"):
            raise
        text = escape_unprintable(" ".join(str(error).split()))
        print(
            f"batchtag: unexpected {type(error).__name__}: {text} (BATCHTAG_TRACEBACK=1 shows where)", file=sys.stderr
        )
        sys.exit(1)


def _print_error(error: BatchtagError) -> None:
    if os.environ.get("BATCHTAG_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    report = getattr(error, "report", None)
    if report is not None and not isinstance(error, UsageError) and report.num_done:
        print(report.summary(), file=sys.stderr)
    for line in error.message.split("\n"):
        print(f"batchtag: {escape_unprintable(line)}", file=sys.stderr)
