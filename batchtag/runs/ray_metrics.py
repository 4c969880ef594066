"""A worker's statistics as Prometheus metrics, through Ray's own exporter. Runs in the worker's actor.

Ray serves the metrics on each node's metrics port, with `ray_` before the names here, and Prometheus finds the nodes
as it finds Ray's own metrics. The label `run` is the run's id. `deploy/grafana.json` draws them.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from batchtag.pipeline.stats import RunStats, WorkerHeartbeat

_STAGES = ("fetch", "decode", "predict", "write")


class WorkerMetrics:
    """Reports to Ray what was added since the last heartbeat. Not for several threads at once."""

    def __init__(self, run_id: str) -> None:
        labels = ("run",)
        self._images = Counter("batchtag_images_total", "Images with a result, tagged or failed.", labels)
        self._failures = Counter("batchtag_failures_total", "Failed images, by failure code.", (*labels, "code"))
        self._tags = Counter("batchtag_tags_total", "Tags.", labels)
        self._bytes = Counter("batchtag_fetched_bytes_total", "Bytes of images read from the store.", labels)
        self._seconds = Counter(
            "batchtag_stage_seconds_total", "Seconds in a stage, summed over its threads.", (*labels, "stage")
        )
        self._batches = Counter("batchtag_batches_total", "Batches of images handed to the models.", labels)
        self._bundles = Gauge("batchtag_bundles_in_progress", "Bundles that a worker has not committed yet.", labels)
        self._waiting = Gauge("batchtag_images_waiting", "Decoded images that wait for a worker's device.", labels)
        self._decode_workers = Gauge("batchtag_decode_workers", "Decode workers that a worker uses.", labels)
        self._run = {"run": run_id}
        self._reported = RunStats()
        self._reported_alive_s = 0.0

    def report(self, heartbeat: WorkerHeartbeat) -> None:
        """Raise Ray's counters to this heartbeat, unless a newer one was reported."""
        if heartbeat.alive_s <= self._reported_alive_s:
            return
        stats, reported = heartbeat.stats, self._reported
        for metric, name in (
            (self._images, "num_images"),
            (self._tags, "num_tags"),
            (self._bytes, "fetched_bytes"),
            (self._batches, "num_batches"),
        ):
            _add(metric, getattr(stats, name) - getattr(reported, name), self._run)
        for code, count in stats.failed_by_code.items():
            _add(self._failures, count - reported.failed_by_code[code], {**self._run, "code": code})
        for stage in _STAGES:
            seconds = getattr(stats, f"{stage}_s") - getattr(reported, f"{stage}_s")
            _add(self._seconds, seconds, {**self._run, "stage": stage})
        self._bundles.set(len(heartbeat.activities), self._run)
        self._waiting.set(heartbeat.num_waiting, self._run)
        self._decode_workers.set(heartbeat.decode_workers, self._run)
        self._reported, self._reported_alive_s = stats, heartbeat.alive_s


def _add(metric: Counter, amount: float, labels: dict[str, str]) -> None:
    if amount > 0:
        metric.inc(amount, labels)
