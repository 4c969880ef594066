"""`batchtag verify` and `batchtag query`: whether the tables of an OUT hold what they should, and what is in them."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchtag.console import printable

if TYPE_CHECKING:
    import pyarrow as pa

    from batchtag.analysis.verify import VerifyReport

ROWS_ON_SCREEN = 100
_PIPE_WIDTH = 10_000
"""Nothing is folded where nobody looks at a screen."""
_SQL_HELP = (
    "A select over images, tags, errors and confident, in DuckDB's SQL. `confident` has the tags that reach the best "
    "threshold of their model and tag; 0.5 where none was found."
)
_Out = Annotated[str, typer.Argument(metavar="OUT", help="The --out of a run: a folder or a URI.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the front door."""
    app.command("verify")(verify)
    app.command("query")(query)


def verify(
    out: _Out,
    every: Annotated[bool, typer.Option("--all", help="Name every violation, not the first 20 of each kind.")] = False,
    is_live: Annotated[bool, typer.Option("--live", help="A run writes now: allow parts not committed yet.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Prove that every image of the index has exactly one outcome, and that the tables agree. Exits 0 or 1."""
    from batchtag.analysis.verify import MAX_EXAMPLES
    from batchtag.analysis.verify import verify as verified

    report = verified(out, is_live=is_live, max_examples=None if every else MAX_EXAMPLES)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        _print_report(report)
    raise typer.Exit(0 if report.ok else 1)


def _print_report(report: VerifyReport) -> None:
    for check in report.checks:
        mark = "ok    " if check.ok else "BROKEN"
        times = "" if check.ok else f": {check.num_violations:,} times"
        typer.echo(f"{mark} {check.name:<17}{check.meaning}{times}")
        for uri, detail in check.examples:
            typer.echo(f"         {printable(uri)}: {printable(detail)}")
        if check.num_violations > len(check.examples):
            typer.echo(f"         and {check.num_violations - len(check.examples):,} more; see --all")
    typer.echo(report.summary())


def query(
    out: _Out,
    sql: Annotated[str, typer.Argument(metavar="SQL", help=_SQL_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Ask the tables of an OUT with SQL. The screen shows the first 100 rows; --json and --csv give all."""
    from batchtag.analysis.query import open_query
    from batchtag.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv are two ways to print one answer; choose one")
    with open_query(out, sql) as answer:
        if as_json:
            for row in _rows(answer):
                typer.echo(json.dumps(row, default=_plain, ensure_ascii=False))
        elif as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.schema.names)
            writer.writerows([_plain(value) for value in row.values()] for row in _rows(answer))
        else:
            _print_rows(answer)


def _rows(answer: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(batch.to_pylist() for batch in answer)


def _plain(value: object) -> object:
    """What JSON and CSV have no word for: times as ISO 8601, decimals as numbers, bytes as hex, else the text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            return float(value)
        case bytes():
            return value.hex()
        case _:
            iso = getattr(value, "isoformat", None)
            return iso() if iso else str(value)


def _print_rows(answer: pa.RecordBatchReader) -> None:
    rows = _rows(answer)
    table = Table(box=None, pad_edge=False)
    for column in answer.schema:
        is_number = str(column.type).startswith(("int", "uint", "float", "double", "decimal"))
        table.add_column(Text(column.name), justify="right" if is_number else "left", overflow="fold")
    for row in itertools.islice(rows, ROWS_ON_SCREEN):
        table.add_row(*(Text("" if value is None else printable(str(_plain(value)))) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)
    if next(rows, None) is not None:
        typer.echo(f"the first {ROWS_ON_SCREEN} rows; --json or --csv give all, LIMIT fewer", err=True)
