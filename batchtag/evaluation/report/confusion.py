"""The confusion matrix as an image: a row for each true class, a column for each class said.

Drawn by hand, because only cells that hold something are worth a rectangle: 80 classes are 6,400 cells and some hundred
mistakes. Every cell says in words what it is when pointed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from batchtag.evaluation.metrics import ClassificationMetrics
from batchtag.evaluation.report.formatting import count, name

MOST = 100
"""Classes shown; of more, those with the most mistakes. A square of a thousand would be a wall."""
_NUMBERED = 30
_CHARACTER = 0.56
"""Width of a character in font sizes, roughly, for the room that labels need."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The image, its width and least width in CSS pixels, and how many classes of how many it shows."""

    svg: Markup
    width_px: int
    least_px: int
    num_shown: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """`num` of the `support` images of `true_label` were said to be `label`."""

    true_label: str
    label: str
    num: int
    support: int


def worst_pairs(metrics: ClassificationMetrics, *, most: int = 8) -> list[Confusion]:
    """The pairs of classes that are taken for one another most often, by number of images."""
    wrong = metrics.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order]
    return [
        Confusion(
            true_label=metrics.per_class[true].label,
            label=metrics.per_class[said].label,
            num=int(wrong[true, said]),
            support=metrics.per_class[true].support,
        )
        for true, said in pairs
        if wrong[true, said]
    ]


def matrix(metrics: ClassificationMetrics) -> Matrix:
    """The heat map: a cell is the darker, the larger its share of the row; right ones in another colour."""
    shown = _worth_showing(metrics.confusion)
    labels = [metrics.per_class[i].label for i in shown]
    cells = metrics.confusion[np.ix_(shown, shown)]
    support = np.array([metrics.per_class[i].support for i in shown], np.int64)
    columns = list(labels)
    if metrics.unanswered[shown].any():
        cells = np.column_stack([cells, metrics.unanswered[shown]])
        columns.append("(nothing)")
    size = _Sizes.of(labels)
    body = [_bands(cells.shape, size), _names(labels, columns, size), *_cells(cells, support, labels, columns, size)]
    width, height = size.left + cells.shape[1] * size.cell + 2, size.top + len(labels) * size.cell + 2
    words = f"confusion matrix of {len(labels)} classes; {int(np.trace(cells))} of {int(cells.sum())} on the diagonal"
    svg = (
        f'<svg class="matrix" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{words}" '
        f'font-size="{size.font:g}">{"".join(body)}</svg>'
    )
    least = width if len(labels) > _NUMBERED else 0.7 * width
    return Matrix(
        svg=Markup(svg),
        width_px=round(1.25 * width),
        least_px=round(least),
        num_shown=len(shown),
        num_classes=len(metrics.per_class),
    )


def _worth_showing(confusion: NDArray[np.int64]) -> list[int]:
    """All classes, or in their order those with the most images wrongly said to be or not to be of them."""
    if len(confusion) <= MOST:
        return list(range(len(confusion)))
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    worst: list[int] = np.sort(np.argsort(-wrong, kind="stable")[:MOST]).tolist()
    return worst


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """In units of the image: a cell's side, the font, and the room for names at the left and on top."""

    cell: float
    font: float
    left: float
    top: float
    letters: int

    @classmethod
    def of(cls, labels: Sequence[str]) -> _Sizes:
        n = len(labels)
        cell, font = (38.0, 11.5) if n <= 10 else (26.0, 10.5) if n <= _NUMBERED else (12.0, 8.5)
        letters = min(18, max(len("(nothing)"), *(len(name(label)) for label in labels)))
        room = letters * font * _CHARACTER + 10
        return cls(cell=cell, font=font, left=room, top=room, letters=letters)


def _bands(shape: tuple[int, ...], size: _Sizes) -> str:
    """Every second row and column is shaded, so that the eye finds its way to the names."""
    rows, columns = shape
    width, height = columns * size.cell, rows * size.cell
    across = [f'x="{size.left:.1f}" y="{size.top + i * size.cell:.1f}"' for i in range(0, rows, 2)]
    down = [f'x="{size.left + i * size.cell:.1f}" y="{size.top:.1f}"' for i in range(0, columns, 2)]
    bands = [f'<rect class="band" {place} width="{width:.1f}" height="{size.cell:g}"/>' for place in across]
    bands += [f'<rect class="band" {place} width="{size.cell:g}" height="{height:.1f}"/>' for place in down]
    return "".join(bands)


def _names(rows: Sequence[str], columns: Sequence[str], size: _Sizes) -> str:
    texts = []
    for i, label in enumerate(rows):
        y = size.top + (i + 0.5) * size.cell + size.font * 0.35
        texts.append(f'<text x="{size.left - 5:.1f}" y="{y:.1f}" text-anchor="end">{_short(label, size)}</text>')
    for i, label in enumerate(columns):
        x = size.left + (i + 0.5) * size.cell + size.font * 0.35
        place = f'transform="translate({x:.1f} {size.top - 5:.1f}) rotate(-90)"'
        texts.append(f"<text {place}>{_short(label, size)}</text>")
    return "".join(texts)


def _short(label: str, size: _Sizes) -> Markup:
    return Markup("<title>{}</title>{}").format(name(label), name(label, size.letters))


def _cells(
    cells: NDArray[np.int64], support: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], size: _Sizes
) -> list[str]:
    texts = []
    numbered = len(rows) <= _NUMBERED
    for row, column in np.argwhere(cells).tolist():
        number, of = int(cells[row, column]), max(1, int(support[row]))
        right = row == column
        opacity = 0.12 + 0.88 * number / of
        x, y = size.left + column * size.cell, size.top + row * size.cell
        says = f"{name(rows[row])} said to be {name(columns[column])}: {number:,} of {count(of, 'image')}"
        texts.append(
            f'<rect class="{"right" if right else "wrong"}" fill-opacity="{opacity:.2f}" x="{x:.1f}" y="{y:.1f}" '
            f'width="{size.cell:g}" height="{size.cell:g}"><title>{escape(says)}</title></rect>'
        )
        if numbered:
            strong = ' class="strong"' if opacity > 0.55 else ""
            at = f'x="{x + size.cell / 2:.1f}" y="{y + size.cell / 2 + size.font * 0.35:.1f}" text-anchor="middle"'
            texts.append(f"<text{strong} {at}>{number}</text>")
    return texts
