"""A matplotlib figure as an SVG that belongs to its page: the page's fonts, and colours that follow light and dark.

Figures are drawn with sentinel colours, which become CSS variables here. matplotlib sees no label of the user's: it
would read `$` as mathematics, and its text is not the page's to wrap. Names are in HTML legends beside the figure.
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
"""Text and axes; what is secondary; grids and what is behind; the page's own colour; what a figure lies on."""
SERIES = tuple(f"#01020{i}" for i in range(8))

_CSS = {INK: "--ink", SOFT: "--soft", LINE: "--line", ACCENT: "--accent", CARD: "--card"} | {
    c: f"--s{i}" for i, c in enumerate(SERIES)
}
_DASHES = (("", "solid"), ("5 2", (0, (5, 2))), ("1.5 1.5", (0, (1.5, 1.5))), ("6 2 1.5 2", (0, (6, 2, 1.5, 2))))
"""The same as SVG says it and as matplotlib does."""
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
class Key:
    """One line of a legend: a swatch, a name, and its figure in words. `css` and `dash` draw the swatch."""

    name: str
    value: str = ""
    css: str = "--soft"
    dash: str = ""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure on the page: what it shows, what one sees in it, and what it says to who cannot see."""

    title: str
    caption: str
    svg: Markup
    legend: tuple[Key, ...] = ()


def series_style(i: int) -> tuple[str, Any, Key]:
    """Colour, matplotlib's line style and the swatch of the i-th line; neighbours differ without colour too."""
    colour = SERIES[i % len(SERIES)]
    dash, pattern = _DASHES[i % 2 + 2 * (i // len(SERIES) % 2)]
    return colour, pattern, Key(name="", css=_CSS[colour], dash=dash)


@contextmanager
def drawn(*heights: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure in the page's style, with axes below each other of these heights. No pyplot: nothing global stays."""
    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots(len(heights) or 1, 1, squeeze=False, gridspec_kw={"height_ratios": heights or (1,)})
        yield figure, list(axes[:, 0])


def as_svg(figure: Figure, *, says: str) -> Markup:
    """The figure as an inline SVG element, without sizes, so that it is as wide as its place. `says` is its text."""
    out = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = says  # in the figure's own context: ids of two figures of a page must differ
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<title>.*?</title>", "", text, flags=re.S)
    text = re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', _opening(says), text, count=1)
    text = re.sub(r'\s(?:id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib|\w*Collection)[^"]*")', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r"(?<=\d\.\d)\d{2,}", "", text)
    return Markup(re.sub(r"#010[12]0\d", lambda found: f"var({_CSS[found[0]]})", text))


def nothing_in(axes: Axes) -> None:
    """Says so where there is nothing to draw."""
    axes.text(0.5, 0.5, "nothing to measure", ha="center", color=SOFT, transform=axes.transAxes)


def spoken(legend: Iterable[Key]) -> str:
    """A legend in one line, for who cannot see the figure."""
    return "; ".join(f"{key.name} {key.value}".strip() for key in legend)


def _opening(says: str) -> str:
    escaped = str(Markup.escape(says)).replace("\\", r"\\")
    return rf'<svg class="plot" \1 role="img" aria-label="{escaped}">'


def unit_axes(axes: Axes, *, x: str, y: str) -> None:
    """Both axes from 0 to 1, with room for a line that runs along the edge."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
