"""Flags and arguments that several commands share, and the panels in which `--help` groups commands and flags."""

from __future__ import annotations

from typing import Annotated

import typer

TAG, READ, TRAIN, CLUSTER = "Tag", "Read", "Train", "Cluster"
"""Panels of commands, by what a user wants to do."""
SOURCE, MODELS, RUN, OUTPUT = "Source", "Models", "Run", "Output"
"""Panels of flags."""
JOB_SUFFIXES = (".yaml", ".yml")
"""Endings of the names of job files."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own output too.", rich_help_panel=OUTPUT)]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="The --out of a run: a folder or a URI.")]
JoinAddress = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Ray cluster to join (default: RAY_ADDRESS, else none).", rich_help_panel=RUN),
]
ClusterAddress = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="The cluster: https://host, a tunnel's http://127.0.0.1:8265, ... (default: RAY_ADDRESS)",
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow a cluster address without TLS or without a token.")]
RunOrOut = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `submit` printed it, or its OUT.")]
SubmittedRun = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `submit` printed it.")]
