"""The content of a report, whatever the model: a lead sentence, cards, a table and plots, as text for the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchtag.evaluation.report.drawing import Plot
from batchtag.evaluation.report.formatting import format_score


@dataclass(frozen=True, kw_only=True)
class Card:
    """A headline figure with its meaning in a few words."""

    title: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the table. `share` from 0 to 1 draws a bar behind the text; -1 draws none."""

    text: str
    share: float = -1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: one class."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table of classes, the weakest first. `columns` are (name, meaning)."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class MistakeKind:
    """A kind of mistake and how often it occurs. `share` is relative to the most frequent kind."""

    name: str
    meaning: str
    num: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Content:
    """The parts of the page that differ between detectors and classifiers."""

    model_type: str
    lead: str
    cards: tuple[Card, ...]
    table: Table
    plots: tuple[Plot, ...]
    mistake_kinds: tuple[MistakeKind, ...]


def bar_cell(value: float) -> Cell:
    """Return the cell of a figure between 0 and 1, with a bar."""
    return Cell(text=format_score(value), share=value if math.isfinite(value) else -1.0)


def figure_cell(value: float) -> Cell:
    """Return the cell of a figure between 0 and 1, without a bar."""
    return Cell(text=format_score(value))


def weakness_key(value: float) -> float:
    """Return a sort key for figures between 0 and 1: the lowest first, nan last."""
    return value if math.isfinite(value) else 2.0
