"""What a person sees of a run: a live line on a terminal, one plain line every 10 s elsewhere, the figures behind both.

All on stderr. The figures come from the workers' own counters, a second old at most, not from commits, which come by
the bundle. A stage is busy for the share of its capacity it used (all fetch threads, all decode threads, the device of
each worker); the busiest is the bottleneck.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from batchtag.console import format_duration
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat

PLAIN_EVERY_S = 10.0


@dataclass(kw_only=True)
class RunProgress:
    """The state of a run at one moment."""

    phase: str
    total: int = 0
    done_before: int = 0
    counters: RunStats = field(default_factory=RunStats)
    tagging_s: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    workers: int = 0
    """Those that gave a sign of life in the last seconds."""
    device: str = ""
    gpus_each: float = 0.0
    """GPUs of a worker, or the part of one."""
    openers: int = 0
    """Of one worker, at most; 0 while every worker opens its images itself."""

    @property
    def done(self) -> int:
        """Images done, those of earlier runs too. Bundles that were begun again do not carry it beyond the total."""
        return min(self.total, self.done_before + self.counters.num_images)

    @property
    def images_per_s(self) -> float:
        return self.counters.num_images / self.tagging_s if self.tagging_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the present rate; None before there is one."""
        return (self.total - self.done) / self.images_per_s if self.images_per_s > 0 else None

    @property
    def bottleneck(self) -> str:
        return max(self.busy, key=lambda stage: self.busy[stage]) if self.busy else ""

    def failures(self) -> dict[str, int]:
        """Failures of this run by code, commonest first."""
        return dict(self.counters.failed_by_code.most_common())


def busy_shares(workers: Mapping[str, WorkerHeartbeat]) -> dict[str, float]:
    """The share of its capacity that each stage used, over the life of the workers: 1.0 is never idle."""
    used = dict.fromkeys(("fetch", "decode", "predict"), 0.0)
    capacity = dict.fromkeys(used, 0.0)
    for worker in workers.values():
        capacity["fetch"] += worker.alive_s * worker.fetches
        capacity["decode"] += worker.alive_s * worker.decode_threads
        capacity["predict"] += worker.alive_s
        used["fetch"] += worker.counters.fetch_s
        used["decode"] += worker.counters.decode_s
        used["predict"] += worker.counters.predict_s
    return {stage: min(1.0, used[stage] / capacity[stage]) for stage in capacity if capacity[stage] > 0}


def sum_counters(workers: Mapping[str, WorkerHeartbeat]) -> RunStats:
    """All workers together."""
    total = RunStats()
    for worker in workers.values():
        total.add(worker.counters)
    return total


def line(figures: RunProgress) -> str:
    """The one line: images done of total, rate, time left, failures by code, how busy each stage is, the bottleneck."""
    if figures.phase != "tagging":
        return figures.phase
    share = figures.done / figures.total if figures.total else 1.0
    pieces = [f"{figures.done:,} of {figures.total:,} images ({share:.0%})", f"{figures.images_per_s:,.1f}/s"]
    if figures.left_s is not None:
        pieces.append(f"{format_duration(figures.left_s)} left")
    failures = figures.failures()
    if failures:
        codes = ", ".join(f"{code} {count:,}" for code, count in list(failures.items())[:4])
        pieces.append(f"{sum(failures.values()):,} failed ({codes})")
    if figures.busy:
        stages = " ".join(f"{stage} {share:.0%}" for stage, share in figures.busy.items())
        pieces.append(f"busy: {stages}; bottleneck {figures.bottleneck}")
    if figures.workers and figures.device:
        opened = f", {figures.openers} openers each" if figures.openers else ""
        gpus = figures.workers * figures.gpus_each
        place = f"{gpus:g} GPU{'s' * (gpus > 1)}" if gpus else figures.device
        pieces.append(f"{figures.workers} worker{'s' * (figures.workers > 1)} on {place}{opened}")
    return " | ".join(pieces)


class Progress:
    """Shows figures as they change. Use it as a context manager; runs on the driver."""

    def __init__(self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._quiet = quiet
        self._clock = clock
        self._plain_at = float("-inf")
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(Text(""), console=self._console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, figures: RunProgress) -> None:
        """Show them: at once on a terminal; elsewhere as a line of its own when the last is 10 s old."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(Text(line(figures), overflow="fold"))
        elif self._clock() - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = self._clock()
            self._console.print(Text(line(figures)), soft_wrap=True)

    def say(self, text: str) -> None:
        """A line that stays, above the live one."""
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)


def as_json(figures: RunProgress) -> dict[str, Any]:
    """The same figures for the run's record and `--json`."""
    return {
        "phase": figures.phase,
        "done_before": figures.done_before,
        "images": figures.counters.num_images,
        "tags": figures.counters.num_tags,
        "failed": figures.counters.num_failed,
        "failed_by_code": figures.failures(),
        "examples": figures.counters.examples,
        "fetched_bytes": figures.counters.fetched_bytes,
        "tagging_s": round(figures.tagging_s, 3),
        "images_per_s": round(figures.images_per_s, 3),
        "busy": {stage: round(share, 4) for stage, share in figures.busy.items()},
        "bottleneck": figures.bottleneck,
        "workers": figures.workers,
        "device": figures.device,
        "gpus_each": figures.gpus_each,
        "openers": figures.openers,
        "opened_elsewhere": figures.counters.num_elsewhere,
    }


def figures_of(record: Mapping[str, Any]) -> RunProgress:
    """The figures that a run left in its record: of the driver's, what a person sees."""
    this_run = record.get("this_run") or {}
    counters = RunStats(
        num_images=this_run.get("images", 0),
        num_failed=this_run.get("failed", 0),
        num_tags=this_run.get("tags", 0),
        failed_by_code=Counter(this_run.get("failed_by_code", {})),
    )
    return RunProgress(
        phase=this_run.get("phase", "starting"),
        total=record.get("num_images", 0),
        done_before=this_run.get("done_before", 0),
        counters=counters,
        tagging_s=this_run.get("tagging_s", 0.0),
        busy=this_run.get("busy", {}),
        workers=this_run.get("workers", 0),
        device=this_run.get("device", ""),
        gpus_each=this_run.get("gpus_each", 0.0),
        openers=this_run.get("openers", 0),
    )
