"""The plots of the page, each drawn from plain numbers: curves, sizes, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from batchtag.evaluation.metrics import Calibration
from batchtag.evaluation.report.drawing import (
    ACCENT,
    INK,
    LINE,
    SERIES,
    SOFT,
    LegendEntry,
    Plot,
    describe_legend,
    draw_nothing_to_measure,
    render_svg,
    series_style,
    set_unit_axes,
    styled_figure,
)
from batchtag.evaluation.report.formatting import DASH, format_count, format_name, format_score

MAX_COLOURED_CLASSES = 8
"""Maximum number of classes of which each has a coloured line. Of more classes, only the weakest are coloured."""
_NUM_WEAKEST = 5
"""Number of coloured lines then."""
_NUM_GREY = 40
"""Approximate number of grey lines for the other classes."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The line of one class. `figure` is its score, such as AP50; nan if there is nothing to draw."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    figure: float


def plot_curves(
    curves: Sequence[Curve], *, title: str, caption: str, x: str, y: str, figure_name: str, mean: Curve | None = None
) -> Plot:
    """Plot a line for each class over two axes from 0 to 1. Of many classes, only the weakest are named.

    `x` and `y` are the labels of the axes, `figure_name` the name of each curve's figure.
    """
    drawable = sorted((c for c in curves if np.isfinite(c.figure) and len(c.x)), key=lambda curve: curve.figure)
    has_many = len(drawable) > MAX_COLOURED_CLASSES
    coloured = drawable[:_NUM_WEAKEST] if has_many else drawable[::-1]
    grey = drawable[:: max(1, len(drawable) // _NUM_GREY)] if has_many else []
    legend = []
    with styled_figure() as (figure, (axes,)):
        set_unit_axes(axes, x=x, y=y)
        for curve in grey:
            axes.plot(curve.x, curve.y, color=LINE, linewidth=0.9)
        for i, curve in enumerate(coloured):
            colour, pattern, entry = series_style(i)
            axes.plot(curve.x, curve.y, color=colour, linestyle=pattern)
            value = f"{figure_name} {format_score(curve.figure)}"
            legend.append(replace(entry, name=format_name(curve.label, 28), value=value))
        if mean is not None and len(drawable) > 1:
            axes.plot(mean.x[mean.y > 0], mean.y[mean.y > 0], color=INK, linewidth=2.6)
            legend.insert(0, LegendEntry(name="mean", value=f"{figure_name} {format_score(mean.figure)}", css="--ink"))
        if grey:
            caption += f" The {_NUM_WEAKEST} weakest of {len(drawable)} classes are in colour, the others are grey."
            legend.append(LegendEntry(name="other classes", css="--line"))
        if not drawable:
            draw_nothing_to_measure(axes)
        svg = render_svg(figure, description=f"{title}. {describe_legend(legend)}")
    return Plot(title=title, caption=caption, svg=svg, legend=tuple(legend))


def plot_sizes(summary: Mapping[str, float]) -> Plot:
    """Plot AP and AR100 of small, medium and large objects, side by side."""
    sizes = ("small", "medium", "large")
    title = "Small and large objects"
    with styled_figure() as (figure, (axes,)):
        for i, (kind, colour) in enumerate((("AP", SERIES[0]), ("AR", SERIES[1]))):
            values = [summary.get(f"{kind}{size}", np.nan) for size in sizes]
            positions = np.arange(3) + (i - 0.5) * 0.38
            axes.bar(
                positions,
                np.nan_to_num(values),
                width=0.34,
                color=colour,
                hatch="" if i == 0 else "//",
                edgecolor="none",
            )
            for position, value in zip(positions, values, strict=True):
                axes.text(position, np.nan_to_num(value) + 0.015, format_score(value, 2), ha="center", fontsize=9)
        axes.set(xlim=(-0.6, 2.6), ylim=(0, 1.08), xticks=range(3), xticklabels=sizes, yticks=np.linspace(0, 1, 6))
        axes.grid(axis="x", visible=False)
        figures = ", ".join(f"{size} {format_score(summary.get(f'AP{size}', np.nan))}" for size in sizes)
        svg = render_svg(figure, description=f"{title}: AP of {figures}")
    caption = (
        "Small objects have an area below 32 by 32 pixels, large ones 96 by 96 pixels or more. AP: how well they are "
        f"detected and placed; AR: the share detected with up to 100 boxes per image. {DASH}: no such objects."
    )
    legend = (LegendEntry(name="AP", css="--s0"), LegendEntry(name="AR", css="--s1"))
    return Plot(title=title, caption=caption, svg=svg, legend=legend)


def plot_reliability(calibration: Calibration, *, correct_if: str) -> Plot:
    """Plot the share of correct predictions by score, and below it their number. `correct_if` is a clause of text."""
    edges, counts = calibration.edges, calibration.count
    width = np.diff(edges)
    title = f"Reliability (ECE {format_score(calibration.ece)})"
    with styled_figure(4, 1) as (figure, (axes, below)):
        set_unit_axes(axes, x="", y="share that is correct")
        axes.bar(
            edges[:-1], np.nan_to_num(calibration.accuracy), width=width * 0.92, align="edge", color=ACCENT, alpha=0.75
        )
        if counts.any():
            axes.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        else:
            draw_nothing_to_measure(axes)
        below.bar(edges[:-1], counts, width=width * 0.92, align="edge", color=SOFT)
        below.set(xlim=(-0.01, 1.01), ylim=(0, 1.1 * max(1, *counts)), xlabel="score", ylabel="number")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        axes.set_xticklabels([])
        svg = render_svg(figure, description=title)
    return Plot(title=title, caption=_describe_calibration(calibration, correct_if=correct_if), svg=svg)


def _describe_calibration(calibration: Calibration, *, correct_if: str) -> str:
    total = int(calibration.count.sum())
    if not total:
        return "There are no predictions to measure."
    is_filled = calibration.count > 0
    gaps = (calibration.confidence - calibration.accuracy)[is_filled]
    mean_gap = float((calibration.count[is_filled] * gaps).sum() / total)
    verdict = "its scores are about right"
    if abs(mean_gap) > 0.02:
        verdict = "its scores are too high" if mean_gap > 0 else "its scores are too low"
    return (
        f"A prediction is correct if {correct_if}. Scores whose bars reach the dashed line can be read as "
        "probabilities; bars below the line mean scores that are too high. "
        f"Over {format_count(total, 'prediction')}, scores differ from the share that is correct by "
        f"{format_score(calibration.ece, 2)} on average (expected calibration error, {len(calibration.count)} bins). "
        f"For the model as a whole, {verdict}."
    )
