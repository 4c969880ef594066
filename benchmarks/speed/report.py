"""What was measured, three times: a table for the terminal, JSON for machines, an SVG chart for the README."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.speed.contenders import OURS, TITLES
from benchmarks.speed.rounds import Result, Row, missed

_VERSIONS_OF = ("torch", "torchvision", "openvino", "ray", "pyarrow", "obstore", "pillow")
_OURS_COLOUR, _PEER_COLOUR, _LIMIT_COLOUR = "#1f6f8b", "#c9c9c9", "#d1495b"


def table(rows: Sequence[Row]) -> Table:
    """Everybody's rates, the two limits and our ratios."""
    shown = Table(title="images/s while tagging, the median of the rounds", title_justify="left")
    shown.add_column("work")
    shown.add_column("who")
    for heading in ("images/s", "of ours", "all of it, s", "agrees"):
        shown.add_column(heading, justify="right")
    for row in rows:
        for result in row.results:
            name = f"{row.work.name}, {row.num_images:,} images" if result.name == OURS else ""
            title = TITLES[result.name] + (", one round" if result.is_once else "")
            shown.add_row(name, title, *_figures(row, result))
        for builder, rate in row.limits.models.items():
            ours = row.limits.engine[builder]
            shown.add_row("", f"[dim]limit: {builder} alone, in torch / our engine", f"[dim]{rate:,.1f} / {ours:,.1f}")
        full, line = row.limits.decode_full, row.limits.decode_line
        shown.add_row("", "[dim]limit: libjpeg-turbo, full / as the line", f"[dim]{full:,.0f} / {line:,.0f}")
        shared = f"{row.limits.line:,.1f} / {row.limits.line_of_engine:,.1f}"
        shown.add_row("", "[dim]limit of a line that shares the cores, likewise", f"[dim]{shared}")
        shown.add_row("", "[bold]" + _verdict(row), end_section=True)
    return shown


def _figures(row: Row, result: Result) -> tuple[str, str, str, str]:
    if result.problem:
        return f"not measured: {result.problem}", "", "", ""
    ratio = result.images_per_s / row.ours.images_per_s if row.ours.images_per_s else 0.0
    return f"{result.images_per_s:,.2f}", f"{ratio:.2f}", f"{result.whole_s:.1f}", _agrees(row, result)


def _agrees(row: Row, result: Result) -> str:
    if result.agreement is None:
        return "?"
    shares = []
    if row.work.classifiers:
        shares.append(f"top-1 {result.agreement.classes:.1%}")
    if row.work.detectors:
        shares.append(f"{result.agreement.boxes:.1%} of {result.agreement.num_boxes:,} boxes")
    return ", ".join(shares) + ("" if result.is_comparable else ": no comparison")


def _verdict(row: Row) -> str:
    def of(reached: float, bar: float) -> str:
        return f"{reached:.2f}" + (f" (bar {bar:.2f}{'' if reached >= bar else ', missed'})" if bar else "")

    limits = f"{of(row.of_limit, row.work.of_limit)} of the limit, {row.of_engine:.2f} of our engine's"
    peer = row.fastest_peer
    return (f"{of(row.of_peer, row.work.of_peer)} x {TITLES[peer.name]}, the fastest peer; " if peer else "") + limits


def as_json(rows: Sequence[Row], *, cores: int, distinct: dict[str, int], daft: str) -> dict[str, Any]:
    """All of it, every round too, with the machine and the versions."""
    return {
        "machine": {"processor": _processor(), "cores": cores, "system": platform.platform(terse=True)},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS_OF},
            "daft": daft,
        },
        "distinct_images": distinct,
        "missed": missed(rows),
        "works": [_row(row) for row in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "work": asdict(row.work),
        "images": row.num_images,
        "limits": asdict(row.limits) | {"line": row.limits.line, "line_of_engine": row.limits.line_of_engine},
        "of_fastest_peer": row.of_peer,
        "of_limit": row.of_limit,
        "of_engine": row.of_engine,
        "contenders": {
            result.name: {
                "images_per_s": result.images_per_s,
                "whole_s": result.whole_s,
                "agreement": asdict(result.agreement) if result.agreement else None,
                "settings": asdict(result.settings),
                "problem": result.problem,
                "is_comparable": result.is_comparable,
                "rounds": [{"tagging_s": outcome.tagging_s, "whole_s": outcome.whole_s} for outcome in result.outcomes],
            }
            for result in row.results
        },
    }


def _processor() -> str:
    """Its name where Linux tells it; platform.processor() says only x86_64 there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of the rates in images/s, a panel a work, with the line's limit in torch as a mark."""
    from matplotlib.figure import Figure

    num_bars = sum(len(row.results) for row in rows)
    figure = Figure(figsize=(8, 0.6 + 0.34 * num_bars + 0.5 * len(rows)), layout="constrained")
    ratios = [len(row.results) for row in rows]
    panels: Any = figure.subplots(len(rows), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for panel, row in zip(panels, rows, strict=True):
        names = [TITLES[result.name] for result in row.results]
        rates = [result.images_per_s for result in row.results]
        colours = [_OURS_COLOUR if result.name == OURS else _PEER_COLOUR for result in row.results]
        bars = panel.barh(names, rates, color=colours)
        labels = [f"{rate:.3g}" if rate else "not measured" for rate in rates]
        over_the_mark = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        panel.bar_label(bars, labels, padding=3, fontsize=8, bbox=over_the_mark)
        panel.axvline(row.limits.line, color=_LIMIT_COLOUR, linestyle="--", linewidth=1)
        panel.set_title(f"{row.work.name}: images/s (dashed: what these cores can do in torch)", loc="left", fontsize=9)
        panel.invert_yaxis()
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.12)
    figure.savefig(path, format="svg", metadata={"Date": None})
