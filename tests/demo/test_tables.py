from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from batchtag.demo.tables import failures_table, inventory_table


def print_table(table: Table) -> list[list[str]]:
    """Return the words of each line."""
    output = io.StringIO()
    Console(file=output, width=100).print(table)
    return [line.split() for line in output.getvalue().splitlines()]


def test_the_inventory_shows_the_true_number_where_it_differs_and_sums() -> None:
    found = {("can", "tavo"): 3, ("can", "nubi"): 1, ("jar", "nubi"): 2, ("jar", ""): 9}
    true = {("can", "tavo"): 3, ("can", "nubi"): 2, ("jar", "nubi"): 2}
    lines = print_table(inventory_table(found, true, shapes=["can", "jar"], brands=["tavo", "nubi"]))
    assert ["can", "3", "1/2", "4/5"] in lines
    assert ["jar", "0", "2", "2"] in lines
    assert ["all", "3", "3/4", "6/7"] in lines


def test_failures_are_listed_with_all_their_columns() -> None:
    lines = print_table(failures_table([{"image": "a.jpg", "code": "truncated"}]))
    assert ["image", "code"] in lines
    assert ["a.jpg", "truncated"] in lines
    assert print_table(failures_table([]))
