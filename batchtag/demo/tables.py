"""The tables that a demonstration prints: the inventory, and the images that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Inventory = Mapping[tuple[str, str], int]
"""Number of products by (shape, brand)."""


def inventory_table(found: Inventory, true: Inventory, *, shapes: Sequence[str], brands: Sequence[str]) -> Table:
    """Make a table of shapes by brands. A cell is the number found, or "found/true" where the two differ."""
    table = _new_table("Inventory: the number found, and the true number where it differs", padding=0)
    table.add_column("")
    for name in [*brands, "all"]:
        table.add_column(name, justify="right")

    def sum_up(pairs: Sequence[tuple[str, str]]) -> Text:
        return _cell(sum(found.get(pair, 0) for pair in pairs), sum(true.get(pair, 0) for pair in pairs))

    for shape in shapes:
        row = [(shape, brand) for brand in brands]
        table.add_row(shape, *(sum_up([pair]) for pair in row), sum_up(row))
    columns = [[(shape, brand) for shape in shapes] for brand in brands]
    everything = [pair for column in columns for pair in column]
    table.add_row("all", *(sum_up(column) for column in columns), sum_up(everything), style="bold")
    return table


def _cell(found: int, true: int) -> Text:
    return Text(f"{found}") if found == true else Text(f"{found}/{true}", style="yellow")


def failures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of the images that failed, with a column for each key of the rows."""
    table = _new_table("Images that could not be tagged", padding=(0, 1))
    for name in rows[0] if rows else ():
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def _new_table(title: str, *, padding: int | tuple[int, int]) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding)
