"""The results in three forms: a table for the terminal, JSON for machines, an SVG chart for the documentation."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.speed.contenders import OURS, TITLES
from benchmarks.speed.rounds import Result, Row, list_missed_bars

_PACKAGES = ("torch", "torchvision", "openvino", "ray", "pyarrow", "obstore", "pillow")
_OURS_COLOUR, _PEER_COLOUR, _LIMIT_COLOUR = "#1f6f8b", "#c9c9c9", "#d1495b"


def make_table(rows: Sequence[Row]) -> Table:
    """Return the table with the rates of all contenders, the limits, and our ratios."""
    table = Table(title="images/s while tagging, median of the rounds", title_justify="left")
    table.add_column("workload")
    table.add_column("contender")
    for heading in ("images/s", "of ours", "whole, s", "agreement"):
        table.add_column(heading, justify="right")
    for row in rows:
        for result in row.results:
            name = f"{row.workload.name}, {row.num_images:,} images" if result.name == OURS else ""
            title = TITLES[result.name] + (", one round" if result.is_once else "")
            table.add_row(name, title, *_format_result(row, result))
        for builder, rate in row.limits.models.items():
            ours = row.limits.engine[builder]
            table.add_row("", f"[dim]limit: {builder} alone, in torch / our engine", f"[dim]{rate:,.1f} / {ours:,.1f}")
        full, line = row.limits.decode_full, row.limits.decode_line
        table.add_row("", "[dim]limit: libjpeg-turbo, full / scaled", f"[dim]{full:,.0f} / {line:,.0f}")
        shared = f"{row.limits.line:,.1f} / {row.limits.line_of_engine:,.1f}"
        table.add_row("", "[dim]limit of a pipeline that shares the cores, likewise", f"[dim]{shared}")
        table.add_row("", "[bold]" + _format_ratios(row), end_section=True)
    return table


def _format_result(row: Row, result: Result) -> tuple[str, str, str, str]:
    if result.problem:
        return f"not measured: {result.problem}", "", "", ""
    ratio = result.images_per_s / row.ours.images_per_s if row.ours.images_per_s else 0.0
    return f"{result.images_per_s:,.2f}", f"{ratio:.2f}", f"{result.whole_s:.1f}", _format_agreement(row, result)


def _format_agreement(row: Row, result: Result) -> str:
    if result.agreement is None:
        return "?"
    shares = []
    if row.workload.classifiers:
        shares.append(f"top-1 {result.agreement.classes:.1%}")
    if row.workload.detectors:
        shares.append(f"{result.agreement.boxes:.1%} of {result.agreement.num_boxes:,} boxes")
    return ", ".join(shares) + ("" if result.is_comparable else ": not comparable")


def _format_ratios(row: Row) -> str:
    def format_ratio(reached: float, bar: float) -> str:
        return f"{reached:.2f}" + (f" (bar {bar:.2f}{'' if reached >= bar else ', missed'})" if bar else "")

    limits = f"{format_ratio(row.of_limit, row.workload.of_limit)} of the limit, {row.of_engine:.2f} of our engine's"
    peer = row.fastest_peer
    return (
        f"{format_ratio(row.of_peer, row.workload.of_peer)} x {TITLES[peer.name]}, the fastest peer; " if peer else ""
    ) + limits


def to_json(rows: Sequence[Row], *, cores: int, distinct: dict[str, int], daft: str) -> dict[str, Any]:
    """Return all results as plain JSON values, with every round, the machine and the versions."""
    return {
        "machine": {"processor": _read_processor_name(), "cores": cores, "system": platform.platform(terse=True)},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
            "daft": daft,
        },
        "distinct_images": distinct,
        "missed": list_missed_bars(rows),
        "workloads": [_row_to_json(row) for row in rows],
    }


def _row_to_json(row: Row) -> dict[str, Any]:
    return {
        "workload": asdict(row.workload),
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
                "rounds": [{"tagging_s": run.tagging_s, "whole_s": run.whole_s} for run in result.runs],
            }
            for result in row.results
        },
    }


def _read_processor_name() -> str:
    """Return the name that Linux knows; platform.processor() returns only x86_64 there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def draw_chart(rows: Sequence[Row], path: Path) -> None:
    """Draw the rates in images/s as bars, one panel for each workload, with the limit in torch as a dashed line."""
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
        panel.set_title(
            f"{row.workload.name}: images/s (dashed: limit of these cores in torch)", loc="left", fontsize=9
        )
        panel.invert_yaxis()
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.12)
    figure.savefig(path, format="svg", metadata={"Date": None})
