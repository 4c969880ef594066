"""Plots of a training, epoch by epoch: the losses, and the validation metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.ticker import MaxNLocator

from batchtag.evaluation.report.drawing import SOFT, Plot, describe_legend, render_svg, series_style, styled_figure
from batchtag.evaluation.report.formatting import format_name

_NOT_METRICS = ("epoch", "learning_rate", "seconds")
"""Keys of a history that are neither losses nor validation metrics."""
History = Sequence[Mapping[str, float]]


def plot_training(history: History, *, best_epoch: int = 0) -> list[Plot]:
    """Plot the losses and the validation metrics of a history; one plot if it has only losses.

    The keys of the history are those of `render_report`. `best_epoch` is marked, unless it is 0.
    """
    losses = _select_series(history, lambda key: key.startswith("loss"))
    metrics = _select_series(history, lambda key: not key.startswith("loss") and key not in _NOT_METRICS)
    epochs = [entry["epoch"] for entry in history]
    plots = []
    if losses:
        rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
        caption = f"The learning rate was at most {max(rates):.2g}, and {rates[-1]:.2g} at the end." if rates else ""
        plots.append(_plot_lines(epochs, losses, title="Loss during training", caption=caption, best_epoch=best_epoch))
    if metrics:
        caption = f"The checkpoint has the weights of epoch {best_epoch}." if best_epoch else ""
        title = "Metrics on the validation images"
        plots.append(_plot_lines(epochs, metrics, title=title, caption=caption, best_epoch=best_epoch, top=1.02))
    return plots


def _select_series(history: History, is_selected: Callable[[str], bool]) -> dict[str, list[float]]:
    """Return, by key, the value in each epoch; nan in epochs without the key."""
    keys = dict.fromkeys(key for entry in history for key in entry if is_selected(key))
    return {key: [float(entry.get(key, np.nan)) for entry in history] for key in keys}


def _plot_lines(
    epochs: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    title: str,
    caption: str,
    best_epoch: int,
    top: float | None = None,
) -> Plot:
    legend = []
    with styled_figure() as (figure, (axes,)):
        if best_epoch:
            axes.axvline(best_epoch, color=SOFT, linewidth=1.2, linestyle=(0, (2, 2)))
        for i, (key, values) in enumerate(lines.items()):
            colour, pattern, swatch = series_style(i)
            is_known = np.isfinite(values)
            x, y = np.array(epochs)[is_known], np.array(values)[is_known]
            axes.plot(x, y, color=colour, linestyle=pattern, marker="o" if len(x) <= 40 else "", markersize=3)
            legend.append(replace(swatch, name=format_name(key, 28), value=f"{y[-1]:.3f} at the end" if len(y) else ""))
        axes.set(xlabel="epoch")
        axes.set_ylim(bottom=0, top=top)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        svg = render_svg(figure, description=f"{title}. {describe_legend(legend)}")
    return Plot(title=title, caption=caption, svg=svg, legend=tuple(legend))
