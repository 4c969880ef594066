"""matplotlib figures as SVG for an HTML page: with the page's fonts, and colours that follow light and dark.

Figures are drawn with sentinel colours, which become CSS variables here. No label of a user is given to matplotlib,
because it reads `$` as mathematics and the page cannot wrap its text. Names are in HTML legends beside the figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, LINE, ACCENT, CARD = (f"#01010{i}" for i in range(5))
"""Sentinel colours of text and axes, secondary text, grid lines, the page's accent, and the background of a panel."""
SERIES = tuple(f"#01020{i}" for i in range(8))
"""Sentinel colours of the lines of a figure."""

_CSS = {INK: "--ink", SOFT: "--soft", LINE: "--line", ACCENT: "--accent", CARD: "--card"} | {
    c: f"--s{i}" for i, c in enumerate(SERIES)
}
_DASHES = (("", "solid"), ("5 2", (0, (5, 2))), ("1.5 1.5", (0, (1.5, 1.5))), ("6 2 1.5 2", (0, (6, 2, 1.5, 2))))
"""Line patterns: (SVG's `stroke-dasharray`, matplotlib's `linestyle`)."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "hatch.color": CARD,
    "hatch.linewidth": 1.5,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "figure.figsize": (4.5, 3.4),
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True, kw_only=True)
class LegendEntry:
    """One line of a legend: a swatch, a name and a value. `css` (a variable) and `dash` are the swatch's stroke."""

    name: str
    value: str = ""
    css: str = "--soft"
    dash: str = ""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure on the page: its title, an explanation, the drawing, and its legend."""

    title: str
    caption: str
    svg: Markup
    legend: tuple[LegendEntry, ...] = ()


def series_style(i: int) -> tuple[str, Any, LegendEntry]:
    """Return colour, matplotlib line style and swatch of line number i. Neighbours also differ without colour."""
    colour = SERIES[i % len(SERIES)]
    dash, pattern = _DASHES[i % 2 + 2 * (i // len(SERIES) % 2)]
    return colour, pattern, LegendEntry(name="", css=_CSS[colour], dash=dash)


@contextmanager
def styled_figure(*heights: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure in the page's style, with axes of these heights below each other.

    pyplot is not used, because it keeps figures and settings in global state.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots(len(heights) or 1, 1, squeeze=False, gridspec_kw={"height_ratios": heights or (1,)})
        yield figure, list(axes[:, 0])


def render_svg(figure: Figure, *, description: str) -> Markup:
    """Return the figure as an inline SVG element, without a size, so that it fills its place on the page.

    `description` is the text for readers who cannot see the figure. Call inside `styled_figure`.
    """
    out = io.StringIO()
    # The salt makes the ids of two figures on one page differ. It is set in the rc_context of `styled_figure`.
    mpl.rcParams["svg.hashsalt"] = description
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<title>.*?</title>", "", text, flags=re.S)
    text = re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', _opening_tag(description), text, count=1)
    text = re.sub(r'\s(?:id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib|\w*Collection)[^"]*")', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r"(?<=\d\.\d)\d{2,}", "", text)
    return Markup(re.sub(r"#010[12]0\d", lambda match: f"var({_CSS[match[0]]})", text))


def draw_nothing_to_measure(axes: Axes) -> None:
    """Write "nothing to measure" in axes without data."""
    axes.text(0.5, 0.5, "nothing to measure", ha="center", color=SOFT, transform=axes.transAxes)


def describe_legend(legend: Iterable[LegendEntry]) -> str:
    """Return a legend as one line of text."""
    return "; ".join(f"{entry.name} {entry.value}".strip() for entry in legend)


def _opening_tag(description: str) -> str:
    """Return the replacement of the `<svg>` tag for `re.sub`, whose first group is the view box."""
    escaped = str(Markup.escape(description)).replace("\\", r"\\")
    return rf'<svg class="plot" \1 role="img" aria-label="{escaped}">'


def set_unit_axes(axes: Axes, *, x: str, y: str) -> None:
    """Label both axes and set them to 0 to 1, with a margin for a line along the edge."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
