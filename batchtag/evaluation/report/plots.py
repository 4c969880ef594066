"""The figures of the page, each from plain numbers: curves, bars, reliability."""

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
    Key,
    Plot,
    as_svg,
    drawn,
    nothing_in,
    series_style,
    spoken,
    unit_axes,
)
from batchtag.evaluation.report.formatting import NOTHING, count, name, score

MANY = 8
"""With more classes than this a line each tells nothing: the weakest have colours, the others are a grey cloud."""
_WEAKEST, _CLOUD = 5, 40


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One class's line; `figure` is what it is judged by, nan where there is nothing to draw."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    figure: float


def curves(
    lines: Sequence[Curve], *, title: str, caption: str, x: str, y: str, figure_is: str, mean: Curve | None = None
) -> Plot:
    """A line per class over two axes from 0 to 1; of many classes the weakest by name, and the mean."""
    known = sorted((line for line in lines if np.isfinite(line.figure) and len(line.x)), key=lambda line: line.figure)
    named = known if len(known) <= MANY else known[:_WEAKEST]
    cloud = [] if len(known) <= MANY else known[:: max(1, len(known) // _CLOUD)]
    legend = []
    with drawn() as (figure, (axes,)):
        unit_axes(axes, x=x, y=y)
        for line in cloud:
            axes.plot(line.x, line.y, color=LINE, linewidth=0.9)
        for i, line in enumerate(named if cloud else sorted(named, key=lambda line: -line.figure)):
            colour, pattern, key = series_style(i)
            axes.plot(line.x, line.y, color=colour, linestyle=pattern)
            legend.append(replace(key, name=name(line.label, 28), value=f"{figure_is} {score(line.figure)}"))
        if mean is not None and len(known) > 1:
            axes.plot(mean.x[mean.y > 0], mean.y[mean.y > 0], color=INK, linewidth=2.6)
            legend.insert(0, Key(name="mean", value=f"{figure_is} {score(mean.figure)}", css="--ink"))
        if cloud:
            caption += f" In colour the {_WEAKEST} weakest of {len(known)} classes; the others are grey."
            legend.append(Key(name="other classes", css="--line"))
        if not known:
            nothing_in(axes)
        svg = as_svg(figure, says=f"{title}. {spoken(legend)}")
    return Plot(title=title, caption=caption, svg=svg, legend=tuple(legend))


def by_size(summary: Mapping[str, float]) -> Plot:
    """AP and AR100 of small, medium and large objects, side by side."""
    sizes = ("small", "medium", "large")
    title = "Small and large objects"
    with drawn() as (figure, (axes,)):
        for i, (kind, colour) in enumerate((("AP", SERIES[0]), ("AR", SERIES[1]))):
            values = [summary.get(f"{kind}{size}", np.nan) for size in sizes]
            places = np.arange(3) + (i - 0.5) * 0.38
            axes.bar(
                places, np.nan_to_num(values), width=0.34, color=colour, hatch="" if i == 0 else "//", edgecolor="none"
            )
            for place, value in zip(places, values, strict=True):
                axes.text(place, np.nan_to_num(value) + 0.015, score(value, 2), ha="center", fontsize=9)
        axes.set(xlim=(-0.6, 2.6), ylim=(0, 1.08), xticks=range(3), xticklabels=sizes, yticks=np.linspace(0, 1, 6))
        axes.grid(axis="x", visible=False)
        said = ", ".join(f"{size} {score(summary.get(f'AP{size}', np.nan))}" for size in sizes)
        svg = as_svg(figure, says=f"{title}: AP of {said}")
    caption = (
        "Small is an area below 32 by 32 pixels, large one from 96 by 96. AP: how well they are found and placed; AR: "
        f"what share is found with up to 100 boxes an image. {NOTHING}: there are none."
    )
    legend = (Key(name="AP", css="--s0"), Key(name="AR", css="--s1"))
    return Plot(title=title, caption=caption, svg=svg, legend=legend)


def reliability(calibration: Calibration, *, right: str) -> Plot:
    """How often answers of a score are right, with how many there are of each. `right` says when one is."""
    edges, n = calibration.edges, calibration.count
    width = np.diff(edges)
    title = f"Reliability (ECE {score(calibration.ece)})"
    with drawn(4, 1) as (figure, (axes, below)):
        unit_axes(axes, x="", y="share that is right")
        axes.bar(
            edges[:-1], np.nan_to_num(calibration.accuracy), width=width * 0.92, align="edge", color=ACCENT, alpha=0.75
        )
        if n.any():
            axes.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        else:
            nothing_in(axes)
        below.bar(edges[:-1], n, width=width * 0.92, align="edge", color=SOFT)
        below.set(xlim=(-0.01, 1.01), ylim=(0, 1.1 * max(1, *n)), xlabel="score", ylabel="answers")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        axes.set_xticklabels([])
        svg = as_svg(figure, says=title)
    return Plot(title=title, caption=_believed(calibration, right=right), svg=svg)


def _believed(calibration: Calibration, *, right: str) -> str:
    total = int(calibration.count.sum())
    if not total:
        return "There are no answers to judge."
    gaps = (calibration.confidence - calibration.accuracy)[calibration.count > 0]
    off = float((calibration.count[calibration.count > 0] * gaps).sum() / total)
    manner = "about as sure as it may be"
    if abs(off) > 0.02:
        manner = "too sure of itself" if off > 0 else "less sure than it might be"
    return (
        f"An answer is right if {right}. Bars on the dashed line are scores that mean what they say; below it they "
        f"promise too much. Over {count(total, 'answer')} scores are off by {score(calibration.ece, 2)} on average "
        f"(expected calibration error, {len(calibration.count)} bins); all in all the model is {manner}."
    )
