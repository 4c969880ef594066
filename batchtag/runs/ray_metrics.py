"""A worker's figures as Prometheus metrics, through Ray's own exporter. Runs in the worker's actor.

Ray serves them on each node's metrics port under the names here with `ray_` before them, and Prometheus finds the nodes
as it finds Ray's own metrics. One label says which run. `deploy/grafana.json` draws them.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from batchtag.pipeline.stats import RunStats, WorkerHeartbeat

_STAGES = ("fetch", "decode", "predict", "write")


class WorkerMetrics:
    """Tells Ray what was added since the last time. Not for several threads at once."""

    def __init__(self, run_id: str) -> None:
        tags = ("run",)
        self._images = Counter("batchtag_images_total", "Images with an outcome, tagged or failed.", tags)
        self._failures = Counter("batchtag_failures_total", "Images that failed, by code.", (*tags, "code"))
        self._tags = Counter("batchtag_tags_total", "Tags found.", tags)
        self._bytes = Counter("batchtag_fetched_bytes_total", "Bytes of images read from their store.", tags)
        self._seconds = Counter(
            "batchtag_stage_seconds_total", "Seconds in a stage, summed over its threads.", (*tags, "stage")
        )
        self._batches = Counter("batchtag_batches_total", "Batches of images handed to the models.", tags)
        self._bundles = Gauge("batchtag_bundles_in_hand", "Bundles that a worker has begun and not committed.", tags)
        self._waiting = Gauge("batchtag_images_waiting", "Images opened and waiting for a worker's device.", tags)
        self._openers = Gauge("batchtag_openers", "Openers elsewhere that work for a worker.", tags)
        self._run = {"run": run_id}
        self._told = RunStats()
        self._alive_s = 0.0

    def tell(self, figures: WorkerHeartbeat) -> None:
        """Bring Ray's counters up to these figures, unless newer ones were told."""
        if figures.alive_s <= self._alive_s:
            return
        now, told = figures.counters, self._told
        for metric, name in (
            (self._images, "num_images"),
            (self._tags, "num_tags"),
            (self._bytes, "fetched_bytes"),
            (self._batches, "num_batches"),
        ):
            _add(metric, getattr(now, name) - getattr(told, name), self._run)
        for code, count in now.failed_by_code.items():
            _add(self._failures, count - told.failed_by_code[code], {**self._run, "code": code})
        for stage in _STAGES:
            spent = getattr(now, f"{stage}_s") - getattr(told, f"{stage}_s")
            _add(self._seconds, spent, {**self._run, "stage": stage})
        self._bundles.set(len(figures.doing), self._run)
        self._waiting.set(figures.num_waiting, self._run)
        self._openers.set(figures.openers, self._run)
        self._told, self._alive_s = now, figures.alive_s


def _add(metric: Counter, amount: float, tags: dict[str, str]) -> None:
    if amount > 0:
        metric.inc(amount, tags)
