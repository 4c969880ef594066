"""What the user sees of a run: a live line on a terminal, elsewhere one plain line every 10 s. All on stderr.

The numbers come from the workers' heartbeats, which are a second old at most, and not from commits, which happen bundle
by bundle. A stage is busy for the share of its capacity that it used (all fetch threads, all decode threads, the
device of each worker); the busiest stage is the bottleneck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from batchtag.console import format_duration
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat

PLAIN_EVERY_S = 10.0
"""Seconds between two lines where stderr is not a terminal."""


@dataclass(kw_only=True)
class RunProgress:
    """The state of a run at one moment. `phase` is "tagging" while workers tag, else a description."""

    phase: str
    total: int = 0
    """Images in the index."""
    done_before: int = 0
    """Images that earlier runs committed."""
    stats: RunStats = field(default_factory=RunStats)
    """What this run did."""
    tagging_s: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    """By stage: the share of its capacity that was used, 0 to 1."""
    workers: int = 0
    """Workers with a heartbeat in the last seconds."""
    device: str = ""
    gpus_per_worker: float = 0.0
    decode_workers: int = 0
    """Decode workers of one worker, at most; 0 while every worker decodes its images itself."""

    @property
    def done(self) -> int:
        """Images done, also by earlier runs. Restarted bundles do not raise it above the total."""
        return min(self.total, self.done_before + self.stats.num_images)

    @property
    def images_per_s(self) -> float:
        """Images per second since tagging began."""
        return self.stats.num_images / self.tagging_s if self.tagging_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the end at the present rate; None while the rate is unknown."""
        return (self.total - self.done) / self.images_per_s if self.images_per_s > 0 else None

    @property
    def bottleneck(self) -> str:
        """The busiest stage; "" if nothing is known."""
        return max(self.busy, key=lambda stage: self.busy[stage]) if self.busy else ""

    def to_json(self) -> dict[str, Any]:
        """Return the same numbers for the run's record and `--json`."""
        return {
            "phase": self.phase,
            "done_before": self.done_before,
            **self.stats.to_json(),
            "tagging_s": round(self.tagging_s, 3),
            "images_per_s": round(self.images_per_s, 3),
            "busy": {stage: round(share, 4) for stage, share in self.busy.items()},
            "bottleneck": self.bottleneck,
            "workers": self.workers,
            "device": self.device,
            "gpus_per_worker": self.gpus_per_worker,
            "decode_workers": self.decode_workers,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunProgress:
        """Return the progress in a run's record. Keys of version 0.1 (`gpus_each`, `openers`) are read too."""
        this_run = record.get("this_run") or {}
        return cls(
            phase=this_run.get("phase", "starting"),
            total=record.get("num_images", 0),
            done_before=this_run.get("done_before", 0),
            stats=RunStats.from_json(this_run),
            tagging_s=this_run.get("tagging_s", 0.0),
            busy=this_run.get("busy", {}),
            workers=this_run.get("workers", 0),
            device=this_run.get("device", ""),
            gpus_per_worker=this_run.get("gpus_per_worker", this_run.get("gpus_each", 0.0)),
            decode_workers=this_run.get("decode_workers", this_run.get("openers", 0)),
        )


def compute_busy_shares(workers: Mapping[str, WorkerHeartbeat]) -> dict[str, float]:
    """Return the share of its capacity that each stage used over the life of the workers; 1.0 is never idle."""
    used = dict.fromkeys(("fetch", "decode", "predict"), 0.0)
    capacity = dict.fromkeys(used, 0.0)
    for worker in workers.values():
        capacity["fetch"] += worker.alive_s * worker.fetches
        capacity["decode"] += worker.alive_s * worker.decode_threads
        capacity["predict"] += worker.alive_s
        used["fetch"] += worker.stats.fetch_s
        used["decode"] += worker.stats.decode_s
        used["predict"] += worker.stats.predict_s
    return {stage: min(1.0, used[stage] / capacity[stage]) for stage in capacity if capacity[stage] > 0}


def format_progress(progress: RunProgress) -> str:
    """Return one line: images done, rate, time remaining, failures by code, busy share of each stage, bottleneck."""
    if progress.phase != "tagging":
        return progress.phase
    share = progress.done / progress.total if progress.total else 1.0
    parts = [f"{progress.done:,} of {progress.total:,} images ({share:.0%})", f"{progress.images_per_s:,.1f}/s"]
    if progress.remaining_s is not None:
        parts.append(f"{format_duration(progress.remaining_s)} left")
    failures = progress.stats.failed_by_code.most_common()
    if failures:
        codes = ", ".join(f"{code} {count:,}" for code, count in failures[:4])
        parts.append(f"{sum(count for _, count in failures):,} failed ({codes})")
    if progress.busy:
        stages = " ".join(f"{stage} {share:.0%}" for stage, share in progress.busy.items())
        parts.append(f"busy: {stages}; bottleneck {progress.bottleneck}")
    if progress.workers and progress.device:
        parts.append(_format_workers(progress))
    return " | ".join(parts)


def _format_workers(progress: RunProgress) -> str:
    gpus = progress.workers * progress.gpus_per_worker
    device = f"{gpus:g} GPU{'s' * (gpus > 1)}" if gpus else progress.device
    decoding = f", {progress.decode_workers} decode workers each" if progress.decode_workers else ""
    return f"{progress.workers} worker{'s' * (progress.workers > 1)} on {device}{decoding}"


class ProgressDisplay:
    """Shows progress as it changes. Use it as a context manager; runs on the driver."""

    def __init__(self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._quiet = quiet
        self._clock = clock
        self._plain_at = float("-inf")
        self._live: Live | None = None

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(Text(""), console=self._console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, progress: RunProgress) -> None:
        """Show the progress: at once on a terminal; elsewhere as a new line if the last one is 10 s old."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(Text(format_progress(progress), overflow="fold"))
        elif self._clock() - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = self._clock()
            self._console.print(Text(format_progress(progress)), soft_wrap=True)

    def print_line(self, text: str) -> None:
        """Print a line that stays, above the live one."""
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)
