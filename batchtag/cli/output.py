"""The printer of all commands: tables, JSON, CSV and text on stdout are the answer; messages on stderr are the story.

A table is as wide as its terminal. In a pipe it is as wide as its content, so that no value is folded or cut. On a
terminal too narrow for its columns, each row becomes a block of lines. Rich obeys NO_COLOR and COLUMNS.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from batchtag.console import escape_unprintable

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2
"""Spaces between two columns."""
_PIPE_WIDTH = 10_000
_MIN_FOLDED_WIDTH = 16
"""Least width of a column whose values are folded; below it, rows become blocks."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table. Values of a column with `folds` may continue on the next line of a narrow terminal."""

    heading: str
    is_number: bool = False
    folds: bool = False


def stdout_console() -> Console:
    """Return the console for answers that rich formats. In a pipe it folds nothing."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def stderr_console() -> Console:
    """Return the console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True)


def print_message(text: str) -> None:
    """Print a message about the command on stderr, as `batchtag: <text>`."""
    typer.echo(f"batchtag: {escape_unprintable(text)}", err=True)


def print_note(text: str) -> None:
    """Print a line on stderr that comments on the answer."""
    typer.echo(escape_unprintable(text), err=True)


def print_summary(text: str) -> None:
    """Print a text of several lines on stderr."""
    for line in text.split("\n"):
        print_note(line)


def print_line(text: str) -> None:
    """Print a line of the answer on stdout."""
    typer.echo(escape_unprintable(text))


def print_json(value: Any) -> None:
    """Print a dataclass or plain data as indented JSON."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    typer.echo(_encode_json(plain, indent=1))


def print_jsonl(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print one JSON object per line."""
    for row in rows:
        typer.echo(_encode_json(row, indent=None))


def print_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print CSV with a header line."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([to_plain(value) for value in row.values()] for row in rows)


def _encode_json(value: Any, *, indent: int | None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=to_plain)
    except ValueError:  # JSON has no NaN and no infinity
        return json.dumps(_without_nan(value), indent=indent, ensure_ascii=False, default=to_plain)


def _without_nan(value: Any) -> Any:
    """Return the same data with null for NaN and infinities."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_nan(item) for item in value]
        case _:
            return value


def to_plain(value: object) -> object:
    """Return a value as JSON and CSV can hold it: times as ISO 8601, decimals as numbers, bytes as hex, else text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            return float(value)
        case bytes():
            return value.hex()
        case _:
            iso_format = getattr(value, "isoformat", None)
            return iso_format() if iso_format else str(value)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print rows of text under headings; what is not printable in them is spelled out."""
    from rich.cells import cell_len
    from rich.text import Text

    console = stdout_console()
    cells = [[escape_unprintable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, [column.heading, *(row[i] for row in cells)])) for i, column in enumerate(columns)]
    folded = [
        min(width, _MIN_FOLDED_WIDTH) if column.folds else width for column, width in zip(columns, widths, strict=True)
    ]
    if not console.is_terminal:
        console.width = max(1, _total_width(widths))
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    if _total_width(folded) <= console.width:
        _print_rows(console, columns, cells)
    else:
        _print_blocks(console, columns, cells)


def _total_width(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _print_rows(console: Console, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP // 2))
    for column in columns:
        table.add_column(
            Text(column.heading),
            justify="right" if column.is_number else "left",
            no_wrap=not column.folds,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_blocks(console: Console, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    """Print each row as lines of `heading  value`, with an empty line between two rows."""
    from rich.table import Table
    from rich.text import Text

    for i, row in enumerate(cells):
        if i:
            console.print()
        block = Table(box=None, pad_edge=False, padding=(0, _GAP // 2), show_header=False)
        block.add_column(style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(columns, row, strict=True):
            block.add_row(Text(column.heading), Text(cell))
        console.print(block)
