"""The course of a training, epoch by epoch: the losses, and the figures of validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.ticker import MaxNLocator

from batchtag.evaluation.report.drawing import SOFT, Plot, as_svg, drawn, series_style, spoken
from batchtag.evaluation.report.formatting import name

_NO_FIGURES = ("epoch", "learning_rate", "seconds")
History = Sequence[Mapping[str, float]]


def course(history: History, *, best_epoch: int = 0) -> list[Plot]:
    """Two figures, or one where the history has only losses. Keys are those of a training's history."""
    losses = _named(history, lambda key: key.startswith("loss"))
    figures = _named(history, lambda key: not key.startswith("loss") and key not in _NO_FIGURES)
    epochs = [entry["epoch"] for entry in history]
    plots = []
    if losses:
        rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
        caption = f"The learning rate was {max(rates):.2g} at most and {rates[-1]:.2g} at the end." if rates else ""
        plots.append(_lines(epochs, losses, title="Loss while training", caption=caption, best_epoch=best_epoch))
    if figures:
        caption = f"The weights of epoch {best_epoch} were kept." if best_epoch else ""
        title = "On images not trained on"
        plots.append(_lines(epochs, figures, title=title, caption=caption, best_epoch=best_epoch, top=1.02))
    return plots


def _named(history: History, wanted: Callable[[str], bool]) -> dict[str, list[float]]:
    """Key -> its value in each epoch, nan in those without."""
    keys = dict.fromkeys(key for entry in history for key in entry if wanted(key))
    return {key: [float(entry.get(key, np.nan)) for entry in history] for key in keys}


def _lines(
    epochs: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    title: str,
    caption: str,
    best_epoch: int,
    top: float | None = None,
) -> Plot:
    legend = []
    with drawn() as (figure, (axes,)):
        if best_epoch:
            axes.axvline(best_epoch, color=SOFT, linewidth=1.2, linestyle=(0, (2, 2)))
        for i, (key, values) in enumerate(lines.items()):
            colour, pattern, swatch = series_style(i)
            there = np.isfinite(values)
            x, y = np.array(epochs)[there], np.array(values)[there]
            axes.plot(x, y, color=colour, linestyle=pattern, marker="o" if len(x) <= 40 else "", markersize=3)
            legend.append(replace(swatch, name=name(key, 28), value=f"{y[-1]:.3f} at the end" if len(y) else ""))
        axes.set(xlabel="epoch")
        axes.set_ylim(bottom=0, top=top)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        svg = as_svg(figure, says=f"{title}. {spoken(legend)}")
    return Plot(title=title, caption=caption, svg=svg, legend=tuple(legend))
