"""What a page says, whatever the model: a sentence, cards, a table, figures; all in words, ready for the template."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchtag.evaluation.report.drawing import Plot
from batchtag.evaluation.report.formatting import score


@dataclass(frozen=True, kw_only=True)
class Card:
    """A headline figure with its meaning in a few words."""

    title: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure in a table; `share` from 0 to 1 draws a bar behind it, -1 none."""

    text: str
    share: float = -1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Of the classes, the weakest first. `columns` are (name, meaning)."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A kind of mistake and how often it happens; `share` of the commonest kind."""

    name: str
    meaning: str
    num: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Content:
    """The parts of the page that differ between detectors and classifiers."""

    what: str
    lead: str
    infos: tuple[Card, ...]
    table: Table
    plots: tuple[Plot, ...]
    wrong: tuple[Wrong, ...]


def barred(value: float) -> Cell:
    """A figure between 0 and 1 with its bar."""
    return Cell(text=score(value), share=value if math.isfinite(value) else -1.0)


def plain(value: float) -> Cell:
    """A figure between 0 and 1."""
    return Cell(text=score(value))


def last_if_nan(value: float) -> float:
    """To sort by, the lowest first."""
    return value if math.isfinite(value) else 2.0
