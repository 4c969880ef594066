"""What Ray's exporter gets from a worker. That Prometheus can read it is tested in tests/cluster."""

from __future__ import annotations

import pytest

from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.runs import ray_metrics
from batchtag.runs.ray_metrics import WorkerMetrics


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Every value that is reported to Ray, by metric."""
    values: dict[str, list[float]] = {}

    class FakeMetric:
        def __init__(self, name: str, description: str, labels: tuple[str, ...]) -> None:
            self._values = values.setdefault(name, [])

        def set(self, value: float, labels: dict[str, str]) -> None:
            self._values.append(value)

        inc = set

    monkeypatch.setattr(ray_metrics, "Counter", FakeMetric)
    monkeypatch.setattr(ray_metrics, "Gauge", FakeMetric)
    return values


def heartbeat(alive_s: float, *, num_waiting: int = 0, num_bundles: int = 0, num_images: int = 0) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        stats=RunStats(num_images=num_images),
        alive_s=alive_s,
        decode_threads=1,
        fetches=1,
        num_waiting=num_waiting,
        activities={f"b{i}": "predicting" for i in range(num_bundles)},
    )


def test_gauges_have_the_state_of_the_newest_heartbeat(reported: dict[str, list[float]]) -> None:
    metrics = WorkerMetrics("r-1")
    metrics.report(heartbeat(1.0, num_waiting=48, num_bundles=1))
    metrics.report(heartbeat(2.0, num_waiting=7))
    metrics.report(heartbeat(1.5, num_waiting=99))  # an older heartbeat that arrives late
    assert reported["batchtag_images_waiting"] == [48, 7]
    assert reported["batchtag_bundles_in_progress"] == [1, 0]
    assert reported["batchtag_decode_workers"] == [0, 0]


def test_counters_grow_by_what_was_added_since_the_last_heartbeat(reported: dict[str, list[float]]) -> None:
    metrics = WorkerMetrics("r-1")
    for alive_s, num_images in ((1.0, 0), (2.0, 5), (3.0, 5), (4.0, 12)):
        metrics.report(heartbeat(alive_s, num_images=num_images))
    assert reported["batchtag_images_total"] == [5, 7]
