"""`batchtag verify` and `batchtag query`: whether the tables of an OUT are complete and agree, and what is in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchtag.cli.options import READ, AsJson, OutArgument
from batchtag.cli.output import (
    Column,
    print_csv,
    print_json,
    print_jsonl,
    print_line,
    print_note,
    print_table,
    to_plain,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from batchtag.analysis.verify_report import VerifyReport

NUM_ROWS_SHOWN = 100
"""Rows of an answer to `query` that a table shows."""
_NUMBER_TYPES = ("int", "uint", "float", "double", "decimal")
_SQL_HELP = (
    "A select over images, tags, errors and confident, in DuckDB's SQL. `confident` has the tags that reach the best "
    "threshold of their model and tag; 0.5 where none was found."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("verify", rich_help_panel=READ)(verify)
    app.command("query", rich_help_panel=READ)(query)


def verify(
    out: OutArgument,
    shows_all: Annotated[
        bool, typer.Option("--all", help="Show all violations, not only the first 20 of each check.")
    ] = False,
    is_live: Annotated[
        bool, typer.Option("--live", help="A run is writing now: allow files that are not committed yet.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that every image has exactly one result and that the tables agree. Exits 0 or 1."""
    from batchtag.analysis.verify import verify as verify_out
    from batchtag.analysis.verify_report import MAX_EXAMPLES

    report = verify_out(out, is_live=is_live, max_examples=None if shows_all else MAX_EXAMPLES)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    raise typer.Exit(0 if report.ok else 1)


def _print_report(report: VerifyReport) -> None:
    """Print the checks as a table, then the examples of violations, then the summary."""
    columns = [
        Column(heading="result"),
        Column(heading="check"),
        Column(heading="violations", is_number=True),
        Column(heading="meaning", folds=True),
    ]
    rows = [
        ["ok" if check.ok else "BROKEN", check.name, f"{check.num_violations:,}", check.meaning]
        for check in report.checks
    ]
    print_table(columns, rows)
    for check in report.checks:
        for uri, detail in check.examples:
            print_line(f"{check.name}: {uri}: {detail}")
        if check.num_violations > len(check.examples):
            print_line(f"{check.name}: and {check.num_violations - len(check.examples):,} more; see --all")
    print_line(report.summary())


def query(
    out: OutArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help=_SQL_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Query the tables of an OUT with SQL. A table shows the first 100 rows; --json and --csv give all."""
    from batchtag.analysis.query import open_query
    from batchtag.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other; choose one")
    with open_query(out, sql) as answer:
        if as_json:
            print_jsonl(_iterate_rows(answer))
        elif as_csv:
            print_csv(answer.schema.names, _iterate_rows(answer))
        else:
            _print_rows(answer)


def _iterate_rows(answer: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(batch.to_pylist() for batch in answer)


def _print_rows(answer: pa.RecordBatchReader) -> None:
    rows = _iterate_rows(answer)
    columns = [
        Column(heading=field.name, is_number=is_number, folds=not is_number)
        for field in answer.schema
        for is_number in [str(field.type).startswith(_NUMBER_TYPES)]
    ]
    shown = [
        ["" if value is None else str(to_plain(value)) for value in row.values()]
        for row in itertools.islice(rows, NUM_ROWS_SHOWN)
    ]
    print_table(columns, shown)
    if next(rows, None) is not None:
        print_note(f"the first {NUM_ROWS_SHOWN} rows; --json or --csv give all, LIMIT fewer")
