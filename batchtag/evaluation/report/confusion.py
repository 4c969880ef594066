"""The confusion matrix as a drawing: a row for each true class, a column for each predicted class.

The SVG is written here and not by matplotlib, so that only cells that are not empty become a rectangle: 80 classes have
6,400 cells and some hundred mistakes. A tooltip describes every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from batchtag.evaluation.metrics import ClassificationMetrics
from batchtag.evaluation.report.formatting import format_count, format_name

MAX_CLASSES = 100
"""Maximum number of classes shown: those with the most mistakes. A matrix of a thousand classes is unreadable."""
_MAX_NUMBERED = 30
"""Maximum number of classes with which the cells have numbers."""
_NO_PREDICTION = "(none)"
"""Column of the images without a prediction."""
_CHARACTER_WIDTH = 0.56
"""Approximate width of a character, in font sizes; decides the space for labels."""


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix:
    """The drawing, its width and minimum width in CSS pixels, and the number of classes shown and in all."""

    svg: Markup
    width_px: int
    min_width_px: int
    num_shown: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """Two classes: `num` of the `support` images of `true_label` are predicted as `label`."""

    true_label: str
    label: str
    num: int
    support: int


def find_worst_pairs(metrics: ClassificationMetrics, *, max_pairs: int = 8) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most often, by number of images."""
    wrong = metrics.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:max_pairs]
    pairs = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order]
    return [
        ConfusedPair(
            true_label=metrics.per_class[true].label,
            label=metrics.per_class[predicted].label,
            num=int(wrong[true, predicted]),
            support=metrics.per_class[true].support,
        )
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def draw_matrix(metrics: ClassificationMetrics) -> ConfusionMatrix:
    """Draw the heat map. The larger the share of the row, the darker the cell; correct cells have another colour."""
    shown = _choose_classes(metrics.confusion)
    labels = [metrics.per_class[i].label for i in shown]
    cells = metrics.confusion[np.ix_(shown, shown)]
    support = np.array([metrics.per_class[i].support for i in shown], np.int64)
    columns = list(labels)
    if metrics.num_unpredicted[shown].any():
        cells = np.column_stack([cells, metrics.num_unpredicted[shown]])
        columns.append(_NO_PREDICTION)
    size = _Sizes.for_labels(labels)
    parts = [_draw_bands(cells.shape, size), _draw_names(labels, columns, size)]
    parts += _draw_cells(cells, support, labels, columns, size)
    width, height = size.left + cells.shape[1] * size.cell + 2, size.top + len(labels) * size.cell + 2
    num_correct, num_images = int(np.trace(cells)), int(cells.sum())
    description = f"confusion matrix of {len(labels)} classes; {num_correct} of {num_images} images on the diagonal"
    svg = (
        f'<svg class="matrix" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{description}" '
        f'font-size="{size.font:g}">{"".join(parts)}</svg>'
    )
    min_width = width if len(labels) > _MAX_NUMBERED else 0.7 * width
    return ConfusionMatrix(
        svg=Markup(svg),
        width_px=round(1.25 * width),
        min_width_px=round(min_width),
        num_shown=len(shown),
        num_classes=len(metrics.per_class),
    )


def _choose_classes(confusion: NDArray[np.int64]) -> list[int]:
    """Return the label ids to show, ascending: all, or those with the most images in wrong cells."""
    if len(confusion) <= MAX_CLASSES:
        return list(range(len(confusion)))
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    worst: list[int] = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CLASSES]).tolist()
    return worst


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Sizes in units of the drawing: the side of a cell, the font, and the space for names at the left and on top.

    `max_characters` is the maximum length of a name.
    """

    cell: float
    font: float
    left: float
    top: float
    max_characters: int

    @classmethod
    def for_labels(cls, labels: Sequence[str]) -> _Sizes:
        n = len(labels)
        cell, font = (38.0, 11.5) if n <= 10 else (26.0, 10.5) if n <= _MAX_NUMBERED else (12.0, 8.5)
        longest = max(len(_NO_PREDICTION), *(len(format_name(label)) for label in labels))
        max_characters = min(18, longest)
        margin = max_characters * font * _CHARACTER_WIDTH + 10
        return cls(cell=cell, font=font, left=margin, top=margin, max_characters=max_characters)


def _draw_bands(shape: tuple[int, ...], size: _Sizes) -> str:
    """Draw a band behind every second row and column, which leads the eye from a cell to its names."""
    rows, columns = shape
    width, height = columns * size.cell, rows * size.cell
    across = [f'x="{size.left:.1f}" y="{size.top + i * size.cell:.1f}"' for i in range(0, rows, 2)]
    down = [f'x="{size.left + i * size.cell:.1f}" y="{size.top:.1f}"' for i in range(0, columns, 2)]
    bands = [f'<rect class="band" {position} width="{width:.1f}" height="{size.cell:g}"/>' for position in across]
    bands += [f'<rect class="band" {position} width="{size.cell:g}" height="{height:.1f}"/>' for position in down]
    return "".join(bands)


def _draw_names(rows: Sequence[str], columns: Sequence[str], size: _Sizes) -> str:
    texts = []
    for i, label in enumerate(rows):
        y = size.top + (i + 0.5) * size.cell + size.font * 0.35
        texts.append(f'<text x="{size.left - 5:.1f}" y="{y:.1f}" text-anchor="end">{_shorten(label, size)}</text>')
    for i, label in enumerate(columns):
        x = size.left + (i + 0.5) * size.cell + size.font * 0.35
        position = f'transform="translate({x:.1f} {size.top - 5:.1f}) rotate(-90)"'
        texts.append(f"<text {position}>{_shorten(label, size)}</text>")
    return "".join(texts)


def _shorten(label: str, size: _Sizes) -> Markup:
    return Markup("<title>{}</title>{}").format(format_name(label), format_name(label, size.max_characters))


def _draw_cells(
    cells: NDArray[np.int64], support: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], size: _Sizes
) -> list[str]:
    elements = []
    has_numbers = len(rows) <= _MAX_NUMBERED
    for row, column in np.argwhere(cells).tolist():
        number, num_true = int(cells[row, column]), max(1, int(support[row]))
        css = "correct" if row == column else "wrong"
        opacity = 0.12 + 0.88 * number / num_true
        x, y = size.left + column * size.cell, size.top + row * size.cell
        images = f"{number:,} of {format_count(num_true, 'image')}"
        tooltip = f"{format_name(rows[row])} predicted as {format_name(columns[column])}: {images}"
        elements.append(
            f'<rect class="{css}" fill-opacity="{opacity:.2f}" x="{x:.1f}" y="{y:.1f}" '
            f'width="{size.cell:g}" height="{size.cell:g}"><title>{escape(tooltip)}</title></rect>'
        )
        if has_numbers:
            strong = ' class="strong"' if opacity > 0.55 else ""
            text_x, text_y = x + size.cell / 2, y + size.cell / 2 + size.font * 0.35
            position = f'x="{text_x:.1f}" y="{text_y:.1f}" text-anchor="middle"'
            elements.append(f"<text{strong} {position}>{number}</text>")
    return elements
